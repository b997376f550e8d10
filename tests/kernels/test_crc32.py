"""CRC-32 by carry-less multiplication is zlib's, bit for bit."""

from __future__ import annotations

import threading
import zlib
from typing import Any

import numba
import numpy as np
import pytest

from anamnesis.kernels import crc32 as module
from anamnesis.kernels._compile import again
from anamnesis.kernels._jit import cpu_features
from anamnesis.kernels.crc32 import FOLD_BYTES, crc32

LENGTHS = [0, 1, 255, 4095, 4096, 4097, 4351, 4352, 4353, 10_007, (1 << 20) + 77]
WIDTHS = [w for w in (16, 32, 64) if w <= module.WIDTH]


@pytest.mark.parametrize("nbytes", LENGTHS)
@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF, 0x8000_0001])
def test_same_as_zlib(nbytes: int, value: int) -> None:
    data: Any = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8)
    assert crc32(data, value) == zlib.crc32(data, value)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("pattern", ["zeros", "ones", "random"])
def test_every_width_of_multiplication(
    width: int, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: Any = again("crc32")
    monkeypatch.setattr(compiled, "fold", compiled._folder(width))
    monkeypatch.setattr(module, "_run", numba.njit(nogil=True)(compiled._run.py_func))
    random: Any = np.random.default_rng(3).integers(0, 256, 9 * FOLD_BYTES * 4 + 5, dtype=np.uint8)
    data: Any = {"zeros": random * 0, "ones": random | 255, "random": random}[pattern]
    assert crc32(data, 99) == zlib.crc32(data, 99)


def test_every_bit_counts() -> None:
    data: Any = np.random.default_rng(5).integers(0, 256, 4096 + 100, dtype=np.uint8)
    before = crc32(data)
    for bit in range(0, 8 * len(data), 61):
        data[bit // 8] ^= 1 << bit % 8
        assert crc32(data) == zlib.crc32(data) != before
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)]
)
@pytest.mark.parametrize("shift", [0, 1, 7])
def test_any_buffer_at_any_address(kind: Any, shift: int) -> None:
    data = bytes(range(256)) * 40
    view = memoryview(kind(data))[shift:]
    assert crc32(view) == zlib.crc32(data[shift:])


def test_in_pieces_and_in_threads() -> None:
    data: Any = np.random.default_rng(7).integers(0, 256, 1 << 20, dtype=np.uint8)
    results: list[int] = []

    def work(step: int) -> None:
        value = 0
        for start in range(0, len(data), step):
            value = crc32(data[start : start + step], value)
        results.append(value)

    threads = [threading.Thread(target=work, args=(step,)) for step in (5_003, 70_000, 1 << 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [zlib.crc32(data)] * 3


def test_a_cpu_without_the_instruction_uses_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fold", None)
    assert crc32(b"123456789" * 1000) == zlib.crc32(b"123456789" * 1000)
    assert module._widest(frozenset()) == 0
    assert module._widest(frozenset({"pclmul", "avx512f"})) == 16
    assert module._widest(frozenset({"pclmul", "vpclmulqdq", "avx2"})) == 32
    assert module._widest(cpu_features()) == module.WIDTH
