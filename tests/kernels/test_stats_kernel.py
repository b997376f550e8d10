"""The counting kernels against numpy and Python's own integers and fractions."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import stats as kernels

RNG = np.random.default_rng(11)
# Zeros, the least and the largest subnormal, the least and the largest normal, infinities, NaNs.
MAGNITUDES = np.array(
    [0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000],
    np.uint32,
)
SPECIAL = np.concatenate([MAGNITUDES, MAGNITUDES | np.uint32(1 << 31)])


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 7, 8, 9, 1000, 4099])
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_patterns_are_counted(kind: Any, length: int, offset: int) -> None:
    bits = 8 * np.dtype(kind).itemsize
    values = RNG.integers(0, 1 << bits, length + offset).astype(kind)
    values[offset : offset + length // 2] = 7
    table = np.zeros((2, 1 << bits), np.uint32)
    kernels.count_patterns(read_only(values)[offset:], table)
    expected = np.bincount(values[offset:], minlength=1 << bits)
    assert (table.sum(axis=0) == expected).all()


def sums_of(bits: Any) -> Any:
    totals, scratch = np.zeros((512, 4), np.int64), np.zeros((512, 2), np.uint64)
    kernels.sum_singles(read_only(bits), totals, scratch)
    assert not scratch.any()
    return totals


def expected_sums(bits: Any) -> dict[int, tuple[int, int, int]]:
    found: dict[int, tuple[int, int, int]] = {}
    for number in bits.tolist():
        n, s, q = found.get(number >> 23, (0, 0, 0))
        m = number & 0x7FFFFF
        found[number >> 23] = n + 1, s + m, q + m * m
    return found


@pytest.mark.parametrize("length", [0, 1, 300, 40_000])
def test_singles_add_up_exactly(length: int) -> None:
    bits = RNG.integers(0, 1 << 32, length, dtype=np.uint32)
    bits = np.concatenate([SPECIAL, bits]) if length else bits
    rows = sums_of(bits).tolist()
    found = {i: (n, s, low + (high << 32)) for i, (n, s, low, high) in enumerate(rows) if n}
    assert found == expected_sums(bits)


def test_the_longest_chunk_of_the_largest_significands_does_not_overflow() -> None:
    length = 2 * kernels.SINGLE_CHUNK + 1
    row = sums_of(np.full(length, 0x3FFFFFFF, np.uint32))[0x3FFFFFFF >> 23].tolist()
    m = 0x7FFFFF
    assert row[:2] == [length, length * m]
    assert row[2] + (row[3] << 32) == length * m * m


@pytest.mark.parametrize("count", [1, 5, 18, 5000])
def test_extremes_of_finite_singles(count: int) -> None:
    bits = RNG.permutation(np.resize(SPECIAL, count))
    values = bits.view(np.float32)
    low, high, nans, zeros = kernels.single_extremes(read_only(bits))
    finite = values[np.isfinite(values)]
    assert nans == np.isnan(values).sum()
    assert zeros == (values == 0).sum()
    if not finite.size:
        assert low > high
        return
    assert kernels.key_to_single(low) == float(finite.min())
    assert kernels.key_to_single(high) == float(finite.max())
    assert math.copysign(1, kernels.key_to_single(low)) == (-1 if finite.min() < 0 else 1)


def test_no_finite_single_has_no_extremes() -> None:
    low, high, nans, zeros = kernels.single_extremes(np.array([0x7F800000, 0x7FC00000], np.uint32))
    assert low > high
    assert (nans, zeros) == (1, 0)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 5000])
def test_wide_moments(length: int) -> None:
    values = RNG.standard_normal(length) * 3 + 1000
    dirty = np.concatenate([values, [np.nan, np.inf, -np.inf]])
    count, mean, m2 = kernels.wide_moments(read_only(RNG.permutation(dirty)))
    assert count == length
    if not length:
        assert (mean, m2) == (0, 0)
        return
    exact = sum(map(Fraction, values.tolist())) / length
    spread = sum((Fraction(v) - exact) ** 2 for v in values.tolist())
    assert mean == pytest.approx(float(exact), rel=1e-15)
    assert m2 == pytest.approx(float(spread), rel=1e-12, abs=1e-12)


PLAIN = """
import numpy as np
from anamnesis.kernels import stats
bits = [0, 1 << 31, 1, 0x3F800000, 0xC0490FDB, 0x7F800000, 0x7FC00000]
bits = np.resize(np.array(bits, "u4"), 50)
table = np.zeros((2, 65536), "u4")
stats.count_patterns((bits >> 16).astype("u2"), table)
totals, scratch = np.zeros((512, 4), "i8"), np.zeros((512, 2), "u8")
stats.sum_singles(bits, totals, scratch)
print(np.flatnonzero(table.sum(axis=0)).tolist(), table.sum(), totals[totals[:, 0] > 0].tolist())
print(stats.single_extremes(bits), stats.wide_moments(bits.astype("f8")), scratch.any())
"""


def test_without_compiling_the_same_comes_out() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-W", "error", "-c", PLAIN],
            env={**os.environ, "NUMBA_DISABLE_JIT": flag},
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        ).stdout
        for flag in ("0", "1")
    }
    assert len(printed) == 1
