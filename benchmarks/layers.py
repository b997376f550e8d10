"""Layers as tools store them: the tensors of one matrix, `rows` by `columns` when decoded.

Codes are random, scales and zero points ordinary, so that values are too.
"""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np

from anamnesis.kernels import ENCODINGS
from benchmarks.models import Entry, Layer

GROUP = 128  # of GPTQ and AWQ
BLOCK = 64  # of bitsandbytes
MLX_GROUP = 64


def _rng() -> np.random.Generator:
    return np.random.default_rng(20240613)


def _bytes(*shape: int) -> Any:
    return _rng().integers(0, 256, shape, dtype=np.uint8)


def _small(*shape: int) -> Any:
    """Numbers of the size that scales have, float32."""
    return (_rng().random(shape, dtype=np.float32) + np.float32(0.5)) * np.float32(2.0**-7)


def _weight(dtype: str, array: Any, shape: tuple[int, ...]) -> Entry:
    return Entry("weight", dtype, shape, array)


# Dense tensors, which are converted when the caller asks for another dtype.
DENSE = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32, "f64": np.float64}


def dense(encoding: str, rows: int, columns: int) -> Layer:
    numbers = _rng().standard_normal((rows, columns), dtype=np.float32)
    array = numbers.astype(DENSE[encoding]).view(np.uint8)
    return Layer([_weight(encoding.upper(), array, (rows, columns))])


# FP8: codes, and scales for 128 x 128 blocks, for rows, or for the tensor.
_FP8_NAN = {"e4m3": (0x7F, 0xFF), "e4m3fnuz": (0x80,), "e5m2fnuz": (0x80,)}


def fp8(encoding: str, per: str, rows: int, columns: int) -> Layer:
    kind = encoding.removeprefix("fp8-")
    codes = _bytes(rows, columns)
    special = _FP8_NAN.get(kind) or tuple(c | s for c in range(0x7C, 0x80) for s in (0, 0x80))
    codes[np.isin(codes, special)] = 0
    grid = {"block": (-(-rows // 128), -(-columns // 128)), "channel": (rows, 1), "tensor": ()}
    scale = _small(*grid[per])
    name = "weight_scale_inv" if per == "block" else "weight_scale"
    return Layer(
        [
            _weight(f"F8_{kind.upper()}", codes, (rows, columns)),
            Entry(name, "F32", grid[per], np.ascontiguousarray(scale)),
        ]
    )


# GGUF: random blocks with ordinary scales. Where a block keeps them, bytes from its start, for
# those that do not begin with one binary16.
F16_AT = {
    "gguf-q2-k": (80, 82),
    "gguf-q3-k": (108,),
    "gguf-q4-1": (0, 2),
    "gguf-q4-k": (0, 2),
    "gguf-q5-1": (0, 2),
    "gguf-q5-k": (0, 2),
    "gguf-q6-k": (208,),
    "gguf-tq1-0": (52,),
    "gguf-tq2-0": (64,),
}
_BYTES_AT = {"gguf-mxfp4": (0,), "gguf-nvfp4": (0, 1, 2, 3)}
_IQ1_M_EXPONENT = 55  # its scale is spread over the high nibbles of four words


def gguf(encoding: str, rows: int, columns: int) -> Layer:
    row = ENCODINGS[encoding]
    lines = rows if row.row_meta else rows * columns // row.block_elems
    each = rows * columns // row.block_elems // lines
    blocks = _bytes(lines, row.row_meta + each * row.block_bytes)
    scales = np.resize(_small(4099).astype("<f2").view(np.uint8).reshape(-1, 2), (len(blocks), 2))
    if encoding in _BYTES_AT:
        for at in _BYTES_AT[encoding]:
            blocks[:, at] = 0x38 if encoding == "gguf-nvfp4" else 120
    elif row.row_meta == 4:
        blocks[:, :4] = np.resize(_small(4099), (lines, 1)).view(np.uint8)
    elif encoding == "gguf-iq1-m":
        blocks[:, _IQ1_M_EXPONENT] = blocks[:, _IQ1_M_EXPONENT] & 0x0F | 0x20
    else:
        for at in F16_AT.get(encoding, (0,)):
            blocks[:, at : at + 2] = scales
    dtype = encoding.removeprefix("gguf-").upper().replace("-", "_")
    entries = [_weight(dtype, blocks, (rows, columns))]
    if encoding == "gguf-nvfp4":
        entries.append(Entry("scale", "F32", (1,), _small(1)))
    return Layer(entries, container="gguf")


# bitsandbytes
_NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)


def bnb_4bit(nested: bool, rows: int, columns: int) -> Layer:
    elems = rows * columns
    blocks = -(-elems // BLOCK)
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": [rows, columns]}
    entries = [
        _weight("U8", _bytes(elems // 2), (elems // 2, 1)),
        Entry("weight.quant_map", "F32", (16,), _NF4),
    ]
    if nested:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.04}
        groups = -(-blocks // 256)
        entries += [
            Entry("weight.absmax", "U8", (blocks,), _bytes(blocks)),
            Entry("weight.nested_absmax", "F32", (groups,), _small(groups)),
            Entry("weight.nested_quant_map", "F32", (256,), np.linspace(-1, 1, 256, dtype="<f4")),
        ]
    else:
        entries.append(Entry("weight.absmax", "F32", (blocks,), _small(blocks)))
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    entries.append(Entry("weight.quant_state.bitsandbytes__nf4", "U8", (len(text),), text))
    return Layer(entries)


def bnb_int8(rows: int, columns: int) -> Layer:
    return Layer(
        [
            _weight("I8", _bytes(rows, columns), (rows, columns)),
            Entry("SCB", "F32", (rows,), _small(rows)),
        ]
    )


# GPTQ and AWQ: codes packed in int32, stored [in, out]; `rows` are outputs, `columns` inputs.
def gptq(bits: int, act_order: bool, rows: int, columns: int) -> Layer:
    groups = -(-columns // GROUP)
    index = np.arange(columns, dtype=np.int32) // GROUP
    if act_order:
        index = _rng().permutation(index)
    config = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order}
    return Layer(
        [
            _packed("qweight", columns * bits // 32, rows),
            _packed("qzeros", groups, rows * bits // 32),
            Entry("scales", "F16", (groups, rows), _small(groups, rows).astype(np.float16)),
            Entry("g_idx", "I32", (columns,), index),
        ],
        config={"quantization_config": {**config, "sym": False, "checkpoint_format": "gptq"}},
    )


def bitnet(rows: int, columns: int) -> Layer:
    config = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    return Layer(
        [
            _weight("U8", _bytes(rows // 4, columns), (rows // 4, columns)),
            Entry("weight_scale", "F32", (1,), _small(1)),
        ],
        config={"quantization_config": config},
    )


def hqq(bits: int, axis: int, rows: int, columns: int) -> Layer:
    size, kind = 64, ml_dtypes.bfloat16
    groups = rows * columns // size
    lines, line = (groups, size) if axis == 1 else (size, groups)
    shape = (groups, 1) if axis == 1 else (1, groups)
    fields = 10 if bits == 3 else 8 // bits
    dtype, width = ("I32", 4) if bits == 3 else ("U8", 1)
    packed = -(-lines // fields)
    return Layer(
        [
            Entry("W_q", dtype, (packed, line), _bytes(packed, line * width)),
            Entry("scale", "BF16", shape, _small(*shape).astype(kind).view(np.uint16)),
            Entry("zero", "BF16", shape, (1000 * _small(*shape)).astype(kind).view(np.uint16)),
            Entry("shape", "I64", (2,), np.array([rows, columns], np.int64)),
        ]
    )


def hqq_coded(bits: int, axis: int, rows: int, columns: int) -> Layer:
    """With scales of 8 bits under steps of their own, and zeros under one for all."""
    plain = hqq(bits, axis, rows, columns)
    lines, line = 128, rows * columns // 64 // 128
    entries = [e for e in plain.entries if e.suffix not in ("scale", "zero")]
    for side, shape in (("scale", (1, line)), ("zero", ())):
        step = _small(*shape).astype(np.float16)
        entries += [
            Entry(f"{side}_q", "U8", (lines, line), _bytes(lines, line)),
            Entry(f"meta_{side}.scale", "F16", shape, step),
            Entry(f"meta_{side}.zero", "F16", shape, np.full(shape, 100.5, np.float16)),
        ]
    return Layer([*entries, Entry("axis", "I32", (), np.array(axis, np.int32))])


def quanto(kind: str, rows: int, columns: int) -> Layer:
    bits, size = int(kind[-1]), 128
    scale = np.ascontiguousarray(_small(rows * columns // size).astype(ml_dtypes.bfloat16))
    if bits == 8:
        dtype = "I8" if kind == "int8" else "F8_E4M3"
        codes = _bytes(rows, columns)
        codes[codes & 0x7F == 0x7F] = 0  # NaN, as E4M3
        return Layer(
            [
                Entry("weight._data", dtype, (rows, columns), codes),
                Entry("weight._scale", "BF16", (rows, 1), scale[:rows].view(np.uint16)),
            ]
        )
    groups = rows * columns // size
    lines = groups * bits // 8
    return Layer(
        [
            Entry("weight._data._data", "U8", (lines, size), _bytes(lines, size)),
            Entry("weight._scale", "BF16", (groups, 1), scale.view(np.uint16)),
            Entry("weight._shift", "BF16", (groups, 1), scale.view(np.uint16)),
            Entry("bias", "BF16", (rows,), scale[:rows].view(np.uint16)),
        ]
    )


def awq(version: str, rows: int, columns: int) -> Layer:
    groups = -(-columns // GROUP)
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True}
    if version == "gemm":
        entries = [
            _packed("qweight", columns, rows // 8),
            _packed("qzeros", groups, rows // 8),
            Entry("scales", "F16", (groups, rows), _small(groups, rows).astype(np.float16)),
        ]
    elif version == "gemv_fast":
        words = -(-groups // 8)
        codes = _bytes(rows // 4, 2 * columns).view(np.int16)
        scales = _small(words * 8, rows).astype(np.float16)
        entries = [
            Entry("qweight", "I16", codes.shape, codes),
            Entry("qzeros", "F16", scales.shape, -8 * scales),
            Entry("scales", "F16", scales.shape, scales),
        ]
    else:
        words = -(-groups // 8)
        entries = [
            _packed("qweight", rows, columns // 8),
            _packed("qzeros", rows, words),
            Entry("scales", "F16", (rows, words * 8), _small(rows, words * 8).astype(np.float16)),
        ]
    return Layer(entries, config={"quantization_config": {**config, "version": version}})


def awq_stream(bits: int, rows: int, columns: int) -> Layer:
    groups = -(-columns // GROUP)
    about = {"bits": bits, "group_size": GROUP, "packing_format": "auto_round:auto_awq"}
    return Layer(
        [
            _packed("qweight", columns, rows * bits // 32),
            _packed("qzeros", groups, rows * bits // 32),
            Entry("scales", "F16", (groups, rows), _small(groups, rows).astype(np.float16)),
        ],
        config={"quantization_config": {"quant_method": "auto-round", **about}},
    )


# compressed-tensors: packed words in the model's own orientation, or plain INT8.
def ct_packed(bits: int, asymmetric: bool, rows: int, columns: int) -> Layer:
    groups = columns // GROUP
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": GROUP}
    entries = [
        _packed("weight_packed", rows, columns * bits // 32),
        Entry("weight_scale", "BF16", (rows, groups), _bf16(_small(rows, groups))),
        Entry("weight_shape", "I64", (2,), np.array([rows, columns], "<i8")),
    ]
    if asymmetric:
        entries.append(_packed("weight_zero_point", rows * bits // 32, groups))
    return Layer(entries, config=_ct_config(weights | {"symmetric": not asymmetric}))


def ct_int8(rows: int, columns: int) -> Layer:
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    entries = [
        _weight("I8", _bytes(rows, columns), (rows, columns)),
        Entry("weight_scale", "BF16", (rows, 1), _bf16(_small(rows, 1))),
    ]
    return Layer(entries, config=_ct_config(weights))


def int8_product(rows: int, columns: int) -> Layer:
    """ModelSlim's, whose scales are in those of the integer product."""
    product, one = Entry("deq_scale", "F32", (rows,), _small(rows)), np.full(1, 0.25, "<f4")
    weight = _weight("I8", _bytes(rows, columns), (rows, columns))
    return Layer([weight, product, Entry("input_scale", "F32", (1,), one)])


def _bf16(numbers: Any) -> Any:
    return numbers.astype(ml_dtypes.bfloat16).view(np.uint16)


def _ct_config(weights: dict[str, Any]) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    return {"quantization_config": config | {"version": "0.20.0"}}


# MLX: a stream of codes a row, scales and biases.
def mlx(bits: int, rows: int, columns: int) -> Layer:
    groups, block = columns // MLX_GROUP, {"group_size": MLX_GROUP, "bits": bits, "mode": "affine"}
    words = columns * bits // 32
    return Layer(
        [
            Entry("weight", "U32", (rows, words), _bytes(rows, words, 4)),
            Entry("scales", "F16", (rows, groups), _small(rows, groups).astype(np.float16)),
            Entry("biases", "F16", (rows, groups), -_small(rows, groups).astype(np.float16)),
        ],
        config={"quantization": block, "quantization_config": block},
    )


# FP4, FP6: packed codes, and a byte of scale for 32 (MXFP4) or 16 (NVFP4) of a row.
def fp4(encoding: str, rows: int, columns: int) -> Layer:
    codes = _bytes(rows, columns * 3 // 4 if encoding == "fp6-mx" else columns // 2)
    if encoding == "fp4-nv":
        return Layer(
            [
                Entry("weight_packed", "U8", codes.shape, codes),
                Entry("weight_scale", "F8_E4M3", (rows, columns // 16), codes[:, ::8] % 8 + 0x38),
                Entry("weight_global_scale", "F32", (1,), 1 / _small(1)),
            ]
        )
    exponents = codes[:, : columns // 32] % 8 + 116
    if encoding != "fp4-mx-columns":
        return Layer(
            [
                Entry("weight_packed", "U8", codes.shape, codes),
                Entry("weight_scale", "U8", exponents.shape, exponents),
            ]
        )
    shape = 1, rows, columns // 32  # one expert, which comes out [columns, rows]
    return Layer(
        [
            Entry("down_proj_blocks", "U8", (*shape, 16), codes),
            Entry("down_proj_scales", "U8", shape, exponents),
        ]
    )


# Quark: AWQ's words under the names of compressed-tensors.
def quark(rows: int, columns: int) -> Layer:
    groups, weight = columns // GROUP, {"dtype": "int4", "qscheme": "per_group"}
    config = {"quant_method": "quark", "export": {"pack_method": "reorder"}}
    return Layer(
        [
            _packed("weight", columns, rows // 8),
            Entry("weight_scale", "BF16", (groups, rows), _bf16(_small(groups, rows))),
            _packed("weight_zero_point", groups, rows // 8),
        ],
        config={"quantization_config": config | {"global_quant_config": {"weight": weight}}},
    )


def _packed(suffix: str, *shape: int) -> Entry:
    return Entry(suffix, "I32", shape, _bytes(*shape, 4))


def sdnq(kind: str, rows: int, columns: int) -> Layer:
    """Codes of a kind, four or five bits, in groups of 64."""
    packed = (rows * columns // 8, 5) if "5" in kind else (rows * columns // 2,)
    scale = _small(rows, columns // 64, 1)
    parts = [
        Entry("weight", "U8", packed, _bytes(*packed)),
        Entry("scale", "F32", scale.shape, scale),
    ]
    if kind.startswith("u"):
        parts.append(Entry("zero_point", "F32", scale.shape, _small(*scale.shape)))
    about = {"quant_method": "sdnq", "weights_dtype": kind}
    return Layer(parts, config={"quantization_config": about})
