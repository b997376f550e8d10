"""Whether torchao's tiles of INT4 were packed on an NVIDIA GPU or on an AMD one, by their codes.

A group is quantised between its least and its greatest number, so that it has codes 0 and 15: of
groups by torchao's own code or HQQ's, nine in ten have both. In the wrong order a group is made of
codes of several, and at most seven in ten have. A sample of the first layers is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.raw import open_raw
from anamnesis.readers.schemes._errors import where

_SAMPLE_BYTES, _SAMPLE_LAYERS = 16384, 4
_CLEAR = 0.8  # of the groups, between what the right order gives and what the wrong one does
_RUN = 32  # inputs of one word of a row's lanes


def tile_rows(tensors: Sequence[Tensor], nvidia: int, amd: int) -> int:
    """Outputs of a tile, `nvidia` where there is nothing to tell by.

    Raises UnsupportedError for codes that neither order explains.
    """
    shares = {nvidia: (0, 0), amd: (0, 0)}
    files = Files()
    try:
        for tensor in islice((t for t in tensors if t.elems), _SAMPLE_LAYERS):
            stored = tensor.components[0].stored
            words, size = tensor.params["words"], tensor.params["group_size"]
            step = 16 * amd * words  # bytes, of either order
            line = stored.nbytes // max(1, stored.shape[-4]) * (amd // nvidia)
            count = min(stored.nbytes, line, _SAMPLE_BYTES) // step * step
            data = np.empty(count, np.uint8)
            open_raw(stored, files(stored.file)).read_into(0, data)
            for rows, (hits, groups) in shares.items():
                more = _spanning(data.view(np.uint32), rows, rows == amd, words, size)
                shares[rows] = hits + more[0], groups + more[1]
        files.check_unchanged()
    finally:
        files.close()
    for rows, (hits, groups) in shares.items():
        if hits >= _CLEAR * groups:
            return rows
    stored = tensors[0].components[0].stored
    raise UnsupportedError(
        f"{where(stored)}: INT4 in tiles whose order is neither that of NVIDIA's GPUs nor AMD's, "
        "by the groups of the first layers; tiles of a CPU are not implemented. torchao can "
        "dequantise it where it was packed"
    )


def _spanning(data: Any, rows: int, apart: bool, words: int, size: int) -> tuple[int, int]:
    """How many groups hold codes 0 and 15, and of how many that are not all alike.

    The four lanes of a row follow one another, or lie `apart`, a lane of each row between them.
    """
    steps = len(data) // (4 * rows * words)
    lanes = (4, rows) if apart else (rows, 4)
    part = data[: steps * 4 * rows * words].reshape(steps, *lanes, words)
    if apart:
        part = part.swapaxes(1, 2)
    # Eight codes a word, of four lanes: 32 inputs of a row.
    codes = part[..., None] >> np.arange(0, 32, 4, dtype=np.uint32) & np.uint32(15)
    runs = codes.swapaxes(2, 3).reshape(steps, rows, words, _RUN).swapaxes(0, 1)
    inputs = steps * words * _RUN
    if size % _RUN or inputs < size:
        return 0, 0
    whole = runs.reshape(rows, inputs)[:, : inputs // size * size].reshape(-1, size)
    least, most = whole.min(1), whole.max(1)
    return int(((least == 0) & (most == 15)).sum()), int((least != most).sum())
