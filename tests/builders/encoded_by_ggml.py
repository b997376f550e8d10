"""Blocks of GGUF as ggml's C code encodes a matrix, and as ours does."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import libggml
import numpy as np

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import encoder

LIBRARY = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))


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


def assert_same(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    wrong = np.flatnonzero((found != expected).any(1))
    at = int(wrong[0]) if len(wrong) else 0
    assert not len(wrong), (
        f"{what}: {len(wrong)} of {len(found)} blocks differ, block {at}: "
        f"{found[at].tobytes().hex()}, expected {expected[at].tobytes().hex()}"
    )
