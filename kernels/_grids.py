"""The codebooks of ggml's IQ formats, packed for `_lookup`.

`data/*.npy` hold the numbers, with their source in `data/README.md`. A point of a grid is eight or
four small numbers of which a grid knows at most eight magnitudes. Here each number becomes one byte
that says which magnitude it is, so that a point is one word, and a look-up in a table of scaled
magnitudes finishes it. Signs are words of the same shape with one bit more, to be joined by `|`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from anamnesis.kernels.types import Array, Bytes


def read(name: str) -> Array:
    """The table `data/NAME.npy`: `[points, numbers]` of a grid, or `uint8 [128]` of signs."""
    return np.load(Path(__file__).parent / "data" / f"{name}.npy", allow_pickle=False)


def point_words(name: str) -> tuple[Any, Any]:
    """A grid's points as `uint64 [points]` (`uint32` for four numbers), and its magnitudes.

    The magnitudes are float32, ascending; byte j of a word is the index of number j among them.
    """
    grid = read(name)
    magnitudes, codes = np.unique(grid, return_inverse=True)
    # Little-endian: number 0 in the lowest byte.
    words = np.ascontiguousarray(codes.reshape(grid.shape), np.uint8).view(f"<u{grid.shape[1]}")
    return words.reshape(-1), magnitudes.astype(np.float32)


def bit_words(bytes_: Bytes, bit: int) -> Array:
    """Each byte as `uint64`: byte j of the word is `bit` where bit j of the byte is set."""
    # Bit j, from the lowest on, becomes byte j.
    spread = np.unpackbits(np.asarray(bytes_, np.uint8)[:, None], axis=1, bitorder="little")
    return (spread * np.uint8(bit)).view("<u8").reshape(-1)


ALL_BYTES = np.arange(256, dtype=np.uint8)
