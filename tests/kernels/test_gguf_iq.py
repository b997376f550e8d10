"""GGUF's small types: what raw random blocks (`test_gguf_blocks.py`) do not reach for certain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer

DTYPES = (np.uint16, np.float32)
MXFP4, NVFP4, Q2_0, IQ1_M = (
    ENCODINGS[name].ggml_type for name in ("gguf-mxfp4", "gguf-nvfp4", "gguf-q2-0", "gguf-iq1-m")
)


def decode(
    name: str, blocks: np.ndarray, dtype: Any, params: dict[str, Any] | None = None, first: int = 0
) -> np.ndarray:
    out = np.zeros(len(blocks) * ENCODINGS[name].block_elems, dtype)
    blocks.flags.writeable = False
    window = Window(first, first + len(blocks))
    decoder(name)({"payload": blocks}, params or {}, window, out)
    return out


def prepared(scale: list[float], blocks: int) -> dict[str, Any]:
    prepare = preparer("gguf-nvfp4")
    assert prepare is not None
    whole = SimpleNamespace(dtype="F32", array=np.array(scale, "<f4"))
    return prepare({"blocks_per_scale": blocks // len(scale)}, {"scale": whole})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gguf-iq4-nl", "gguf-mxfp4"])
def test_every_code_under_every_scale(name: str, dtype: Any, ggml: Any) -> None:
    row = ENCODINGS[name]
    scale_bytes = row.block_bytes - 16
    scales = np.arange(256**scale_bytes, dtype="<u4").view(np.uint8).reshape(-1, 4)
    blocks = np.empty((len(scales), row.block_bytes), np.uint8)
    blocks[:, :scale_bytes] = scales[:, :scale_bytes]
    blocks[:, scale_bytes:] = np.arange(16) * 0x11 ^ 0xF0
    expected = ggml.by_libggml(row.ggml_type, blocks)
    ggml.assert_same_bits(decode(name, blocks, dtype), expected, blocks)


def test_mxfp4_reads_the_exponents_255_and_0_as_numbers() -> None:
    blocks = np.zeros((2, 17), np.uint8)
    blocks[:, 0] = 255, 0
    blocks[:, 1:] = 0x21  # 0.5 and 1
    out = decode("gguf-mxfp4", blocks, np.float32)
    assert out[0] == 2.0**127
    assert out[16] == np.inf  # 2**128
    assert out[32] == np.float32(2.0**-128)
    assert out[48] == np.float32(2.0**-127)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nvfp4_every_code_under_every_scale(dtype: Any, ggml: Any) -> None:
    blocks = np.empty((64, 36), np.uint8)
    blocks[:, :4] = np.arange(256).reshape(-1, 4)
    blocks[:, 4:] = np.tile(np.arange(8) * 0x11 ^ 0x80, 4)
    expected = ggml.by_libggml(NVFP4, blocks)
    ggml.assert_same_bits(decode("gguf-nvfp4", blocks, dtype), expected, blocks)


SCALES = [1 / 3, -0.1, 0.0, -0.0, 1e-45, 3e38, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
def test_nvfp4_scale_of_the_tensor_multiplies_the_value(
    scale: float, dtype: Any, ggml: Any
) -> None:
    blocks = ggml.every_byte(36)
    with np.errstate(all="ignore"):
        expected = ggml.by_libggml(NVFP4, blocks) * np.float32(scale)
    out = decode("gguf-nvfp4", blocks, dtype, prepared([scale], len(blocks)), first=3)
    ggml.assert_same_bits(out, expected, blocks)


def test_nvfp4_scale_that_is_a_nan_with_any_payload(ggml: Any) -> None:
    for bits in (0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF):
        params = prepared([0.0], 1)
        params["scale"] = np.array([bits], np.uint32).view(np.float32)
        out = decode("gguf-nvfp4", ggml.every_byte(36), np.uint16, params)
        assert (out & 0x7FFF > 0x7F80).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("first", "stop"), [(0, 40), (0, 10), (7, 8), (9, 21), (10, 20), (39, 40)])
def test_nvfp4_scale_of_each_expert(first: int, stop: int, dtype: Any, ggml: Any) -> None:
    scale, each = [1 / 3, 1e-3, 7.0, -1.1], 10
    blocks = ggml.every_byte(36)[: len(scale) * each]
    by_block = np.repeat(np.array(scale, np.float32), each * 64)
    expected = (ggml.by_libggml(NVFP4, blocks) * by_block)[64 * first : 64 * stop]
    part = blocks[first:stop].copy()
    out = decode("gguf-nvfp4", part, dtype, prepared(scale, len(blocks)), first)
    ggml.assert_same_bits(out, expected, part)


@pytest.mark.parametrize("dtype", DTYPES)
def test_q2_0_group_128_is_two_blocks_with_one_scale(dtype: Any, ggml: Any) -> None:
    blocks = np.concatenate([ggml.every_byte(34), ggml.every_scale(34)])
    halves = np.empty((len(blocks), 2, 18), np.uint8)
    halves[:, :, :2] = blocks[:, None, :2]
    halves[:, :, 2:] = blocks[:, 2:].reshape(-1, 2, 16)
    expected = ggml.by_libggml(Q2_0, halves.reshape(-1, 18))
    ggml.assert_same_bits(decode("gguf-q2-0-g128", blocks, dtype), expected, blocks)


@pytest.mark.parametrize("dtype", DTYPES)
def test_iq1_m_every_class_of_its_scattered_scale(dtype: Any, ggml: Any) -> None:
    blocks = np.repeat(ggml.every_byte(56, rounds=1), len(ggml.SCALES), axis=0)
    scales = np.tile(ggml.SCALES, 256)[:, None] >> np.array([0, 4, 8, 12], np.uint16)
    words = blocks[:, 48:].copy().view("<u2") & 0xFFF | (scales & 15) << 12
    blocks[:, 48:] = words.astype("<u2").view(np.uint8)
    expected = ggml.by_libggml(IQ1_M, blocks)
    ggml.assert_same_bits(decode("gguf-iq1-m", blocks, dtype), expected, blocks)


# Decodes FOLDER/NAME.npy to FOLDER/NAME-DTYPE.npy.
_ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np
from anamnesis.kernels import ENCODINGS, Window, decoder
for path in sorted(Path(sys.argv[1]).glob("*.npy")):
    blocks, name = np.load(path), path.stem
    for dtype in ("uint16", "float32"):
        out = np.empty(len(blocks) * ENCODINGS[name].block_elems, dtype)
        decoder(name)({"payload": blocks}, {}, Window(0, len(blocks)), out)
        np.save(path.parent / "out" / f"{name}-{dtype}.npy", out)
"""


def test_cpus_that_look_up_bytes_or_nothing_give_the_same_bits(tmp_path: Path, ggml: Any) -> None:
    names = ("gguf-iq3-s", "gguf-iq4-nl", "gguf-tq1-0")
    (tmp_path / "out").mkdir()
    for name in names:
        np.save(tmp_path / f"{name}.npy", ggml.every_byte(ENCODINGS[name].block_bytes))
    subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(tmp_path)],
        env={**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        check=True,
        timeout=240,
    )
    for name in names:
        blocks = np.load(tmp_path / f"{name}.npy")
        expected = ggml.by_libggml(ENCODINGS[name].ggml_type, blocks)
        for dtype in ("uint16", "float32"):
            out = np.load(tmp_path / "out" / f"{name}-{dtype}.npy")
            ggml.assert_same_bits(out, expected, blocks)
