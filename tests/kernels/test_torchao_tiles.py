"""Tiles of torchao's INT4 put into rows, against PyTorch's description of them in loops."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import Window, decoder
from anamnesis.kernels.torchao_tiles import AMD, NVIDIA, untile

ROWS, INPUTS = 32, 256


def packed(codes: Any, tile: int, words: int) -> Any:
    """Words of codes `[rows, inputs]`, element by element."""
    rows, inputs = codes.shape
    steps, lanes = inputs // (32 * words), 4 * tile
    found = np.zeros((rows // tile, steps, lanes, words), np.uint32)
    for lane in range(lanes):
        row, quarter = (lane // 4, lane % 4) if tile == NVIDIA else (lane % 16, lane // 16)
        for word in range(words):
            for place in range(4):
                pair = (
                    4 * place + quarter
                    if tile == NVIDIA
                    else 8 * (place // 2) + 2 * quarter + place % 2
                )
                for odd in (0, 1):
                    column = 32 * word + 2 * pair + odd
                    part = codes.reshape(rows // tile, tile, steps, 32 * words)[:, row, :, column]
                    found[:, :, lane, word] |= part.astype(np.uint32) << (4 * place + 16 * odd)
    return found.reshape(rows // tile, -1).view(np.uint8)


@pytest.mark.parametrize("tile", [NVIDIA, AMD])
@pytest.mark.parametrize("words", [1, 2, 4])
def test_untile(tile: int, words: int) -> None:
    codes = np.random.default_rng(words).integers(0, 16, (ROWS, INPUTS), np.uint8)
    payload = packed(codes, tile, words)
    payload.setflags(write=False)
    found = untile(payload, ROWS // tile, tile, words)
    signed = codes ^ 8  # of two's complement
    np.testing.assert_array_equal(found, signed[:, ::2] | signed[:, 1::2] << 4)
    with pytest.raises(ValueError, match="units of"):
        untile(payload[:, :-4], ROWS // tile, tile, words)
    with pytest.raises(ValueError, match="units of"):
        untile(payload, ROWS // tile, tile, 3)


def test_windows_and_what_fills_up() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 16, (ROWS, INPUTS), np.uint8)
    numbers = rng.standard_normal((INPUTS // 32, ROWS, 2)).astype(np.float32)
    held = numbers.view(np.uint32) >> 16
    wide = (held << 16).view(np.float32)
    scale, zero = (np.repeat(wide[..., part].T, 32, 1) for part in (0, 1))
    values = (codes.astype(np.float32) - 8) * scale + zero
    payload, parts = packed(codes, NVIDIA, 2), held.astype("<u2").view(np.uint8).reshape(8, -1)
    params = {"tile_rows": 8, "words": 2, "in_features": 250, "group_size": 32}
    decode = decoder("torchao-tinygemm")
    for first, last, rows in ((0, 4, 29), (1, 3, 16), (3, 4, 1)):
        out = np.empty(rows * 250, np.float32)
        blocks = {
            "payload": payload[first:last],
            "scale_and_zero": parts[:, 32 * first : 32 * last],
        }
        decode(blocks, params, Window(first, last), out)
        np.testing.assert_array_equal(
            out.reshape(rows, 250), values[8 * first : 8 * first + rows, :250]
        )
    whole = {"payload": payload, "scale_and_zero": parts}
    for bad, size, words in (
        ({"scale_and_zero": parts[:, :-4]}, 29, "scale_and_zero"),
        ({"scale_and_zero": parts[:-1]}, 29, "scale_and_zero"),
        ({}, 33, "out"),
        ({}, 24, "out"),
    ):
        with pytest.raises(ValueError, match=words):
            decode(whole | bad, params, Window(0, 4), np.empty(size * 250, np.float32))


def test_without_jit() -> None:
    test = f"{__file__}::test_windows_and_what_fills_up"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
