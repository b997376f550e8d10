"""torchao's Int4PlainInt32Tensor: an XPU's is read, an NPU's is in an order of its own.

Their zero points tell them apart: an XPU's are I8, an NPU's of the dtype of the weight. Source:
torchao 0.18 quantization/quantize_/workflows/int4/int4_plain_int32_tensor.py.
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._torchao_metadata import Described


def plain_int32(one: Described) -> Tensor:
    """Raises FormatError for parts that do not fit, UnsupportedError for an NPU's."""
    codes, scale = one.part("qdata", ("I32",)), one.part("scale", tuple(SCALE_BITS))
    zero = one.part("zero_point", ("I8", *SCALE_BITS))
    if zero.dtype != "I8":
        raise one.unsupported("the order of an NPU, whose zero points are floats,")
    rows, words = codes.shape if len(codes.shape) == 2 else (0, 0)
    columns, block = 8 * words, one.block()
    if block[:-1] != (1,) or columns % block[-1]:
        raise one.error(f"block_size: {list(block)}; allowed are groups that divide {columns}")
    if one.about.get("shape") != [rows, columns]:
        stated = one.about.get("shape")
        raise one.error(f"shape: {stated!r:.80}; its codes are of {[rows, columns]}")
    groups = columns // block[-1]
    for stored in (scale, zero):
        if stored.shape != (groups, rows):
            raise one.misfit(stored, f"{[groups, rows]}")
    bits = SCALE_BITS[scale.dtype]
    return Tensor(
        name=one.name,
        shape=(rows, columns),
        scheme="torchao-int4",
        encoding="torchao-int4-plain",
        components=(
            Component("payload", codes, Contiguous(32 * max(1, words))),
            Component("scale", scale, Strided(bits, max(1, rows * bits // 8))),
            Component("zero_point", zero, Strided(8, max(1, rows))),
        ),
        unit_elems=max(1, columns),
        params={
            "bits": 4,
            "group_size": block[-1],
            "in_features": columns,
            "scale_dtype": scale.dtype,
        },
    )
