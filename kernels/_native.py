"""Kernels as object code: called by way of ctypes, without the GIL and without numba.

A kernel is compiled (`_compile`) once for the types of its arguments, and kept in `_cache` under a
name that tells these types, the versions of what compiled it, and the CPU. It takes array objects,
the elements of tuples, and numbers, and returns 0 when all went well. Whatever cannot be had so is
left to numba itself; so is a call that fails, since numba knows the exception.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from importlib import import_module
from threading import RLock
from typing import Any

import numpy as np

from anamnesis.kernels import _cache, _objects, watchers

_FLAGS = 0x403  # C and Fortran order, writeable: numpy/ndarraytypes.h, NPY_ARRAY_*
_INTEGERS: dict[Any, Any] = {
    getattr(np, f"{sign}int{bits}"): getattr(ctypes, f"c_{sign}int{bits}")
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_SCALARS: dict[Any, Any] = {
    **_INTEGERS,
    bool: ctypes.c_bool,
    float: ctypes.c_double,
    int: ctypes.c_int64,
    np.bool_: ctypes.c_bool,
    np.float32: ctypes.c_float,
    np.float64: ctypes.c_double,
}
_Array = np.ndarray
_LOCK = RLock()


class Kernel:
    """A kernel as Python calls it: arrays, tuples of arrays and numbers, and numbers.

    With a result it runs all the same, but always by numba.
    """

    def __init__(self, function: Any) -> None:
        self.__wrapped__ = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._calls: dict[Any, Callable[..., Any] | None] = {}
        self._numba: Any = None

    def __repr__(self) -> str:
        return f"<Kernel {self.__wrapped__.__module__}.{self.__wrapped__.__qualname__}>"

    def __call__(self, *arguments: Any) -> Any:
        flat: list[Any] = []
        key = _flatten(arguments, flat)
        try:
            call = self._calls[key]
        except KeyError:
            call = self._prepare(key, arguments)
        if call is None or call(*flat):
            return self._by_numba(arguments)
        return None

    def _prepare(self, key: Any, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        with _LOCK:
            if key not in self._calls:
                leaves = list(_leaves(key))
                known = all(type(leaf) is tuple or leaf in _SCALARS for leaf in leaves)
                self._calls[key] = self._native(key, leaves, arguments) if known else None
            return self._calls[key]

    def _native(
        self, key: Any, leaves: list[Any], arguments: tuple[Any, ...]
    ) -> Callable[..., Any] | None:
        if not self.__wrapped__.__module__.startswith("anamnesis.kernels."):
            return None  # what its file is in the cache does not tell whether it has changed
        name = _objects.file_name(self.__wrapped__, _signature(key))
        data = _cache.read(name)
        if data is None:
            takes = [_llvm(leaf) for leaf in leaves]
            data = _compiler(self).object_code(self.__wrapped__, arguments, takes)
            _cache.write(name, data)
        address = _objects.load(data)
        if address is None:
            return None
        types = [_SCALARS.get(leaf, ctypes.py_object) for leaf in leaves]
        return ctypes.CFUNCTYPE(ctypes.c_int32, *types)(address)

    def _by_numba(self, arguments: tuple[Any, ...]) -> Any:
        with _LOCK:
            if self._numba is None:
                self._numba = _compiler(self).dispatcher(self.__wrapped__)
        return self._numba(*arguments)


def _compiler(kernel: Kernel) -> Any:
    """The module that imports numba, after those who watch were told."""
    for watcher in tuple(watchers):
        watcher(kernel.__name__)
    return import_module("anamnesis.kernels._compile")


def _flatten(arguments: tuple[Any, ...], flat: list[Any]) -> tuple[Any, ...]:
    """Put what a kernel is given for `arguments` into `flat`; their types. Run for every window."""
    key: list[Any] = []
    for value in arguments:
        kind: Any = type(value)
        if kind is _Array:
            key.append(value.dtype)
            kind = value.flags.num & _FLAGS | value.ndim << 16
        elif kind is tuple:
            key.append(_flatten(value, flat))
            continue
        elif kind in _INTEGERS:
            value = int(value)
        key.append(kind)
        flat.append(value)
    return tuple(key)


def _leaves(key: tuple[Any, ...]) -> Iterator[Any]:
    """The types of what `_flatten` puts into `flat`: `(dtype, dimensions, flags)` for arrays."""
    parts = iter(key)
    for part in parts:
        if isinstance(part, np.dtype):
            flags = next(parts)
            yield part, flags >> 16, flags & _FLAGS
        elif isinstance(part, tuple):
            yield from _leaves(part)
        else:
            yield part


def _llvm(leaf: Any) -> str | tuple[int, int]:
    """LLVM's name of a scalar's type, or the dimensions and the item's bytes of an array."""
    if isinstance(leaf, tuple):
        return leaf[1], leaf[0].itemsize
    kind = _SCALARS[leaf]
    if kind in (ctypes.c_float, ctypes.c_double):
        return str(kind.__name__).removeprefix("c_")
    return f"i{8 * ctypes.sizeof(kind)}"


def _signature(key: tuple[Any, ...]) -> str:
    """numba's view of the types: one order an array, and whether it is writeable."""
    parts = []
    for part in key:
        if isinstance(part, tuple):
            parts.append(_signature(part))
        elif isinstance(part, int):
            order = "C" if part & 1 else "F" if part & 2 else "A"
            parts.append(f"{part >> 16}{order}{'w' if part & 0x400 else 'r'}")
        else:
            parts.append(part.str if isinstance(part, np.dtype) else part.__name__)
    return f"({','.join(parts)})"
