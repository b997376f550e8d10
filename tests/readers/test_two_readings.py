"""Where tensors have two readings the configuration decides, or a note says which was taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import ledger_of, resolved

import anamnesis
from anamnesis.errors import UnsupportedError
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes import resolve

INPUTS, OUTPUTS, GROUP = 128, 64, 64
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True}


def gptq(folder: Path, zeros: int | np.ndarray[Any, Any], config: Any) -> Path:
    """A layer of 4 bits whose stored zero points are `zeros`."""
    rng = np.random.default_rng(7)
    stored = np.broadcast_to(np.asarray(zeros, np.uint32), (INPUTS // GROUP, OUTPUTS))
    words = np.zeros((INPUTS // GROUP, OUTPUTS // 8), np.uint32)
    for k in range(8):
        words |= stored[:, k::8] << np.uint32(4 * k)
    tensors = {
        "q.qweight": rng.integers(0, 2**32, (INPUTS // 8, OUTPUTS), np.uint32).view(np.int32),
        "q.qzeros": words.view(np.int32),
        "q.scales": np.full((INPUTS // GROUP, OUTPUTS), 0.25, np.float16),
    }
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return folder


def values(folder: Path) -> np.ndarray[Any, Any]:
    model = anamnesis.open_model(folder)
    found: np.ndarray[Any, Any] = model["q.weight"].to_numpy().astype(np.float32)
    return found


def symmetric(folder: Path) -> np.ndarray[Any, Any]:
    """`(code - 8) * scale`, from the file's own words."""
    from safetensors.numpy import load_file

    words = load_file(folder / "model.safetensors")["q.qweight"].view(np.uint32)
    codes = (words[:, None, :] >> (4 * np.arange(8, dtype=np.uint32))[None, :, None]) & 15
    return ((codes.reshape(INPUTS, OUTPUTS).astype(np.float32) - 8) * 0.25).T


@pytest.mark.parametrize(
    ("zeros", "about", "noted"),
    [
        (7, {}, False),
        (8, {}, True),
        (8, {"checkpoint_format": "gptq_v2"}, False),
        (7, {"checkpoint_format": "gptq_v2"}, True),
        (8, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, True),
        (8, {"quant_method": "auto-round", "packing_format": "auto_round"}, False),
    ],
)
def test_symmetric_gptq_has_the_middle_as_its_zero_point(
    tmp_path: Path, zeros: int, about: Any, noted: bool
) -> None:
    folder = gptq(tmp_path, zeros, GPTQ | about)
    notes = load_model(str(folder)).notes
    assert any("qzeros of 'q.weight'" in note for note in notes) == noted
    np.testing.assert_array_equal(values(folder), symmetric(folder))


def test_zero_points_that_are_not_symmetric_are_used_as_stored_and_noted(tmp_path: Path) -> None:
    zeros = np.arange(OUTPUTS) % 15
    lying = gptq(tmp_path, zeros, GPTQ)
    (note,) = load_model(str(lying)).notes
    assert "by neither convention" in note
    found = values(lying)
    (lying / "config.json").write_text(json.dumps({"quantization_config": GPTQ | {"sym": False}}))
    assert load_model(str(lying)).notes == ()
    np.testing.assert_array_equal(values(lying), found)


def test_a_layer_of_its_own_is_not_symmetric(tmp_path: Path) -> None:
    about = {"quant_method": "auto-round", "extra_config": {"q": {"sym": False, "bits": 4}}}
    folder = gptq(tmp_path, 8, GPTQ | about)
    assert load_model(str(folder)).notes == ()
    np.testing.assert_array_equal(values(folder), symmetric(folder) - 0.25)


def test_gptq_without_a_configuration(tmp_path: Path) -> None:
    assert load_model(str(gptq(tmp_path, 7, None))).notes == ()
    (note,) = load_model(str(gptq(tmp_path, 8, None))).notes
    assert "other convention" in note
    np.testing.assert_array_equal(values(tmp_path), symmetric(tmp_path))
    (note,) = load_model(str(gptq(tmp_path, np.arange(OUTPUTS) % 14, None))).notes
    assert "no configuration says" in note


def notes(parts: Any, configs: Any = None) -> list[str]:
    return resolved(parts, configs=configs).notes


def nvfp4(rows: int, columns: int) -> dict[str, Any]:
    return {
        "x.weight": ("U8", (rows, columns // 2)),
        "x.weight_scale": ("F8_E4M3", (rows, columns // 16)),
        "x.weight_scale_2": ("F32", ()),
    }


def mxfp8(rows: int, columns: int) -> dict[str, Any]:
    return {
        "x.weight": ("F8_E4M3", (rows, columns)),
        "x.weight_scale": ("U8", (rows, columns // 32)),
    }


@pytest.mark.parametrize("parts", [nvfp4(128, 64), mxfp8(256, 128)])
def test_scales_that_may_lie_in_tiles_are_noted(parts: Any) -> None:
    (note,) = notes(parts)
    assert "'x.weight'" in note
    assert "tiles" in note
    about = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}
    assert not any("tiles" in note for note in notes(parts, {"config.json": about}))


def test_a_mark_says_that_scales_lie_in_tiles(tmp_path: Path) -> None:
    tensors = {
        "x.weight": np.zeros((128, 32), np.uint8),
        "x.weight_scale": np.zeros((128, 4), ml_dtypes.float8_e4m3fn),
        "x.weight_scale_2": np.ones((), np.float32),
        "x.comfy_quant": np.frombuffer(b'{"format": "nvfp4"}', np.uint8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(str(tmp_path))
    assert [t.scheme for t in model.tensors] == ["nvfp4"]
    assert model.notes == ()


@pytest.mark.parametrize("parts", [nvfp4(64, 64), nvfp4(128, 48), mxfp8(128, 96), mxfp8(96, 128)])
def test_scales_of_no_whole_tiles_have_one_reading(parts: Any) -> None:
    assert notes(parts) == []


def test_the_scales_of_square_matrices_alone_are_noted() -> None:
    square = {"x.weight": ("F8_E4M3", (64, 64)), "x.weight_scale": ("F32", (64,))}
    (note,) = notes(square)
    assert "one a row ([n]), or one a column" in note
    for about in ({"quant_method": "fp8"}, {"quant_method": "modelopt", "quant_algo": "FP8"}):
        assert notes(square, {"config.json": {"quantization_config": about}}) == [note]
    for text in ({"strategy": "channel"}, {"scheme": "per-row"}, {"x": {"y": "ptpc_fp8"}}):
        about = {"quant_method": "fp8", **text}
        assert notes(square, {"config.json": {"quantization_config": about}}) == []
    assert notes({**square, "x.weight_scale": ("F32", (1, 64))}) == [note]
    wide = {"y.weight": ("F8_E4M3", (64, 96)), "y.weight_scale": ("F32", (64,))}
    assert notes({**square, **wide}) == []
    assert notes({**square, "x.weight_scale": ("F32", (64, 1))}) == []
    about = {"quantization_config": {"quant_method": "fbgemm_fp8"}}
    assert notes(square, {"config.json": about}) == []


def test_another_small_format_than_the_configuration_names_is_noted() -> None:
    for algo, said in (("NVFP4", 0), ("W4A8_NVFP4_FP8", 0), ("MXFP4", 1), ("w4a8_mxfp4_fp8", 1)):
        about = {"quant_method": "modelopt", "quant_algo": algo}
        found = notes(nvfp4(64, 64), {"config.json": {"quantization_config": about}})
        assert ["speaks of mxfp4" in note for note in found] == [True] * said


PACKED = {"x.weight_packed": ("U8", (8, 32)), "x.weight_scale": ("U8", (8, 2))}


INT8 = {"x.weight": ("I8", (8, 64)), "x.weight_scale": ("F32", (8, 1))}
UNEVEN = {
    "x.weight": ("I8", (8, 160)),
    "x.weight_scale": ("F32", (8, 2)),
    "x.weight_zero_point": ("I8", (8, 2)),
}


@pytest.mark.parametrize(
    ("parts", "about", "said"),
    [
        (PACKED, {"format": "mxfp4-pack-quantized"}, "taken as MXFP4; AutoRound's MXINT4"),
        (INT8, {}, "ConvRot without its mark"),
        (
            UNEVEN,
            {"config_groups": {"g": {"weights": {"group_size": 80}}}},
            "blocks of one row, the last one cut, fit as well",
        ),
    ],
)
def test_containers_of_two_methods_are_noted(parts: Any, about: Any, said: str) -> None:
    (note,) = notes(parts)
    assert said in note
    stated = {"quant_method": "compressed-tensors", **about}
    assert notes(parts, {"config.json": {"quantization_config": stated}}) == []


def test_a_method_that_says_neither_of_two_is_noted() -> None:
    stated = {"quantization_config": {"quant_method": "compressed-tensors"}}
    (note,) = notes(PACKED, {"config.json": stated})
    assert "AutoRound's MXINT4 has the same tensors; the configuration says neither" in note


@pytest.mark.parametrize(
    ("weights", "noted"),
    [
        ({"num_bits": 8}, True),
        ({"num_bits": 8, "group_size": None}, True),
        ({"num_bits": 8, "group_size": 80}, False),
        ({"num_bits": 8, "block_structure": "1x128"}, False),
    ],
)
def test_uneven_groups_are_noted_unless_a_size_is_stated(weights: Any, noted: bool) -> None:
    method = {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": weights}}}
    found = notes(UNEVEN, {"config.json": {"quantization_config": method}})
    assert ["states no size of groups or blocks" in note for note in found] == [True] * noted


@pytest.mark.parametrize(
    ("about", "scheme"),
    [
        ({"data_type": "mx_int"}, "mxint4"),
        ({"data_type": "mx_fp4", "packing_format": "auto_round:llm_compressor"}, "mxfp4"),
        ({"packing_format": "auto_round:mx_int"}, "mxint4"),
        ({"packing_format": "auto_round:llm_compressor"}, "mxfp4"),
    ],
)
def test_auto_round_says_whether_packed_numbers_are_floats(about: Any, scheme: str) -> None:
    book = resolved(PACKED, {"quant_method": "auto-round", **about})
    assert book.tensors["x.weight"].scheme == scheme


@pytest.mark.parametrize("kinds", [("int",), ("int", "int"), ("float",), ("int", "float")])
def test_integers_of_compressed_tensors_are_not_read_as_fp4(kinds: tuple[str, ...]) -> None:
    groups = {f"group_{k}": {"weights": {"num_bits": 4, "type": t}} for k, t in enumerate(kinds)}
    about = {"quant_method": "compressed-tensors", "config_groups": groups}
    configs = {"config.json": {"quantization_config": about}}
    if set(kinds) != {"int"}:
        assert notes(PACKED, configs) == []
        return
    with pytest.raises(UnsupportedError, match="says that all weights are of type int"):
        notes(PACKED, configs)


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "I64", "U64", "BOOL"])
@pytest.mark.parametrize("name", ["m.weight", "e.down_proj", "weight", "table", "m.signs"])
def test_an_integer_matrix_by_itself_is_kept_and_noted(dtype: str, name: str) -> None:
    (note,) = notes({name: (dtype, (8, 8)), "n.weight": ("BF16", (8,))})
    assert f"'{name}' ({dtype} [8, 8])" in note
    assert "kept as they are" in note


def test_eight_bits_by_themselves_in_a_gguf_are_noted() -> None:
    other = {"e.table": ("I32", (8, 8)), "e.bias": ("F32", (8,)), "e.ids": ("I8", (8,))}
    assert resolved(other, kind="gguf").notes == []
    (note,) = resolved({**other, "e.weight": ("I8", (8, 8))}, kind="gguf").notes
    assert "'e.weight' (I8 [8, 8])" in note


@pytest.mark.parametrize(
    "parts",
    [
        {"position_ids": ("I64", (1, 8)), "rel.relative_position_index": ("I64", (8, 8))},
        {"m.weight": ("I8", (8,)), "bn.num_batches_tracked": ("I64", ())},
        {"attn.bias": ("BOOL", (1, 1, 8, 8)), "causal_mask": ("BOOL", (8, 8))},
        {"attn.bias": ("U8", (1, 1, 8, 8)), "m.weight": ("BF16", (8, 8))},
    ],
)
def test_other_integers_are_no_matter_of_choice(parts: Any) -> None:
    assert notes(parts) == []


@pytest.mark.parametrize(
    ("more", "noted"),
    [
        ({"bits": 3}, "says bits 3, and the shapes hold 4"),
        ({"bits": 8}, "says bits 8, and the shapes hold 4"),
        ({}, ""),
        ({"bits": 8, "dynamic": {"+:.*q.*": {"bits": 4}}}, ""),
        ({"bits": 8, "input_activations": {"num_bits": 4}}, "says bits 8, and the shapes hold 4"),
    ],
)
def test_a_stated_width_that_the_shapes_contradict_is_noted(
    tmp_path: Path, more: dict[str, Any], noted: str
) -> None:
    model = load_model(str(gptq(tmp_path, 7, {**GPTQ, **more})))
    found = [note for note in model.notes if "the shapes hold" in note]
    assert len(found) == bool(noted)
    assert all(noted in note and "'q.qweight'" in note for note in found)


GPTQ_LAYER: Any = {
    "m.qweight": ("I32", (8, 32)),
    "m.qzeros": ("I32", (2, 4)),
    "m.scales": ("F16", (2, 32)),
}
AWQ_LAYER: Any = {**GPTQ_LAYER, "m.qweight": ("I32", (64, 4))}


@pytest.mark.parametrize(
    ("parts", "about", "scheme", "said"),
    [
        (AWQ_LAYER, {"quant_method": "gptq"}, "awq", "speaks of another method"),
        # GPTQModel's `RTNConfig(format="gemm")` keeps GPTQ's name.
        (
            AWQ_LAYER,
            {"quant_method": "gptq", "checkpoint_format": "gemm"},
            "awq",
            "speaks of another method",
        ),
        (GPTQ_LAYER, {"quant_method": "awq"}, "gptq", "speaks of another method"),
        (
            AWQ_LAYER,
            {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"},
            "awq",
            "says packing_format 'auto_round:auto_gptq'",
        ),
    ],
)
def test_the_layout_of_one_packing_under_the_name_of_another_is_noted(
    parts: Any, about: Any, scheme: str, said: str
) -> None:
    book = ledger_of(parts, {"bits": 4, "group_size": 32, **about})
    resolve(book)
    (tensor,) = book.tensors.values()
    assert (tensor.scheme, tensor.shape) == (scheme, (32, 64))
    assert [said in note for note in book.notes] == [True]


def test_gptq_s_own_layers_under_awq_s_format_are_refused() -> None:
    about = {"quant_method": "gptq", "checkpoint_format": "gemm", "bits": 4, "group_size": 32}
    with pytest.raises(UnsupportedError, match="AWQ's GEMM"):
        resolve(ledger_of(GPTQ_LAYER, about))


@pytest.mark.parametrize("zeros", [7, 8])
def test_zero_points_of_gptq_under_the_name_of_awq_settle_themselves(
    tmp_path: Path, zeros: int
) -> None:
    """AWQ's `zero_point: true` says nothing about what GPTQ takes off the stored numbers."""
    about = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}
    folder = gptq(tmp_path, zeros, about)
    assert any("speaks of another method" in note for note in load_model(str(folder)).notes)
    np.testing.assert_array_equal(values(folder), symmetric(folder))


@pytest.mark.parametrize(
    ("method", "listed"),
    [
        ("gptq", {"dynamic": {"-:m$": {}}}),
        ("gptq", {"dynamic": {"+:m": {"bits": 4}, r"-:^(?:k|m)$": {}}}),
        ("gptq", {"dynamic": {r"-:.*": {}}}),
        ("gptq", {"modules_to_not_convert": ["m"]}),
        ("gptq", {"m.": False, "ignore": ["re:[a-z]+"]}),
        ("auto-round", {"extra_config": {"m": {"bits": 16}}}),
    ],
)
def test_a_layer_that_was_left_alone_and_is_stored_as_codes_is_noted(
    method: str, listed: Any
) -> None:
    about = {"quant_method": method, "bits": 4, "group_size": 32}
    book = ledger_of(GPTQ_LAYER, {**about, **listed})
    resolve(book)
    assert [t.scheme for t in book.tensors.values()] == ["gptq"]
    assert ["left alone, and it is stored as" in note for note in book.notes] == [True]
    other = ledger_of(GPTQ_LAYER, {**about, "dynamic": {"-:n$": {}}, "ignore": ["mm", "n*"]})
    resolve(other)
    assert other.notes == []


def test_a_pattern_that_is_not_run_is_said() -> None:
    rules = {"dynamic": {"-:(a+)+b(?!c)": {}}}
    book = ledger_of(GPTQ_LAYER, {"quant_method": "gptq", "bits": 4, "group_size": 32, **rules})
    resolve(book)
    assert ["(a+)+b(?!c)" in note and "not run" in note for note in book.notes] == [True]
