"""The same weights under other names and shapes decode to the same bits.

Each pair is a layout whose values are held to its library's elsewhere in these tests, and the same
numbers as another tool stores them: stacked, transposed, shared, padded, or without the parts that
say nothing. Windows and tasks are of a few rows.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - numpy learns bfloat16
import numpy as np
import pytest
from safetensors.numpy import load_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.pipeline import plan as planning

Parts = dict[str, tuple[str, Any]]
Outputs = Mapping[str, Any]
ROOT = Path(__file__).resolve().parents[2]
rng = np.random.default_rng(20261128)
CT = {
    "quant_method": "compressed-tensors",
    "version": "0.20.0",
    "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
}
FP4 = {"quant_method": "compressed-tensors", "format": "mixed-precision"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def some(dtype: str, *shape: int) -> tuple[str, Any]:
    """A tensor of random numbers: ordinary ones where they are scales."""
    if dtype in ("F32", "F16"):
        numbers = rng.uniform(0.01, 2, shape)
        return dtype, numbers.astype(np.float32 if dtype == "F32" else np.float16)
    if dtype == "BF16":
        return dtype, rng.integers(0x3C00, 0x4000, shape, np.uint16)
    if dtype == "F8_E4M3":
        codes = rng.integers(0, 256, shape, np.uint8)
        return dtype, np.where(codes & 0x7F == 0x7F, codes & 0xF0, codes).astype(np.uint8)
    if dtype == "F8_E8M0":
        return dtype, rng.integers(118, 135, shape, np.uint8)
    kind = {"U8": np.uint8, "I8": np.int8, "I32": np.int32}[dtype]
    info = np.iinfo(kind)
    return dtype, rng.integers(info.min, info.max, shape, kind, endpoint=True)


def numbers(kind: Any, *values: Any) -> tuple[str, Any]:
    return {"i8": "I64", "f4": "F32"}[kind], np.array(values, kind)


def write(folder: Path, parts: Parts, config: Mapping[str, Any]) -> Path:
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, array) in parts.items():
        raw = np.ascontiguousarray(array).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def outputs(folder: Path, parts: Parts, config: Mapping[str, Any], **options: Any) -> Outputs:
    model = write(folder, parts, config)
    out = folder.with_name(folder.name + "-out.safetensors")
    anamnesis.remember(model, out, threads=1, **options)
    return {name: array.view(np.uint16) for name, array in load_file(out).items()}


def e(array: Any, index: Any) -> Any:
    return array[0], array[1][index]


def fused_int4(shapes: str) -> tuple[Parts, Parts]:
    packed, scale = some("I32", 3, 16, 8), some("BF16", 3, 16, 2)
    plain: Parts = {}
    for i in range(3):
        plain[f"e{i}.weight_packed"], plain[f"e{i}.weight_scale"] = e(packed, i), e(scale, i)
        plain[f"e{i}.weight_shape"] = numbers("i8", 16, 64)
    fused: Parts = {"m.experts.up_packed": packed, "m.experts.up_scale": scale}
    if shapes == "each":
        fused["m.experts.up_shape"] = numbers("i8", *[[16, 64]] * 3)
    elif shapes == "stack":
        fused["m.experts.up_shape"] = numbers("i8", 3, 16, 64)
    return plain, fused


def fused_int8() -> tuple[Parts, Parts]:
    codes, scale, zeros = some("I8", 3, 16, 40), some("F32", 3, 16, 1), some("I8", 3, 16, 1)
    plain: Parts = {}
    for i in range(3):
        plain |= {f"e{i}.weight": e(codes, i), f"e{i}.weight_scale": e(scale, i)}
        plain[f"e{i}.weight_zero_point"] = e(zeros, i)
    names = ("m.experts.up", "m.experts.up_scale", "m.experts.up_zero_point")
    return plain, dict(zip(names, (codes, scale, zeros), strict=True))


def fused_nvfp4(style: str, shape: tuple[int, ...], names: tuple[str, str, str]) -> Any:
    """`shape` of the global scales: of the experts, or of both halves of each."""
    codes, scale, factor = some("U8", 3, 16, 32), some("F8_E4M3", 3, 16, 4), some("F32", *shape)
    halves = 2 if shape == (3, 2) else 1
    plain: Parts = {}
    for i in range(3 * halves):
        rows = (i // halves, slice(16 // halves * (i % halves), 16 // halves * (i % halves + 1)))
        one = "F32", factor[1].reshape(-1)[i].reshape(1)
        packed = "_packed" if style == "ct" else ""
        plain[f"e{i}.weight{packed}"], plain[f"e{i}.weight_scale"] = e(codes, rows), e(scale, rows)
        plain[f"e{i}.weight_{'global_scale' if style == 'ct' else 'scale_2'}"] = one
    fused = {f"m.experts.up{n}": p for n, p in zip(names, (codes, scale, factor), strict=True)}
    return plain, fused


def fused_mxfp4(codes: str, scale: str, plain_names: tuple[str, str], names: Any) -> Any:
    bytes_, exponents = some(codes, 3, 16, 32), some("F8_E8M0", 3, 16, 2)
    plain: Parts = {}
    for i in range(3):
        plain[f"e{i}.{plain_names[0]}"] = e(bytes_, i)
        plain[f"e{i}.{plain_names[1]}"] = scale, exponents[1][i]
    fused = {f"m.experts.up{names[0]}": bytes_, f"m.experts.up{names[1]}": (scale, exponents[1])}
    return plain, fused


def of_flux() -> tuple[Parts, Parts]:
    """`fp8r` and NVFP4 of Black Forest Labs, whose input scales are of no weight."""
    codes, scale = some("F8_E4M3", 40, 32), some("F32", 40)
    fours, blocks, factor = some("U8", 40, 16), some("F8_E4M3", 40, 2), some("F32", 1)
    plain: Parts = {"a.weight": codes, "a.weight_scale": scale}
    plain |= {"b.weight": fours, "b.weight_scale": blocks, "b.weight_scale_2": factor}
    return plain, plain | {"b.input_scale": some("F32", 1)}


def stacked(found: Outputs) -> Outputs:
    """Experts, or halves of them, in their order."""
    parts = [found[f"e{i}.weight"] for i in range(len(found))]
    array = np.stack(parts)
    return {"m.experts.up": array.reshape(3, -1, array.shape[-1])}


CASES: dict[str, tuple[Any, Any, Any, Callable[[Outputs], Outputs]]] = {
    "bfl": (of_flux(), {"quant_method": "modelopt"}, {"quant_method": "bfl"}, dict),
    **{f"int4 {s}": (fused_int4(s), CT, CT, stacked) for s in ("none", "each", "stack")},
    "int8": (fused_int8(), CT, CT, stacked),
    **{
        f"nvfp4 ct {shape}": (
            fused_nvfp4("ct", shape, ("_packed", "_scale", "_global_scale")), FP4, FP4, stacked
        )
        for shape in ((3, 1), (3, 2))
    },
    **{
        f"nvfp4 modelopt {shape} {stem or 'plain'}": (
            fused_nvfp4("modelopt", shape, ("", f"{stem}_scale", f"{stem}_scale_2")),
            {"quant_method": "modelopt"}, {"quant_method": "modelopt"}, stacked,
        )
        for shape in ((3,), (3, 1), (3, 2)) for stem in ("", "_weight")
    },
    "mxfp4 ct": (
        fused_mxfp4("U8", "U8", ("weight_packed", "weight_scale"), ("_packed", "_scale")),
        FP4, FP4, stacked,
    ),
    **{
        f"mxfp4 deepseek{name}": (
            fused_mxfp4("I8", "F8_E8M0", ("weight", "scale"), ("", name)), BLOCKS, BLOCKS, stacked
        )
        for name in ("_scale", "_scale_inv")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_stacked_experts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "WINDOW_BYTES", 600)
    monkeypatch.setattr(planning, "TASK_BYTES", 2000)
    (plain, fused), first, second, turn = CASES[name]
    wanted = turn(outputs(tmp_path / "plain", plain, {"quantization_config": first}))
    found = outputs(tmp_path / "fused", fused, {"quantization_config": second})
    assert set(found) == set(wanted)
    for tensor, bits in wanted.items():
        np.testing.assert_array_equal(found[tensor], bits)


@pytest.mark.parametrize(("inputs", "outer"), [(40, 24), (40, 40)])
def test_llama_4_experts(inputs: int, outer: int, tmp_path: Path) -> None:
    """`down_proj` is `[experts, in, out]`: its scales are of columns, also where it is square."""
    codes, scale = some("F8_E4M3", 2, inputs, outer), some("F32", 2, outer, 1)
    turned: Parts = {
        "m.experts.down_proj": (codes[0], codes[1].transpose(0, 2, 1)),
        "m.experts.down_proj_scale": scale,
    }
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    wanted = outputs(tmp_path / "plain", turned, config)["m.experts.down_proj"].transpose(0, 2, 1)
    for shape in ((2, outer, 1), (2, 1, outer)):
        parts: Parts = {
            "m.experts.down_proj": codes,
            "m.experts.down_proj_scale": ("F32", scale[1].reshape(shape)),
        }
        config = {"quantization_config": {"quant_method": "fbgemm_fp8"}}
        found = outputs(tmp_path / f"llama{shape[1]}", parts, config)
        np.testing.assert_array_equal(found["m.experts.down_proj"], wanted)


def test_a_scale_for_all_shards_of_a_table(tmp_path: Path) -> None:
    scale = some("BF16", 1)
    shards = {f"t.shard_{i}.weight": some("F8_E4M3", 6, 40) for i in range(3)}
    each: Parts = {**shards, **{f"t.shard_{i}.weight_scale": scale for i in range(3)}}
    config = {"quantization_config": BLOCKS}
    wanted = outputs(tmp_path / "each", each, config)
    found = outputs(tmp_path / "one", {**shards, "t.weight_scale": scale}, config)
    assert set(found) == set(shards)
    for name in shards:
        np.testing.assert_array_equal(found[name], wanted[name])
    # A number for each of them, or a table beside its shards, is something else.
    for more in ({"t.weight_scale": some("BF16", 3)}, {"t.weight": some("F8_E4M3", 6, 40)}):
        parts = {**shards, "t.weight_scale": scale, **more}
        with pytest.raises(AnamnesisError):
            outputs(tmp_path / f"bad{len(parts)}", parts, config)


def test_blocks_that_are_not_used(tmp_path: Path) -> None:
    """A grid of declared blocks counts from the corner; stats see only the scales that are used."""
    codes, grid = some("F8_E4M3", 150, 140), some("F32", 4, 3)
    grid[1][2:] = 1e9
    grid[1][:, 2:] = 1e9
    config = {"quantization_config": BLOCKS}
    exact: Parts = {"a.weight": codes, "a.weight_scale_inv": e(grid, (slice(2), slice(2)))}
    wanted = outputs(tmp_path / "exact", exact, config)
    over: Parts = {"a.weight": codes, "a.weight_scale_inv": grid}
    found = outputs(tmp_path / "over", over, config)
    np.testing.assert_array_equal(found["a.weight"], wanted["a.weight"])
    with anamnesis.scan(tmp_path / "over", columns=["scale"]) as scanned:
        assert max(scanned.read_all()["scale"].to_pylist()) < 1e9
    with pytest.raises(FormatError, match="does not fit"):
        outputs(tmp_path / "silent", over, {})


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("zeros", ["none", "empty", "empty, by words"])
def test_symmetric_gptq_without_zero_points(zeros: str, act_order: bool, tmp_path: Path) -> None:
    layer: Parts = {"a.qweight": some("I32", 16, 24), "a.scales": some("F16", 4, 24)}
    if act_order:
        layer["a.g_idx"] = "I32", rng.permutation(128).astype(np.int32) // 32
    stored = np.full((4, 3), 0x77777777, np.int32)  # 8, less one
    config = {"quantization_config": GPTQ | {"desc_act": act_order}}
    wanted = outputs(tmp_path / "stored", {**layer, "a.qzeros": ("I32", stored)}, config)
    empty = {"none": {}, "empty": (0,), "empty, by words": (4, 0)}[zeros]
    other: Parts = {"a.qzeros": ("I32", np.empty(empty, np.int32))} if empty else {}
    found = outputs(tmp_path / "without", {**layer, **other}, config)
    assert set(found) == {"a.weight"}
    np.testing.assert_array_equal(found["a.weight"], wanted["a.weight"])
    if not other:
        config = {"quantization_config": GPTQ | {"sym": False}}
        with pytest.raises(FormatError, match="qzeros"):
            outputs(tmp_path / "asym", layer, config)


def test_the_bits_of_a_layer_without_zero_points(tmp_path: Path) -> None:
    """The config's, of this layer if it names it; groups that do not agree are an error."""
    layer: Parts = {"a.qweight": some("I32", 32, 24), "a.scales": some("F16", 4, 24)}
    wide = GPTQ | {"bits": 8}
    wanted = outputs(tmp_path / "wide", layer, {"quantization_config": wide})["a.weight"]
    mixed = {"quant_method": "auto-round", **{k: GPTQ[k] for k in ("bits", "group_size", "sym")}}
    named = {"quantization_config": {**mixed, "extra_config": {"a": {"bits": 8}}}}
    np.testing.assert_array_equal(outputs(tmp_path / "named", layer, named)["a.weight"], wanted)
    with pytest.raises(FormatError, match="states bits and group_size"):
        outputs(tmp_path / "silent", layer, {"quantization_config": GPTQ})


@pytest.mark.parametrize("told", [{"sym": True}, {"zero_point": False}])
def test_symmetric_awq_without_zero_points(told: dict[str, bool], tmp_path: Path) -> None:
    layer: Parts = {"a.qweight": some("I32", 128, 3), "a.scales": some("F16", 4, 24)}
    stored = np.full((4, 3), np.uint32(0x88888888)).view(np.int32)
    config = {"quantization_config": AWQ | told}
    wanted = outputs(tmp_path / "stored", {**layer, "a.qzeros": ("I32", stored)}, config)
    found = outputs(tmp_path / "without", layer, config)
    np.testing.assert_array_equal(found["a.weight"], wanted["a.weight"])
    with pytest.raises(FormatError, match="qzeros"):
        outputs(tmp_path / "asym", layer, {"quantization_config": AWQ | {"zero_point": True}})


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_stacked_experts_of_bitsandbytes(quant_type: str, tmp_path: Path) -> None:
    """`Experts4bit` stores neither shapes nor maps; the library's own code made the other side."""
    golden = load_file(ROOT / "tests/data/bnb/cases.safetensors")
    map_of = golden[f"{quant_type}.float32.weight.quant_map"]
    hidden, middle = 64, 128
    stacks = {"gate_up": (2 * middle, hidden), "down": (hidden, middle)}
    plain: Parts = {}
    fused: Parts = {}
    for name, shape in stacks.items():
        codes, absmax = some("U8", 2, math.prod(shape) // 2), some("F32", 2, math.prod(shape) // 64)
        fused[f"m.experts.{name}_proj"], fused[f"m.experts.{name}_absmax"] = codes, absmax
        for i in range(2):
            text = {"quant_type": quant_type, "blocksize": 64, "dtype": "float32", "shape": shape}
            state = np.frombuffer(json.dumps(text).encode(), np.uint8)
            plain |= {
                f"{name}{i}.weight": ("U8", codes[1][i].reshape(-1, 1)),
                f"{name}{i}.weight.absmax": e(absmax, i),
                f"{name}{i}.weight.quant_map": ("F32", map_of),
                f"{name}{i}.weight.quant_state.bitsandbytes__{quant_type}": ("U8", state),
            }
    config = {
        "hidden_size": hidden,
        "quantization_config": {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": quant_type
        },
    }  # fmt: skip
    wanted, found = (outputs(tmp_path / str(len(p)), p, config) for p in (plain, fused))
    assert set(found) == {f"m.experts.{name}_proj" for name in stacks}
    for name in stacks:
        each = np.stack([wanted[f"{name}{i}.weight"] for i in range(2)])
        np.testing.assert_array_equal(found[f"m.experts.{name}_proj"], each)
    quiet = {"hidden_size": hidden, "quantization_config": {"quant_method": "bitsandbytes"}}
    with pytest.raises(UnsupportedError, match="bnb_4bit_quant_type"):
        outputs(tmp_path / "quiet", fused, quiet)
    with pytest.raises(FormatError, match="hidden_size none"):
        outputs(tmp_path / "sizeless", fused, {**config, "hidden_size": None})


def test_activation_scales_of_awq(tmp_path: Path) -> None:
    """The layer after a scaled activation is divided by the scales: by columns of its inputs."""
    layer: Parts = {
        "m.mlp.c_proj.qweight": some("I32", 128, 3),
        "m.mlp.c_proj.qzeros": some("I32", 4, 3),
        "m.mlp.c_proj.scales": some("F16", 4, 24),
    }
    config = {"quantization_config": AWQ}
    plain = outputs(tmp_path / "plain", layer, config, dtype="f32")
    powers = np.float16(2) ** rng.integers(-3, 4, 128).astype(np.float16)
    scaled: Parts = {**layer, "m.mlp.act.scales": ("F16", powers)}
    found = outputs(tmp_path / "scaled", scaled, config, dtype="f32")
    assert set(found) == {"m.mlp.c_proj.weight"}
    whole = plain["m.mlp.c_proj.weight"].view(np.float32)
    np.testing.assert_array_equal(
        found["m.mlp.c_proj.weight"].view(np.float32), whole / powers.astype(np.float32)
    )
    other: Parts = {name.replace("c_proj", "other"): part for name, part in scaled.items()}
    with pytest.raises(UnsupportedError, match="scales of an activation before no known layer"):
        outputs(tmp_path / "unknown", other, config)


def test_offsets_of_modelslim(tmp_path: Path) -> None:
    """Numbers of INT8 zero points as floats, and side tensors that are no part of the weight."""
    codes, scale = some("I8", 24, 32), some("F32", 24, 1)
    zeros = rng.integers(-100, 100, (24, 1), np.int8)
    plain: Parts = {"a.weight": codes, "a.weight_scale": scale}
    plain["a.weight_zero_point"] = "I8", zeros
    wanted = outputs(tmp_path / "plain", plain, {"quantization_config": CT})["a.weight"]
    for dtype, kind in (("F32", np.float32), ("F16", np.float16)):
        parts: Parts = {
            "a.weight": codes,
            "a.weight_scale": scale,
            "a.weight_offset": (dtype, zeros.astype(kind)),
            "a.quant_bias": some("I32", 24),
            "a.deq_scale": some("F32", 24),
            "a.input_scale": some("F32", 1),
            "a.input_offset": some("F32", 1),
            "a.bias": some("BF16", 24),
        }
        found = outputs(tmp_path / dtype, parts, {"quantize": "w8a8"})
        assert set(found) == {"a.weight", "a.bias"}
        np.testing.assert_array_equal(found["a.weight"], wanted)
    norms = {"in_norm.anti.weight": some("F16", 24), "x_layernorm.bias": some("F16", 24)}
    for config, more in (({}, ""), ({"rms_norm_eps": 1e-6}, " and 1 more")):
        folder = write(
            tmp_path / f"norms{len(config)}", {**parts, **norms}, {**config, "quantize": "w8a8"}
        )
        (note,) = (n for n in anamnesis.inspect(folder).notes if "suppression" in n)
        assert f"'in_norm.anti.weight' (F16 [24]){more}: of ModelSlim's" in note
    model = write(tmp_path / "packed", parts, {})
    types = {"model_quant_type": "W4A8_DYNAMIC", "a.weight": "W4A8_DYNAMIC", "a.bias": "FLOAT"}
    (model / "quant_model_description.json").write_text(json.dumps(types))
    with pytest.raises(UnsupportedError, match="W4A8_DYNAMIC"):
        anamnesis.remember(model, tmp_path / "out.safetensors")
