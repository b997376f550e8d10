"""What kernel files are written with: `jit`, and names for what only a compiler needs.

A kernel that was compiled once runs from its object code (`_native`), which needs neither numba nor
its types. So the files import without it, and the names below stand for what numba would give.
When a kernel is to be compiled, `_compile` reads its file once more with the names of `_numba`.
With `NUMBA_DISABLE_JIT=1` kernels are plain Python, and each intrinsic has a numpy twin.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
if not DISABLED:
    from anamnesis.kernels._native import Kernel


class Placeholder:
    """What numba and LLVM would give; so are its attributes, results, and bases of classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Placeholder()

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return (Placeholder,)


intrinsic: Any = Placeholder()
ir: Any = Placeholder()
lower_builtin: Any = Placeholder()
models: Any = Placeholder()
register_model: Any = Placeholder()
type_callable: Any = Placeholder()
types: Any = Placeholder()


def jit(function: F) -> F:
    """Compile on first use, without the GIL, kept on disk; `out` arrays are always the caller's."""
    if DISABLED:
        return np.errstate(all="ignore")(function)  # as compiled code, which tells nobody
    kernel: Any = Kernel(function)
    return kernel


def variants(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Kernels that differ in constants: `factory(*constants)` gives the function of one.

    Each is compiled when it is first called: a kernel that is told at run time how wide its codes
    are would be compiled with the code of all widths.
    """

    @cache
    def variant(*constants: Any) -> Any:
        function = factory(*constants)
        function.__name__ = factory.__name__
        function.__qualname__ = "-".join(map(str, (factory.__name__, *constants)))
        function.variant = factory.__name__, constants
        return jit(function)

    return variant


def inline(function: F) -> F:
    """A scalar helper that is compiled into the kernels that call it."""
    return function


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
    as_f32, as_u32, bf16_bits, put = (Placeholder() for _ in range(4))
