"""Every GGUF block type in the table of encodings, bit for bit against ggml's own decoders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer

# ggml's own; those of ik_llama.cpp, from 133 on, are held to its code in tests/conformance.
NAMES = sorted(name for name, row in ENCODINGS.items() if 0 <= row.ggml_type < 133)
DTYPES = (np.uint16, np.float32)


def params_of(name: str) -> dict[str, Any]:
    prepare = preparer(name)
    return prepare({}, {}) if prepare else {}


def decode(name: str, blocks: np.ndarray, dtype: Any, guard: int = 64) -> np.ndarray:
    """The output of a kernel, once nothing was seen to be written on either side of it."""
    elems = len(blocks) * ENCODINGS[name].block_elems
    around = np.full(guard + elems + guard, 0xA5A5, np.uint16).astype(dtype)
    before = around.copy()
    out = around[guard : guard + elems]
    decoder(name)({"payload": blocks}, params_of(name), Window(0, len(blocks)), out)
    assert np.array_equal(around[:guard], before[:guard])
    assert np.array_equal(around[guard + elems :], before[guard + elems :])
    return out


def some_blocks(ggml: Any, name: str, count: int) -> np.ndarray:
    blocks: np.ndarray = ggml.every_byte(ENCODINGS[name].block_bytes, seed=count)[:count]
    return blocks


@pytest.mark.parametrize("name", NAMES)
def test_geometry_is_that_of_ggml(name: str, ggml: Any) -> None:
    row = ENCODINGS[name]
    assert (row.block_elems, row.block_bytes) == ggml.geometry(row.ggml_type)


@pytest.mark.parametrize("corner", ["every_byte", "every_scale"])
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_ggml_and_of_gguf(name: str, corner: str, ggml: Any) -> None:
    row = ENCODINGS[name]
    blocks = getattr(ggml, corner)(row.block_bytes)
    blocks.flags.writeable = False
    expected = ggml.by_libggml(row.ggml_type, blocks)
    second = ggml.by_gguf(row.ggml_type, blocks)
    for dtype in DTYPES:
        out = decode(name, blocks, dtype)
        ggml.assert_same_bits(out, expected, blocks)
        if second is not None:
            ggml.assert_same_bits(out, second, blocks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_few_blocks(name: str, count: int, dtype: Any, ggml: Any) -> None:
    blocks = some_blocks(ggml, name, count)
    expected = ggml.by_libggml(ENCODINGS[name].ggml_type, blocks)
    ggml.assert_same_bits(decode(name, blocks, dtype), expected, blocks)


@pytest.mark.parametrize("name", NAMES)
def test_any_alignment_writable_or_not(name: str, ggml: Any) -> None:
    blocks = some_blocks(ggml, name, 5)
    expected = ggml.by_libggml(ENCODINGS[name].ggml_type, blocks)
    for shift in (1, 2, 3, 5):
        held = np.empty(blocks.size + shift, np.uint8)
        view = held[shift:].reshape(blocks.shape)
        view[:] = blocks
        ggml.assert_same_bits(decode(name, view, np.uint16), expected, blocks)
        assert view.flags.writeable
        view.flags.writeable = False
        ggml.assert_same_bits(decode(name, view, np.uint16), expected, blocks)


@pytest.mark.parametrize("name", NAMES)
def test_an_output_of_another_size_is_refused(name: str, ggml: Any) -> None:
    elems = ENCODINGS[name].block_elems
    for blocks, size in ((2, 2 * elems - 1), (2, 2 * elems + 1), (0, 1), (1, 0)):
        views = {"payload": some_blocks(ggml, name, blocks)}
        with pytest.raises(ValueError, match="out"):
            decoder(name)(views, params_of(name), Window(0, blocks), np.empty(size, np.uint16))


# Decodes one block a type, `FOLDER/NAME.npy`, to `FOLDER/out/NAME-DTYPE.npy`. The block lies
# against the end of a mapping: the page after it cannot be read.
_ALONE = """
import ctypes, mmap, sys
from pathlib import Path
import numpy as np
from anamnesis.kernels import ENCODINGS, Window, decoder, preparer

memory = np.frombuffer(mmap.mmap(-1, 2 * mmap.PAGESIZE), np.uint8)
end = memory.ctypes.data + mmap.PAGESIZE
if ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), 0):
    sys.exit("mprotect")
for path in sorted(Path(sys.argv[1]).glob("*.npy")):
    raw, name = np.load(path), path.stem
    block = memory[mmap.PAGESIZE - raw.size : mmap.PAGESIZE].reshape(raw.shape)
    block[:] = raw
    prepare = preparer(name)
    params = prepare({}, {}) if prepare else {}
    for dtype in ("uint16", "float32"):
        out = np.empty(ENCODINGS[name].block_elems, dtype)
        decoder(name)({"payload": block}, params, Window(0, 1), out)
        np.save(path.parent / "out" / f"{name}-{dtype}.npy", out)
"""


@pytest.mark.skipif(os.name != "posix", reason="mprotect")
@pytest.mark.parametrize("disable_jit", ["0", "1"], ids=["jit", "no-jit"])
def test_alone_at_the_end_of_memory(disable_jit: str, tmp_path: Path, ggml: Any) -> None:
    raw = {name: some_blocks(ggml, name, 1) for name in NAMES}
    (tmp_path / "out").mkdir()
    for name, block in raw.items():
        np.save(tmp_path / f"{name}.npy", block)
    subprocess.run(
        [sys.executable, "-c", _ALONE, str(tmp_path)],
        env={**os.environ, "NUMBA_DISABLE_JIT": disable_jit},
        check=True,
        timeout=240,
    )
    for name, block in raw.items():
        expected = ggml.by_libggml(ENCODINGS[name].ggml_type, block)
        for dtype in ("uint16", "float32"):
            out = np.load(tmp_path / "out" / f"{name}-{dtype}.npy")
            ggml.assert_same_bits(out, expected, block)
