"""GGUF's encoders write what ggml's own C code writes, for every class of input."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import libggml
import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer
from anamnesis.kernels.encoders import ENCODERS, encoder

NAMES = [n for n, row in ENCODERS.items() if n.startswith("gguf-") and row.weights != "needed"]
# Fewer numbers where kernels are plain Python.
ROWS, COLUMNS = (8, 256) if os.environ.get("NUMBA_DISABLE_JIT") == "1" else (40, 512)
LIBRARY = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))


def _cases() -> ModuleType:
    path = Path(__file__).with_name("encode_cases.py")
    spec = importlib.util.spec_from_file_location("encode_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ours = _cases()


def by_ggml(name: str, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """`ggml_quantize_chunk`, with weights of the columns or without."""
    row = ENCODINGS[name]
    out = np.zeros((values.size // row.block_elems, row.block_bytes), np.uint8)
    LIBRARY.ggml_quantize_init(row.ggml_type)
    call = LIBRARY.ggml_quantize_chunk
    call.restype, size, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    rows, columns = values.shape
    matrix = None if weights is None else weights.ctypes.data
    wrote = call(row.ggml_type, values.ctypes.data, out.ctypes.data, 0, rows, columns, matrix)
    assert wrote == out.nbytes
    return out


def encoded(name: str, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Blocks of a matrix, or with `weights [matrices, columns]` of a stack as one matrix."""
    row = ENCODINGS[name]
    out = np.empty((values.size // row.block_elems, row.block_bytes), np.uint8)
    params: dict[str, Any] = {}
    if weights is not None:
        shape = (len(weights), len(values) // len(weights), values.shape[1])
        params = {"columns": values.shape[1], "first": 0, "shape": shape}
        params["weights"] = lambda matrix: weights[matrix]
    encoder(name)(values.reshape(-1), params, {"blocks": out.reshape(-1)})
    return out


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


def assert_same(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    wrong = np.flatnonzero((found != expected).any(1))
    at = int(wrong[0]) if len(wrong) else 0
    assert not len(wrong), (
        f"{what}: {len(wrong)} of {len(found)} blocks differ, block {at}: "
        f"{found[at].tobytes().hex()}, expected {expected[at].tobytes().hex()}"
    )


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
    elsewhere(
        "few_blocks or (test_bytes_are_ggmls and (q8-0 or q4-1 or q5-0 or tq1-0 or mxfp4 or q1-0))"
    )
