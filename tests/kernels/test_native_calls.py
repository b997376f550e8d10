"""Kernels called through their object code: what they are given, and what is left to numba."""

from __future__ import annotations

import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations
from typing import Any

import numba
import numpy as np
import pytest
from numba import types

from anamnesis.kernels import _native

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    pytest.skip("nothing is compiled", allow_module_level=True)
from anamnesis.kernels.bodies import _compile
from anamnesis.kernels.bodies._jit import OPTIONS, forced, jit

BITS = np.arange(0x3F00, 0x3F40, dtype=np.uint16)
pytestmark = pytest.mark.usefixtures("folder")


def test_without_object_code_numba_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "object_code", lambda body, key: b"")
    kernel, out = _native.Kernel("dense:bf16"), np.empty(BITS.shape, np.uint16)
    for _ in range(2):
        kernel(BITS, out)
        np.testing.assert_array_equal(out, BITS)
    assert list(kernel._calls.values()) == [None]


def key_of(*arguments: Any) -> _native.Key:
    return _native._take(arguments, [])


@jit
def allocates(out: Any) -> None:
    out[:] = np.empty(out.shape[0])


def test_a_body_that_needs_numba_to_run_has_no_object_code() -> None:
    assert _compile.object_code(allocates, key_of(np.empty(3))) == b""


@forced
def _doubled(values: Any, at: int) -> None:
    if values[at] > 0:
        values[at] *= 2


@jit
def doubles(values: Any) -> None:
    for at in range(values.shape[0]):
        _doubled(values, at)


def test_references_to_what_a_caller_owns_are_not_counted() -> None:
    compiled = numba.njit(**OPTIONS)(doubles.py_func)
    compiled.compile((numba.types.float64[::1],))
    (text,) = compiled.inspect_llvm().values()
    counts = [line for line in text.splitlines() if re.search(r"call void @NRT_\w+cref", line)]
    found = _compile.COUNTS.sub("", text)
    assert counts
    assert found.splitlines() == [line for line in text.splitlines() if line not in counts]


@pytest.fixture
def mixed_native(monkeypatch: pytest.MonkeyPatch) -> _native.Kernel:
    """The kernel of `mixed`, of this file."""
    monkeypatch.setattr(_native.Kernel, "_body", lambda self: mixed)
    return _native.Kernel("test:mixed")


@pytest.mark.parametrize("order", ["C", "A"])
def test_no_two_numbers_of_a_block_can_stand_for_each_other(
    order: str, mixed_native: _native.Kernel
) -> None:
    """The self-test sees every exchange, whatever made it."""
    arguments, _ = example(order, 2.5, True)
    key = key_of(*arguments)
    call = mixed_native._prepare(key)
    assert call is not None
    run, blocks = call[0], []
    assert _native._checked(lambda block: (blocks.append(block), run(block))[1], key)
    for first, second in combinations(range(1, len(blocks[0]) // 8), 2):

        def exchanged(block: bytes, pair: tuple[int, int] = (first, second)) -> None:
            words = [block[at : at + 8] for at in range(0, len(block), 8)]
            words[pair[0]], words[pair[1]] = words[pair[1]], words[pair[0]]
            run(b"".join(words))

        assert not _native._checked(exchanged, key), (first, second)


def test_an_object_that_fails_its_test_is_not_used(
    mixed_native: _native.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _compile._made

    def reversed_shapes(*arguments: Any) -> Any:
        *first, kind, numbers, seen = arguments
        if isinstance(kind, types.Array) and kind.ndim == 2:
            address, rows, columns = (next(numbers) for _ in range(3))
            numbers = chain((address, columns, rows), numbers)
        return made(*first, kind, numbers, seen)

    monkeypatch.setattr(_compile, "_made", reversed_shapes)
    arguments, wanted = example("C", 2.5, True)
    mixed_native(*arguments)
    assert list(mixed_native._calls.values()) == [None]
    np.testing.assert_array_equal(arguments[-1], wanted)


@jit
def mixed(first: Any, pair: Any, last: Any, yes: Any, no: Any, add: Any, by: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = first[i, i + 1] * by + last[1, i, 1] + pair[1] + add
        if yes and not no:
            out[i] += pair[0][i]


def example(order: str, by: Any, yes: bool) -> tuple[tuple[Any, ...], Any]:
    """Arguments for `mixed`, the last of which is its output, and what that has to become."""
    first = np.arange(72, dtype=np.int32).reshape(8, 9)
    if order == "F":
        first = np.asfortranarray(first)
    elif order == "A":
        first = np.repeat(np.repeat(first, 2, 0), 3, 1)[::2, ::3]
    numbers = np.linspace(0, 1, 8).astype(np.float32)
    numbers.flags.writeable = False
    last = np.arange(64, dtype=np.int64).reshape(2, 8, 4)[:, ::-1]
    arguments = (first, (numbers, -7), last, yes, not yes, np.int16(5), by)
    wanted = np.diag(first, 1) * np.float64(by) + last[1, :, 1] - 2
    return (*arguments, np.empty(8)), wanted + numbers if yes else wanted


@pytest.mark.parametrize("order", ["C", "F", "A"])
@pytest.mark.parametrize("by", [3, 2.5, np.float32(0.25), np.int8(-3), np.uint32(2**31), True])
def test_arguments_arrive(order: str, by: Any, mixed_native: _native.Kernel) -> None:
    for yes in (True, False):
        arguments, wanted = example(order, by, yes)
        mixed_native(*arguments)
        np.testing.assert_array_equal(arguments[-1], wanted)
    assert None not in mixed_native._calls.values()
    assert len(mixed_native._calls) == 1


def test_arrays_of_nothing(mixed_native: _native.Kernel) -> None:
    arguments, _ = example("C", 3, True)
    mixed_native(*arguments[:-1], np.empty(0))
    mixed_native(np.empty((0, 5), np.int32), *arguments[1:-1], np.empty(0))
    assert None not in mixed_native._calls.values()


def test_types_that_kernels_do_not_take() -> None:
    with pytest.raises(Exception, match="pyobject"):
        _native.Kernel("dense:bf16")(BITS, object())


def test_every_call_is_of_the_types_it_was_compiled_for(mixed_native: _native.Kernel) -> None:
    cases = [example(order, by, yes) for order in "CA" for yes in (True, False) for by in (2.5, 2)]
    for _ in range(2):
        for arguments, wanted in cases:
            mixed_native(*arguments)
            np.testing.assert_array_equal(arguments[-1], wanted)
    assert len(mixed_native._calls) == 4
    assert None not in mixed_native._calls.values()


def test_numbers_that_do_not_fit_are_not_cut(mixed_native: _native.Kernel) -> None:
    arguments, wanted = example("C", 3, True)
    for wrong in (2**63, 2**70):
        with pytest.raises(struct.error):
            mixed_native(*arguments[:6], wrong, arguments[-1])
    mixed_native(*arguments)
    np.testing.assert_array_equal(arguments[-1], wanted)


def test_many_threads_compile_once(compiled: list[str]) -> None:
    kernel = _native.Kernel("dense:bf16")
    outs = [np.empty(BITS.shape, np.uint16) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda out: kernel(BITS, out), outs))
    assert all((out == BITS).all() for out in outs)
    assert compiled == ["bf16"]


def test_a_kernel_exists_once_for_its_constants() -> None:
    spread = _native.variants("_codes:spread")
    assert spread(3) is spread(3) is _native.kernel("_codes:spread", 3)
    assert spread(3).label == "_codes:spread-3"
    assert spread(3)._body() is not spread(5)._body()
