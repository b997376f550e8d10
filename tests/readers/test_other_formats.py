"""Statements of other numbers than the tensors hold, and second codes beside a weight's."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_parts import LAYERS, about
from safetensors.numpy import save_file
from small_models import Parts, ledger_of

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.schemes import resolve

FP8: Parts = {"m.weight": ("F8_E4M3", (64, 64)), "m.weight_scale": ("F32", ())}
NVFP4: Parts = LAYERS["nvfp4"][1]
PACKED: Parts = {
    "m.weight_packed": ("U8", (32, 32)),
    "m.weight_scale": ("F8_E4M3", (32, 4)),
    "m.weight_global_scale": ("F32", (1,)),
}
INT4: Parts = {"m.weight": ("U8", (32, 64)), "m.weight_scale": ("F32", (64, 1))}
INT8: Parts = {"m.weight": ("I8", (64, 64)), "m.weight_scale": ("F32", (64, 1))}
# Of ModelOpt's algorithms, the layer that each makes; SVD and AWQ have more beside it.
ALGORITHMS: dict[str, Parts] = {
    "FP8": FP8,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8,
    "NVFP4": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "W4A8_NVFP4_FP8": NVFP4,
    "W4A16_AWQ": INT4,
    "W8A16": INT8,
}


def notes(parts: Any, config: Any, **configs: Any) -> list[str]:
    found = {"config.json": {"quantization_config": config} if config else {}, **configs}
    book = ledger_of(parts, configs=found)
    resolve(book)
    return book.notes


@settings(deadline=None)
@given(made=st.sampled_from(sorted(ALGORITHMS)), said=st.sampled_from(sorted(ALGORITHMS)))
def test_an_algorithm_that_the_tensors_contradict_is_noted(made: str, said: str) -> None:
    same = ALGORITHMS[made] is ALGORITHMS[said]
    if not same and ALGORITHMS[made] in (INT4, INT8):
        return  # whose layout nobody knows without the statement
    found = notes(ALGORITHMS[made], {"quant_method": "modelopt", "quant_algo": said})
    assert [f"says quant_algo {said}" in note for note in found] == [True] * (not same)


def test_algorithms_of_layers_count_too() -> None:
    layers = {"a": {"quant_algo": "NVFP4"}, "b": {"quant_algo": "W8A16"}}
    config = {"quant_method": "modelopt", "quantized_layers": layers}
    assert notes(NVFP4, config) == []
    assert "quant_algo NVFP4, W8A16" in notes(FP8, config)[0]
    assert len(notes(FP8, {**config, "quant_algo": "MIXED_PRECISION"})) == 1
    assert notes(FP8, {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    key=st.sampled_from(
        "bnb_4bit_quant_type config_groups group_size quant_algo quantized_layers sparsity_config "
        "sym weight_block_size zero_point".split()
    ),
    value=JSON,
)
def test_values_of_any_kind_end_in_the_package_s_errors(layer: str, key: str, value: Any) -> None:
    method, parts = LAYERS[layer]
    try:
        notes(parts, {**about(method), key: value})
    except AnamnesisError:
        return


@pytest.mark.parametrize("method", ["modelopt", "compressed-tensors"])
def test_the_names_of_another_tool_are_noted(method: str) -> None:
    """One divides by the scale of the tensor, and the other multiplies."""
    ours, others = (NVFP4, PACKED) if method == "modelopt" else (PACKED, NVFP4)
    config = {"quant_method": method}
    assert notes(ours, config) == []
    assert f"names are not those of {method}" in notes(others, config)[0]
    assert notes(others, None) == []


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_of_another_size_are_noted(
    write_safetensors: Any, tmp_path: Path, size: int, groups: int
) -> None:
    entries = {
        "m.weight_packed": ("I32", [8, 16], bytes(512)),
        "m.weight_scale": ("BF16", [8, groups], bytes(16 * groups)),
        "m.weight_shape": ("I64", [2], struct.pack("<2q", 8, 128)),
    }
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    weights = {"num_bits": 4, "type": "int", "group_size": size, "symmetric": True}
    weights |= {"strategy": "group"}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": weights}},
    }
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    found = anamnesis.open_model(path).model.notes
    other = groups > 1 and size * groups != 128  # a scale a row may be another group's of layers
    assert [f"says group_size {size}" in note for note in found] == [True] * other


@settings(deadline=None)
@given(size=st.sampled_from([8, 16, 32, 128]), layer=st.sampled_from(["nvfp4", "mxfp8"]))
def test_groups_of_small_floats_are_those_of_their_format(size: int, layer: str) -> None:
    mxfp8: Parts = {"m.weight": ("F8_E4M3", (32, 64)), "m.weight_scale": ("U8", (32, 2))}
    parts, usual = (PACKED, 16) if layer == "nvfp4" else (mxfp8, 32)
    weights = {"num_bits": 4, "type": "float", "group_size": size}
    groups = {"g": {"weights": weights, "input_activations": {"group_size": 8}}}
    config = {"quant_method": "compressed-tensors", "config_groups": groups}
    said = [f"says group_size {size}" in note for note in notes(parts, config)]
    assert said == [True] * (size != usual)


@pytest.mark.parametrize(("block", "noted"), [([64, 64], False), ([32, 64], True)])
def test_one_scale_for_several_blocks_is_noted(block: list[int], noted: bool) -> None:
    parts = {"m.weight": ("F8_E4M3", (64, 64)), "m.weight_scale_inv": ("F32", (1, 1))}
    found = notes(parts, {"quant_method": "fp8", "weight_block_size": block})
    assert ["one scale beside it" in note for note in found] == [True] * noted


def test_a_method_beside_the_one_that_was_decoded_is_noted() -> None:
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    awq = {"quant_method": "awq", "bits": 4}
    assert notes(LAYERS["gptq"][1], gptq) == []
    found = notes(LAYERS["gptq"][1], gptq, **{"quant_config.json": awq})
    assert ["quant_config.json" in note and "gptq" in note for note in found] == [True]
    dense: Parts = {"m.weight": ("BF16", (64, 64))}
    assert notes(dense, gptq, **{"quant_config.json": awq}) == []


def test_an_unknown_format_of_sparsity_is_refused() -> None:
    config = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "zz-bitmask"}}
    with pytest.raises(UnsupportedError, match=r"sparsity_config\.format: 'zz-bitmask'"):
        notes(FP8, config)
    assert notes(FP8, {**config, "sparsity_config": {"format": "dense"}}) == []


@pytest.mark.parametrize("config", [{"sym": False}, {"zero_point": True}, {"sym": True}])
@pytest.mark.parametrize("layer", ["awq", "gptq"])
def test_zero_points_that_are_stated_and_empty_are_an_error(layer: str, config: Any) -> None:
    method, parts = LAYERS[layer]
    parts = {**parts, "m.qzeros": ("I32", (0,))}
    said = {"quant_method": method, "bits": 4, "group_size": 32, **config}
    if config.get("sym"):
        assert notes(parts, said) == []
        return
    with pytest.raises(FormatError, match="there are zero points"):
        notes(parts, said)


@settings(deadline=None)
@given(
    layer=st.sampled_from(["awq", "bnb-int8", "ct-int8", "fp8", "gptq", "mlx", "nvfp4", "quark"]),
    part=st.text("abcdefghijklmnopqrstuvwxyz_2", max_size=8),
    named=st.booleans(),
)
def test_second_codes_beside_a_weight_are_never_silent(layer: str, part: str, named: bool) -> None:
    """A residual with a scale of its own, say, which the same scheme decodes."""
    method, parts = LAYERS[layer]
    name = f"m.weight_{part}x" if named else f"m.{part}x"
    more = {name: ("F8_E4M3", (64, 64)), f"{name}_scale": ("F32", ())}
    book = ledger_of({**parts, **more}, about(method))
    try:
        resolve(book)
    except (FormatError, UnsupportedError):
        return
    assert not named or name not in book.tensors
    assert name not in book.tensors or any(repr(name) in note for note in book.notes)


@pytest.mark.parametrize(
    ("beside", "offered"),
    [
        ({"fp8_scales_0.pt": b""}, ""),
        ({"mp_rank_00_model_states_fp8_map.pt": b""}, ""),
        ({"scales.safetensors": b""}, ""),
        ({"upscaler.json": b"{}", "autoscale.md": b""}, "--assume-unit-scale"),
    ],
)
def test_a_unit_scale_is_offered_where_no_file_may_hold_scales(
    write_safetensors: Any, tmp_path: Path, beside: dict[str, bytes], offered: str
) -> None:
    path = write_safetensors(
        tmp_path / "model.safetensors", {"m.weight": ("F8_E4M3", [2, 2], bytes(4))}
    )
    for name, data in beside.items():
        (path.parent / name).write_bytes(data)
    with pytest.raises(UnsupportedError, match="FP8 codes without a scale") as caught:
        anamnesis.open_model(path)
    assert ("--assume-unit-scale" in str(caught.value)) == bool(offered)
    assert offered or f"{next(iter(beside))} beside them may hold" in str(caught.value)


@pytest.mark.parametrize("name", ["scales.m", "scales.m.weight"])
def test_scales_of_other_names_are_scales(name: str) -> None:
    book = ledger_of({"m.weight": ("F8_E4M3", (64, 64)), name: ("F32", (1,))})
    with pytest.raises((UnsupportedError, FormatError)) as caught:
        resolve(book)
    assert "--assume-unit-scale" not in str(caught.value) or name in (
        "quant.m.scale",
        "m_scale_inv_",
    )


@pytest.mark.parametrize("name", ["R.bin", "rotation.npy", "weights.h5", "flax.msgpack"])
def test_files_of_other_names_are_told(write_safetensors: Any, tmp_path: Path, name: str) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"m.weight": ("F32", [1], bytes(4))})
    (path.parent / name).write_bytes(b"x")
    notes = anamnesis.open_model(path.parent).model.notes
    assert [f"left out {name}: not called as weights are" in note for note in notes] == [True]


@pytest.mark.parametrize(
    ("adapter", "noted"),
    [
        ({"name": "lora", "path": "eora", "rank": 64}, True),
        ({}, False),
        (None, False),
        ("x", False),
    ],
)
def test_an_adapter_that_runs_beside_the_layers_is_noted(adapter: Any, noted: bool) -> None:
    found = notes(LAYERS["gptq"][1], {"quant_method": "gptq", "bits": 4, "adapter": adapter})
    assert any("names an adapter (eora)" in note for note in found) is noted


@pytest.mark.parametrize("file", ["README.md", "model.toml", "config.json", "none"])
def test_floats_of_the_shape_of_codes_are_noted_where_nothing_is_stated(
    file: str, tmp_path: Path
) -> None:
    """Where a statement is in words that are not read, or of signals, and where there is none."""
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 16}
    texts = {"README.md": "---\ntags: [int4]\n---\n", "model.toml": "precision = 'int4'\n"}
    if file in texts:
        (tmp_path / file).write_text(texts[file])
    if file == "config.json":
        sizes["weight_codec"] = {"bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    parts = {"m.q_proj.weight": (64, 16), "m.k_proj.weight": (64, 64)}
    save_file({n: np.ones(s, np.float16) for n, s in parts.items()}, tmp_path / "model.safetensors")
    (note,) = anamnesis.open_model(tmp_path).model.notes
    assert "'m.q_proj.weight' (F16 [64, 16]): kept as floats" in note


def test_a_method_in_the_settings_of_a_tokenizer_counts(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        '{"quantization_config": {"quant_method": "x"}}'
    )
    save_file({"m.weight": np.ones((8, 8), np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="tokenizer_config"):
        anamnesis.open_model(tmp_path)


@pytest.mark.parametrize(("algorithm", "noted"), [("NVFP4", True), ("W4A8_NVFP4_FP8", False)])
def test_nvfp4_of_other_blocks_than_its_algorithm_is_noted(algorithm: str, noted: bool) -> None:
    """ModelOpt wrote scales of half the number for weights that were compressed before (#2038)."""
    wide = {**NVFP4, "m.weight_scale": ("F8_E4M3", (32, 2))}
    found = notes(wide, {"quant_method": "modelopt", "quant_algo": algorithm})
    assert ["a scale is of 16 numbers, and here of 32" in note for note in found] == [True] * noted


@pytest.mark.parametrize(
    ("value", "noted"),
    [(0.5, True), ([0.5, 1.0], True), ([[1], [2]], True), ("x", False), ({"a": 1}, False)],
)
def test_json_with_numbers_for_tensors_is_noted(value: Any, noted: bool) -> None:
    parts: Parts = {"m.weight": ("BF16", (64, 64))}
    found = notes(parts, None, **{"scales.json": {"m.weight": value, "other": 1}})
    assert ["scales.json beside the model gives numbers" in one for one in found] == [True] * noted


@pytest.mark.parametrize(
    "name", ["weight_quant.tensor_quant.scaling_impl.value", "weight_quantizer.scale"]
)
def test_parameters_of_simulated_rounding_are_noted(name: str) -> None:
    parts: Parts = {"m.q_proj.weight": ("BF16", (64, 64)), f"m.q_proj.{name}": ("F32", (1,))}
    assert any("under a name that is not known" in one for one in notes(parts, None))


RECIPE = {"default_stage": {"default_modifiers": {"QuIPModifier": {"rotations": ["v", "u"]}}}}


@pytest.mark.parametrize(
    ("recipe", "noted"), [(RECIPE, True), ({"GPTQModifier": {"ignore": ["x"]}}, False)]
)
def test_a_rotation_that_only_a_recipe_speaks_of_is_noted(recipe: Any, noted: bool) -> None:
    found = notes(FP8, {"quant_method": "fp8"}, **{"recipe.yaml": recipe})
    assert ["speaks of a rotation" in one for one in found] == [True] * noted


@pytest.mark.parametrize("layer", ["awq", "gptq"])
def test_zero_points_of_floats_under_packed_integers_are_noted(layer: str) -> None:
    config = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False}
    for more, noted in (({}, False), ({"data_type": "int_asym_float_zp"}, True)):
        book = ledger_of(LAYERS[layer][1], {**config, **more})
        resolve(book)
        assert any("zero points of floats" in note for note in book.notes) == noted
