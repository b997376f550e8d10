"""Kernels as object code: functions of Python's own, without the GIL and without numba.

A kernel is compiled (`_compile`) once for the types of its arguments, and kept in `_cache` under a
name that tells these types, the versions of what compiled it, and the CPU. Whatever cannot be had
so is left to numba itself; so is a call that fails, since numba knows the exception.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import RLock
from typing import Any

import numpy as np

from anamnesis.kernels import _cache, _entry, _objects, watchers

_LOCK = RLock()


class Kernel:
    """A kernel as Python calls it: arrays, tuples of arrays and numbers, and numbers.

    With a result it runs all the same, but always by numba.
    """

    def __init__(self, function: Any) -> None:
        self.__wrapped__ = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__
        self._calls: dict[Any, Callable[..., Any] | None] = {}
        self._last: Callable[..., Any] = _nothing_yet
        self._numba: Any = None

    def __repr__(self) -> str:
        return f"<Kernel {self.__wrapped__.__module__}.{self.__wrapped__.__qualname__}>"

    def __call__(self, *arguments: Any) -> Any:
        if self._last(*arguments) is None:  # for other types it is NotImplemented
            return None
        key = _key(arguments)
        try:
            call = self._calls[key]
        except KeyError:
            call = self._prepare(key, arguments)
        if call is None or call(*arguments) is not None:
            return self._by_numba(arguments)
        self._last = call
        return None

    def _prepare(self, key: Any, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        with _LOCK:
            if key not in self._calls:
                self._calls[key] = self._native(key, arguments) if _is_known(key) else None
            return self._calls[key]

    def _native(self, key: _entry.Key, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
        if not self.__wrapped__.__module__.startswith("anamnesis.kernels."):
            return None  # what its file is in the cache does not tell whether it has changed
        name = _objects.file_name(self.__wrapped__, _signature(key))
        data = _cache.read(name)
        if data is None:
            data = _compiler(self).object_code(self.__wrapped__, arguments, key)
            _cache.write(name, data)
        function: Callable[..., Any] | None = _objects.load(data, key)
        return function

    def _by_numba(self, arguments: tuple[Any, ...]) -> Any:
        with _LOCK:
            if self._numba is None:
                self._numba = _compiler(self).dispatcher(self.__wrapped__)
        return self._numba(*arguments)


def _nothing_yet(*arguments: Any) -> Any:
    return NotImplemented


def _compiler(kernel: Kernel) -> Any:
    """The module that imports numba, after those who watch were told."""
    for watcher in tuple(watchers):
        watcher(kernel.__name__)
    return import_module("anamnesis.kernels._compile")


def _key(arguments: tuple[Any, ...]) -> _entry.Key:
    """The types of a call's arguments."""
    key: list[Any] = []
    for value in arguments:
        kind: Any = type(value)
        if kind is np.ndarray:
            kind = _entry.array_key(value)
        elif kind is tuple:
            kind = _key(value)
        key.append(kind)
    return tuple(key)


def _is_known(key: _entry.Key) -> bool:
    def one(part: Any) -> bool:
        return _is_known(part) if isinstance(part, tuple) else part in _entry.SCALARS

    return all(_entry.is_array(part) or one(part) for part in key)


def _signature(key: _entry.Key) -> str:
    """The types in words."""
    parts = []
    for part in key:
        if _entry.is_array(part):
            dtype, ndim, flags = part
            parts.append(f"{dtype.str}{ndim}:{flags:x}")
        else:
            parts.append(_signature(part) if isinstance(part, tuple) else part.__name__)
    return f"({','.join(parts)})"
