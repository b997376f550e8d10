"""What a GGUF stores of each number, and the way back."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.names.values import function, inverse


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("word", ["+1", "+1/5", "+1/5^1.5", "-exp", "softplus"])
def test_numbers_come_back_from_where_notes_say(word: str, dtype: Any) -> None:
    """Every one of a type, of both signs."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    every = every[np.abs(every) <= 64]
    stored = every.copy()
    function(word)(stored)
    function(inverse(word))(stored)
    exact = np.abs(every) >= 2.0**-13
    assert (stored.astype(dtype)[exact] == every.astype(dtype)[exact]).all()
    assert np.abs(stored - every)[~exact].max() <= 2.0**-24


def test_a_softplus_is_rounded_once() -> None:
    numbers = np.array([-100.0, -2.0, 0.0, 1.0, 20.0, 20.125, 300.0], np.float32)
    stored = numbers.copy()
    function("softplus")(stored)
    exact = np.log1p(np.exp(numbers[:5].astype(np.float64)))
    assert (stored[:5] == exact.astype(np.float32)).all()
    assert (stored[5:] == numbers[5:]).all()  # as torch has it above its threshold
