"""Layers of SINQ; see `layers.py`."""

from __future__ import annotations

import numpy as np

from benchmarks.layers import _bytes, _small
from benchmarks.models import Entry, Layer


def sinq(rows: int, columns: int) -> Layer:
    """Four bits in groups of 64 inputs, and a scale for each column."""
    groups = rows * columns // 64
    scale, zero = _small(groups, 1), np.full((groups, 1), 7.5, np.float32)
    about = {"quant_method": "sinq", "method": "sinq", "nbits": 4, "group_size": 64}
    return Layer(
        [
            Entry("W_q", "U8", (groups // 2, 64), _bytes(groups // 2, 64)),
            Entry("meta.scale", "F32", scale.shape, scale),
            Entry("meta.zero", "F32", zero.shape, zero),
            Entry("meta.scale2", "F32", (1, columns), _small(1, columns)),
        ],
        config={"quantization_config": about},
    )


def sinq_aux(rows: int, columns: int) -> Layer:
    """The same, with scales and zeros of eight bits."""
    rows = -(-rows // 32) * 32
    plain, groups = sinq(rows, columns), rows * columns // 64
    aux = []
    for side, lines in (("scale", 32), ("zero", groups)):
        numbers = _small(1, groups // lines)
        aux += [
            Entry(f"meta.{side}.x", "U8", (lines, groups // lines), _bytes(lines, groups // lines)),
            Entry(f"meta.{side}.s", "F32", numbers.shape, numbers),
            Entry(f"meta.{side}.m", "F32", numbers.shape, numbers),
        ]
    return Layer([plain.entries[0], *aux, plain.entries[3]], config=plain.config)


def sinq_table(rows: int, columns: int) -> Layer:
    """Codes of normal floats of four bits."""
    plain = sinq(rows, columns)
    about = plain.config["quantization_config"] | {"method": "sinq_nf4"}
    return Layer(plain.entries, config={"quantization_config": about})


def sinq_tiles(rows: int, columns: int) -> Layer:
    """Square tiles of 64, and the bias that says how many rows there are."""
    rows = -(-rows // 64) * 64
    plain, tiles = sinq(rows, columns), rows * columns // 64**2
    sides = [
        Entry(f"meta.{n}", "F32", (tiles, 64, 1), _small(tiles, 64, 1)) for n in ("scale", "zero")
    ]
    bias = Entry("bias", "F32", (rows,), _small(rows))
    columns_ = Entry("meta.scale2", "F32", (tiles, 1, 64), _small(tiles, 1, 64))
    return Layer([plain.entries[0], *sides, columns_, bias], config=plain.config)


def sinq_words(rows: int, columns: int) -> Layer:
    """Codes of 5 bits, six in a word."""
    plain, lines = sinq(rows, columns), -(-rows * columns // 64 // 6)
    words = _bytes(lines, 4 * 64)
    words[:, 3::4] &= 0x3F
    about = plain.config["quantization_config"] | {"nbits": 5}
    return Layer(
        [Entry("W_q", "I32", (lines, 64), words), *plain.entries[1:]],
        config={"quantization_config": about},
    )
