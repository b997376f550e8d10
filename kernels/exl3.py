"""ExLlamaV3's EXL3: 16 x 16 tiles of paths through a trellis, of a matrix that was rotated.

| tensor | stored |
|---|---|
| `trellis` | I16 `[in / 16, out / 16, 16 K]`: 256 codes of K bits: 1 to 8, or 1.5, 2.5, 3.5 |
| `suh`, `svh` | F16 `[in]`, `[out]`: signs and scales of the inputs and outputs |
| `su`, `sv` | I16 `[in / 16]`, `[out / 16]`: in older files, a bit a sign, lowest first |
| `mcg`, `mul1` | I32 `[]`: the multiplier of another codebook than 3INST |

A tile is a circular stream of `256 K` bits, the highest first in little-endian words of 32. The
state of step `t` is the 16 bits that end with bit `(t + 1) K`, rounded down, the first of them
taken from the end of the stream. A procedural codebook makes a binary16 number of a state:

    3inst   x = state * 89226354 + 64248484
    mcg     x = state * 0xcbac1fed
            number = half(low) + half(high) of the two halves of x & 0x8fff8fff ^ 0x3b603b60
    mul1    x = state * 0x83dcd12d
            number = fma(half(0x6400 + sum of the bytes of x), half(0x1eee), half(0xc931))

modulo 2**32, each rounded once to binary16. Step `t` is element `PLACES[t]` of the tile, in the
order of a tensor core's fragments. With `H` the Sylvester matrix of 128 over the square root of
128, in groups of 128 inputs and outputs, what comes out is the transpose of

    W = diag(suh) (H w H) diag(svh)

whose sums are taken in double, and rounded once to float32. ExLlamaV3 rounds to binary16 after
every step, as its kernels compute; GPTQModel's CPU path does not round the codebook's numbers.
Source: PyPI exllamav3 1.6.5 exllamav3_ext/quant/codebook.cuh, exl3_dq.cuh, reconstruct.cu,
modules/quant/exl3.py (`get_weight_tensor`, `unpack_bf`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views, Wholes

TILE, GROUP = 16, 128
STATES = 1 << 16
MULTIPLIERS = {"mcg": 0xCBAC1FED, "mul1": 0x83DCD12D}
# Lane `t // 8` of a tensor core holds two columns of eight numbers: rows 0, 1, 8, 9 from twice its
# number in its group of four on, in column `lane // 4` and eight beyond it.
_LANES, _PARTS = np.divmod(np.arange(TILE * TILE), 8)
PLACES = (
    (_LANES % 4 * 2 + np.array([0, 1, 8, 9])[_PARTS % 4]) * TILE + _LANES // 4 + _PARTS // 4 * 8
).astype(np.uint8)
_decode = kernel("exl3:decode")


def codebook(kind: str) -> Array:
    """The number of every state, float32 `[65536]`; `kind` is 3inst, mcg or mul1."""
    x = np.arange(STATES, dtype=np.uint32) * np.uint32(MULTIPLIERS.get(kind, 89226354))
    if kind == "mul1":
        scale, bias = (float(np.uint16(bits).view(np.float16)) for bits in (0x1EEE, 0xC931))
        # The sum of four bytes as the mantissa of a binary16 of 1024 and up.
        total = x.view(np.uint8).reshape(-1, 4).sum(1, dtype=np.uint16) + np.uint16(0x6400)
        exact = total.view(np.float16).astype(np.float64) * scale + bias
        return exact.astype(np.float16).astype(np.float32)
    if kind == "3inst":
        x += np.uint32(64248484)
    # Two binary16 numbers of a word: sign, low exponent and mantissa bits are the word's.
    halves = ((x & np.uint32(0x8FFF8FFF)) ^ np.uint32(0x3B603B60)).view(np.float16).reshape(-1, 2)
    return (halves[:, 0] + halves[:, 1]).astype(np.float32)


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`table`, float32 `[65536]`, and `inputs`, the factors of the inputs, float64 `[in]`.

    Raises ValueError for a multiplier that is not that of its codebook.
    """
    kind = scalars["codebook"]
    if kind in wholes:
        stored = int(wholes[kind].array.reshape(-1)[0]) & 0xFFFFFFFF
        if stored != MULTIPLIERS[kind]:
            raise ValueError(f"a codebook {kind} of {stored:#x}; allowed is {MULTIPLIERS[kind]:#x}")
    factors = wholes["suh"].array.reshape(-1)
    return {"table": codebook(kind), "inputs": _factors(factors, scalars["signs"])}


def _factors(stored: Array, signs: bool) -> Array:
    """binary16 numbers, or one of each bit, as float64."""
    if not signs:
        return stored.astype(np.float64)
    bits = np.unpackbits(stored.view(np.uint8).reshape(-1), bitorder="little")
    return 1.0 - 2.0 * bits.astype(np.float64)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units of 128 rows `window`, of uint8 `trellis` `[in / 16, bytes]` and `svh` `[units, bytes]`.

    `params`: `halves` (of a bit a code), `signs`, and what `prepare` made. Raises ValueError for
    arrays that do not fit.
    """
    units, inputs = window.stop - window.start, params["inputs"]
    words = blocks["trellis"].view("<u4")
    signs = params["signs"]
    outputs = np.ascontiguousarray(blocks["svh"]).reshape(-1).view("<u2" if signs else "<f2")
    factors = _factors(outputs, signs)
    halves = params["halves"]
    tile_words = GROUP // TILE * TILE * halves // 4
    if (
        words.shape != (len(inputs) // TILE, units * tile_words)
        or factors.shape != (units * GROUP,)
        or out.shape != (units * GROUP * len(inputs),)
    ):
        raise ValueError(f"trellis {words.shape}, svh {factors.shape}, out {out.shape}: {window}")
    square = np.empty((GROUP, GROUP), np.float64)
    _decode(words, halves, params["table"], PLACES, inputs, factors, square, out)
