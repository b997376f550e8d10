"""The sums of a comparison: numpy's answers, the same bits without the compiler, odd numbers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import diff
from anamnesis.kernels._native import DISABLED
from anamnesis.kernels.diff import Comparison, Sums, metrics

LENGTHS = [0, 1, 7, 15, 16, 17, 31, 32, 1000, 4096, 100_003]


def arrays(elems: int, seed: int = 5) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    a = (rng.standard_normal(elems) * np.exp2(rng.integers(-30, 30, elems))).astype(np.float32)
    noise = rng.standard_normal(elems) * np.exp2(rng.integers(-20, 0, elems))
    b = (a * (1 + noise)).astype(np.float32)
    b[rng.random(elems) < 0.3] = a[rng.random(elems) < 0.3][:1].sum() if elems else 0
    b[::3] = a[::3]
    return a, b


def spoilt(elems: int) -> tuple[Any, Any]:
    """With NaNs of several payloads and infinities on either side and on both."""
    a, b = arrays(elems)
    rng = np.random.default_rng(6)
    odd = np.array([0x7FC00000, 0xFFC00001, 0x7F800001, 0x7F800000, 0xFF800000], np.uint32)
    for side in (a, b):
        where = rng.random(elems) < 0.1
        side[where] = rng.choice(odd, int(where.sum())).view(np.float32)
    return a, b


def compare(a: Any, b: Any, *cuts: int) -> Sums:
    comparison = Comparison()
    for start, stop in zip((0, *cuts), (*cuts, len(a)), strict=True):
        comparison.add(a[start:stop], b[start:stop])
    return comparison.result()


def expected(a: Any, b: Any) -> Sums:
    """By numpy alone, in numpy's own order of additions."""
    finite = np.isfinite(a) & np.isfinite(b)
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    neither = ~nan_a & ~nan_b
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    with np.errstate(all="ignore"):
        bits_a, bits_b = (v.astype(ml_dtypes.bfloat16).view(np.uint16) for v in (a, b))
    return Sums(
        elems=len(a),
        finite=int(finite.sum()),
        equal=int((((bits_a == bits_b) & neither) | (nan_a & nan_b)).sum()),
        nan_a=int((nan_a & ~nan_b).sum()),
        nan_b=int((nan_b & ~nan_a).sum()),
        nan_both=int((nan_a & nan_b).sum()),
        inf_differs=int((neither & ~finite & (a != b)).sum()),
        max_abs=float(np.abs(x - y).max(initial=0)),
        sum_abs=float(np.abs(x - y).sum()),
        noise=float(((x - y) ** 2).sum()),
        signal=float((x * x).sum()),
        other=float((y * y).sum()),
        dot=float((x * y).sum()),
    )


def same(found: Sums, wanted: Sums) -> None:
    """Counts and the maximum are exact; sums differ by the order of additions alone."""
    assert found[:8] == wanted[:8]
    assert found[8:12] == pytest.approx(wanted[8:12], rel=1e-12)
    scale = math.sqrt(wanted.signal * wanted.other)
    assert found.dot == pytest.approx(wanted.dot, rel=1e-12, abs=1e-12 * scale)


@pytest.mark.parametrize("elems", LENGTHS)
@pytest.mark.parametrize("make", [arrays, spoilt])
def test_against_numpy(elems: int, make: Any) -> None:
    a, b = make(elems)
    same(compare(a, b), expected(a, b))


def test_read_only_and_unaligned_views() -> None:
    a, b = spoilt(5001)
    plain = compare(a[1:], b[1:])
    a.setflags(write=False)
    b.setflags(write=False)
    assert compare(a[1:], b[1:]) == plain


@pytest.mark.parametrize("cut", [1, 16, 999, 4096])
def test_windows_add_up(cut: int) -> None:
    a, b = spoilt(5000)
    same(compare(a, b, cut), expected(a, b))


def test_equal_calls_give_equal_bits() -> None:
    a, b = spoilt(9000)
    assert compare(a, b, 1000, 5000) == compare(a.copy(), b.copy(), 1000, 5000)


@pytest.mark.skipif(DISABLED, reason="there is nothing compiled to compare with")
@pytest.mark.parametrize("elems", [16, 64, 4096, 65536])
def test_the_numpy_twin_gives_the_same_bits(elems: int) -> None:
    a, b = spoilt(elems)
    sums: list[Any] = []
    for reduce in (diff._reduce, diff.reduce_numpy):
        state, counts = np.zeros((6, diff.LANES)), np.zeros(2, np.int64)
        with np.errstate(invalid="ignore"):
            reduce(a, b, state, counts)
            reduce(b, a, state, counts)
        sums.append((state.tobytes(), counts.tobytes()))
    assert sums[0] == sums[1]


@pytest.mark.skipif(DISABLED, reason="is what this test runs")
def test_without_the_compiler() -> None:
    """The public class in a process without numba's compiler: the same bits."""
    code = (
        "import numpy as np; from anamnesis.kernels.diff import Comparison; c = Comparison();"
        "a = np.arange(999, dtype=np.float32) ** 2; c.add(a, np.sqrt(a + 2)); print(c.result())"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    a = np.arange(999, dtype=np.float32) ** 2
    assert done.stdout.strip() == str(compare(a, np.sqrt(a + 2)))


def test_rounding_counts_pairs_that_are_one_in_bf16() -> None:
    a = np.array([1.0, 1.0, 1.0, 0.0, np.float32(3.4e38), -np.inf], np.float32)
    b = np.array([1.003, 1.005, 1.0, -0.0, np.inf, -np.inf], np.float32)
    found = compare(a, b)
    # The largest float32s round to infinity; one that is infinite already still differs.
    assert (found.equal, found.inf_differs, found.finite) == (4, 1, 4)


def test_identical_arrays() -> None:
    a, _ = arrays(777)
    found = metrics(compare(a, a))
    assert found["sqnr_db"] == math.inf
    assert found["relative_error"] == found["max_abs_error"] == 0
    assert found["cosine"] == pytest.approx(1)


def test_zeros_on_either_side() -> None:
    a, nothing = np.ones(20, np.float32), np.zeros(20, np.float32)
    assert metrics(compare(nothing, nothing))["sqnr_db"] == math.inf
    assert math.isnan(metrics(compare(nothing, nothing))["cosine"])
    assert metrics(compare(nothing, a))["sqnr_db"] == -math.inf
    assert metrics(compare(nothing, a))["relative_error"] == math.inf
    assert metrics(compare(a, nothing))["sqnr_db"] == 0
    assert metrics(compare(a, nothing))["relative_error"] == 1


def test_no_finite_pair_has_no_figures() -> None:
    a = np.full(5, np.nan, np.float32)
    assert all(math.isnan(value) for value in metrics(compare(a, a)).values())
    assert compare(a, a).equal == 5


def test_figures_of_known_arrays() -> None:
    a = np.array([3, -4, 12, 0], np.float32)
    b = np.array([3, -3, 12, 2], np.float32)
    found = metrics(compare(a, b))
    assert found["max_abs_error"] == 2
    assert found["mean_abs_error"] == 0.75
    assert found["rms_error"] == math.sqrt(5 / 4)
    assert found["relative_error"] == math.sqrt(5) / 13
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(169 / 5), rel=1e-15)
    assert found["cosine"] == pytest.approx(165 / (13 * math.sqrt(166)), rel=1e-15)
