"""SDNQ's packings bit by bit, its floats as numbers, and shapes that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels.sdnq import float_table, unpack

# Of each byte, where its bits are from, the lowest first: (code, bit).
PACKS: dict[int, list[list[tuple[int, int]]]] = {
    3: [
        [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2), (6, 0), (6, 1)],
        [(1, 0), (1, 1), (1, 2), (4, 0), (4, 1), (4, 2), (7, 0), (7, 1)],
        [(2, 0), (2, 1), (2, 2), (5, 0), (5, 1), (5, 2), (6, 2), (7, 2)],
    ],
    5: [
        [*((0, b) for b in range(5)), (5, 0), (5, 1), (5, 2)],
        [*((1, b) for b in range(5)), (6, 0), (6, 1), (6, 2)],
        [*((2, b) for b in range(5)), (7, 0), (7, 1), (7, 2)],
        [*((3, b) for b in range(5)), (5, 3), (5, 4), (7, 4)],
        [*((4, b) for b in range(5)), (6, 3), (6, 4), (7, 3)],
    ],
    6: [[*((k, b) for b in range(6)), (3, 4 - 2 * k), (3, 5 - 2 * k)] for k in range(3)],
    7: [[*((k, b) for b in range(7)), (7, 6 - k)] for k in range(7)],
}


@pytest.mark.parametrize("bits", PACKS)
def test_unpack(bits: int) -> None:
    count = 4 if bits == 6 else 8
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (50, count), np.uint8)
    packs = np.zeros((50, len(PACKS[bits])), np.uint8)
    for byte, places in enumerate(PACKS[bits]):
        for place, (code, bit) in enumerate(places):
            packs[:, byte] |= (codes[:, code] >> bit & 1) << place
    packs.setflags(write=False)
    np.testing.assert_array_equal(unpack(packs.reshape(-1), bits), codes.reshape(-1))


def test_floats() -> None:
    plain = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert float_table("float4_e2m1fn").tolist() == [*plain, *(-value for value in plain)]
    assert not np.signbit(float_table("float4_e2m1fn")[8])
    assert float_table("float3_e2m1fnu").tolist() == plain
    assert float_table("float2_e1m0fn").tolist() == [0, 2, 0, -2]
    assert float_table("float8_e3m4fn")[0x7F] == 31
    assert np.isnan(float_table("float8_e4m3fn")[0x7F])
    assert float_table("float8_e5m2")[[0x7B, 0x7C]].tolist() == [57344, np.inf]
    for kind in ("float4_e2m2fn", "float4_e0m3fn", "float9_e4m4fn", "int4", "float4_e2m1"):
        with pytest.raises(ValueError, match="is no float"):
            float_table(kind)


def layer(kind: str, bits: int, rows: int, columns: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(bits)
    line = columns * bits // 8
    numbers = rng.standard_normal((2, rows, 2)).astype(np.float32).view(np.uint8)
    blocks = {
        "payload": rng.integers(0, 256, (rows, line), np.uint8),
        "scale": numbers[0].reshape(rows, -1),
        "zero_point": numbers[1].reshape(rows, -1),
    }
    if not kind.startswith("u") and not kind.endswith("u"):
        del blocks["zero_point"]
    scalars = {"kind": kind, "bits": bits, "scale_dtype": "F32", "spatial": ()}
    prepare = preparer("sdnq")
    assert prepare is not None
    about = {"columns": columns, "group_size": columns // 2, "transposed": False, **scalars}
    return blocks, about | prepare(scalars, {})


@pytest.mark.parametrize(
    "kind", ["uint2", "uint5", "int4", "int7", "float4_e2m2fnu", "int8", "uint16"]
)
def test_windows(kind: str) -> None:
    rows, columns, bits = 9, 48, int("".join(filter(str.isdigit, kind.split("_")[0])))
    blocks, params = layer(kind, bits, rows, columns)
    decode, whole = decoder("sdnq"), np.empty(rows * columns, np.uint16)
    decode(blocks, params, Window(0, rows), whole)
    for first in range(0, rows, 4):
        last = min(rows, first + 4)
        out = np.empty((last - first) * columns, np.uint16)
        decode(
            {n: part[first:last] for n, part in blocks.items()}, params, Window(first, last), out
        )
        np.testing.assert_array_equal(out, whole[first * columns : last * columns])


def test_what_does_not_fit() -> None:
    blocks, params = layer("uint4", 4, 4, 32)
    out, decode = np.empty(128, np.uint16), decoder("sdnq")
    for role in blocks:
        with pytest.raises(ValueError, match="rows of"):
            decode(blocks | {role: blocks[role][:-1]}, params, Window(0, 4), out)
    with pytest.raises(ValueError, match="rows of"):
        decode(blocks, params, Window(0, 4), out[:-1])
    with pytest.raises(ValueError, match="rows of"):
        decode(blocks, params, Window(0, 3), out)


def test_without_jit() -> None:
    test = f"{__file__}::test_windows"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
