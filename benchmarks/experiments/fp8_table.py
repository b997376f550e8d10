"""FP8 to BF16 under 128 x 128 scales: tables against arithmetic; one window, one thread.

- *BF16 table, scalar*: 256 products rounded to BF16 for each scale, then a look-up an element.
- *float32 table*: one table of the 256 codes for all scales; multiply and round an element.
- *select*: shift the code's bits into a float32 with another exponent; subnormal codes and NaN by
  selects; multiply, round. No table at all.
- *shift and multiply*: the same shift, and a multiplication by 2**120 that also puts subnormal
  codes right; only NaN is selected.
- *package*: what `kernels/fp8.py` does.
"""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import Window, bits
from anamnesis.kernels._jit import as_f32, as_u32, bf16_bits, jit
from benchmarks.cases import CASES
from benchmarks.measure import Times, interleave, scratch
from benchmarks.opened import opened

ROWS, COLUMNS = 128, 4096
BLOCK = 128
u32 = bits.u32
_CODES = np.arange(256)
_MANTISSA, _EXPONENT = _CODES & 7, _CODES >> 3 & 15
VALUES = np.ldexp(
    np.where(_CODES > 127, -1.0, 1.0) * (np.where(_EXPONENT > 0, 8, 0) + _MANTISSA),
    np.maximum(_EXPONENT, 1) - 10,
).astype(np.float32)
VALUES[[0x7F, 0xFF]] = np.nan
TWO_TO_120, NAN = np.float32(2.0**120), np.float32(np.nan)


@jit
def bf16_table(codes: Any, scale: Any, out: Any) -> None:
    table = np.empty(256, np.uint16)
    for block in range(scale.shape[0]):
        for code in range(256):
            table[code] = bf16_bits(np.float32(VALUES[code] * scale[block]))
        for row in range(codes.shape[0]):
            at = row * codes.shape[1] + block * BLOCK
            for j in range(BLOCK):
                out[at + j] = table[codes[row, block * BLOCK + j]]


@jit
def float_table(codes: Any, scale: Any, out: Any) -> None:
    for row in range(codes.shape[0]):
        for block in range(scale.shape[0]):
            s = scale[block]
            at = row * codes.shape[1] + block * BLOCK
            for j in range(BLOCK):
                value = VALUES[codes[row, block * BLOCK + j]]
                out[at + j] = bf16_bits(np.float32(value * s))


@jit
def shift_multiply(codes: Any, scale: Any, out: Any) -> None:
    for row in range(codes.shape[0]):
        for block in range(scale.shape[0]):
            s = scale[block]
            at = row * codes.shape[1] + block * BLOCK
            for j in range(BLOCK):
                c = codes[row, block * BLOCK + j]
                magnitude = u32(c & 0x7F)
                word = u32(u32(magnitude << u32(20)) | u32(u32(c & 0x80) << u32(24)))
                value = np.float32(as_f32(word) * TWO_TO_120)
                value = value if magnitude != u32(0x7F) else NAN
                out[at + j] = bf16_bits(np.float32(value * s))


@jit
def select(codes: Any, scale: Any, out: Any) -> None:
    for row in range(codes.shape[0]):
        for block in range(scale.shape[0]):
            s = scale[block]
            at = row * codes.shape[1] + block * BLOCK
            for j in range(BLOCK):
                c = codes[row, block * BLOCK + j]
                magnitude = u32(c & 0x7F)
                normal = as_f32(u32(u32(magnitude << u32(20)) + u32(0x3C000000)))
                small = np.float32(np.int32(magnitude)) * np.float32(2**-9)
                value = normal if magnitude >= u32(8) else small
                word = u32(as_u32(value) | u32(u32(c & 0x80) << u32(24)))
                word = u32(word | u32(0x7FC00000)) if magnitude == u32(0x7F) else word
                out[at + j] = bf16_bits(np.float32(as_f32(word) * s))


def run(console: Console) -> Any:
    """All of them on the same window, bits compared first."""
    folder = scratch(None, 0)
    try:
        with opened(CASES["fp8-e4m3 block"], folder, ROWS, COLUMNS) as found:
            window = Window(0, ROWS)
            codes = found.views(window)["payload"]
            codes.setflags(write=False)
            scale = found.params["scale"][0, 0]
            expected = np.empty(codes.size, np.uint16)
            found.decode({"payload": codes}, found.params, window, expected)
            kernels = {"BF16 table, scalar": bf16_table, "float32 table": float_table}
            kernels |= {"select": select, "shift and multiply": shift_multiply}
            works: dict[str, Any] = {}
            for name, kernel in kernels.items():
                out = np.empty(codes.size, np.uint16)
                kernel(codes, scale, out)
                if not np.array_equal(out, expected):
                    raise ArithmeticError(f"{name}: other bits")
                works[name] = lambda kernel=kernel, out=out: kernel(codes, scale, out)
            blocks = {"payload": codes}
            works["package"] = lambda: found.decode(blocks, found.params, window, expected)
            source, target = np.ones_like(expected), np.ones_like(expected)
            works["copy of the output"] = lambda: np.copyto(target, source)
            times = interleave(works, 25, calls=8)
    finally:
        shutil.rmtree(folder)
    console.print(_table(times))
    return {name: list(t) for name, t in times.items()}


def _table(times: dict[str, Times]) -> Table:
    table = Table(title=f"{ROWS} x {COLUMNS} codes, million elements a second")
    for head in ("variant", "median", "range", "x copy"):
        table.add_column(head)
    copy = times["copy of the output"].median
    for name, t in times.items():
        median, high, low = (ROWS * COLUMNS / s / 1e6 for s in t)
        table.add_row(name, f"{median:,.0f}", f"{low:,.0f}-{high:,.0f}", f"{copy / t.median:.2f}")
    return table
