"""Bodies of `kernels/awq.py`, which has the layouts."""

from __future__ import annotations

from typing import Any

from anamnesis.kernels.bodies._codes import spread
from anamnesis.kernels.bodies._jit import variants
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Bytes, Words


@variants
def join_lines(bits: int) -> Any:
    """Lines of streams to bytes, four lines to a line of words, the first in the lowest byte.

    `(lines, codes, words)`: `lines` is uint8 `[inputs, outputs * bits / 8]`, `codes` room for uint8
    `[4, outputs]`, `words` uint32 `[ceil(inputs / 4), outputs]`. Outputs are multiples of 32.
    """
    to_bytes = spread(bits)

    def join(lines: Bytes, codes: Bytes, words: Words) -> None:
        inputs, outputs = lines.shape[0], words.shape[1]
        for line in range(words.shape[0]):
            for k in range(min(4, inputs - 4 * line)):
                to_bytes(lines[4 * line + k], codes[k])
            for first in range(0, outputs, 8):
                for k in range(8):
                    # Outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight lie in this order.
                    at = first + k // 2 + k % 2 * 4
                    low = u32(u32(codes[0, at]) | u32(u32(codes[1, at]) << u32(8)))
                    high = u32(
                        u32(u32(codes[2, at]) << u32(16)) | u32(u32(codes[3, at]) << u32(24))
                    )
                    words[line, first + k] = u32(low | high)

    return join
