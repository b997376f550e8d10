"""What compressed-tensors' tensors say about a weight: shapes decide, the config is a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ct_parts import CT, config, int8, packed
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Container, FileId, Stored
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import WHOLE, Contiguous
from anamnesis.readers.schemes import ct
from anamnesis.readers.schemes.base import Ledger


@pytest.mark.parametrize("about", [None, CT, config(4), config(8)])
@pytest.mark.parametrize("name", ["m.q_proj.", ""])
def test_packed(name: str, about: Any, one: Any) -> None:
    tensor = one(packed(name=name), about)
    assert (tensor.name, tensor.shape) == (f"{name}weight", (16, 64))
    assert (tensor.scheme, tensor.encoding) == ("ct-pack-quantized", "ct-packed")
    assert tensor.params["bits"] == 4
    assert tensor.params["group_size"] == 32
    assert tensor.orientation == "as-stored"
    assert {c.role: c.placement for c in tensor.components} == {
        "weight_packed": Contiguous(256),
        "weight_scale": Contiguous(32),
    }


@pytest.mark.parametrize(
    ("bits", "padded", "version"),
    [(b, False, "0.20.0") for b in range(1, 9)]
    + [(b, True, v) for b in (3, 5, 6, 7) for v in ("0.17.1", "0.9.4")],
)
@pytest.mark.parametrize("asymmetric", [False, True])
def test_bits_and_packings(
    bits: int, padded: bool, version: str, asymmetric: bool, one: Any
) -> None:
    zeros = None
    if asymmetric:
        zeros = -(-40 // (32 // bits)) if padded else -(-40 * bits // 32)
    parts = packed(40, 512, bits, 4, padded=padded, zeros=zeros)
    tensor = one(parts, config(bits, version))
    assert (tensor.params["bits"], tensor.params["padded"]) == (bits, padded)
    unit = 1
    if asymmetric:
        unit = 32 // bits if padded or 32 % bits == 0 else 32
    assert (tensor.params["unit_rows"], tensor.unit_elems) == (unit, unit * 512)


def test_columns_outweigh_the_version(one: Any) -> None:
    """Development versions, and configs that were copied."""
    for padded, version in ((True, "0.20.0"), (False, "0.9.4")):
        tensor = one(packed(inputs=512, bits=3, padded=padded), config(3, version))
        assert tensor.params["padded"] is padded


def test_a_padded_seven_looks_like_an_eight(one: Any) -> None:
    for about, bits in ((None, 8), (config(8), 8), (config(7, "0.17.1"), 7), (CT, 8)):
        assert one(packed(inputs=512, bits=8), about).params["bits"] == bits
    with pytest.raises(FormatError, match="fit 8 bits, 7 bits padded"):
        one(packed(inputs=512, bits=8), config(4, "0.17.1"))


def test_a_few_columns_of_both_packings(one: Any) -> None:
    """One word is the same in both; more need the version, or the zero points."""
    few = packed(inputs=10, bits=3, groups=1)
    assert one(few, config(3)).params["bits"] == 3
    some = packed(inputs=20, bits=3, groups=1, words=2)
    assert one(some, config(3, "0.18.0")).params["padded"] is False
    assert one(some, config(3, "0.17.1")).params["padded"] is True
    zeros = packed(200, 20, 3, 1, words=2, zeros=20)
    unversioned = {k: v for k, v in config(3).items() if k != "version"}
    assert one(zeros, unversioned).params["padded"] is True
    with pytest.raises(FormatError, match="fit 3 bits, 3 bits padded"):
        one(some, unversioned)


def test_ambiguous_bits_without_a_config(one: Any) -> None:
    tiny = packed(inputs=8, groups=1, bits=4)
    assert one(tiny, config(4)).params["bits"] == 4
    with pytest.raises(FormatError, match="fit 1 bits, 2 bits, 4 bits"):
        one(tiny, CT)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(16, 1), (16, 4), (1,), ()], ids=str)
def test_scales(dtype: Any, shape: tuple[int, ...], one: Any) -> None:
    scale = np.ones(shape, dtype)
    for parts in (packed(weight_scale=scale), int8(scale=scale)):
        tensor = one(parts, CT)
        windowed = len(shape) == 2
        assert tensor.components[1].placement.windowed is windowed
        assert tensor.params["groups"] == (shape[1] if windowed else 1)


def test_blocks_need_the_config(one: Any) -> None:
    scale = np.ones((2, 2), np.float32)
    about = config(8, strategy="block", block_structure=[8, 48])
    tensor = one(int8(scale=scale), about)
    assert (tensor.params["block_rows"], tensor.params["group_size"]) == (8, 48)
    assert tensor.params["lines"] == 2
    with pytest.raises(FormatError, match=r"weight_scale.*does not fit"):
        one(int8(scale=scale), config(8))


def test_blocks_of_one_row_leave_a_rest(one: Any) -> None:
    """compressed-tensors cuts 160 columns into 128 and 32, where two groups would be of 80."""
    scale = np.ones((16, 2), np.float32)
    about = config(8, strategy="block", block_structure=[1, 128])
    for parts in (packed(inputs=160, bits=8, weight_scale=scale), int8(inputs=160, scale=scale)):
        assert one(parts, about).params["group_size"] == 128
        assert one(parts, config(8, group_size=80)).params["group_size"] == 80
    three = int8(inputs=160, scale=np.ones((16, 3), np.float32))
    assert one(three, config(8, strategy="block", block_structure=[1, 64])).params["groups"] == 3
    with pytest.raises(FormatError, match="3 do not divide 160 inputs"):
        one(three, config(8))
    two = config(8, strategy="block", block_structure=[1, 128])
    two["config_groups"]["other"] = {"weights": {"block_structure": [1, 144]}}
    with pytest.raises(FormatError, match=r"160 inputs in blocks of one of \[128, 144\]"):
        one(int8(inputs=160, scale=scale), two)


def test_stacked_experts(one: Any) -> None:
    parts = {
        "e.weight_packed": np.ones((3, 20, 8), np.int32),
        "e.weight_scale": np.ones((3, 20, 2), ml_dtypes.bfloat16),
        "e.weight_shape": np.array([3, 20, 64], np.int32),
        "e.weight_zero_point": np.ones((3, 3, 2), np.int32),
    }
    tensor = one(parts, config(4))
    assert tensor.shape == (3, 20, 64)
    # 20 rows are no whole words of zero points: a unit would reach into the next expert.
    assert {c.role: c.placement for c in tensor.components}["weight_zero_point"] is WHOLE
    assert tensor.params["unit_rows"] == 1
    parts["e.weight_packed"] = np.ones((3, 24, 8), np.int32)
    parts["e.weight_scale"] = np.ones((3, 24, 2), ml_dtypes.bfloat16)
    parts["e.weight_shape"] = np.array([3, 24, 64], np.int32)
    assert one(parts, config(4)).params["unit_rows"] == 8


@pytest.mark.parametrize("kind", ["packed", "int8"])
def test_group_index(kind: str, one: Any) -> None:
    index = np.arange(64, dtype=np.int32) // 32
    parts = packed() if kind == "packed" else int8(scale=np.ones((16, 2), np.float32))
    tensor = one(parts | {"m.q_proj.weight_g_idx": index[::-1].copy()}, CT)
    assert tensor.params["act_order"] is True
    assert tensor.components[-1].role == "weight_g_idx"
    for bad in (index[:-1].copy(), index.astype(np.int16), index.reshape(1, -1)):
        with pytest.raises(FormatError, match="weight_g_idx"):
            one(parts | {"m.q_proj.weight_g_idx": bad}, CT)


def test_what_belongs_to_activations_is_dropped(tmp_path: Path) -> None:
    scalar = np.ones(1, np.float32)
    parts = int8(input_scale=scalar, input_zero_point=np.zeros(1, np.int8))
    parts |= {f"m.attn.{name}": scalar for name in ("k_scale", "v_scale", "q_scale")}
    parts["m.attn.k_zero_point"] = np.zeros(1, np.int8)
    parts["m.q_proj.bias"] = np.ones(16, np.float16)
    save_file(parts, tmp_path / "model.safetensors")
    model = load_model(str(tmp_path / "model.safetensors"))
    assert {t.name: t.scheme for t in model.tensors} == {
        "m.q_proj.weight": "ct-int-quantized",
        "m.q_proj.bias": "passthrough",
    }
    assert {d.stored.name.rpartition(".")[2] for d in model.dropped} == {
        "input_scale", "input_zero_point", "k_scale", "v_scale", "q_scale", "k_zero_point",
    }  # fmt: skip


def test_zero_points_of_quantised_attention_are_dropped(tmp_path: Path) -> None:
    """llm-compressor's attention in FP8: dense weights, and zero points of FP8, one number each."""
    scalar, zero = np.ones(1, ml_dtypes.bfloat16), np.zeros(1, ml_dtypes.float8_e4m3fn)
    parts = {f"m.attn.{of}_scale": scalar for of in "qkv"}
    parts |= {f"m.attn.{of}_zero_point": zero for of in "qkv"}
    parts["m.attn.q_proj.weight"] = np.ones((16, 64), ml_dtypes.bfloat16)
    save_file(parts, tmp_path / "model.safetensors")
    about = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {}}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    model = load_model(str(tmp_path))
    assert [t.name for t in model.tensors] == ["m.attn.q_proj.weight"]
    assert len(model.dropped) == 6
    save_file(parts | {"m.attn.k_zero_point": np.repeat(zero, 9)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="k_zero_point"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("shape", [(0, 64), (16, 0), (0, 0)], ids=str)
def test_empty(shape: tuple[int, int], one: Any, tmp_path: Path) -> None:
    rows, inputs = shape
    tensor = one(packed(rows, inputs, groups=1), config(4))
    assert (tensor.shape, tensor.elems) == (shape, 0)
    tensor = one(int8(rows, inputs), config(8))
    assert (tensor.shape, tensor.elems) == (shape, 0)
    anamnesis.remember(tmp_path, tmp_path / "out.safetensors", threads=1)


def test_mixed_formats_in_one_checkpoint(tmp_path: Path) -> None:
    """Packed, INT8, FP8 and dense layers, packed codes apart from their scales in another file."""
    first = packed(name="a.") | {
        "c.weight": np.ones((32, 64), ml_dtypes.float8_e4m3fn),
        "norm.weight": np.ones(64, ml_dtypes.bfloat16),
    }
    second = {
        "a.weight_scale": first.pop("a.weight_scale"),
        "b.weight": np.full((16, 64), -3, np.int8),
        "b.weight_scale": np.full((16, 1), 0.5, np.float32),
        "c.weight_scale": np.ones((32, 1), np.float32),
    }
    names: dict[str, str] = {}
    for number, parts in enumerate((first, second), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file(parts, tmp_path / file)
        names |= dict.fromkeys(parts, file)
    index = {"metadata": {}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config(4)}))
    found = {t.name: t.scheme for t in load_model(str(tmp_path)).tensors}
    assert found == {
        "a.weight": "ct-pack-quantized",
        "b.weight": "ct-int-quantized",
        "c.weight": "fp8-channel",
        "norm.weight": "passthrough",
    }
    anamnesis.remember(tmp_path, tmp_path / "out.safetensors", threads=1)
    values = anamnesis.open_model(tmp_path / "out.safetensors")
    assert (values["b.weight"].to_numpy().view(np.uint16) == 0xBFC0).all()  # -1.5


def test_bytes_of_other_formats_are_left_alone() -> None:
    """FP4 and FP6 are packed in U8, or in I8 under scales of eight bits."""
    file = FileId("model.safetensors", 0, 0, 0, 0)
    for codes, kind, scale in (
        ("weight_packed", "U8", "F8_E4M3"),
        ("weight_packed", "U8", "U8"),
        ("weight", "I8", "U8"),
        ("weight", "I8", "F8_E8M0"),
    ):
        stored = {
            "m." + codes: Stored("m." + codes, kind, (16, 32), file, 0, 512),
            "m.weight_scale": Stored("m.weight_scale", scale, (16, 2), file, 512, 32),
        }
        book = Ledger(Container("safetensors", (file,), stored))
        ct.resolve(book)
        assert [s.name for s in book.free()] == list(stored)


@pytest.mark.parametrize("layer", [packed, int8])
def test_what_the_configuration_says_of_all_weights_is_held(layer: Any, tensors_of: Any) -> None:
    """An asymmetric layer has zero points, and integers are no floats of as many bits."""
    bits = 4 if layer is packed else 8
    with pytest.raises(FormatError, match="no zero points beside it"):
        tensors_of(layer(), config(bits, symmetric=False))
    with pytest.raises(UnsupportedError, match="all weights are of type float"):
        tensors_of(layer(), config(bits, type="float"))
    assert tensors_of(layer(), config(bits))
