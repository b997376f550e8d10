"""Bodies of `kernels/torchao.py`, which has the layout."""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.bodies._lookup import load_numbers, load_u64, table_for
from anamnesis.kernels.bodies._nibbles import look_up_8_low_first, look_up_low_first
from anamnesis.kernels.bodies._vector import load16
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def int4(
    codes: Bytes, size: int, scales: Floats, zeros: Floats, signed: Floats, out: Array
) -> None:
    """Rows of groups of `size` codes in pairs, each group under a scale and a zero point."""
    numbers, groups = load_numbers(signed, 0), scales.shape[0]
    at = 0
    for row in range(scales.shape[1]):
        for group in range(groups):
            scale, zero = scales[group, row], zeros[group, row]
            end = at + size
            if size % 16 == 0:
                # A zero point is a number that is added: codes 8 below and 7 above it.
                table = table_for(out, numbers * scale + zero)
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
                    put(out, at, signed[byte & 15] * scale + zero)
                    put(out, at + 1, signed[byte >> 4] * scale + zero)
                    at += 2
