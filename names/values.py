"""What GGUF stores of each number of a Hugging Face tensor, and the way back.

Results are float32 numbers, as in llama.cpp's converter, and rounded once to the output's
dtype. An operation that is not `exact` may differ from the original in the last bit of float32: it
gives back every BF16 and F16 number, and not every float32 one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

InPlace = Callable[[Any], None]

_BLOCK = 1 << 14  # numbers that are widened at once


@dataclass(frozen=True, slots=True)
class Value:
    """A function that changes a float32 array in place, and the name of its way back.

    `why` says, of a way back to Hugging Face, where it is not exact.
    """

    apply: InPlace
    inverse: str
    why: str = ""


def _add_one(x: Any) -> None:
    np.add(x, np.float32(1), out=x)


def _subtract_one(x: Any) -> None:
    np.subtract(x, np.float32(1), out=x)


def _negative_exp(x: Any) -> None:
    _in_float64(np.exp, x)
    np.negative(x, out=x)


def _log_negative(x: Any) -> None:
    np.negative(x, out=x)
    _in_float64(np.log, x)


def _in_float64(function: Callable[[Any], Any], x: Any) -> None:
    """The function's values, rounded once: numpy's own for float32 depend on the processor."""
    for start in range(0, x.size, _BLOCK):
        block = x[start : start + _BLOCK]
        block[:] = function(block.astype(np.float64))


VALUES: dict[str, Value] = {
    "+1": Value(_add_one, "-1"),
    "-1": Value(
        _subtract_one, "+1", "1 was added in float32: what is below 2^-24 of the sum is lost"
    ),
    "-exp": Value(_negative_exp, "log-"),
    "log-": Value(
        _log_negative, "-exp", "the logarithm of a stored exponential, rounded to float32"
    ),
}
