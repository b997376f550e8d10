"""Glue of ggml's block types, whose blocks hold all that they need.

What a row of the table of encodings says of a type, its bytes and elements, stands there alone.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import ENCODINGS, Decode, Encoding, Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views


def decoder_of(encoding: str, *tables: Array | int, body: str = "") -> Decode:
    """The decode function of a block type: `body(bytes, *tables, out)`.

    `body` is by default the function of the type's name in the bodies' file of the row's. It gets
    flat bytes, or rows of them where something stands before the blocks of each.
    """
    row = ENCODINGS[encoding]
    run = kernel(body or row.target.replace(":decode_", ":"))
    blocks_in = rows_of if row.row_meta else flat_blocks

    def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
        run(blocks_in(blocks["payload"], row, out), *tables, out)

    return decode


def flat_blocks(payload: Array, row: Encoding, out: Array) -> Array:
    """Blocks as flat bytes.

    Raises `ValueError` unless `payload` is whole blocks and `out` holds exactly their elements.
    """
    flat = payload.reshape(-1)
    blocks, rest = divmod(flat.shape[0], row.block_bytes)
    if rest or out.shape != (blocks * row.block_elems,):
        raise ValueError(
            f"{flat.shape[0]} bytes in blocks of {row.block_bytes} do not fill an output of shape"
            f" {out.shape} with {row.block_elems} elements each"
        )
    return flat


def rows_of(payload: Array, row: Encoding, out: Array) -> Array:
    """Rows as bytes; raises ValueError unless they are whole, and `out` is their size."""
    rows, nbytes = payload.shape
    blocks, rest = divmod(nbytes - row.row_meta, row.block_bytes)
    if rest or blocks < 0 or out.shape != (row.block_elems * rows * blocks,):
        raise ValueError(f"rows of {nbytes} bytes, blocks of {row.block_bytes}: out {out.shape}")
    return np.ascontiguousarray(payload)
