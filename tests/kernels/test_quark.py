"""Quark's signed INT4 against the formula in numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import Window, decoder, preparer

INPUTS, ROWS, SIZE = 96, 48, 16
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def packed(codes: Any) -> Any:
    """uint8 `[lines, rows / 2]` of signed codes `[lines, rows]`."""
    words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
    for nibble, row in enumerate(ORDER):
        words |= (codes[:, row::8] & 15).astype(np.uint32) << np.uint32(4 * nibble)
    found = words.view(np.uint8)
    found.setflags(write=False)
    return found


def layer(zeros: bool) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(6)
    codes = rng.integers(-8, 8, (INPUTS, ROWS))
    zero = rng.integers(-8, 8, (INPUTS // SIZE, ROWS)) * zeros
    scale = rng.standard_normal(zero.shape).astype(ml_dtypes.bfloat16)
    blocks = {"qweight": packed(codes), "scales": scale.view(np.uint8)}
    if zeros:
        blocks["qzeros"] = packed(zero)
    wide = np.repeat(scale.astype(np.float32), SIZE, 0)
    return blocks, ((codes - np.repeat(zero, SIZE, 0)) * wide).astype(np.float32).T


def params() -> dict[str, Any]:
    scalars = {
        "version": "gemm", "bits": 4, "in_features": INPUTS, "group_size": SIZE,
        "groups": INPUTS // SIZE, "scale_dtype": "BF16", "rounding": "exact",
    }  # fmt: skip
    prepare = preparer("quark-int4")
    assert prepare is not None
    return scalars | prepare(scalars, {})


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("step", [ROWS, 8, 24])
def test_values(zeros: bool, step: int) -> None:
    blocks, values = layer(zeros)
    for dtype, wanted in ((np.uint16, values.astype(ml_dtypes.bfloat16)), (np.float32, values)):
        for start in range(0, ROWS, step):
            out = np.empty(step * INPUTS, dtype)
            part = {}
            for role, data in blocks.items():
                halves = 4 if role == "scales" else 1  # bytes of two rows
                part[role] = data[:, start * halves // 2 : (start + step) * halves // 2]
            decoder("quark-int4")(part, params(), Window(start, start + step), out)
            found = out.view(wanted.dtype).reshape(step, INPUTS)
            bits = np.dtype(f"u{wanted.itemsize}")
            np.testing.assert_array_equal(
                found.view(bits), np.ascontiguousarray(wanted[start : start + step]).view(bits)
            )


def test_shapes_are_checked() -> None:
    blocks, _ = layer(True)
    for short in (
        {"qweight": blocks["qweight"][:-1]},
        {"qzeros": blocks["qzeros"][:-1]},
        {"scales": blocks["scales"][:-1]},
        {"scales": blocks["scales"][:, :-2]},
    ):
        out = np.empty(ROWS * INPUTS, np.uint16)
        with pytest.raises(ValueError, match=r"qweight|qzeros|scales"):
            decoder("quark-int4")(blocks | short, params(), Window(0, ROWS), out)


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="is the run without JIT")
def test_without_jit() -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_quark as t\n"
        "t.test_values(True, 24)\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
