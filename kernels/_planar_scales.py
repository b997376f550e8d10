"""Codes packed by halves, quarters or eighths (`_planar`), with scales and zeros.

3-bit codes lie in words of 32 bits, ten a word. What a code stands for is one of

    value = (code - zero) * scale
    value = code * scale - zero          ("after")

with a scale and a zero for each unit, or for each element of a period of columns. Each step is
float32; the libraries' own order rounds it to a narrower format as well (`narrow`: 0 none, 1 BF16,
2 binary16). Nothing here is bounds-checked: shapes are the callers' to check.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.types import Array

_NO_WORDS = np.empty(0, np.uint32)


def words_of(data: Array, bits: int) -> Any:
    """The words of 3-bit codes; nothing for others."""
    if bits != 3:
        return _NO_WORDS
    return data.view("<u4")
