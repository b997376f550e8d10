"""Butterflies give the bits of the sums that the formula has, or leave the work to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import basis


def hadamard(size: int) -> Any:
    found = np.ones((1, 1))
    while len(found) < size:
        found = np.block([[found, found], [found, -found]])
    return found


def signed(size: int, factor: float, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    rows, columns = (rng.choice([-1.0, 1.0], size) for _ in range(2))
    return factor * rows[:, None] * hadamard(size) * columns


def numbers(columns: int) -> Any:
    """Weights of four bits, and rows of what takes the long way, or has zeros of both signs."""
    rng = np.random.default_rng(5)
    codes = rng.integers(-8, 8, (24, columns)).astype(np.float32)
    scales = rng.random((24, columns // 16)).astype(np.float16).astype(np.float32)
    found = codes * np.repeat(scales, 16, 1)
    found[0], found[1] = 0.0, -0.0
    found[2, 0], found[3, 1] = np.nan, np.inf
    found[4] *= np.float32(2.0) ** rng.integers(-60, 60, columns).astype(np.float32)
    found[5] = rng.standard_normal(columns)
    found[6] *= np.float32(2.0**-140)
    return found.astype(np.float64)


@pytest.mark.parametrize("size", [32, 128, 512])
@pytest.mark.parametrize("factor", [1.0, 0.08837890625, 1 / 3])
def test_butterflies_have_the_same_bits(size: int, factor: float) -> None:
    matrix = signed(size, factor, size)
    plain = basis.sylvester(matrix)
    assert plain is not None
    assert np.array_equal(
        plain.factor * plain.rows[:, None] * hadamard(size) * plain.columns, matrix
    )
    room = np.empty((16, size))
    wanted, found = (numbers(max(size, 128)) for _ in range(2))
    basis._times(wanted, matrix, room)
    order = (plain.rows, plain.columns, plain.factor, plain.bits)
    basis._times_sylvester(found, matrix, *order, room)
    hold(found, wanted)
    room = np.empty((size, 64))
    wanted, found = (np.ascontiguousarray(numbers(max(size, 128)).T) for _ in range(2))
    basis._turned(matrix, wanted, room)
    order = (plain.columns, plain.rows, plain.factor, plain.bits)
    basis._turned_sylvester(matrix, found, *order, room)
    hold(found, wanted)


def hold(found: Any, wanted: Any) -> None:
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    there = ~np.isnan(wanted)
    assert np.array_equal(found[there].view(np.int64), wanted[there].view(np.int64))


def test_the_order_of_sums_matters_where_they_are_rounded() -> None:
    """So that the rows of `numbers` above would tell butterflies that are taken for granted."""
    x = numbers(128)[4]
    straight = np.array([sum(row * x) for row in hadamard(128)])
    halves = x.copy()
    step = 1
    while step < 128:
        parts = halves.reshape(-1, 2, step)
        halves = np.stack([parts[:, 0] + parts[:, 1], parts[:, 0] - parts[:, 1]], 1).reshape(-1)
        step *= 2
    assert (straight != halves).any()


@pytest.mark.parametrize(
    "matrix",
    [
        signed(64, 1.0, 1)[np.random.default_rng(1).permutation(64)],
        signed(64, 1.0, 1) + np.eye(64),
        np.ones((64, 64)),
        signed(64, 1.0, 1)[:, ::-1] * np.nan,
        np.zeros((64, 64)),
        np.ones((48, 48)),
        hadamard(16),
        np.zeros((0, 0)),
    ],
    ids=["rows", "elements", "ones", "nan", "zeros", "48", "small", "none"],
)
def test_other_matrices_take_the_long_way(matrix: Any) -> None:
    assert basis.sylvester(matrix) is None
