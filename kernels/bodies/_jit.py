"""What kernel bodies are written with: jit policy, bit-level intrinsics and scratch on the stack.

numba types every integer operation as 64 bits wide, which halves or quarters vector width and
blocks many loops from vectorising, so the few operations that must stay 32 bits wide are written
as LLVM IR here. With `NUMBA_DISABLE_JIT=1` bodies are plain Python, and each intrinsic has a numpy
twin.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload, register_jitable

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Values
from anamnesis.kernels.types import Array, Bytes, Integer, Real

F = TypeVar("F", bound=Callable[..., Any])
DISABLED: bool = bool(numba.config.DISABLE_JIT)
_I8, _I32, _F32 = ir.IntType(8), ir.IntType(32), ir.FloatType()

# No body divides by a zero that its caller let through, so none has to be ready to raise.
OPTIONS = {"nogil": True, "error_model": "numpy"}


def jit(function: F) -> F:
    """Compile with the body that calls it, without what only a call from Python needs."""
    compiled: F = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)
    return compiled


def variants(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Bodies that differ in constants: `factory(*constants)` gives the function of one.

    A body that learns at run time how wide its codes are is compiled with the code of all widths.
    """
    return cache(lambda *constants: jit(factory(*constants)))


def inline(function: F) -> F:
    """A scalar helper that is compiled into the bodies that call it."""
    helper: F = register_jitable(function)
    return helper


def forced(function: F) -> F:
    """As `jit`, of a function that is put into the body that calls it, whatever its size."""
    options = {**OPTIONS, "forceinline": True}
    compiled: F = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)(function)
    return compiled


if DISABLED:

    def as_f32(bits: Integer) -> Any:
        return np.uint32(int(bits) & 0xFFFFFFFF).view(np.float32)

    def as_u32(value: Real) -> Any:
        return np.float32(value).view(np.uint32)

    def bf16_bits(value: Real) -> Any:
        bits = int(np.float32(value).view(np.uint32))
        if bits & 0x7FFFFFFF > 0x7F800000:
            return np.uint16(bits >> 16 | 0x40)
        return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)

    def put(out: Array, index: int, value: Real) -> None:
        out[index] = bf16_bits(value) if out.dtype == np.uint16 else value

    def stack(nbytes: int) -> Any:
        return lambda: np.empty(nbytes, np.uint8)

    def local(memory: Bytes, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        array = memory[: int(np.prod(shape)) * np.dtype(dtype).itemsize]
        return array.view(dtype).reshape(shape)

else:
    local = numba.carray

    def stack(nbytes: int) -> Any:
        """A function that gives `nbytes` of its caller's stack, for `local(memory, shape, dtype)`.

        They are the caller's until it returns, the same ones each time it asks.
        """

        @intrinsic
        def memory(typingctx: Typing) -> Any:
            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                with builder.goto_entry_block():
                    room = builder.alloca(ir.ArrayType(_I8, nbytes))
                    # A line of the cache.
                    room.align = 64
                return builder.bitcast(room, _I8.as_pointer())

            return types.voidptr(), build

        return memory

    @intrinsic
    def pointer(typingctx: Typing, address: Type) -> Any:
        """An address as a pointer, for `numba.carray`."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return builder.inttoptr(args[0], _I8.as_pointer())

        return types.voidptr(types.int64), build

    @intrinsic
    def as_f32(typingctx: Typing, bits: Type) -> Any:
        """The float32 whose bits are the low 32 bits of an integer."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            value = args[0]
            if value.type.width > 32:
                value = builder.trunc(value, _I32)
            elif value.type.width < 32:
                value = builder.zext(value, _I32)
            return builder.bitcast(value, _F32)

        return types.float32(bits), build

    @intrinsic
    def as_u32(typingctx: Typing, value: Type) -> Any:
        """The bits of a float32 as uint32."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return builder.bitcast(args[0], _I32)

        return types.uint32(types.float32), build

    @intrinsic
    def bf16_bits(typingctx: Typing, value: Type) -> Any:
        """float32 to BF16 bits: round to nearest, ties to even; a NaN stays one, made quiet."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            def const(number: int) -> Any:
                return ir.Constant(_I32, number)

            bits = builder.bitcast(args[0], _I32)
            high = builder.lshr(bits, const(16))
            odd = builder.and_(high, const(1))
            # Ties go to the even last place, bit 16.
            rounded = builder.lshr(builder.add(builder.add(bits, const(0x7FFF)), odd), const(16))
            nan = builder.fcmp_unordered("uno", args[0], args[0])
            chosen = builder.select(nan, builder.or_(high, const(0x40)), rounded)
            return builder.trunc(chosen, ir.IntType(16))

        return types.uint16(types.float32), build

    def put(out: Array, index: int, value: Real) -> None:
        """Store a float32 as `out` wants it: BF16 bits for uint16, itself for float32."""
        raise NotImplementedError

    @overload(put, inline="always")
    def _put(out: Array, index: int, value: Real) -> Any:  # types, under the names of both below
        if out.dtype == types.uint16:

            def store(out: Array, index: int, value: Real) -> None:
                out[index] = bf16_bits(value)
        else:

            def store(out: Array, index: int, value: Real) -> None:
                out[index] = value

        return store
