"""Marlin's tiles of 2:4 sparse weights: two of four inputs are stored, and `meta` says which.

| tensor | stored, of `[out, in]` with codes of b = 4 or 8 bits |
|---|---|
| codes | I32 `[in / 32, out * b / 2]`: a line of 16 kept inputs, 64 outputs a tile |
| `meta` | I16 `[in / 32, 2 * out]`: 16 inputs an entry, 64 outputs in 128 entries |
| scales | F16 `[groups, out]`, `[1, out]` for one a row |

Thread j of lane group l has, as number e, code 8 (4 l + j) + place of e: output

    16 (l div 8) + 8 (l div 4 mod 2) + 4 (e div 4) + j

and kept input 2 (l mod 4) + (0, 1, 8, 9)[e mod 4]; at the places of four bits lie e = 0 2 4 6 1 3
5 7, of eight bits 0 2 1 3 4 6 5 7. Kept inputs 2q and 2q + 1 of a row are of its columns 4q to
4q + 3; bits 4 (q mod 4) and on of an entry of `meta` are the place of the first and, above, of the
second, in two bits each. Entry c of row r (counted in a tile: c is 0 or 1, for its first and its
second 16 columns) is number 2 r' + c', in CUTLASS's order for tensor cores, where

    r' = 4 (r div 8) + 2 (r mod 2) + r mod 8 div 4 + 32 (r mod 4 div 2)     c' = c

but for even r' with c = 1, which is stored at (r' + 1, 0), and odd r' with c = 0, at (r' - 1, 1).
With groups, scale 8 a + (0 4 1 5 2 6 3 7)[k] of 64 is stored at place 8 a + k.

    value = (code - 2 ** (b - 1)) * scale, and 0 * scale where none is stored

Sources: compressed-tensors 0.9.4 compressors/sparse_quantized_compressors/marlin_24.py,
utils/permutations_24.py, utils/semi_structured_conversions.py
(`_calculate_meta_reordering_scatter_offsets`).
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import PayloadError, Window, _tiles, ct
from anamnesis.kernels.types import Array, Params, Views

_lane, _j, _e = _tiles.threads()
# The same numbers with outputs and inputs in each other's place, as sparse tensor cores take them.
_OUTPUT = 16 * (_lane // 8) + 8 * (_lane // 4 % 2) + 4 * (_e // 4) + _j
_KEPT = 2 * (_lane % 4) + np.array((0, 1, 8, 9))[_e % 4]
_PLACES = {
    4: _tiles.places(_OUTPUT, _KEPT, _tiles.NIBBLES),
    8: _tiles.places(_OUTPUT, _KEPT, _tiles.BYTES),
}
_GROUPED = np.argsort([8 * a + k for a in range(8) for k in (0, 4, 1, 5, 2, 6, 3, 7)])
_ALONE = np.arange(64)


def _entries() -> Array:
    """Where each entry of `meta` of a tile lies, int64 `[64 rows, 2]`."""
    row, column = np.indices((64, 2))
    at = 4 * (row // 8) + 2 * (row % 2) + row % 8 // 4 + 32 * (row % 4 // 2)
    # An entry on the wrong side of a pair of lines stands one place on, in the other column.
    moved = (at % 2 != column).astype(np.int64) * (2 * column - 1)
    return 2 * (at + moved) + column - moved


_ENTRIES = _entries()


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of 64 outputs, from uint8 `[lines, bytes]` of `codes`, `meta` and `scales`.

    `params` are what `ct.prepare` made of `bits`, and `permuted`, whether scales are out of order.
    Raises PayloadError for an entry that keeps one input twice or two the wrong way round,
    ValueError for arrays that do not fit one another.
    """
    bits = params["bits"]
    kept = _tiles.unpack(blocks["codes"], bits, _PLACES[bits])
    rows, inputs = len(kept), 2 * kept.shape[1]
    meta = np.ascontiguousarray(blocks["meta"]).view("<u2")
    if rows != 64 * (window.stop - window.start) or out.size != rows * inputs:
        raise ValueError(f"codes {blocks['codes'].shape}, out {out.shape} for units {window}")
    if meta.shape != (inputs // 32, 2 * rows):
        raise ValueError(f"meta {meta.shape} for {rows} rows of {inputs} inputs")
    entries = meta.reshape(len(meta), -1, 128)[..., _ENTRIES].transpose(1, 2, 0, 3)
    # An entry: four nibbles, lowest first, of four inputs each; bits 0-1 the first that is kept,
    # bits 2-3 the second.
    nibbles = entries.reshape(rows, -1, 1) >> np.arange(0, 16, 4, dtype=np.uint16)
    nibbles = nibbles.reshape(rows, -1)
    first, second = nibbles & 3, nibbles >> 2 & 3
    if (first >= second).any():
        raise PayloadError("meta: keeps one input of four twice, or two in the wrong order")
    # What is dropped is the code of 0.
    codes = np.full((rows, inputs // 4, 4), 1 << (bits - 1), np.uint8)
    for place, half in ((first, kept[:, ::2]), (second, kept[:, 1::2])):
        np.put_along_axis(codes, place[..., None].astype(np.int64), half[..., None], 2)
    order = _GROUPED if params["permuted"] else _ALONE
    parts = {
        "weight_packed": _tiles.pack_rows(codes.reshape(rows, inputs), bits),
        "weight_scale": _tiles.lines_of_scales(blocks["scales"], "<u2", order).view(np.uint8),
    }
    ct.decode_packed(parts, params, window, out)
