"""The MXFP6 kernel against the same formula in ml_dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import Window, decoder

ROWS, COLUMNS = 64, 4224  # more than the codes that are spread at a time


def layer(kind: Any = ml_dtypes.float6_e2m3fn) -> tuple[dict[str, Any], Any]:
    """Blocks with every exponent, and float32 values of codes of a kind."""
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 64, (ROWS, COLUMNS), np.uint8)
    scale = np.resize(rng.permutation(256).astype(np.uint8), (ROWS, COLUMNS // 32))
    words = (codes.reshape(ROWS, -1, 4).astype(np.uint32) << np.array([0, 6, 12, 18])).sum(-1)
    payload = np.stack([words >> 8 * byte & 255 for byte in range(3)], -1)
    blocks = {"payload": payload.astype(np.uint8).reshape(ROWS, -1), "scale": scale}
    for array in blocks.values():
        array.setflags(write=False)
    powers = scale.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    with np.errstate(all="ignore"):
        return blocks, codes.view(kind).astype(np.float32) * np.repeat(powers, 32, 1)


@pytest.mark.parametrize("kind", [ml_dtypes.float6_e2m3fn, ml_dtypes.float6_e3m2fn])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_every_exponent(dtype: Any, kind: Any) -> None:
    blocks, wanted = layer(kind)
    params = {"e3m2": True} if kind == ml_dtypes.float6_e3m2fn else {}
    if dtype == np.uint16:
        with np.errstate(all="ignore"):
            wanted = wanted.astype(ml_dtypes.bfloat16)
    nan = np.isnan(wanted)
    for step in (ROWS, 13, 1):
        out = np.empty(ROWS * COLUMNS, dtype)
        for start in range(0, ROWS, step):
            stop = min(start + step, ROWS)
            part = {role: array[start:stop] for role, array in blocks.items()}
            rows = out[start * COLUMNS : stop * COLUMNS]
            decoder("fp6-mx")(part, params, Window(start, stop), rows)
        found = out.view(wanted.dtype).reshape(wanted.shape)
        np.testing.assert_array_equal(np.isnan(found), nan)
        np.testing.assert_array_equal(found.view(dtype)[~nan], wanted.view(dtype)[~nan])


def test_shapes_are_checked_before_the_kernel() -> None:
    blocks, _ = layer()
    payload, scale = blocks["payload"], blocks["scale"]
    for short in (
        {"payload": payload[:-1]},
        {"payload": payload[:, :-1]},
        {"payload": payload[:, :-24]},
        {"scale": scale[:, :-1]},
        {"scale": scale[:-1]},
    ):
        with pytest.raises(ValueError, match="do not fit"):
            decoder("fp6-mx")(
                blocks | short, {}, Window(0, ROWS), np.empty(ROWS * COLUMNS, np.uint16)
            )


@pytest.mark.parametrize(
    "environ",
    [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}],
    ids=["no compiler", "generic"],
)
def test_elsewhere(environ: dict[str, str], elsewhere: Callable[..., None]) -> None:
    elsewhere("uint16", environ)
