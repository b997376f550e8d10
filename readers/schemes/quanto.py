"""Quanto (optimum-quanto): qint8 and qfloat8 with a scale a row, qint4 and qint2 in groups.

| | 8 bits | 4 and 2 bits |
|---|---|---|
| `X._data` | I8, F8_E4M3, F8_E5M2 or F8_E4M3FNUZ, the weight's shape | |
| `X._data._data` | | U8 `[lines, g]` |
| `X._scale` | `[out, 1, …]`, or one number | `[N, 1]` |
| `X._shift` | | `[N, 1]`, float, or U8 or I8 |

`X` is the weight, `M.weight`. `quanto_qmap.json` says nothing that the tensors do not. The shape of
grouped weights is not stored (`_quanto_shape`). Scales of activations are dropped.
Source: https://github.com/huggingface/optimum-quanto 0.2.7 optimum/quanto/tensor.
"""

from __future__ import annotations

import math

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Planar
from anamnesis.readers.schemes._errors import need, where
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._quanto_shape import shape_of
from anamnesis.readers.schemes.base import Ledger

_SHIFTS = {**SCALE_BITS, "U8": 8, "I8": 8}
_BYTES = ("I8", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2")
_ACTIVATIONS = ("input_scale", "output_scale")


def resolve(ledger: Ledger) -> None:
    """Claim `X._data` with its scale, and `X._data._data` with its scale and shift.

    Raises FormatError for what is missing or does not fit.
    """
    for stored in list(ledger.free()):
        name = stored.name
        if name.endswith("._data._data"):
            weight = name.removesuffix("._data._data")
            ledger.claim(_bits(ledger, stored, weight))
        elif name.endswith("._data"):
            weight = name.removesuffix("._data")
            ledger.claim(_whole_bytes(ledger, stored, weight))
        else:
            continue
        for activation in _ACTIVATIONS:
            scale = ledger.get(f"{weight.removesuffix('weight')}{activation}")
            if scale is not None:
                ledger.drop(scale, "activation scale")


def _whole_bytes(ledger: Ledger, codes: Stored, weight: str) -> Tensor:
    scale = need(ledger, codes, f"{weight}._scale")
    if codes.dtype not in _BYTES or not codes.shape or 0 in codes.shape:
        raise FormatError(f"{where(codes)}: allowed is a matrix of {', '.join(_BYTES)}")
    rows, columns = codes.shape[0], math.prod(codes.shape[1:])
    one = math.prod(scale.shape) == 1
    by_row = scale.shape == (rows, *[1] * (len(codes.shape) - 1))
    if scale.dtype not in SCALE_BITS or not (one or by_row):
        raise FormatError(
            f"{where(scale)}: allowed is one number, or one for each of {rows:,} rows, of "
            f"{', '.join(SCALE_BITS)}"
        )
    return Tensor(
        name=weight,
        shape=codes.shape,
        scheme="quanto",
        encoding="quanto-bytes",
        components=(
            Component("payload", codes, Contiguous(8 * columns)),
            Component("_scale", scale),
        ),
        unit_elems=columns,
        params={
            "bits": 8,
            "data_dtype": codes.dtype,
            "rows": rows,
            "columns": columns,
            "scale_dtype": scale.dtype,
            "rounding": ledger.options.rounding,
        },
    )


def _bits(ledger: Ledger, codes: Stored, weight: str) -> Tensor:
    scale, shift = (need(ledger, codes, f"{weight}.{n}") for n in ("_scale", "_shift"))
    if codes.dtype != "U8" or len(codes.shape) < 2 or 0 in codes.shape:
        raise FormatError(f"{where(codes)}: allowed is a matrix of U8")
    lines, size = codes.shape[0], math.prod(codes.shape[1:])
    groups = math.prod(scale.shape)
    for stored, dtypes in ((scale, SCALE_BITS), (shift, _SHIFTS)):
        if stored.dtype not in dtypes or stored.shape not in (
            (groups, *[1] * (len(codes.shape) - 1)),
            (),
        ):
            raise FormatError(
                f"{where(stored)}: allowed is a number for each of {groups:,} groups, of "
                f"{', '.join(dtypes)}"
            )
    fit = [bits for bits in (4, 2) if groups and -(-groups // (8 // bits)) == lines]
    if len(fit) != 1:
        raise FormatError(
            f"{where(codes)}: {lines:,} lines for {groups:,} groups, of which a line holds 2 (4 "
            "bits) or 4 (2 bits)"
        )
    shape = (groups, *codes.shape[1:])  # of a convolution that was not grouped
    if len(codes.shape) == 2:
        shape = shape_of(ledger, weight, groups, size, where(codes))
    return Tensor(
        name=weight,
        shape=shape,
        scheme="quanto",
        encoding="quanto-bits",
        components=(
            Component("payload", codes, Planar(8 * size, lines)),
            Component("_scale", scale, Contiguous(SCALE_BITS[scale.dtype])),
            Component("_shift", shift, Contiguous(_SHIFTS[shift.dtype])),
        ),
        unit_elems=size,
        params={
            "bits": fit[0],
            "group_size": size,
            "groups": groups,
            "period": lines,
            "scale_dtype": scale.dtype,
            "shift_dtype": shift.dtype,
            "rounding": ledger.options.rounding,
        },
    )
