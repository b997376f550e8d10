"""GGUF's encoders write what ggml's own C code writes, for every class of input."""

from __future__ import annotations

import os
from collections.abc import Callable

import encode_cases as ours
import numpy as np
import pytest
from encoded_by_ggml import assert_same, by_ggml, encoded

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer
from anamnesis.kernels.encoders import ENCODERS

NAMES = [n for n, row in ENCODERS.items() if n.startswith("gguf-") and row.weights != "needed"]
# Fewer numbers where kernels are plain Python.
ROWS, COLUMNS = (8, 256) if os.environ.get("NUMBA_DISABLE_JIT") == "1" else (40, 512)


# Searches for points of a grid end the process where no distance to any compares.
ABORTING = [name for name in ENCODERS if name.startswith(("gguf-iq1", "gguf-iq2", "gguf-iq3"))]


def answerable(name: str, values: np.ndarray) -> np.ndarray:
    """The same; without blocks whose squares have no finite sum, where ggml aborts."""
    if name not in ABORTING:
        return values
    blocks = values.reshape(-1, 256)
    finite = has_squares(blocks)[:, None]
    return np.where(finite, blocks, np.float32(0)).reshape(values.shape)


def has_squares(blocks: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.isfinite((blocks**2).sum(1))


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls(name: str) -> None:
    for number, kind in enumerate(ours.CLASSES):
        values = np.ascontiguousarray(ours.matrix(kind, ROWS, COLUMNS, seed=number))
        assert_same(encoded(name, values), by_ggml(name, values), kind)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls_for_halves_and_large_numbers(name: str) -> None:
    values = np.ascontiguousarray(ours.matrix("plain", ROWS, COLUMNS, seed=11))
    for scale in (3e4, 1e-6):
        some = values * np.float32(scale)
        assert_same(encoded(name, some), by_ggml(name, some), str(scale))
    narrow = values.astype(np.float16).astype(np.float32)
    assert_same(encoded(name, narrow), by_ggml(name, narrow), "binary16")


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls_for_extremes(name: str) -> None:
    """Whatever is not finite stays in its row; blocks that hold any are not compared."""
    for kind in (*ours.EXTREMES, *ours.SPOILED):
        values = ours.extreme(kind, 128, COLUMNS)
        with np.errstate(all="ignore"):
            found, expected = encoded(name, values), by_ggml(name, answerable(name, values))
        whole = np.isfinite(values.reshape(len(found), -1)).all(1)
        if name in ABORTING:
            whole &= has_squares(values.reshape(len(found), -1))
        assert whole.sum() >= len(found) - 4
        assert_same(found[whole], expected[whole], kind)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_ggmls_for_few_blocks(name: str) -> None:
    """Searches take sixteen groups at a time, whatever number there is."""
    for rows in (1, 3):
        values = np.ascontiguousarray(ours.matrix("ties", rows, 256, seed=rows))
        assert_same(encoded(name, values), by_ggml(name, values), f"{rows} rows")


def test_mxfp4_of_the_largest_floats_has_no_code_for_infinity() -> None:
    """Their logarithm is 128 in float32, and 8 and 12 times that scale are infinite."""
    largest = np.finfo(np.float32).max
    values = np.outer(np.float32([1, -1]), np.linspace(0, 1, 64, dtype=np.float32)) * largest
    values[:, 31::32] = largest
    found = encoded("gguf-mxfp4", np.ascontiguousarray(values))
    assert_same(found, by_ggml("gguf-mxfp4", np.ascontiguousarray(values)), "largest")
    assert np.isfinite(decoded("gguf-mxfp4", found)).all()


# Where the numbers that blocks stand for are encoded again as the same blocks.
CLOSED = ("gguf-mxfp4", "gguf-q4-0", "gguf-q5-0", "gguf-q8-0", "gguf-tq1-0", "gguf-tq2-0")


@pytest.mark.parametrize("name", CLOSED)
def test_what_was_decoded_is_encoded_the_same(name: str) -> None:
    values = np.ascontiguousarray(ours.matrix("plain", 40, 512, seed=12))
    first = decoded(name, encoded(name, values))
    second = decoded(name, encoded(name, first.reshape(values.shape)))
    assert np.array_equal(first, second)


def decoded(name: str, blocks: np.ndarray) -> np.ndarray:
    row = ENCODINGS[name]
    out = np.empty(len(blocks) * row.block_elems, np.float32)
    assert preparer(name) is None
    decoder(name)({"payload": blocks}, {}, Window(0, len(blocks)), out)
    return out


def test_plain_python_gives_the_same(elsewhere: Callable[..., None]) -> None:
    elsewhere("few_blocks or (test_bytes_are_ggmls and (q4-1 or tq1-0 or mxfp4))")
