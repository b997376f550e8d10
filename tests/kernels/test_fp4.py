"""The MXFP4 and NVFP4 kernels against the same formula in numpy and ml_dtypes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import Window, decoder, preparer

ROWS, COLUMNS = 24, 192
BLOCK = {"fp4-mx": 32, "fp4-nv": 16}
GLOBALS: dict[str, Any] = {
    "none": None,
    "one": np.array([0.0137], np.float32),
    "scalar": np.float32(700.3),
    "stack": np.array([0.02, 1500.7, 3e-39, np.nan], np.float32),
    "odd": np.array([0.0, np.inf, -2.5, 3e38], np.float32),
}


def same(found: Any, wanted: Any) -> None:
    """Bit for bit; NaNs have to be NaNs."""
    found = found.reshape(wanted.shape)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), nan)
    bits = np.dtype(f"u{wanted.itemsize}")
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])


def layer(encoding: str, columns: int = COLUMNS) -> tuple[dict[str, Any], Any, Any]:
    """Blocks with every scale byte, each element's code as a number, and as its scale."""
    rng = np.random.default_rng(5)
    size = BLOCK[encoding]
    payload = rng.integers(0, 256, (ROWS, columns // 2), np.uint8)
    scale = np.resize(rng.permutation(256).astype(np.uint8), (ROWS, columns // size))
    codes = np.stack([payload & 15, payload >> 4], -1).reshape(ROWS, columns)
    if encoding == "fp4-mx":
        numbers = scale.view(ml_dtypes.float8_e8m0fnu)
    else:
        numbers = scale.view(ml_dtypes.float8_e4m3fn)
    for array in (payload, scale):
        array.setflags(write=False)
    e2m1 = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    return {"payload": payload, "scale": scale}, e2m1, numbers.astype(np.float32)


def decoded(
    encoding: str, blocks: Any, params: Any, dtype: Any = np.uint16, step: int = ROWS
) -> Any:
    out = []
    for start in range(0, ROWS, step):
        stop = min(start + step, ROWS)
        part = {role: array[start:stop] for role, array in blocks.items()}
        out.append(np.empty((stop - start) * part["payload"].shape[1] * 2, dtype))
        decoder(encoding)(part, params, Window(start, stop), out[-1])
    return np.concatenate(out)


def check(encoding: str, blocks: Any, params: Any, wanted: Any) -> None:
    with np.errstate(all="ignore"):
        bf16 = wanted.astype(ml_dtypes.bfloat16)
    for step in (ROWS, 7, 1):
        same(decoded(encoding, blocks, params, step=step).view(ml_dtypes.bfloat16), bf16)
        same(decoded(encoding, blocks, params, np.float32, step), wanted)


def test_mx() -> None:
    blocks, e2m1, scale = layer("fp4-mx")
    with np.errstate(over="ignore"):
        check("fp4-mx", blocks, {}, e2m1 * np.repeat(scale, 32, 1))


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("how", ["multiply", "divide"])
@pytest.mark.parametrize("name", GLOBALS)
def test_nv(name: str, how: str, narrow: bool, rounding: str) -> None:
    factors = GLOBALS[name]
    params: dict[str, Any] = {"global": how, "narrow": narrow, "rounding": rounding}
    wholes = {}
    each: Any = np.float32(1)
    if factors is not None:
        wholes["global"] = SimpleNamespace(dtype="F32", array=factors)
        each = factors.reshape(-1)
        params["rows"] = ROWS // each.size
        each = np.repeat(each, ROWS // each.size)[:, None]
    prepare = preparer("fp4-nv")
    assert prepare is not None
    params |= prepare(params, wholes)
    blocks, e2m1, scale = layer("fp4-nv")
    with np.errstate(all="ignore"):
        scale = scale * each if how == "multiply" else scale / each
        if narrow and rounding == "reference":
            scale = scale.astype(ml_dtypes.bfloat16).astype(np.float32)
        check("fp4-nv", blocks, params, e2m1 * np.repeat(scale, 16, 1))


def columns(blocks: Any, start: int, stop: int, dtype: Any = np.uint16) -> Any:
    """Blocks `[start, stop)` of every line, in columns."""
    part = {
        "payload": blocks["payload"][:, 16 * start : 16 * stop],
        "scale": blocks["scale"][:, start:stop],
    }
    out = np.empty((stop - start) * 32 * len(part["scale"]), dtype)
    decoder("fp4-mx-columns")(part, {}, Window(start, stop), out)
    return out


@pytest.mark.parametrize("lines", [1, 7, 8, 31, 32, 33, 64, 75, 104])
def test_mx_lines_to_columns(lines: int) -> None:
    found, e2m1, scale = layer("fp4-mx", 1024)
    blocks = {role: np.resize(array, (lines, array.shape[1])) for role, array in found.items()}
    for array in blocks.values():
        array.setflags(write=False)
    with np.errstate(over="ignore"):
        values = e2m1 * np.repeat(scale, 32, 1)
        wanted = np.resize(values, (lines, 1024)).T.copy()
        bf16 = wanted.astype(ml_dtypes.bfloat16)
    for step in (32, 5, 1):
        for start in range(0, 32, step):
            stop = min(start + step, 32)
            rows = slice(32 * start, 32 * stop)
            same(columns(blocks, start, stop).view(ml_dtypes.bfloat16), bf16[rows])
            same(columns(blocks, start, stop, np.float32), wanted[rows])


def test_shapes_of_columns_are_checked_before_the_kernel() -> None:
    blocks = layer("fp4-mx")[0]
    payload, scale = blocks["payload"], blocks["scale"]
    for short in (
        {"payload": payload[:-1]},
        {"payload": payload[:, :-1]},
        {"payload": np.asfortranarray(payload)},
        {"scale": scale[:, :-1]},
        {"scale": scale[:-1]},
        {"scale": np.asfortranarray(scale)},
    ):
        part, out = blocks | short, np.empty(payload.size * 2, np.uint16)
        with pytest.raises(ValueError, match="payload"):
            decoder("fp4-mx-columns")(part, {}, Window(0, 6), out)
    for count, units in ((payload.size * 2 - 1, 6), (payload.size * 2, 5)):
        with pytest.raises(ValueError, match="payload"):
            decoder("fp4-mx-columns")(blocks, {}, Window(0, units), np.empty(count, np.uint16))


def test_a_table_without_minus_zero() -> None:
    """ModelOpt's code 8 is 0."""
    prepare = preparer("fp4-nv")
    assert prepare is not None
    blocks = {
        "payload": np.full((1, 8), 0x88, np.uint8),
        "scale": np.array([[0x38]], np.uint8),
    }
    for minus_zero, bits in ((True, 0x8000), (False, 0)):
        out = np.empty(16, np.uint16)
        params = prepare({"minus_zero": minus_zero}, {})
        decoder("fp4-nv")(blocks, params, Window(0, 1), out)
        assert set(out.tolist()) == {bits}


def test_the_low_half_comes_first() -> None:
    payload = np.array([[0x21] + [0] * 15], np.uint8)
    for encoding, one in (("fp4-mx", 127), ("fp4-nv", 0x38)):
        scale = np.full((1, 32 // BLOCK[encoding]), one, np.uint8)
        out = np.empty(32, np.float32)
        params = (preparer(encoding) or (lambda *_: {}))({}, {})
        decoder(encoding)({"payload": payload, "scale": scale}, params, Window(0, 1), out)
        assert out[:3].tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("encoding", BLOCK)
def test_shapes_are_checked_before_the_kernel(encoding: str) -> None:
    blocks, _, _ = layer(encoding)
    params = (preparer(encoding) or (lambda *_: {}))({}, {})
    payload, scale = blocks["payload"], blocks["scale"]
    for short in (
        {"payload": payload[:-1]},
        {"payload": payload[:, :-1]},
        {"scale": scale[:, :-1]},
        {"scale": scale[:-1]},
        {"payload": payload[:, :-4], "scale": scale[:, :-1]},
    ):
        with pytest.raises(ValueError, match="do not fit"):
            decoded(encoding, blocks | short, params)


def test_global_scales_have_to_cover_the_rows() -> None:
    prepare = preparer("fp4-nv")
    assert prepare is not None
    wholes = {"global": SimpleNamespace(dtype="F32", array=np.ones(3, np.float32))}
    with pytest.raises(ValueError, match="no rows of a matrix"):
        prepare({}, wholes)
    with pytest.raises(ValueError, match="'add'; allowed is multiply or divide"):
        prepare({"global": "add", "rows": 8}, wholes)
    params = {"rows": 7} | prepare({"rows": 7}, wholes)
    with pytest.raises(ValueError, match="3 global scales of 7 rows each"):
        decoded("fp4-nv", layer("fp4-nv")[0], params)


def test_nothing_to_decode() -> None:
    empty = np.empty((4, 0), np.uint8)
    for encoding in BLOCK:
        params = (preparer(encoding) or (lambda *_: {}))({}, {})
        blocks = {"payload": empty, "scale": empty}
        decoder(encoding)(blocks, params, Window(0, 4), np.empty(0, np.uint16))


@pytest.mark.parametrize(
    "environ",
    [
        {"NUMBA_DISABLE_JIT": "1"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+f16c,+fma"},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    ],
    ids=["no compiler", "haswell", "generic"],
)
def test_elsewhere(environ: dict[str, str], elsewhere: Callable[..., None]) -> None:
    """The same bits without the compiler, and where machines look up bytes, or nothing."""
    chosen = "test_mx or half or columns or (test_nv and stack and reference)"
    elsewhere(chosen, environ)
