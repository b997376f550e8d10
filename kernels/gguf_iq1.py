"""GGUF's IQ1 types: eight of -1, 0, 1 at a time from a codebook, all moved by an eighth.

Sources: ggml-org/llama.cpp, ggml/src/ggml-common.h (`block_iq1_s`, `block_iq1_m`, `iq1s_grid`,
`IQ1S_DELTA`) and ggml/src/ggml-quants.c (`dequantize_row_iq1_s`, `_iq1_m`).

| type | elements, bytes | layout |
|---|---|---|
| IQ1_S | 256, 50 | d f16; qs u8[32]; qh u16[8]: 4 * 3 bits, 3 bits of scale, the shift's sign |
| IQ1_M | 256, 56 | qs u8[32]; qh u8[16]: 2 * (3 bits, the shift's sign); scales u16[4] |

An item of `qh` belongs to four points (IQ1_S) or two (IQ1_M); its three bits are bits 8-10 of a
point's index. A word of IQ1_M's `scales` holds the scales of four runs of 16, three bits each; the
top four bits of the four words together are `d` as f16.
The value is `d * (2 * scale + 1) * (point + shift)`, the products exact in float32.
"""

from __future__ import annotations

from anamnesis.kernels import Window
from anamnesis.kernels._blocks import run_blocks
from anamnesis.kernels._grids import point_words
from anamnesis.kernels._native import Kernel, kernel
from anamnesis.kernels.types import Array, Bytes, Params, Views

# Codes: bits 0-1 one of -1, 0, 1, bit 2 the shift's sign, bit 3 the second scale of a table.
GRID, POINTS = point_words("iq1s_grid")
_iq1_m = kernel("gguf_iq1:iq1_m")
_iq1_s = kernel("gguf_iq1:iq1_s")


def _run(kernel: Kernel, payload: Bytes, block_bytes: int, out: Array) -> None:
    run_blocks(lambda data, out: kernel(data, GRID, out), payload, block_bytes, 256, out)


def decode_iq1_s(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """IQ1_S: 2048 points, one scale and one shift for 32 elements."""
    _run(_iq1_s, blocks["payload"], 50, out)


def decode_iq1_m(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """IQ1_M: the same points, one scale for 16 elements and one shift for eight."""
    _run(_iq1_m, blocks["payload"], 56, out)
