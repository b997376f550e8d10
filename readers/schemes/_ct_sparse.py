"""compressed-tensors' `sparse-24-bitmask`: `X.compressed`, `X.bitmask`; see `kernels/sparse.py`.

Values are BF16, F16 or F32, or FP8 or INT8 with the `X.weight_scale` that such codes have without
being sparse. The shape follows from those of the values, so `X.shape` is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._scale_grid import Block
from anamnesis.readers.schemes._siblings import ACTIVATION_SCALES
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.fp8 import ENCODINGS, scaled

_IMPLEMENTED = "sparse-24-bitmask of FP8, INT8, BF16, F16 and F32"


Int8 = Callable[[Ledger, Stored, Stored, Stored | None, list[Block]], Tensor]


def sparse(ledger: Ledger, mask: Stored, stem: str, int8: Int8) -> Tensor:
    """The weight that `STEMbitmask` and `STEMcompressed` make up; drops what else they have.

    `int8` makes a tensor of plain INT8 codes, with their scale and zero points.

    Raises FormatError for parts that do not fit, UnsupportedError for other values.
    """
    values = need(ledger, mask, f"{stem}compressed")
    rows, half = values.shape if len(values.shape) == 2 else (0, 0)
    columns = 2 * half
    if len(values.shape) != 2 or columns % 4:
        raise misfit(values, "a matrix of half its columns, which are a multiple of 4")
    if mask.dtype != "U8" or mask.shape != (rows, -(-columns // 8)):
        raise misfit(mask, f"U8 {[rows, -(-columns // 8)]}, for {values.name!r}")
    weight = replace(values, name=f"{stem}weight", shape=(rows, columns))
    tensor = _dense_of(ledger, weight, stem, int8)
    payload = tensor.components[0]
    bits = DTYPES[values.dtype].bits
    for name in ("shape", *ACTIVATION_SCALES):
        beside = ledger.get(f"{stem}{name}")
        if beside is not None:
            ledger.drop(beside, "shape, or scale of activations, of a sparse weight")
    return replace(
        tensor,
        encoding="sparse-24",
        components=(
            Component(payload.role, values, Contiguous(max(8, bits * half))),
            Component("bitmask", mask, Contiguous(max(8, 8 * mask.shape[1]))),
            *tensor.components[1:],
        ),
        params={
            **tensor.params,
            "values": tensor.encoding,
            "columns": columns,
            "role": payload.role,
            "value_bytes": bits // 8,
        },
    )


def _dense_of(ledger: Ledger, weight: Stored, stem: str, int8: Int8) -> Tensor:
    """The tensor that all of its numbers would be."""
    if weight.dtype in ENCODINGS:
        return scaled(weight, need(ledger, weight, f"{stem}weight_scale"))
    if weight.dtype == "I8":
        zeros = ledger.get(f"{stem}weight_zero_point")
        scale = need(ledger, weight, f"{stem}weight_scale")
        return int8(ledger, weight, scale, zeros, [])
    if weight.dtype not in SCALE_BITS:
        raise unsupported(weight, f"sparse-24-bitmask of {weight.dtype}", _IMPLEMENTED)
    columns = max(1, weight.shape[1])
    return Tensor(
        name=weight.name,
        shape=weight.shape,
        scheme="ct-sparse-24",
        encoding=weight.dtype.lower(),
        components=(Component("payload", weight, Contiguous(SCALE_BITS[weight.dtype] * columns)),),
        unit_elems=columns,
        out_dtype=weight.dtype,
    )
