"""The one place that imports numba: jit policy and bit-level intrinsics, for when kernels compile.

numba types every integer operation as 64 bits wide, which halves or quarters vector width and
blocks many loops from vectorising, so the few operations that must stay 32 bits wide are written
as LLVM IR here. These are the names of `_jit` as `_compile` gives them to a kernel file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numba
from llvmlite import ir as ir
from numba.core import types as types
from numba.extending import intrinsic as intrinsic
from numba.extending import lower_builtin as lower_builtin
from numba.extending import models as models
from numba.extending import overload
from numba.extending import register_model as register_model
from numba.extending import type_callable as type_callable

from anamnesis.kernels._cache import FOLDER, is_plain

F = TypeVar("F", bound=Callable[..., Any])
DISABLED = False
none = types.none
_I32, _F32 = ir.IntType(32), ir.FloatType()


def jit(function: F) -> F:
    """Compile lazily, without the GIL, and without what only a call from Python needs."""
    compiled: F = numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
    return compiled


def variants(factory: Callable[..., Any]) -> Callable[..., Any]:
    """As `_jit.variants`."""
    return cache(lambda *constants: jit(factory(*constants)))


def callable_from_python(function: Any) -> Any:
    """A function of `jit` as numba calls it; cached on disk where there is a folder for it.

    numba keys its cache by the function's own file; a changed helper in another file would be
    ignored. The folder's name, a digest of all kernel sources, is what starts a new one.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = FOLDER or before
    try:
        return numba.njit(nogil=True, cache=FOLDER is not None and is_plain())(function.py_func)
    finally:
        numba.config.CACHE_DIR = before


def inline(function: F) -> F:
    """A scalar helper that is compiled into the kernels that call it."""
    helper: F = numba.extending.register_jitable(function)
    return helper


def signature(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """numba's types of a call's arguments."""
    return tuple(numba.typeof(argument) for argument in arguments)


@intrinsic
def as_f32(typingctx: Any, bits: Any) -> Any:
    """The float32 whose bits are the low 32 bits of an integer."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        if value.type.width > 32:
            value = builder.trunc(value, _I32)
        elif value.type.width < 32:
            value = builder.zext(value, _I32)
        return builder.bitcast(value, _F32)

    return types.float32(bits), build


@intrinsic
def as_u32(typingctx: Any, value: Any) -> Any:
    """The bits of a float32 as uint32."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.uint32(types.float32), build


@intrinsic
def bf16_bits(typingctx: Any, value: Any) -> Any:
    """float32 to BF16 bits: round to nearest, ties to even; a NaN stays one, made quiet."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def const(number: int) -> Any:
            return ir.Constant(_I32, number)

        bits = builder.bitcast(args[0], _I32)
        high = builder.lshr(bits, const(16))
        odd = builder.and_(high, const(1))
        rounded = builder.lshr(builder.add(builder.add(bits, const(0x7FFF)), odd), const(16))
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        chosen = builder.select(nan, builder.or_(high, const(0x40)), rounded)
        return builder.trunc(chosen, ir.IntType(16))

    return types.uint16(types.float32), build


def put(out: Any, index: Any, value: Any) -> None:
    """Store a float32 as `out` wants it: BF16 bits for uint16, itself for float32."""
    raise NotImplementedError


@overload(put, inline="always")
def _put(out: Any, index: Any, value: Any) -> Any:
    if out.dtype == types.uint16:

        def store(out: Any, index: Any, value: Any) -> None:
            out[index] = bf16_bits(value)
    else:

        def store(out: Any, index: Any, value: Any) -> None:
            out[index] = value

    return store
