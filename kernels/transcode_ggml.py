"""ggml's blocks of 32 integers, and of any type to itself (`transcoders.Integers`).

Layouts are in `gguf_legacy`: the codes of elements j and j + 16 are the halves of a byte, bit 4 of
each in `qh`; Q8_0's are I8, here plus 128. A code of Q4_0, Q5_0 and Q8_0 stands for
`code - 2**(b-1)` scales, of Q4_1 and Q5_1 for `code` scales and a bias.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels.transcode_ints import biases_of, exactly, repeated, zeros_of
from anamnesis.kernels.transcoders import LEGACY, Inexact, Integers
from anamnesis.kernels.types import Bytes, Outputs, Params, Views

_BLOCK, _HALF = 32, 16
_QH = {"gguf-q5-0": 2, "gguf-q5-1": 4}  # where the high bits are


def _read(encoding: str, views: Views, params: Params, window: Window) -> Integers:
    bits, biased = LEGACY[encoding]
    data = views["payload"]
    columns = params["shape"][-1]
    numbers = np.ascontiguousarray(data[:, : 4 if biased else 2]).view("<f2").astype(np.float32)
    if bits == 8:
        # int8 to offset codes.
        codes = data[:, 2:] ^ np.uint8(128)
    else:
        # Byte i: element i in the low half, 16 + i in the high one.
        qs = data[:, -_HALF:]
        codes = np.concatenate([qs & np.uint8(15), qs >> np.uint8(4)], axis=1)
        if encoding in _QH:
            at = _QH[encoding]
            # Bit j of qh, a little-endian word, is bit 4 of element j.
            high = np.unpackbits(data[:, at : at + 4], axis=1, bitorder="little")
            codes |= high << np.uint8(4)
    scales = numbers[:, 0].reshape(-1, columns // _BLOCK)
    biases = numbers[:, 1].reshape(scales.shape) if biased else None
    return Integers(codes.reshape(-1, columns), bits, _BLOCK, scales, biases=biases)


def _write(encoding: str, found: Integers, params: Params, out: Outputs) -> None:
    bits, biased = LEGACY[encoding]
    codes = np.ascontiguousarray(found.codes).reshape(-1, _BLOCK)
    data = out["blocks"].reshape(len(codes), -1)
    numbers = [exactly(repeated(found.scales, found, _BLOCK), "F16", "a scale")]
    if biased:
        numbers.append(exactly(repeated(biases_of(found), found, _BLOCK), "F16", "a bias"))
    elif not (zeros_of(found, _BLOCK) == 1 << bits - 1).all():
        raise Inexact(f"a zero point is not {1 << bits - 1}")
    for place, column in enumerate(numbers):
        data[:, 2 * place : 2 * place + 2] = column.reshape(-1, 1).view(np.uint8)
    if bits == 8:
        data[:, 2:] = codes ^ np.uint8(128)
        return
    low = codes & np.uint8(15)
    data[:, -_HALF:] = low[:, :_HALF] | low[:, _HALF:] << np.uint8(4)
    if encoding in _QH:
        at = _QH[encoding]
        data[:, at : at + 4] = np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")


read_q4_0, read_q4_1 = partial(_read, "gguf-q4-0"), partial(_read, "gguf-q4-1")
read_q5_0, read_q5_1 = partial(_read, "gguf-q5-0"), partial(_read, "gguf-q5-1")
read_q8_0 = partial(_read, "gguf-q8-0")
write_q4_0, write_q4_1 = partial(_write, "gguf-q4-0"), partial(_write, "gguf-q4-1")
write_q5_0, write_q5_1 = partial(_write, "gguf-q5-0"), partial(_write, "gguf-q5-1")
write_q8_0 = partial(_write, "gguf-q8-0")


class Blocks(NamedTuple):
    """Bytes of the blocks of each row."""

    codes: Bytes


def read_blocks(views: Views, params: Params, window: Window) -> Blocks:
    """The bytes of a window's blocks."""
    data = views["payload"]
    per_row = params["shape"][-1] // params["block"]
    return Blocks(data.reshape(len(data) // per_row, -1))


def write_blocks(found: Blocks, params: Params, out: Outputs) -> None:
    """The same bytes."""
    out["blocks"][:] = found.codes.reshape(-1)
