"""Codes of ONNX Runtime's operators, of `DequantizeLinear` and of operators on integers.

`MatMulNBits` has blocks along the inputs, a scale and a zero point each:

| initialiser | shape | meaning |
|---|---|---|
| `B` | U8 `[N, blocks, block_size * bits / 8]` | codes of row n, low bits first |
| `scales` | F32, F16 or BF16 `[N, blocks]`, or flat | |
| `zero_points` | U8 `[N, ceil(blocks * bits / 8)]`, or flat | none: `2 ** (bits - 1)` |
| | or as `scales`, of their dtype | |

`N`, `K`, `bits` and `block_size` are attributes of the node (`readers/onnx_nodes.py`). The weight
is `[N, K]`, as a linear layer stores it: the operator multiplies by its transpose. It is called as
`B` without the ending that tools add (`_Q4`, `_quant`, …). The others keep the shape that the graph
has (`_onnx_linear.py`); `MatMulBnb4` and `QMoE` are those of `_onnx_contrib.py`. Other operators on
codes are refused by name. Source:
https://github.com/microsoft/onnxruntime docs/ContribOperators.md (`com.microsoft.MatMulNBits`),
onnxruntime/core/mlas/lib/q4_dq.cpp.
"""

from __future__ import annotations

import re
from dataclasses import replace

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.onnx_uses import INTEGERS
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported, where
from anamnesis.readers.schemes._onnx_contrib import bnb4, experts
from anamnesis.readers.schemes._onnx_copies import hold_copies
from anamnesis.readers.schemes._onnx_linear import Grid, Layer, assemble, linear
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import packed_tensor

_BITS = (2, 4, 8)
_IMPLEMENTED = "float zero points of 2 and 4 bits, which are those that onnxruntime has on a CPU"
# What onnxruntime's quantizers and onnxruntime-genai's builder add to a weight's name.
_ENDING = re.compile(r"(_Q\d+(G\d+)?|_quant(ized)?|_DQ_Q\d+|_Bnb4)$")


def resolve(ledger: Ledger) -> None:
    """Claim codes with their scales and zero points, and drop those of activations.

    Raises FormatError for parts that do not fit, UnsupportedError for codes of other operators.
    """
    values = ledger.container.values
    for stored in list(ledger.free()):
        by = values.get(f"{stored.name}.by")
        if by and ledger.get(stored.name):
            hold_copies(ledger, stored)
            ledger.claim(_MAKE[by](ledger, stored))
    for stored in ledger.free():
        if f"{stored.name}.beside" in values:
            ledger.drop(stored, "scale or zero point of what is quantised while the model runs")
    for stored in ledger.free():
        op = values.get(f"{stored.name}.op")
        if op and DTYPES[stored.dtype].kind in ("int", "code"):
            raise UnsupportedError(
                f"{where(stored)}: holds codes for the operator {op}, which is recognised and not "
                f"implemented; implemented are {', '.join(sorted((*_MAKE, *INTEGERS)))}. "
                "onnxruntime's quantizers can write those (MatMulNBitsQuantizer, quantize_dynamic "
                "of the model before it was quantised)"
            )
    for name in ledger.container.unread:
        if values.get(f"{name}.op"):
            raise UnsupportedError(
                f"{ledger.container.files[0].path}: initialiser {name!r:.200}: holds codes for the "
                f"operator {values[f'{name}.op']}, in a data type that is not read"
            )


def _tensor(ledger: Ledger, codes: Stored) -> Tensor:
    bits, size, rows, inputs = (
        _number(ledger, codes, key) for key in ("bits", "block_size", "N", "K")
    )
    if bits not in _BITS or size < 16 or size & (size - 1):
        raise UnsupportedError(
            f"{where(codes)}: MatMulNBits of {bits} bits in blocks of {size}; implemented are "
            f"{_BITS} bits, in blocks of a power of two from 16 on"
        )
    if ledger.container.values[f"{codes.name}.weight_prepacked"]:
        raise unsupported(
            codes,
            "MatMulNBits whose codes lie in the order of a CUDA kernel (weight_prepacked)",
            "those in rows (weight_prepacked 0), which onnxruntime-genai's builder writes for "
            "other devices",
        )
    blocks = -(-inputs // size)
    if codes.dtype != "U8" or codes.shape != (rows, blocks, size * bits // 8):
        raise misfit(codes, f"U8 {[rows, blocks, size * bits // 8]}, by the node's attributes")
    if _name(ledger, codes, "g_idx"):
        raise UnsupportedError(
            f"{where(codes)}: MatMulNBits with g_idx (input 4) is not implemented"
        )
    scales = need(ledger, codes, _name(ledger, codes, "scales"), "input 2 of its node")
    if scales.dtype not in SCALE_BITS or scales.shape not in ((rows, blocks), (rows * blocks,)):
        raise misfit(scales, f"{', '.join(SCALE_BITS)} {[rows, blocks]}")
    padded = (rows, blocks * size)
    grid = replace(scales, shape=(rows, blocks))
    tensor = packed_tensor(ledger, _weight(ledger, codes), codes, padded, grid, bits=bits)
    components = tensor.components
    zeros = _name(ledger, codes, "zero_points")
    if zeros:
        points = need(ledger, codes, zeros)
        if points.dtype in SCALE_BITS and bits == 8:
            raise unsupported(points, "MatMulNBits of 8 bits with float zero points", _IMPLEMENTED)
        if points.dtype in SCALE_BITS:
            columns, grid = blocks * size, replace(grid, dtype=scales.dtype)
            lines = Grid(rows, inputs, rows, rows, blocks, size)
            name, kind = _weight(ledger, codes), f"U{bits}"
            layer = Layer(
                codes, name, (rows, inputs), kind, lines, grid, floats=True, stored_columns=columns
            )
            return assemble(ledger, layer)
        components = (*components, _zeros(points, rows, blocks, bits))
    return replace(
        tensor,
        shape=(rows, inputs),
        scheme=f"onnx-int{bits}",
        encoding="onnx-nbits",
        components=components,
        unit_elems=max(1, inputs),
        params={**tensor.params, "in_features": inputs, "zero": "plain" if zeros else ""},
    )


def _zeros(zeros: Stored, rows: int, blocks: int, bits: int) -> Component:
    row_bytes = -(-blocks * bits // 8)
    if zeros.dtype != "U8" or zeros.shape not in ((rows, row_bytes), (rows * row_bytes,)):
        raise misfit(zeros, f"U8 {[rows, row_bytes]}")
    return Component("zero_points", zeros, Contiguous(8 * row_bytes))


def _linear(ledger: Ledger, codes: Stored) -> Tensor:
    """Of `DequantizeLinear`."""
    values = ledger.container.values
    axis, block = (values[f"{codes.name}.{key}"] for key in ("axis", "block_size"))
    return linear(ledger, codes, _weight(ledger, codes), axis=axis or 0, block=block)


def _gathered(ledger: Ledger, codes: Stored) -> Tensor:
    """Of `GatherBlockQuantized`, whose rows are looked up; U8 codes are packed in the last axis."""
    values = ledger.container.values
    axis, block, bits = (
        values[f"{codes.name}.{key}"] for key in ("quantize_axis", "block_size", "bits")
    )
    if block < 1 or bits not in _BITS:
        raise FormatError(
            f"{where(codes)}: GatherBlockQuantized of {bits} bits in blocks of {block}; allowed "
            f"are {_BITS} bits"
        )
    return linear(ledger, codes, _weight(ledger, codes), axis=axis, block=block, bits=bits)


def _bnb4(ledger: Ledger, codes: Stored) -> Tensor:
    rows, inputs = (_number(ledger, codes, key) for key in ("N", "K"))
    return bnb4(ledger, codes, _weight(ledger, codes), rows, inputs)


def _experts(ledger: Ledger, codes: Stored) -> Tensor:
    return experts(ledger, codes, _weight(ledger, codes))


_MAKE = {
    "DequantizeLinear": _linear,
    "GatherBlockQuantized": _gathered,
    "MatMulBnb4": _bnb4,
    "MatMulNBits": _tensor,
    "QMoE": _experts,
}


def _number(ledger: Ledger, codes: Stored, key: str) -> int:
    value = ledger.container.values.get(f"{codes.name}.{key}")
    if type(value) is not int or not 0 < value < 1 << 31:
        raise FormatError(f"{where(codes)}: attribute {key} of its node: {value!r:.80}")
    return value


def _name(ledger: Ledger, codes: Stored, key: str) -> str:
    return str(ledger.container.values.get(f"{codes.name}.{key}") or "")


def _weight(ledger: Ledger, codes: Stored) -> str:
    """The name of the weight; that of the codes where another tensor has it."""
    name = _ENDING.sub("", codes.name)
    return codes.name if not name or name in ledger.container.stored else name
