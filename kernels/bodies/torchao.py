"""Bodies of `kernels/torchao.py`, which has the layout."""

from __future__ import annotations

from anamnesis.kernels.bodies._affine import SIGNED, formula
from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.bodies._lookup import load_numbers, load_u64, table_for
from anamnesis.kernels.bodies._nibbles import look_up_8_low_first, look_up_low_first
from anamnesis.kernels.bodies._vector import load16
from anamnesis.kernels.types import Array, Bytes, Floats

_values, _value = (formula("added", 0, 0, lanes) for lanes in (True, False))


@jit
def int4(codes: Bytes, size: int, scales: Floats, zeros: Floats, out: Array) -> None:
    """Rows of groups of `size` codes in pairs, each group under a scale and a zero point."""
    numbers, groups = load_numbers(SIGNED, 0), scales.shape[0]
    at = 0
    for row in range(scales.shape[1]):
        for group in range(groups):
            scale, zero = scales[group, row], zeros[group, row]
            end = at + size
            if size % 16 == 0:
                # A zero point is a number that is added: codes 8 below and 7 above it.
                table = table_for(out, _values(numbers, zero, scale))
                if size % 32:
                    look_up_8_low_first(out, at, table, load_u64(codes, at // 2))
                    at += 16
                while at < end:
                    look_up_low_first(out, at, table, load16(codes, at // 2))
                    at += 32
            else:
                while at < end:
                    byte = codes[at // 2]
                    # The low half is the first element.
                    put(out, at, _value(SIGNED[byte & 15], zero, scale))
                    put(out, at + 1, _value(SIGNED[byte >> 4], zero, scale))
                    at += 2
