"""With an importance matrix GGUF's encoders write what ggml's own C code writes."""

from __future__ import annotations

from collections.abc import Callable

import encode_cases as ours
import numpy as np
import pytest
from encoded_by_ggml import assert_same, by_ggml, encoded

from anamnesis.kernels.encoders import ENCODERS

NAMES = [name for name, row in ENCODERS.items() if row.weights]


# Weights of columns: as measured, all alike, none, some of them none, very different ones.
KINDS = ("plain", "ones", "zeros", "holes", "spread", "tiny")


def columns(kind: str, matrices: int, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = (rng.standard_normal((matrices, count)) ** 2).astype(np.float32)
    if kind == "ones":
        found[:] = 1
    elif kind == "zeros":
        found[:] = 0
    elif kind == "holes":
        found[:, rng.random(count) < 0.3] = 0
    elif kind == "spread":
        found = np.exp(rng.uniform(-12, 12, (matrices, count))).astype(np.float32)
    elif kind == "tiny":
        found *= np.float32(1e-30)
    return found


def assert_ggmls(name: str, values: np.ndarray, weights: np.ndarray, what: str) -> None:
    """A matrix of a stack after the other, as llama.cpp gives them to ggml."""
    with np.errstate(all="ignore"):
        found = encoded(name, values, weights)
        parts = values.reshape(len(weights), -1, values.shape[1])
        expected = [
            by_ggml(name, np.ascontiguousarray(part), np.ascontiguousarray(row))
            for part, row in zip(parts, weights, strict=True)
        ]
    assert_same(found, np.concatenate(expected), what)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls(name: str) -> None:
    for number, kind in enumerate(ours.CLASSES):
        values = np.ascontiguousarray(ours.matrix(kind, 10, 512, seed=number))
        assert_ggmls(name, values, columns("plain", 1, 512, number), kind)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_ggmls_for_every_kind_of_weights(name: str, kind: str) -> None:
    values = np.ascontiguousarray(ours.matrix("plain", 12, 768, seed=3))
    assert_ggmls(name, values, columns(kind, 1, 768), kind)
    ties = np.ascontiguousarray(ours.matrix("ties", 6, 256, seed=4))
    assert_ggmls(name, ties, columns(kind, 1, 256, 1), f"{kind}, ties")


@pytest.mark.parametrize("name", NAMES)
def test_each_matrix_of_a_stack_has_its_weights(name: str) -> None:
    values = np.ascontiguousarray(ours.matrix("plain", 9, 256, seed=5))
    assert_ggmls(name, values, columns("plain", 3, 256, 2), "three matrices")


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls_for_extremes(name: str) -> None:
    for kind in ours.EXTREMES:
        values = np.ascontiguousarray(ours.extreme(kind, 8, 512))
        if kind != "one outlier":  # whose square is infinite, and so are all weights of its block
            assert_ggmls(name, values, columns("plain", 1, 512, 7), kind)


@pytest.mark.parametrize(("name", "size"), [("gguf-iq4-nl", 2.8e18), ("gguf-iq4-xs", 1e18)])
def test_twice_a_sum_of_squares_may_overflow(name: str, size: float) -> None:
    """IQ4 multiplies the sum by 2 over the number of elements; the sum itself is finite."""
    values = np.random.default_rng(8).choice([-1.0, -0.9, 0.9, 1.0], (4, 256)) * size
    assert_ggmls(name, values.astype(np.float32), columns("tiny", 1, 256), "large")


def test_plain_python_gives_the_same(elsewhere: Callable[..., None]) -> None:
    elsewhere("test_each_matrix and (q2-k or q3-k or q6-k)")
