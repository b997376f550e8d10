"""Codes of 1 to 8 bits as a dense little-endian stream: code k is bits [k * b, (k + 1) * b)."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import variants
from anamnesis.kernels.types import Bytes

_u64 = np.uint64


@variants
def packer(bits: int) -> Any:
    """`(codes, out)`: eight codes, uint8, become `bits` bytes, 64 bits at a time."""
    if bits == 8:

        def run(codes: Bytes, out: Bytes) -> None:
            for i in range(codes.shape[0]):
                out[i] = codes[i]

    elif bits == 4:

        def run(codes: Bytes, out: Bytes) -> None:
            for i in range(out.shape[0]):
                # Code 2 i in the low half of byte i.
                out[i] = np.uint8(codes[2 * i] | np.uint8(codes[2 * i + 1] << 4))

    else:

        def run(codes: Bytes, out: Bytes) -> None:
            for i in range(codes.shape[0] // 8):
                word = _u64(0)
                for j in range(8):
                    # Bits `bits * j` and up of a little-endian number are code j.
                    word |= _u64(codes[8 * i + j]) << _u64(bits * j)
                for j in range(bits):
                    out[bits * i + j] = np.uint8(word >> _u64(8 * j))

    return run
