"""The codebooks in kernels/data: their source, and every entry against ggml's C decoders.

Blocks are packed here so that ggml's output *is* the entry: signs and scale bits are 0, and `d` is
the inverse of what the format multiplies by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loaded import loaded

from anamnesis.kernels import ENCODINGS, Window, decoder
from anamnesis.kernels._grids import read

DATA = Path(decoder("gguf-iq2-s").__code__.co_filename).parent / "data"
GROUP = {"gguf-iq3-xxs": 4, "gguf-iq3-s": 4}  # numbers a point, where not 8


def start(name: str, points: int, d: float) -> tuple[np.ndarray, np.ndarray]:
    """Zeroed blocks with scale `d`, and `[blocks, points a block]` indices, each of them once."""
    indices = np.arange(points).reshape(-1, 256 // GROUP.get(name, 8))
    blocks = np.zeros((len(indices), ENCODINGS[name].block_bytes), np.uint8)
    blocks[:, :2] = np.array([d], "<f2").view(np.uint8)
    return blocks, indices


def gather(indices: np.ndarray, each: int, first: int, step: int) -> np.ndarray:
    """Bits 8 and up of `each` indices, joined from bit `first` on, `step` bits apart."""
    high = (indices >> 8).reshape(len(indices), -1, each)
    return (high << (first + step * np.arange(each))).sum(2)


def iq1_s() -> np.ndarray:
    blocks, indices = start("gguf-iq1-s", 2048, 1)
    blocks[:, 2:34] = indices
    blocks[:, 34:] = gather(indices, 4, 0, 3).astype("<u2").view(np.uint8)
    return blocks


def iq1_m() -> np.ndarray:
    blocks, indices = start("gguf-iq1-m", 2048, 0)
    blocks[:, :32] = indices
    blocks[:, 32:48] = gather(indices, 2, 0, 4)
    blocks[:, 48:] = (np.array([0, 0, 0xC, 0x3], "<u2") << 12).view(np.uint8)  # 0x3C00, 1.0
    return blocks


def iq2_xxs() -> np.ndarray:
    blocks, indices = start("gguf-iq2-xxs", 256, 8)
    blocks[:, 2:].reshape(-1, 8, 8)[:, :, :4] = indices.reshape(-1, 8, 4)
    return blocks


def iq2_xs() -> np.ndarray:
    blocks, indices = start("gguf-iq2-xs", 512, 8)
    blocks[:, 2:66] = indices.astype("<u2").view(np.uint8)
    return blocks


def iq2_s() -> np.ndarray:
    blocks, indices = start("gguf-iq2-s", 1024, 8)
    blocks[:, 2:34] = indices
    blocks[:, 66:74] = gather(indices, 4, 0, 2)
    return blocks


def iq3_xxs() -> np.ndarray:
    blocks, indices = start("gguf-iq3-xxs", 256, 4)
    blocks[:, 2:66] = indices
    return blocks


def iq3_s() -> np.ndarray:
    blocks, indices = start("gguf-iq3-s", 512, 1)
    blocks[:, 2:66] = indices
    blocks[:, 66:74] = gather(indices, 8, 0, 1)
    return blocks


CASES = {
    "gguf-iq1-m": (iq1_m, "iq1s_grid", 0.125),
    "gguf-iq1-s": (iq1_s, "iq1s_grid", 0.125),
    "gguf-iq2-s": (iq2_s, "iq2s_grid", 0),
    "gguf-iq2-xs": (iq2_xs, "iq2xs_grid", 0),
    "gguf-iq2-xxs": (iq2_xxs, "iq2xxs_grid", 0),
    "gguf-iq3-s": (iq3_s, "iq3s_grid", 0),
    "gguf-iq3-xxs": (iq3_xxs, "iq3xxs_grid", 0),
}


@pytest.mark.parametrize("name", CASES)
def test_every_point_is_that_of_ggml(name: str, ggml: Any) -> None:
    make, table, shift = CASES[name]
    blocks = make().astype(np.uint8)
    expected = ggml.by_libggml(ENCODINGS[name].ggml_type, blocks)
    assert np.array_equal(expected, read(table).reshape(-1) + np.float32(shift))
    out = np.empty(expected.size, np.float32)
    decoder(name)({"payload": blocks}, {}, Window(0, len(blocks)), out)
    assert np.array_equal(out, expected)


def test_every_byte_of_signs_is_that_of_ggml(ggml: Any) -> None:
    blocks, _ = start("gguf-iq2-xxs", 128, 8)
    signs = np.arange(128, dtype=np.uint32).reshape(-1, 8, 4) << np.array([0, 7, 14, 21], np.uint32)
    words = blocks[:, 2:].reshape(-1, 8, 8)
    words[:, :, 4:] = signs.sum(2, dtype=np.uint32)[:, :, None].view(np.uint8)
    expected = ggml.by_libggml(ENCODINGS["gguf-iq2-xxs"].ggml_type, blocks)
    found = np.packbits(np.signbit(expected).reshape(-1, 8), axis=1, bitorder="little")
    assert np.array_equal(found[:, 0], read("ksigns_iq2xs"))


def test_the_files_are_what_the_script_makes() -> None:
    made = loaded("data/make_iq_grids.py").tables()
    assert {path.stem for path in DATA.glob("*.npy")} == set(made)
    for name, table in made.items():
        stored = read(name)
        assert stored.dtype == table.dtype
        assert np.array_equal(stored, table)
