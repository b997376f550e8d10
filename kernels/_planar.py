"""Codes packed by halves, quarters or eighths: a line of bytes holds several lines of the output.

    code of unit u, element j = line (u % period)[j] >> shift(u // period) & mask

`shift` steps by the bits of a code, from 0 up (`low` first) or down to 0. Here a code stands for
the same number everywhere; `_planar_scales` is for units with scales. Nothing here is
bounds-checked: shapes are the callers' to check.
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels import Window
from anamnesis.kernels.types import Array


def lines_of(view: Array, window: Window, period: int) -> tuple[Any, int]:
    """The bytes of a period of units as one array, and the unit that its first line belongs to.

    Raises ValueError unless `view` has a line for every unit of the window, or of the whole period.
    """
    units = window.stop - window.start
    if view.shape[0] != min(units, period) and view.shape[0] != period:
        raise ValueError(f"{view.shape[0]} lines for units {window} of a period of {period}")
    flat = view.reshape(-1)
    return flat, 0 if view.shape[0] == period else window.start
