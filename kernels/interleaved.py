"""ik_llama.cpp's repacked types: the rows of a plain type four or eight together, put apart again.

A group of rows is what stands before each of them, row after row, then repacked blocks, each the
bits of one plain block of every row (`_interleaved.py`). Apart, rows are decoded as the plain type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer
from anamnesis.kernels._interleaved import moves
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

_apart = kernel("interleaved:apart")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["plain"]` needs, and `moves` of the bits of `rows` rows."""
    plain = scalars["plain"]
    inner = preparer(plain)
    found = {} if inner is None else inner(scalars, wholes)
    return {**found, "moves": moves(plain, scalars["rows"], ENCODINGS[plain].block_bytes)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups of rows `window`, of uint8 `[units, bytes]`; raises ValueError for what is not whole.

    `params`: `plain`, `rows` of a group and what `prepare` made.
    """
    rows = put_apart(blocks["payload"], params)
    decoder(params["plain"])({"payload": rows}, params, window, out)


def put_apart(payload: Bytes, params: Params) -> Bytes:
    """The rows as the plain type has them, uint8 `[rows, bytes]`."""
    row, count = ENCODINGS[params["plain"]], params["rows"]
    each, rest = divmod(payload.shape[1], count)
    if rest or (each - row.row_meta) % row.block_bytes:
        raise ValueError(f"{payload.shape[1]:,} bytes of {count} rows of {params['plain']}")
    plain = np.zeros((len(payload) * count, each), np.uint8)
    sizes = count, row.row_meta, row.block_bytes
    _apart(np.ascontiguousarray(payload), sizes, params["moves"], plain)
    return plain
