"""Bodies of `kernels/fp4.py`, which has the layout."""

from __future__ import annotations

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._lookup import load_numbers, load_u64, table_for
from anamnesis.kernels.bodies._nibbles import look_up_8_low_first, look_up_low_first
from anamnesis.kernels.bodies._split import load16_of, prefetch_of, prefetch_out, split_pairs
from anamnesis.kernels.bodies._transpose import LANES, transpose8
from anamnesis.kernels.bodies._vector import load16
from anamnesis.kernels.fp4 import MX_BLOCK, TILE
from anamnesis.kernels.types import Array, Bytes, Floats, Words

CACHE_LINE = 64


@jit
def mx(codes: Bytes, exponents: Bytes, powers: Floats, e2m1: Floats, out: Array) -> None:
    """Blocks of 32 E2M1 codes under a power of two."""
    numbers = load_numbers(e2m1, 0)
    for block in range(exponents.shape[0]):
        table = table_for(out, numbers * powers[exponents[block]])
        # Element 2 i is the low half of byte i, element 2 i + 1 the high one.
        look_up_low_first(out, 32 * block, table, load16(codes, 16 * block))


@inline
def _tile(
    codes: Bytes,
    exponents: Bytes,
    powers: Floats,
    e2m1: Floats,
    first: int,
    block: int,
    tile: Array,
) -> None:
    """One block of each of up to 32 lines to a row of `tile`, of which there are 32."""
    numbers = load_numbers(e2m1, 0)
    row = tile.shape[0] // TILE
    for line in range(min(TILE, exponents.shape[0] - first)):
        table = table_for(tile, numbers * powers[exponents[first + line, block]])
        look_up_low_first(tile, line * row, table, load16_of(codes, first + line, 16 * block))


@jit
def mx_columns_16(
    codes: Bytes,
    exponents: Bytes,
    powers: Floats,
    e2m1: Floats,
    tile: Array,
    pairs: Array,
    turned: Words,
    out: Array,
) -> None:
    """Lines of blocks to columns of `out`; `pairs` is the memory of `tile` as rows of uint32."""
    lines, blocks = exponents.shape
    row = tile.shape[0] // TILE
    for first in range(0, lines, TILE):
        # The lines of the next tile come near while those of this one are turned.
        for line in range(first + TILE, first + 2 * TILE):
            for ahead in range(0, 16 * blocks, CACHE_LINE):
                prefetch_of(codes, line, ahead)
        for block in range(blocks):
            _tile(codes, exponents, powers, e2m1, first, block, tile)
            at = block * MX_BLOCK * lines + first
            # The last tile has fewer lines than a transpose takes: number by number.
            if lines - first < TILE:
                for line in range(lines - first):
                    for i in range(MX_BLOCK):
                        out[at + i * lines + line] = tile[line * row + i]
                continue
            # Words of two BF16 are turned together, and parted when they are stored.
            for line in range(0, TILE, LANES):
                for pair in range(0, MX_BLOCK // 2, LANES):
                    transpose8(pairs, line, pair, turned, pair, line)
            for i in range(MX_BLOCK):
                prefetch_out(out, at + TILE + i * lines)
            for pair in range(MX_BLOCK // 2):
                split_pairs(turned, pair, out, at + 2 * pair * lines, at + (2 * pair + 1) * lines)


@jit
def mx_columns_32(
    codes: Bytes,
    exponents: Bytes,
    powers: Floats,
    e2m1: Floats,
    tile: Floats,
    rows: Array,
    out: Floats,
    columns: Words,
) -> None:
    """The same for float32; `rows` is the memory of `tile`, and `columns` of `out`, in rows."""
    lines, blocks = exponents.shape
    row = tile.shape[0] // TILE
    for first in range(0, lines, TILE):
        count = min(TILE, lines - first)
        whole = count - count % LANES
        for block in range(blocks):
            _tile(codes, exponents, powers, e2m1, first, block, tile)
            top = block * MX_BLOCK
            for line in range(0, whole, LANES):
                for i in range(0, MX_BLOCK, LANES):
                    transpose8(rows, line, i, columns, top + i, first + line)
            for line in range(whole, count):
                for i in range(MX_BLOCK):
                    out[(top + i) * lines + first + line] = tile[line * row + i]


@jit
def nv(codes: Bytes, bytes_: Bytes, scales: Floats, e2m1: Floats, out: Array) -> None:
    """Blocks of 16 E2M1 codes under an E4M3 scale, whose float32 is `scales[byte]`."""
    numbers = load_numbers(e2m1, 0)
    for block in range(bytes_.shape[0]):
        table = table_for(out, numbers * scales[bytes_[block]])
        # Element 2 i is the low half of byte i, element 2 i + 1 the high one.
        look_up_8_low_first(out, 16 * block, table, load_u64(codes, 8 * block))
