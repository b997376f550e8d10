"""ggml's own decoders as the source of expected values, and raw blocks that reach every corner.

`libggml-python` carries ggml's C library; `gguf` is its numpy twin, which has fewer types. Loaded
by `conftest.py`, as the fixture `ggml`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import libggml
import numpy as np
from gguf.quants import dequantize

# binary16 bits, each with both signs: zero, the ends of the subnormals, the ends of the normals
# and two plain numbers, infinity, NaNs (quiet, signalling, with all payload bits).
_MAGNITUDES = (0, 1, 0x3FF, 0x400, 0x2E66, 0x3C00, 0x7BFF, 0x7C00, 0x7E00, 0x7C01, 0x7FFF)
SCALES = np.array([m | sign for sign in (0, 0x8000) for m in _MAGNITUDES], dtype="<u2")


@cache
def _library() -> Any:
    return ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))


def _ask(function: str, ggml_type: int, result: Any) -> Any:
    call = getattr(_library(), function)
    call.argtypes, call.restype = [ctypes.c_int], result
    return call(ggml_type)


def geometry(ggml_type: int) -> tuple[int, int]:
    """Elements and bytes of a block, as ggml has them."""
    return _ask("ggml_blck_size", ggml_type, ctypes.c_int64), _ask(
        "ggml_type_size", ggml_type, ctypes.c_size_t
    )


def by_libggml(ggml_type: int, blocks: np.ndarray) -> np.ndarray:
    """The float32 elements of `uint8 [blocks, block_bytes]`, by ggml's C code."""
    blocks = np.ascontiguousarray(blocks)
    out = np.empty(blocks.shape[0] * geometry(ggml_type)[0], np.float32)
    name = _ask("ggml_type_name", ggml_type, ctypes.c_char_p).decode()
    decode = getattr(_library(), f"dequantize_row_{name}")
    decode.argtypes, decode.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    if out.size:
        decode(blocks.ctypes.data, out.ctypes.data, out.size)
    return out


def by_gguf(ggml_type: int, blocks: np.ndarray) -> np.ndarray | None:
    """The same by gguf-py, or None for a type that it does not decode."""
    try:
        known = gguf.GGMLQuantizationType(ggml_type)
        with np.errstate(all="ignore"):
            return np.asarray(dequantize(blocks, known), np.float32).reshape(-1)
    except (ValueError, NotImplementedError):
        return None


def to_bf16(values: np.ndarray) -> np.ndarray:
    """BF16 bits of float32 numbers: round to nearest, ties to even; NaNs quiet."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)


def every_byte(block_bytes: int, seed: int = 0, rounds: int = 4) -> np.ndarray:
    """Random blocks in which each byte of the block takes all 256 values, `rounds` times."""
    rng = np.random.default_rng(seed)
    values = np.tile(np.arange(256, dtype=np.uint8)[:, None], (rounds, block_bytes))
    return rng.permuted(values, axis=0)


def every_scale(block_bytes: int, seed: int = 0) -> np.ndarray:
    """Random blocks with each pair of scales at each even byte, wherever the type keeps its own."""
    rng = np.random.default_rng(seed)
    pairs = np.stack(np.meshgrid(SCALES, SCALES), -1).reshape(-1, 2).view(np.uint8)
    starts = range(0, block_bytes - 1, 2)
    blocks = rng.integers(0, 256, (len(starts), len(pairs), block_bytes), dtype=np.uint8)
    for block, start in zip(blocks, starts, strict=True):
        width = min(4, block_bytes - start)
        block[:, start : start + width] = pairs[:, :width]
    return blocks.reshape(-1, block_bytes)


def assert_same_bits(got: np.ndarray, expected: np.ndarray, blocks: np.ndarray) -> None:
    """`got` (float32, or BF16 bits) is the float32 `expected`; a NaN may have any payload.

    The message shows the block with most differences in hex.
    """
    if got.dtype == np.uint16:
        bits, want, nan = got, to_bf16(expected), got & 0x7FFF > 0x7F80
    else:
        bits, want, nan = got.view(np.uint32), expected.view(np.uint32), np.isnan(got)
    assert bits.shape == want.shape
    wrong = np.where(np.isnan(expected), ~nan, bits != want)
    if not wrong.any():
        return
    by_block = wrong.reshape(len(blocks), -1)
    worst = int(by_block.sum(1).argmax())
    at = np.flatnonzero(by_block[worst])
    elements = worst * by_block.shape[1] + at[:4]
    raise AssertionError(
        f"{int(wrong.sum())} of {wrong.size} elements differ; block {worst} at {at[:8].tolist()}:"
        f" got {[hex(b) for b in bits[elements].tolist()]},"
        f" expected {[hex(b) for b in want[elements].tolist()]},"
        f" block {blocks[worst].tobytes().hex()}"
    )
