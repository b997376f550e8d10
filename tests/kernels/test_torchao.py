"""torchao's own kernels against the same formula in numpy, and torchao's order of tiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels.torchao import untile

ROWS, COLUMNS = 40, 192
RAW = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


class Whole(NamedTuple):
    dtype: str
    array: Any


def same(found: Any, wanted: Any) -> None:
    """Bit for bit; NaNs have to be NaNs."""
    found = found.view(wanted.dtype).reshape(wanted.shape)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), nan)
    bits = np.dtype(f"u{wanted.itemsize}")
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])


def frozen(array: Any) -> Any:
    array.setflags(write=False)
    return array


def int4(dtype: str, size: int, odd: bool = False) -> tuple[dict[str, Any], Any]:
    """Blocks, and the values in float32."""
    rng = np.random.default_rng(size)
    payload = rng.integers(0, 256, (ROWS, COLUMNS // 2), np.uint8)
    codes = np.stack([payload & 15, payload >> 4], -1).reshape(ROWS, COLUMNS)
    numbers = (codes.astype(np.int8) ^ 8) - 8
    shape = COLUMNS // size, ROWS
    with np.errstate(all="ignore"):
        scale, zero = (rng.standard_normal(shape).astype(RAW[dtype]) for _ in range(2))
        if odd:
            scale.reshape(-1)[:4] = [np.nan, np.inf, 0, -0.0]
            zero.reshape(-1)[2:6] = [np.nan, -np.inf, 0, -0.0]
        s, z = (np.repeat(n.astype(np.float32).T, size, 1) for n in (scale, zero))
        values = numbers.astype(np.float32) * s + z
    blocks = {
        "payload": frozen(payload),
        "scale": frozen(scale.view(np.uint8).reshape(shape[0], -1)),
        "zero_point": frozen(zero.view(np.uint8).reshape(shape[0], -1)),
    }
    return blocks, values


def decoded(blocks: Any, params: Any, dtype: Any, step: int = ROWS) -> Any:
    each, out = params["scale_bytes"], []
    for start in range(0, ROWS, step):
        stop = min(start + step, ROWS)
        part = {"payload": blocks["payload"][start:stop]}
        part |= {
            role: blocks[role][:, start * each : stop * each] for role in ("scale", "zero_point")
        }
        out.append(np.empty((stop - start) * COLUMNS, dtype))
        decoder("torchao-int4")(part, params, Window(start, stop), out[-1])
    return np.concatenate(out)


@pytest.mark.parametrize("dtype", RAW)
@pytest.mark.parametrize("size", [2, 6, 16, 32, 48, 64, 96, 192])
@pytest.mark.parametrize("odd", [False, True])
def test_int4(dtype: str, size: int, odd: bool) -> None:
    blocks, values = int4(dtype, size, odd)
    params = {"group_size": size, "scale_dtype": dtype}
    params["scale_bytes"] = np.dtype(RAW[dtype]).itemsize
    with np.errstate(all="ignore"):
        rounded = values.astype(ml_dtypes.bfloat16)
    for step in (ROWS, 7, 1):
        same(decoded(blocks, params, np.uint16, step), rounded)
        same(decoded(blocks, params, np.float32, step), values)


def test_int4_shapes_are_checked() -> None:
    blocks, _ = int4("BF16", 32)
    params = {"group_size": 32, "scale_dtype": "BF16"}
    out, window = np.empty(ROWS * COLUMNS, np.uint16), Window(0, ROWS)
    decode = decoder("torchao-int4")
    for bad in (
        {"payload": blocks["payload"][:-1]},
        {"payload": blocks["payload"][:, :-1]},
        {"scale": blocks["scale"][:-1]},
        {"scale": blocks["scale"][:, :-2]},
        {"zero_point": blocks["zero_point"][:-1]},
        {"zero_point": blocks["zero_point"][:, :-2]},
    ):
        with pytest.raises(ValueError, match="in groups of 32"):
            decode(blocks | bad, params, window, out)
    with pytest.raises(ValueError, match="in groups of 32"):
        decode(blocks, params, window, out[:-1])
    with pytest.raises(ValueError, match="in groups of 3"):
        decode(blocks, params | {"group_size": 3}, window, out)


def in_tiles(scale: Any) -> Any:
    """`to_blocked` of torchao/prototype/mx_formats/utils.py, in loops."""
    rows, blocks = scale.shape
    down, across = -(-rows // 128), -(-blocks // 4)
    tiles = np.full((down, across, 512), 0x55, np.uint8)
    for row in range(rows):
        for block in range(blocks):
            at = 16 * (row % 32) + 4 * (row % 128 // 32) + block % 4
            tiles[row // 128, block // 4, at] = scale[row, block]
    return tiles.reshape(down, across * 512)


SHAPES = [(1, 1), (128, 4), (33, 5), (130, 3), (260, 9)]


@pytest.mark.parametrize(("rows", "blocks"), SHAPES)
def test_untile(rows: int, blocks: int) -> None:
    scale = np.random.default_rng(1).integers(0, 256, (rows, blocks), np.uint8)
    tiles = frozen(in_tiles(scale).reshape(-1))
    np.testing.assert_array_equal(untile(tiles, rows, blocks), scale)
    with pytest.raises(ValueError, match="tiles"):
        untile(tiles[:-1], rows, blocks)


@pytest.mark.parametrize(("encoding", "size"), [("mxfp4", 32), ("nvfp4", 16)])
@pytest.mark.parametrize(("rows", "blocks"), SHAPES)
def test_fp4_in_tiles(encoding: str, size: int, rows: int, blocks: int) -> None:
    """As the kernels of plain scales, which are tested on their own."""
    rng = np.random.default_rng(2)
    columns = blocks * size
    scale = rng.integers(0, 256, (rows, blocks), np.uint8)
    payload = rng.integers(0, 256, (rows, columns // 2), np.uint8)
    tiles, units = in_tiles(scale), -(-rows // 128)
    filled = np.zeros((units * 128, columns // 2), np.uint8)
    filled[:rows] = payload
    filled = filled.reshape(units, -1)
    stack = Whole("F32", np.array([0.3, 1.7, -4], np.float32))
    wholes = {"global": stack} if encoding == "nvfp4" and not rows % 2 else {}
    scalars = {"in_features": columns, "rows": 128 if rows == 128 else -(-rows // 3)}
    if rows == 128:
        stack.array[1:] = np.nan
    prepare = preparer(f"torchao-{encoding}-tiles")
    params = scalars | (prepare(scalars, wholes) if prepare else {})
    wanted = np.empty(rows * columns, np.uint16)
    parts = {"payload": payload, "scale": scale}
    decoder(f"fp4-{encoding[:2]}")(parts, params, Window(0, rows), wanted)
    decode = decoder(f"torchao-{encoding}-tiles")
    for step in (units, 1):
        for first in range(0, units, step):
            last = min(rows, 128 * (first + step))
            out = np.empty((last - 128 * first) * columns, np.uint16)
            window = slice(first, first + step)
            part = {"payload": frozen(filled[window]), "scale": frozen(tiles[window])}
            decode(part, params, Window(first, min(units, first + step)), out)
            np.testing.assert_array_equal(out, wanted[128 * first * columns : last * columns])


@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_fp8_in_tiles(kind: str) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (2 * 128, 96), np.uint8)
    scale = rng.integers(0, 255, (2 * 128, 3), np.uint8)
    prepare = preparer(f"torchao-mxfp8-{kind}-tiles")
    plain = preparer(f"fp8-{kind}")
    assert prepare is not None
    assert plain is not None
    scalars = {"block": (1, 32), "grid": (2, 128, 3), "rows": 128}
    found = prepare(scalars, {"scale": Whole("F8_E8M0", frozen(in_tiles(scale)))})
    wanted = plain(scalars, {"scale": Whole("F8_E8M0", scale)})
    np.testing.assert_array_equal(found["scale"], wanted["scale"])
    outs = []
    for params, encoding in ((found, f"torchao-mxfp8-{kind}-tiles"), (wanted, f"fp8-{kind}")):
        outs.append(np.empty(codes.size, np.uint16))
        decoder(encoding)({"payload": codes}, scalars | params, Window(0, 256), outs[-1])
    np.testing.assert_array_equal(outs[0], outs[1])


def test_tiles_are_checked() -> None:
    decode = decoder("torchao-mxfp4-tiles")
    parts = {"payload": np.zeros((1, 128 * 16), np.uint8), "scale": np.zeros((1, 512), np.uint8)}
    out, params = np.empty(100 * 32, np.uint16), {"in_features": 32}
    decode(parts, params, Window(0, 1), out)
    with pytest.raises(ValueError, match="tiles"):
        decode(parts | {"scale": parts["scale"][:, :-1]}, params, Window(0, 1), out)
    with pytest.raises(ValueError, match="payload: 1599 bytes"):
        decode(parts | {"payload": parts["payload"][:, :1599]}, params, Window(0, 1), out)
    with pytest.raises(ValueError, match=r"out \(3199,\) for units"):
        decode(parts, params, Window(0, 1), out[:-1])
    with pytest.raises(ValueError, match=r"out \(3200,\) for units"):
        decode(parts, params, Window(0, 2), out)
    with pytest.raises(ValueError, match=r"out \(3200,\) for units"):
        decode(parts, {"in_features": 10}, Window(0, 1), out)


def test_nothing_to_decode() -> None:
    empty = {"payload": np.empty((0, 16), np.uint8)}
    empty |= {role: np.empty((1, 0), np.uint8) for role in ("scale", "zero_point")}
    params = {"group_size": 32, "scale_dtype": "BF16"}
    decoder("torchao-int4")(empty, params, Window(0, 0), np.empty(0, np.uint16))


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="is the run without JIT")
def test_without_jit() -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_torchao as t\n"
        "for size in (6, 48, 64): t.test_int4('F16', size, True)\n"
        "t.test_fp4_in_tiles('nvfp4', 16, 33, 5)\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=root)
