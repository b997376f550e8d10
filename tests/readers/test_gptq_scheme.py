"""How GPTQ and AutoRound modules are told, and what of their configs is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import ledger_of

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import WHOLE, Strided
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "gptq"
Shapes = dict[str, tuple[str, tuple[int, ...]]]


def module(
    inputs: int = 256, outputs: int = 96, bits: int = 4, group: int = 64, **other: Any
) -> Shapes:
    """The stored parts of a layer; `other` replaces or, with None, removes some."""
    groups = -(-inputs // group)
    parts: Shapes = {
        "qweight": ("I32", (-(-inputs * bits // 32), outputs)),
        "qzeros": ("I32", (groups, -(-outputs * bits // 32))),
        "scales": ("F16", (groups, outputs)),
        "g_idx": ("I32", (inputs,)),
    }
    parts |= other
    return {role: part for role, part in parts.items() if part}


def ledger(layers: Mapping[str, Shapes], config: Any = None, file: str = "config.json") -> Ledger:
    parts = {
        f"{name}.{role}": part for name, layer in layers.items() for role, part in layer.items()
    }
    if file == "config.json":
        return ledger_of(parts, config)
    return ledger_of(parts, configs={} if config is None else {file: config})


def resolved(parts: Shapes, config: Any = None, file: str = "config.json") -> Tensor:
    book = ledger({"model.q_proj": parts}, config, file)
    resolve(book)
    assert not list(book.free())
    return book.tensors["model.q_proj.weight"]


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True}


def test_what_comes_out() -> None:
    tensor = resolved(module(), GPTQ)
    assert (tensor.shape, tensor.scheme, tensor.encoding) == ((96, 256), "gptq", "gptq")
    assert (tensor.orientation, tensor.out_dtype) == ("transposed", "BF16")
    assert (tensor.unit_elems, tensor.unit_multiple, tensor.units) == (256, 8, 96)
    assert {c.role: c.placement for c in tensor.components} == {
        "qweight": Strided(32, 384),
        "scales": Strided(16, 192),
        "qzeros": Strided(4, 48),
        "g_idx": WHOLE,
    }
    told = {k: tensor.params[k] for k in ("bits", "group_size", "act_order", "sym", "zero_offset")}
    assert told == {"bits": 4, "group_size": 64, "act_order": False, "sym": True, "zero_offset": 1}


@pytest.mark.parametrize(
    ("bits", "dtype", "multiple"),
    [(2, "I32", 16), (3, "I32", 32), (4, "I32", 8), (8, "I32", 4), (4, "I16", 8), (8, "I8", 4)],
)
def test_bits_come_from_the_shapes(bits: int, dtype: str, multiple: int) -> None:
    word = {"I32": 32, "I16": 16, "I8": 8}[dtype]
    parts = module(256, 96, bits)
    parts["qweight"] = (dtype, (256 * bits // word, 96))
    parts["qzeros"] = (dtype, (4, 96 * bits // word))
    for config in (None, GPTQ, GPTQ | {"bits": 8}, GPTQ | {"bits": None}):
        tensor = resolved(parts, config)
        assert tensor.params["bits"] == bits
        assert (tensor.shape, tensor.unit_multiple) == ((96, 256), multiple)
    parts.pop("g_idx")
    assert resolved(parts, GPTQ).shape == (96, 256)


@pytest.mark.parametrize(
    ("inputs", "group", "declared", "found"),
    [
        (256, 64, 64, 64),
        (256, 64, 128, 64),  # the config lies
        (256, 64, None, 64),
        (576, 128, 128, 128),  # five groups, the last one partial
        (576, 128, None, 128),
        (576, 96, None, 96),
        (480, 120, 120, 120),
        (480, 128, None, 128),
        (256, 256, -1, -1),
        (256, 256, None, -1),
        (256, 256, 64, -1),
        (256, 256, 256, 256),
        (96, 128, 128, 128),
    ],
)
def test_group_size(inputs: int, group: int, declared: int | None, found: int) -> None:
    tensor = resolved(module(inputs, 32, 4, group), GPTQ | {"group_size": declared})
    assert tensor.params["group_size"] == found


@pytest.mark.parametrize(
    "bad",
    [
        *({"group_size": value} for value in (0, -5, -2, 3, 64.0, "64", True, [64])),
        *({"bits": value} for value in (0, 1, 5, 7, 64, -4, 4.0, "4", True, 2**63)),
        {"desc_act": True},
    ],
    ids=str,
)
def test_impossible_configs(bad: dict[str, Any]) -> None:
    for file in ("config.json", "quantize_config.json"):
        with pytest.raises(FormatError, match=r"model\.safetensors"):
            resolved(module(g_idx=None), GPTQ | bad, file)


def test_act_order() -> None:
    assert resolved(module(), GPTQ | {"desc_act": True}).params["act_order"] is True
    one = module(group=256, g_idx=None)  # one group: there is no order to know
    assert resolved(one, GPTQ | {"desc_act": True, "group_size": -1}).params["act_order"] is False


def test_settings_of_a_sidecar_alone() -> None:
    tensor = resolved(module(), {"bits": 4, "group_size": 64, "sym": False}, "quantize_config.json")
    assert (tensor.params["zero_offset"], tensor.params["sym"]) == (1, False)
    v2 = {"bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2"}
    assert resolved(module(), v2, "quantize_config.json").params["zero_offset"] == 0


def test_the_sidecar_fills_what_config_json_leaves_out() -> None:
    book = ledger({"model.q_proj": module()}, GPTQ)
    book.configs["quantize_config.json"] = {"bits": 8, "checkpoint_format": "gptq_v2"}  # type: ignore[index]
    resolve(book)
    assert book.tensors["model.q_proj.weight"].params["zero_offset"] == 0


@pytest.mark.parametrize(
    ("config", "offset", "carry"),
    [
        ({}, 1, False),
        ({"checkpoint_format": "gptq"}, 1, False),
        ({"format": "gptq_v2"}, 0, False),
        ({"checkpoint_format": "GPTQ_V2"}, 0, False),
        ({"checkpoint_format": "gptq_p"}, 0, False),
        ({"sym": False}, 1, False),
        ({"sym": False, "meta": {"quantizer": ["gptqmodel:7.7.0"]}}, 1, True),
        ({"sym": False, "meta": {"quantizer": "gptqmodel:1.0"}}, 1, True),
        ({"sym": True, "meta": {"quantizer": ["gptqmodel:7.7.0"]}}, 1, False),
        ({"sym": False, "meta": {"quantizer": ["autogptq:0.7"]}}, 1, False),
        ({"sym": False, "meta": {"quantizer": ["gptqmodel"]}, "format": "gptq_v2"}, 0, False),
        ({"sym": False, "meta": ["odd", 3]}, 1, False),
    ],
    ids=str,
)
def test_zero_points(config: dict[str, Any], offset: int, carry: bool) -> None:
    params = resolved(module(), GPTQ | config).params
    assert (params["zero_offset"], params["zero_carry"]) == (offset, carry)


@pytest.mark.parametrize(
    ("packing", "offset"),
    [
        ({"packing_format": "auto_round"}, 0),
        ({"packing_format": "auto_round:gptqmodel"}, 0),
        ({"packing_format": "auto_round:auto_gptq"}, 1),
        ({"packing_format": "auto_round:gptq"}, 1),
        ({"backend": "auto_round:auto_gptq"}, 1),
        ({}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_auto_round(packing: dict[str, Any], offset: int, bits: int) -> None:
    for method in ("auto-round", "intel/auto-round"):
        config = {"quant_method": method, "bits": 4, "group_size": 64, "sym": False, **packing}
        tensor = resolved(module(bits=bits, g_idx=None), config)
        assert (tensor.params["bits"], tensor.params["zero_offset"]) == (bits, offset)
        assert tensor.shape == (96, 256)


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_other_bits_need_a_name(bits: int) -> None:
    for config in (None, GPTQ):
        with pytest.raises(UnsupportedError, match=f"GPTQ of {bits} bits"):
            resolved(module(bits=bits), config)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_planar_bits(bits: int) -> None:
    about = GPTQ | {"bits": bits, "checkpoint_format": "gptq_p"}
    tensor = resolved(module(bits=bits), about)
    assert tensor.encoding == ("gptq" if bits in (2, 4, 8) else "gptq-planar")
    assert (tensor.params["zero_offset"], tensor.unit_multiple) == (
        0,
        32 // bits if bits in (2, 4, 8) else 32,
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"outputs": 80},  # planes of outputs that do not fill words
        {"inputs": 250},
        {"qweight": ("I16", (96, 96)), "qzeros": ("I16", (4, 36))},
    ],
)
def test_planes_that_do_not_fill_words(shape: Any) -> None:
    with pytest.raises(FormatError):
        resolved(module(bits=6, **shape), GPTQ | {"bits": 6, "format": "gptq_p"})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"checkpoint_format": "marlin"}, "Marlin"),
        ({"is_marlin_format": True}, "Marlin"),
        ({"format": "BitBLAS"}, "BitBLAS"),
        ({"checkpoint_format": "qqq"}, "QQQ"),
        ({"checkpoint_format": "ipex"}, "IPEX"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:other"}, "auto_round:other"),
        ({"quant_method": "auto-round", "rotation_config": {"block_size": 32}}, "rotated"),
    ],
    ids=str,
)
def test_repacked_formats_are_refused_by_name(config: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        resolved(module(), GPTQ | config)


def test_a_backend_is_believed_where_the_shapes_are_not_gptq_s() -> None:
    assert resolved(module(), GPTQ | {"backend": "marlin"}).shape == (96, 256)
    repacked = module(qweight=("I32", (16, 192)), g_idx=None)
    with pytest.raises(UnsupportedError, match="Marlin"):
        resolved(repacked, GPTQ | {"backend": "marlin"})


MARLIN: Shapes = {"B": ("I32", (16, 256)), "s": ("F16", (2, 128))}


@pytest.mark.parametrize("method", ["gptq", "gptq_marlin", "marlin"])
def test_marlin_s_own_names(method: str) -> None:
    book = ledger({"a": MARLIN | {"workspace": ("I32", (16,))}}, {"quant_method": method})
    resolve(book)
    (tensor,) = book.tensors.values()
    assert (tensor.name, tensor.shape, tensor.scheme) == ("a.weight", (128, 256), "marlin")
    assert [d.stored.name for d in book.dropped] == ["a.workspace"]


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"B": ("I32", (16, 192))}, FormatError, "a multiple of 64"),
        ({"B": ("I32", (16, 16, 2))}, FormatError, "a multiple of 64"),
        ({"s": ("F16", (3, 128))}, FormatError, "of 256 inputs"),
        ({"s": ("F16", (32, 128))}, FormatError, "of 256 inputs"),
        ({"s": ("BF16", (2, 128))}, FormatError, "of 256 inputs"),
    ],
)
def test_what_is_not_marlin_s(parts: Shapes, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(ledger({"a": {**MARLIN, **parts}}, {"quant_method": "gptq"}))


FIRST: Shapes = {
    "qweight": ("I32", (32, 24)),
    "scales": ("F32", (24, 1)),
    "zeros": ("F32", (24, 1)),
}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_first_layout_of_gptq_for_llama(bits: int) -> None:
    parts = FIRST | {"qweight": ("I32", (bits * 8, 24))}
    book = ledger({"a": parts | {"bias": ("F32", (24,))}}, {"bits": bits}, "quantize_config.json")
    resolve(book)
    tensor = book.tensors["a.weight"]
    assert (tensor.shape, tensor.scheme) == ((24, 256), "gptq-for-llama")


@pytest.mark.parametrize(
    ("parts", "config", "error", "message"),
    [
        ({}, None, UnsupportedError, "quantize_config.json beside it"),
        ({"qweight": ("I8", (32, 24))}, {"bits": 4}, UnsupportedError, "BitBLAS"),
        ({"zeros": ("F32", (24, 2))}, {"bits": 4}, UnsupportedError, "BitBLAS"),
        ({"qweight": ("I32", (31, 24))}, {"bits": 4}, FormatError, "a multiple of 32"),
        ({"scales": ("F32", (23, 1))}, {"bits": 4}, FormatError, r"F32 \[24, 1\]"),
        ({"scales": ("F16", (24, 1))}, {"bits": 4}, FormatError, r"F32 \[24, 1\]"),
    ],
)
def test_what_is_not_gptq_for_llama_s(parts: Shapes, config: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(ledger({"a": FIRST | parts}, config, "quantize_config.json"))


def test_embeddings_are_refused_and_heads_are_not() -> None:
    book = ledger({"lm_head": module(), "model.layers.0.mlp.experts.3.w1": module()}, GPTQ)
    resolve(book)
    assert set(book.tensors) == {"lm_head.weight", "model.layers.0.mlp.experts.3.w1.weight"}
    with pytest.raises(UnsupportedError, match="embedding table"):
        resolve(ledger({"model.embed_tokens": module()}, GPTQ))


@pytest.mark.parametrize(
    "other",
    [
        {"qweight": ("I32", (32, 95))},
        {"qweight": ("I32", (31, 96))},
        {"qweight": ("I32", (32 * 96,))},
        {"qweight": ("F32", (32, 96))},
        {"qzeros": ("I32", (3, 12))},
        {"qzeros": ("I32", (4, 13))},
        {"qzeros": ("I16", (4, 12))},
        {"qzeros": ("I32", (4,))},
        {"scales": ("F16", (4, 97))},
        {"scales": ("F16", (5, 96))},
        {"scales": ("I32", (4, 96))},
        {"scales": ("F16", (4, 96, 1))},
        {"g_idx": ("I32", (240,))},
        {"g_idx": ("F16", (256,))},
        {"g_idx": ("I32", (1, 256))},
    ],
    ids=str,
)
def test_shapes_that_disagree(other: dict[str, Any]) -> None:
    for config in (None, GPTQ):
        with pytest.raises(FormatError, match=r"model\.safetensors: tensor 'model\.q_proj"):
            resolved(module(**other), config)


@pytest.mark.parametrize("part", ["scales", "qzeros"])
def test_a_part_that_is_missing(part: str) -> None:
    asym = GPTQ | {"sym": False}
    less = {role: kind for role, kind in module().items() if role != part}
    with pytest.raises(FormatError, match=f"no 'model.q_proj.{part}' beside it"):
        resolved(less, asym)
    with pytest.raises((FormatError, UnsupportedError), match=r"q_proj\.qweight"):
        resolved(less)


def test_groups_that_no_size_makes() -> None:
    parts = module(qzeros=("I32", (100, 12)), scales=("F16", (100, 96)))
    with pytest.raises(FormatError, match="100 groups for 256 inputs"):
        resolved(parts, GPTQ)


def test_overrides_and_skipped_modules() -> None:
    """`dynamic` and `extra_config`: what each layer is, its tensors say."""
    config = GPTQ | {
        "dynamic": {
            r"+:.*\.down_proj.*": {"bits": 8, "group_size": 32},
            r"-:.*gate.*": {},
            r"(.+)+X": {"bits": 2},  # never run: it would not end
        },
    }
    book = ledger(
        {
            f"model.layers.{'a' * 60}.q_proj": module(),
            "model.down_proj": module(bits=8, group=32),
            "model.gate": {"weight": ("BF16", (8, 256)), "bias": ("F16", (8,))},
        },
        config,
    )
    resolve(book)
    down = book.tensors["model.down_proj.weight"].params
    assert (down["bits"], down["group_size"]) == (8, 32)
    assert book.tensors["model.gate.weight"].scheme == "passthrough"
    assert book.tensors["model.gate.bias"].scheme == "passthrough"


def test_another_method_s_config_is_no_hint() -> None:
    config = {"quant_method": "compressed-tensors", "bits": 0, "group_size": 0}
    assert resolved(module(), config).params["zero_offset"] == 1


@pytest.mark.parametrize("shape", [(0, 96), (256, 0), (0, 0)], ids=str)
def test_empty(shape: tuple[int, int]) -> None:
    inputs, outputs = shape
    tensor = resolved(module(inputs, outputs), GPTQ)
    assert tensor.shape == (outputs, inputs)
    assert tensor.elems == 0


def folder_with(tmp_path: Path, config: Any, tensors: dict[str, Any]) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def layer(inputs: int, outputs: int, group: int) -> dict[str, Any]:
    rng = np.random.default_rng(inputs)
    groups = -(-inputs // group) if inputs else 0
    return {
        "a.qweight": rng.integers(-99, 99, (inputs // 8, outputs), dtype=np.int32),
        "a.qzeros": rng.integers(-99, 99, (groups, -(-outputs // 8)), dtype=np.int32),
        "a.scales": rng.standard_normal((groups, outputs)).astype(np.float16),
        "a.g_idx": np.arange(inputs, dtype=np.int32) // group,
        "a.bias": rng.standard_normal(outputs).astype(np.float16),
    }


@pytest.mark.parametrize("shape", [(64, 1), (8, 9), (0, 16), (64, 0), (128, 128)], ids=str)
def test_through_the_pipeline(shape: tuple[int, int], tmp_path: Path) -> None:
    source = folder_with(tmp_path, GPTQ | {"group_size": 32}, layer(*shape, 32))
    out = tmp_path / "out.safetensors"
    anamnesis.remember(source, out, threads=1)
    found = anamnesis.open_model(out)
    assert found["a.weight"].to_numpy().shape == shape[::-1]
    np.testing.assert_array_equal(
        found["a.bias"].to_numpy(), load_file(source / "model.safetensors")["a.bias"]
    )


def test_a_group_outside_is_a_format_error_with_the_tensor_s_name(tmp_path: Path) -> None:
    tensors = layer(64, 16, 32)
    tensors["a.g_idx"][5] = 2
    source = folder_with(tmp_path, GPTQ | {"group_size": 32}, tensors)
    out = tmp_path / "out.safetensors"
    with pytest.raises(FormatError, match=r"'a\.weight'.*input 5 is of group 2"):
        anamnesis.remember(source, out, threads=1)
    assert not out.exists()


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the checkout")
def test_corpus_settings() -> None:
    for folder in sorted(CORPUS.iterdir()):
        name = folder.name.split("-")
        for tensor in load_model(str(folder)).tensors:
            if not tensor.name.endswith("proj.weight"):
                continue
            bits, size = tensor.params["bits"], tensor.params["group_size"]
            assert tensor.scheme == "gptq"
            assert f"w{bits}" == name[0]
            assert ("channel" if size == -1 else f"g{size}") == name[1]
            assert tensor.params["act_order"] is ("descact" in name)
            assert tensor.params["sym"] is ("sym" in name)


@pytest.mark.parametrize(
    ("group", "more", "noted"),
    [(64, {}, False), (128, {}, True), (128, {"dynamic": {"+:.*q_proj": {}}}, False)],
)
def test_groups_that_the_configuration_does_not_say_are_noted(
    group: int, more: dict[str, Any], noted: bool
) -> None:
    book = ledger({"a": module(group=group), "b": module(group=group)}, GPTQ | more)
    resolve(book)
    said = [n for n in book.notes if "group_size 64, and the scales make groups of 128" in n]
    assert len(said) == int(noted)
    assert book.tensors["a.weight"].params["group_size"] == group


def test_groups_of_marlin_that_the_configuration_does_not_say_are_noted() -> None:
    parts: Shapes = {"B": ("I32", (16, 128)), "s": ("F16", (2, 64))}
    book = ledger({"a": parts}, GPTQ | {"is_marlin_format": True})
    resolve(book)
    assert any("group_size 64, and the scales make groups of 128" in n for n in book.notes)
