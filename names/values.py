"""What GGUF stores of each number of a Hugging Face tensor, and the way back.

Results are float32 numbers, as in llama.cpp's converter, and rounded once to the output's
dtype. An operation that is not `exact` may differ from the original in the last bit of float32: it
gives back every BF16 and F16 number of 2^-13 or more, and not every float32 one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

InPlace = Callable[[Any], None]

_BLOCK = 1 << 14  # numbers that are widened at once
_LOST = "what is below 2^-24 of the sum is lost"
# `SCALED` and settings of config.json, that a tensor is multiplied with in a GGUF; `_TIMES` and the
# numbers that they are.
SCALED, _TIMES = "scaled:", "times:"


@dataclass(frozen=True, slots=True)
class Value:
    """A function that changes a float32 array in place, and the name of its way back.

    `why` says, of a way back to Hugging Face, where it is not exact.
    """

    apply: InPlace
    inverse: str
    why: str = ""


def _add(what: float) -> InPlace:
    number = np.float32(what)

    def run(x: Any) -> None:
        np.add(x, number, out=x)

    return run


def _multiply(factors: Iterable[float]) -> InPlace:
    """One factor after another, each product rounded."""
    numbers = [np.float32(factor) for factor in factors]

    def run(x: Any) -> None:
        for number in numbers:
            np.multiply(x, number, out=x)

    return run


def _negative_exp(x: Any) -> None:
    _in_float64(np.exp, x)
    np.negative(x, out=x)


def _log_negative(x: Any) -> None:
    np.negative(x, out=x)
    _in_float64(np.log, x)


def _softplus(x: Any) -> None:
    """log(1 + exp(x)); above 20 the number itself, as torch has it."""
    _in_float64(lambda block: np.where(block > 20, block, np.logaddexp(0, block)), x)


def _from_softplus(x: Any) -> None:
    _in_float64(lambda block: np.where(block > 20, block, block + np.log(-np.expm1(-block))), x)


def _in_float64(function: Callable[[Any], Any], x: Any) -> None:
    """The function's values, rounded once: numpy's own for float32 depend on the processor."""
    for start in range(0, x.size, _BLOCK):
        block = x[start : start + _BLOCK]
        block[:] = function(block.astype(np.float64))


VALUES: dict[str, Value] = {
    "+1": Value(_add(1.0), "-1"),
    "-1": Value(_add(-1.0), "+1", "1 was added in float32: " + _LOST),
    "+1/5": Value(_add(0.2), "-1/5"),
    "+1/5^1.5": Value(_add(5**-1.5), "-1/5^1.5"),
    "-1/5": Value(_add(-0.2), "+1/5", "0.2 was added in float32: " + _LOST),
    "-1/5^1.5": Value(_add(-(5**-1.5)), "+1/5^1.5", "5^-1.5 was added in float32: " + _LOST),
    "-exp": Value(_negative_exp, "log-"),
    "log-": Value(
        _log_negative, "-exp", "the logarithm of a stored exponential, rounded to float32"
    ),
    "softplus": Value(_softplus, "from-softplus"),
    "from-softplus": Value(
        _from_softplus,
        "softplus",
        "the inverse of a stored softplus, rounded to float32",
    ),
}


def is_value(word: str) -> bool:
    """Whether a word of a row says what is done to each number."""
    return word in VALUES or word.startswith(SCALED)


def inverse(word: str) -> str:
    """What is done on the way to Hugging Face; "" where a GGUF does not say the factors."""
    return VALUES[word].inverse if word in VALUES else ""


def times(factors: Iterable[float]) -> str:
    """The word for products with these numbers; "" where they change nothing."""
    used = [repr(float(factor)) for factor in factors if factor != 1]
    return _TIMES + ",".join(used) if used else ""


def function(word: str) -> InPlace:
    """What a word stands for."""
    if word.startswith(_TIMES):
        return _multiply(map(float, word.removeprefix(_TIMES).split(",")))
    return VALUES[word].apply
