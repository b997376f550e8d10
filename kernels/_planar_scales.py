"""Codes packed by halves, quarters or eighths (`_planar`), with scales and zeros.

3-bit codes lie in words of 32 bits, ten a word. What a code stands for is one of

    value = (code - zero) * scale
    value = code * scale - zero          ("after")

with a scale and a zero for each unit, or for each element of a period of columns: an `Affine` of
the order "planar". Nothing here is bounds-checked: shapes are the callers' to check.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels._affine import Affine
from anamnesis.kernels._narrow import KINDS
from anamnesis.kernels._native import Kernel, variants
from anamnesis.kernels.types import Array

_NO_WORDS = np.empty(0, np.uint32)
_columns = variants("_planar_scales:decode_columns")
_units = variants("_planar_scales:decode_units")


def words_of(data: Array, bits: int) -> Array:
    """The words of 3-bit codes; nothing for others."""
    if bits != 3:
        return _NO_WORDS
    return data.view("<u4")


def decode_units(affine: Affine, out: Array) -> Kernel:
    """The kernel of units that have a scale and a zero each."""
    return _units(affine.bits, affine.zero, KINDS[affine.once], affine.last(out))


def decode_columns(affine: Affine, out: Array) -> Kernel:
    """That of elements which have the scale and the zero of their column."""
    return _columns(affine.bits, affine.zero, KINDS[affine.once], affine.last(out))
