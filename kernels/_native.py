"""Kernels as Python calls them: bodies by name, run without the GIL and without numba.

A body (`bodies/`) is compiled once for the types of its arguments (`bodies/_compile.py`), kept in
`_cache` as object code under a name that tells these types and all that compiled it, and loaded
by LLVM alone (`_objects.py`). It is called with one block of 64-bit numbers:

    0, then for each argument
        an array: its address, its shape and, unless it is contiguous, its strides in bytes
        a number: itself, a real one as float64
        a tuple: what is in it

With an address in place of the first 0, the body is not run, and what it would have been given is
written there. Each object is asked for that when it is loaded, and not used if anything differs.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib import import_module
from itertools import count
from threading import RLock
from typing import Any

import numpy as np

from anamnesis import address_space
from anamnesis.kernels import _cache, _objects, watchers

DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
REALS = (float, np.float32, np.float64)
WHOLES = (bool, int, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32)
_COMPILER = "anamnesis.kernels.bodies._compile"
# Address space that importing numba and compiling take, and compiling again. Measured on EXL3's
# kernel, the largest: 101 MiB were enough and 80 were not; 53 of them are LLVM's.
FIRST_COMPILE_BYTES, COMPILE_BYTES = 128 << 20, 64 << 20
_PURPOSE = "to compile a kernel, which is kept for the next run: run it once without the limit"
# The types of a call's arguments: of an array `(dtype, dimensions, whether it is contiguous)`, of a
# tuple another such tuple, and of a number its type.
Key = tuple[Any, ...]
Run = Callable[[bytes], None]
Pack = Callable[..., bytes]
_LOCK = RLock()
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # without the GIL
_first_byte, _address = ctypes.c_char.from_buffer, ctypes.addressof


class Kernel:
    """A body as Python calls it: with arrays, numbers and tuples of these; nothing is returned.

    `name` is `file:function` below `bodies/`, and with `constants` that of a factory of functions.
    """

    def __init__(self, name: str, *constants: int | str) -> None:
        self.name, self.constants = name, constants
        self._calls: dict[Key, tuple[Run, Pack] | None] = {}
        self._numba: Any = None

    def __str__(self) -> str:
        return "-".join(map(str, (self.name, *self.constants)))

    def __repr__(self) -> str:
        return f"<Kernel {self}>"

    def __call__(self, *arguments: Any) -> None:
        values: list[Any] = [0]
        key = _take(arguments, values)
        try:
            call = self._calls[key]
        except KeyError:
            call = self._prepare(key)
        if call is None:
            self._by_numba(arguments)
        else:
            run, pack = call
            run(pack(*values))

    def _body(self) -> Any:
        """The function that is compiled, or with `NUMBA_DISABLE_JIT=1` the one that is called."""
        module, _, name = self.name.partition(":")
        if not DISABLED:
            for watcher in tuple(watchers):
                watcher(name)
        found = getattr(import_module(f"anamnesis.kernels.bodies.{module}"), name)
        return found(*self.constants) if self.constants else found

    def _prepare(self, key: Key) -> tuple[Run, Pack] | None:
        with _LOCK:
            if key not in self._calls:
                usable = not DISABLED and _objects.are_loaded() and all(map(_is_known, key))
                self._calls[key] = self._native(key) if usable else None
            return self._calls[key]

    def _native(self, key: Key) -> tuple[Run, Pack] | None:
        name = _objects.file_name(str(self), repr(key))
        data = _cache.read(name)
        if data is None:
            data = _compiler().object_code(self._body(), key)
            _cache.write(name, data)
        address = _objects.load(data) if data else 0
        return _checked(_RUN(address), key) if address else None

    def _by_numba(self, arguments: tuple[Any, ...]) -> None:
        with _LOCK:
            if self._numba is None:
                self._numba = self._body() if DISABLED else _compiler().dispatcher(self._body())
        with np.errstate(all="ignore"):  # as compiled code, which tells nobody
            self._numba(*arguments)


@cache
def kernel(name: str, *constants: int | str) -> Kernel:
    """The one kernel of a body: see `Kernel`."""
    return Kernel(name, *constants)


def variants(name: str) -> Callable[..., Kernel]:
    """The kernels of a factory of bodies, by its constants."""
    return partial(kernel, name)


def _compiler() -> Any:
    """The module that imports numba; LimitError where LLVM would end the process in it."""
    need = COMPILE_BYTES if _COMPILER in sys.modules else FIRST_COMPILE_BYTES
    address_space.check(need, _PURPOSE)
    return import_module(_COMPILER)


def _take(arguments: Iterable[Any], values: list[Any]) -> Key:
    """The types of arguments; what a block holds of them is added to `values`."""
    key: list[Any] = []
    for argument in arguments:
        kind: Any = type(argument)
        if kind is np.ndarray:
            flags = argument.flags
            contiguous = flags.c_contiguous
            kind = argument.dtype, argument.ndim, contiguous
            if contiguous and flags.writeable and argument.size:
                values.append(_address(_first_byte(argument)))  # in a third of the time
            else:
                values.append(argument.__array_interface__["data"][0])
            values += argument.shape
            if not contiguous:
                values += argument.strides
        elif kind is tuple:
            kind = _take(argument, values)
        else:
            values.append(argument)
        key.append(kind)
    return tuple(key)


def is_array(part: Any) -> bool:
    """Whether a part of a key is an array's."""
    return isinstance(part, tuple) and bool(part) and isinstance(part[0], np.dtype)


def _is_known(part: Any) -> bool:
    if isinstance(part, tuple):
        return is_array(part) or all(map(_is_known, part))
    return part in REALS or part in WHOLES


def _checked(run: Run, key: Key) -> tuple[Run, Pack] | None:
    """How a body is called, if it is given arguments of these types as what they are.

    No two sizes, strides and numbers are the same, so that none can stand for another.
    """
    arguments = _examples(key, count(2))
    wanted = list(_reported(arguments))
    report = np.zeros(len(wanted) + 1)
    values: list[Any] = [report.ctypes.data]
    taken = _take(arguments, values)
    kinds = "".join("d" if isinstance(value, REALS) else "q" for value in values)
    pack = struct.Struct(f"={kinds}").pack
    run(pack(*values))
    agrees = taken == key and report.tolist() == [*wanted, len(wanted)]
    return (run, pack) if agrees else None


def _examples(key: Key, numbers: Iterator[int]) -> tuple[Any, ...]:
    """Arguments of the types `key`."""
    arguments: list[Any] = []
    for part in key:
        if is_array(part):
            dtype, ndim, contiguous = part
            shape = [next(numbers) for _ in range(ndim)]
            array = np.empty(shape if contiguous else 1, dtype)
            if not contiguous:  # nothing is read, so that the strides can be any
                strides = [(1000 + next(numbers)) * dtype.itemsize for _ in range(ndim)]
                array = np.lib.stride_tricks.as_strided(array, shape, strides)
            arguments.append(array)
        elif isinstance(part, tuple):
            arguments.append(_examples(part, numbers))
        else:
            number = next(numbers)
            arguments.append(part(number % 2 if part is bool else number))
    return tuple(arguments)


def _reported(arguments: Iterable[Any]) -> Iterator[float]:
    """What a body reports that is given these arguments."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            yield from (argument.ctypes.data, *argument.shape, *argument.strides)
        elif isinstance(argument, tuple):
            yield from _reported(argument)
        else:
            yield float(argument)
