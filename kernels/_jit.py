"""The one place that imports numba: jit policy, the cache folder, and bit-level intrinsics.

numba types every integer operation as 64 bits wide, which halves or quarters vector width and
blocks many loops from vectorising, so the few operations that must stay 32 bits wide are written
as LLVM IR here. With `NUMBA_DISABLE_JIT=1` each has a numpy twin, for coverage and debugging.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir as ir
from numba.core import types as types
from numba.core.registry import cpu_target
from numba.extending import intrinsic as intrinsic
from numba.extending import lower_builtin as lower_builtin
from numba.extending import models as models
from numba.extending import overload
from numba.extending import register_model as register_model
from numba.extending import type_callable as type_callable

F = TypeVar("F", bound=Callable[..., Any])
DISABLED = bool(numba.config.DISABLE_JIT)


def _cache_folder() -> str | None:
    """A writable folder named by a digest of every kernel source and data file, or None.

    numba keys its cache by the decorated function's own file; a changed helper in another file
    would be ignored. The digest in the path makes any change start a new folder.
    """
    digest = hashlib.blake2b(digest_size=8)
    here = Path(__file__).parent
    for source in sorted([*here.glob("*.py"), *here.glob("data/*.npy")]):
        digest.update(source.read_bytes())
    base = os.environ.get("ANAMNESIS_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "anamnesis"
    )
    for root in (base, os.path.join(tempfile.gettempdir(), f"anamnesis-{os.getuid()}")):
        folder = os.path.join(root, "kernels", digest.hexdigest())
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        except OSError:
            continue
        # Compiled code is loaded from here: a folder that somebody else owns is not used.
        if os.access(folder, os.W_OK) and os.stat(folder).st_uid == os.getuid():
            return folder
    return None


_CACHE = _cache_folder()


def jit(function: F) -> F:
    """Compile lazily, without the GIL, cached on disk; `out` arrays are always the caller's."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _CACHE or before
    try:
        compiled: F = numba.njit(nogil=True, cache=_CACHE is not None)(function)
    finally:
        numba.config.CACHE_DIR = before
    return compiled


def inline(function: F) -> F:
    """A scalar helper that is compiled into the kernels that call it."""
    helper: F = numba.extending.register_jitable(function)
    return helper


def cpu_features() -> frozenset[str]:
    """What kernels may use of the CPU that they are compiled for, in LLVM's names."""
    if DISABLED:
        return frozenset()
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return frozenset(f[1:] for f in features.split(",") if f.startswith("+"))


if DISABLED:

    def as_f32(bits: Any) -> Any:
        return np.uint32(int(bits) & 0xFFFFFFFF).view(np.float32)

    def as_u32(value: Any) -> Any:
        return np.float32(value).view(np.uint32)

    def bf16_bits(value: Any) -> Any:
        bits = int(np.float32(value).view(np.uint32))
        if bits & 0x7FFFFFFF > 0x7F800000:
            return np.uint16(bits >> 16 | 0x40)
        return np.uint16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)

    def put(out: Any, index: Any, value: Any) -> None:
        out[index] = bf16_bits(value) if out.dtype == np.uint16 else value

else:
    _I32, _F32 = ir.IntType(32), ir.FloatType()

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
