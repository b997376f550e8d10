"""FP8 kernels against ml_dtypes, bit for bit: all codes, all formats, awkward scales."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer

FORMATS = {
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
    "fp8-e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}
CODES = np.arange(256, dtype=np.uint8)
JIT = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0"

# Bits of float32 scales: ordinary ones, powers of two, ties, subnormals, huge ones, zeros,
# infinities and NaNs whose payload would overflow in a careless rounding.
SCALES = np.array(
    """3F800000 BF800000 39123457 3F808000 3F818000 3FFFFFFF 3F7FFFFF 00800000 00000001 807FFFFF
    00400000 0C000001 04000000 7F7FFFFF 7B800000 7C000000 7C7FFFFF FB812345 77812345 7A000001
    76FFFFFF 00000000 80000000 7F800000 FF800000 7FC00000 7FFFFFFF FF800001""".split()
)
SCALES = np.array([int(bits, 16) for bits in SCALES], np.uint32).view(np.float32)


def random_scales(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 2**32, count, np.uint32).view(np.float32)


def expected(encoding: str, codes: Any, scales: Any, out_dtype: Any) -> Any:
    """ml_dtypes' value of every code, numpy's float32 product, ml_dtypes' rounding."""
    with np.errstate(all="ignore"):
        product = codes.view(FORMATS[encoding]).astype(np.float32) * scales.astype(np.float32)
        if out_dtype == np.float32:
            return product
        return product.astype(ml_dtypes.bfloat16).view(np.uint16)


def assert_same(found: Any, wanted: Any) -> None:
    kind = np.float32 if found.dtype == np.float32 else ml_dtypes.bfloat16
    bits = np.uint32 if found.dtype == np.float32 else np.uint16
    nan = np.isnan(wanted.view(kind))
    np.testing.assert_array_equal(np.isnan(found.view(kind)), nan)
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])
    quiet = np.uint32(0x00400000) if found.dtype == np.float32 else np.uint16(0x40)
    assert np.all(found.view(bits)[nan] & quiet), "a signalling NaN came out"


def decode(
    encoding: str,
    codes: Any,
    scale: Any,
    block: tuple[int, int],
    *,
    dtype: str = "F32",
    out_dtype: Any = np.uint16,
    start: int = 0,
    stop: int | None = None,
    read_only: bool = False,
) -> Any:
    """Rows `[start, stop)` of a stack `codes` `[E, o, i]`, with a scale array of any shape."""
    matrices, rows, columns = codes.shape
    grid = -(-rows // block[0]), -(-columns // block[1])
    scalars = {
        "block": block,
        "rows": rows,
        "grid": (scale.size // max(1, grid[0] * grid[1]), *grid),
    }
    whole = SimpleNamespace(dtype=dtype, array=scale)
    prepared = preparer(encoding)(scalars, {"scale": whole})  # type: ignore[misc]
    stop = matrices * rows if stop is None else stop
    payload = codes.reshape(-1, columns)[start:stop]
    if read_only:
        payload = np.frombuffer(payload.tobytes(), np.uint8).reshape(payload.shape)
    out = np.full(payload.size, 0x5A5A, out_dtype)
    decoder(encoding)({"payload": payload}, {**scalars, **prepared}, Window(start, stop), out)
    return out.reshape(payload.shape)


def spread(scale: Any, block: tuple[int, int], shape: tuple[int, int, int]) -> Any:
    """A grid `[E or 1, gr, gc]` repeated over the elements it covers."""
    full = np.repeat(np.repeat(scale, block[0], 1), block[1], 2)[:, : shape[1], : shape[2]]
    return np.broadcast_to(full, shape)


def test_every_row_of_the_table_is_covered() -> None:
    rows = {name for name, row in ENCODINGS.items() if row.target.startswith("fp8:")}
    assert rows == set(FORMATS)


@pytest.mark.parametrize("columns", [256, 1024])  # short rows, and such that merit a table
@pytest.mark.parametrize("out_dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("encoding", FORMATS)
def test_all_codes_under_awkward_scales(encoding: str, out_dtype: Any, columns: int) -> None:
    scales = np.concatenate([SCALES, random_scales(2_000 if JIT else 20)])
    codes = np.resize(CODES, (1, len(scales), columns))
    found = decode(encoding, codes, scales, (1, columns), out_dtype=out_dtype)
    assert_same(found, expected(encoding, codes[0], scales[:, None], out_dtype))


@pytest.mark.parametrize("out_dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("encoding", FORMATS)
def test_all_codes_under_a_scale_a_column(encoding: str, out_dtype: Any) -> None:
    scales = np.concatenate([SCALES, random_scales(36, 1)])
    codes = np.repeat(CODES[:, None], len(scales), 1)[None].copy()
    for some in (scales, scales[:19], scales[np.abs(scales) < 1e30]):
        part = np.ascontiguousarray(codes[:, :, : len(some)])
        found = decode(encoding, part, some, (256, 1), out_dtype=out_dtype)
        assert_same(found, expected(encoding, part[0], some[None, :], out_dtype))


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("kind", ["F8_E8M0", "U8"])
def test_all_exponent_scales(encoding: str, kind: str) -> None:
    codes = np.broadcast_to(CODES, (1, 256, 256)).copy()
    scales = CODES.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    found = decode(encoding, codes, CODES, (1, 256), dtype=kind)
    assert_same(found, expected(encoding, codes[0], scales[:, None], np.uint16))


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("F32", np.array([[1.5, -3e-9]], np.float32)),
        ("F64", np.array([[1.1, 1e-320]])),
        ("F16", np.array([[0.1, 6e-8]], np.float16)),
        ("BF16", np.array([[0x3E99, 0x0001]], np.uint16)),
    ],
)
def test_scale_dtypes(kind: str, array: Any) -> None:
    numbers = array.view(ml_dtypes.bfloat16) if kind == "BF16" else array
    with np.errstate(under="ignore"):
        scales = spread(numbers.astype(np.float32)[None], (1, 128), (1, 1, 256))
    found = decode("fp8-e4m3", CODES.reshape(1, 1, 256), array, (1, 128), dtype=kind)
    assert_same(found, expected("fp8-e4m3", CODES[None], scales[0], np.uint16))


GRIDS = [
    # shape [E, o, i], block, scales a matrix or shared
    ((1, 200, 256), (128, 128), False),
    ((1, 130, 200), (128, 128), False),
    ((1, 129, 577), (128, 128), False),
    ((3, 129, 300), (128, 128), False),
    ((2, 65, 100), (32, 32), False),
    ((1, 7, 96), (1, 32), False),
    ((1, 7, 81), (1, 32), False),
    ((2, 5, 160), (1, 32), False),
    ((3, 6, 40), (6, 40), False),
    ((3, 6, 40), (6, 40), True),
    ((2, 6, 45), (1, 45), False),
    ((2, 6, 45), (6, 1), False),
    ((2, 6, 45), (4, 1), True),
    ((1, 10, 50), (3, 7), False),
    ((1, 10, 33), (4, 33), False),
    ((4, 3, 3), (3, 3), False),
    ((1, 1, 1), (1, 1), False),
    ((1, 5, 31), (2, 16), False),
    ((1, 9, 392), (128, 128), False),
    ((1, 5, 16_640), (128, 128), False),
    ((1, 5, 16_901), (128, 128), False),
]


@pytest.mark.parametrize("out_dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(("shape", "block", "shared"), GRIDS)
def test_grids_and_windows(
    shape: tuple[int, int, int], block: tuple[int, int], shared: bool, out_dtype: Any
) -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, shape, np.uint8)
    grid = 1 if shared else shape[0], -(-shape[1] // block[0]), -(-shape[2] // block[1])
    scales = rng.standard_normal(grid).astype(np.float32)
    if not JIT and codes.size > 50_000:
        pytest.skip("slow without a compiler")
    flat = spread(scales, block, shape).reshape(-1, shape[2])
    wanted = expected("fp8-e4m3", codes.reshape(-1, shape[2]), flat, out_dtype)
    rows = len(wanted)
    starts = range(rows) if rows < 20 else [0, 1, 63, 127, 128, 129, rows - 1]
    for start in (s for s in starts if s < rows):
        for stop in {start, start + 1, min(rows, start + 70), rows}:
            found = decode(
                "fp8-e4m3", codes, scales, block,
                out_dtype=out_dtype, start=start, stop=stop, read_only=start % 2 == 1,
            )  # fmt: skip
            assert_same(found, wanted[start:stop])


@pytest.mark.parametrize("encoding", FORMATS)
def test_neighbours_are_left_alone(encoding: str) -> None:
    """A window writes its own elements and no others, whatever the width of a machine's step."""
    for columns in (1, 5, 31, 32, 33, 63, 95, 130):
        memory = np.full(2 * columns + 40, 0xBEEF, np.uint16)
        payload = np.resize(CODES, (2, columns))
        scalars = {"block": (2, columns), "rows": 2, "grid": (1, 1, 1)}
        params = {**scalars, **preparer(encoding)(scalars, {})}  # type: ignore[misc]
        out = memory[20:-20]
        decoder(encoding)({"payload": payload}, params, Window(0, 2), out)
        assert np.all(memory[:20] == 0xBEEF)
        assert np.all(memory[-20:] == 0xBEEF)
        ones = np.ones((2, 1), np.float32)
        assert_same(out.reshape(2, columns), expected(encoding, payload, ones, np.uint16))


OTHER_CPU = """
import sys
import numpy as np
from anamnesis.kernels import Window, decoder

case = np.load(sys.argv[1])
codes, outs = case["codes"], {}
for name in ("64x64", "1x32", "64x1", "1x300"):
    block = tuple(map(int, name.split("x")))
    params = {"block": block, "rows": len(codes), "scale": case[name]}
    for encoding in sys.argv[3:]:
        for dtype in (np.uint16, np.float32):
            out = np.empty(codes.size, dtype)
            decoder(encoding)({"payload": codes}, params, Window(0, len(codes)), out)
            outs[encoding + name + np.dtype(dtype).name] = out
np.savez(sys.argv[2], **outs)
"""


@pytest.mark.skipif(not JIT or platform.machine() != "x86_64", reason="machine code for x86")
@pytest.mark.parametrize(
    ("cpu", "features"), [("haswell", "+avx,+avx2,+f16c,+fma"), ("generic", "")]
)
def test_cpus_without_the_instructions(cpu: str, features: str, tmp_path: Path) -> None:
    """AVX2 has no tables in registers, and the oldest x86 no conversion of binary16 either."""
    rng = np.random.default_rng(4)
    shape, blocks = (1, 64, 300), {"64x64": (64, 64), "1x32": (1, 32), "64x1": (64, 1)}
    blocks["1x300"] = (1, 300)
    codes = rng.integers(0, 256, shape, np.uint8)
    scales: dict[str, Any] = {}
    for name, block in blocks.items():
        grid = (1, -(-64 // block[0]), -(-300 // block[1]))
        scales[name] = np.resize([0.3, -7e-9, 2.0**121, 3e-39, 1.1], grid).astype(np.float32)
    np.savez(tmp_path / "case.npz", codes=codes[0], **scales)
    environ = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    environ["ANAMNESIS_CACHE"] = str(tmp_path)
    command = [sys.executable, "-c", OTHER_CPU, "case.npz", "outs.npz", *FORMATS]
    subprocess.run(command, env=environ, cwd=tmp_path, check=True)
    outs = np.load(tmp_path / "outs.npz")
    for name, block in blocks.items():
        flat = spread(scales[name], block, shape)[0]
        for encoding in FORMATS:
            for dtype in (np.uint16, np.float32):
                found = outs[encoding + name + np.dtype(dtype).name].reshape(64, 300)
                assert_same(found, expected(encoding, codes[0], flat, dtype))


@pytest.mark.parametrize("block", [(64, 64), (1, 32), (64, 1), (1, 300), (64, 300)])
@pytest.mark.parametrize("encoding", FORMATS)
def test_every_path_of_every_format(encoding: str, block: tuple[int, int]) -> None:
    """By tables, by lanes, and code by code, with every code under every kind of scale."""
    codes = np.resize(CODES, (1, 64, 300))
    grid = (1, -(-64 // block[0]), -(-300 // block[1]))
    scales = np.resize(SCALES, grid)
    found = decode(encoding, codes, scales, block)
    assert_same(
        found, expected(encoding, codes[0], spread(scales, block, codes.shape)[0], np.uint16)
    )


def test_one_scale_that_is_no_number_does_not_touch_the_rest() -> None:
    codes = np.random.default_rng(3).integers(0, 256, (1, 256, 300), np.uint8)
    scales = np.ones((1, 2, 3), np.float32)
    scales[0, 1, 1] = np.nan
    found = decode("fp8-e4m3", codes, scales, (128, 128))
    flat = spread(scales, (128, 128), codes.shape)[0]
    assert_same(found, expected("fp8-e4m3", codes[0], flat, np.uint16))


@pytest.mark.parametrize("shape", [(0, 7), (3, 0)])
def test_empty(shape: tuple[int, int]) -> None:
    params = {"block": (4, 7), "rows": 4, "scale": np.ones((1, 1, 1), np.float32)}
    out = np.zeros(0, np.uint16)
    payload = np.zeros(shape, np.uint8)
    decoder("fp8-e4m3")({"payload": payload}, params, Window(0, shape[0]), out)


def test_a_wrong_size_is_refused() -> None:
    params = {"block": (2, 4), "rows": 2, "scale": np.ones((1, 1, 1), np.float32)}
    payload = np.zeros((2, 4), np.uint8)
    with pytest.raises(ValueError, match="out"):
        decoder("fp8-e4m3")({"payload": payload}, params, Window(0, 2), np.zeros(7, np.uint16))
    with pytest.raises(ValueError, match="out"):
        decoder("fp8-e4m3")({"payload": payload}, params, Window(0, 1), np.zeros(8, np.uint16))
