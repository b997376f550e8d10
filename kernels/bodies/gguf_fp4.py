"""Bodies of `kernels/gguf_fp4.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.bodies._lookup import load_numbers, load_u64, look_up, table_for, words
from anamnesis.kernels.bodies._vector import clean_nan, load16
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def mxfp4(data: Bytes, products: Floats, out: Array) -> None:
    """MXFP4: e u8, qs[16]; `products` has the sixteen numbers of each e."""
    for block in range(data.shape[0] // 17):
        at = block * 17
        table = table_for(out, load_numbers(products, 16 * np.int64(data[at])))
        qs = load16(data, at + 1)
        # Byte i has element i in its low half and 16 + i in its high one.
        look_up(out, block * 32, table, qs)
        look_up(out, block * 32 + 16, table, qs >> 4)


@jit
def nvfp4(data: Bytes, products: Floats, scale: np.float32, out: Array) -> None:
    """NVFP4: d[4] E4M3, qs[4][8]; `products` has the sixteen numbers of each d."""
    factor = clean_nan(scale)
    for block in range(data.shape[0] // 36):
        at = block * 36
        for run in range(4):
            numbers = load_numbers(products, 16 * np.int64(data[at + run]))
            qs = load_u64(data, at + 4 + 8 * run)
            table = table_for(out, numbers * factor)
            # Byte i of a run has element i in its low half and 8 + i in its high one.
            look_up(out, block * 64 + 16 * run, table, words(qs, qs >> np.uint64(4)))
