"""How GPTQ and AutoRound modules are told, and what of their configs is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gptq_parts import GPTQ, Shapes, layer, ledger, module, resolved
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import WHOLE, Strided
from anamnesis.readers.schemes import resolve

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "gptq"


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
