"""Kernels as Python calls them: bodies by name, run without the GIL and without numba.

A body (`bodies/`) is compiled once for the types of its arguments (`bodies/_compile.py`), kept in
`_cache` as object code under a name that tells these types and all that compiled it, and loaded
by LLVM alone. It is called with one block of 64-bit numbers:

    0, then for each argument
        an array: its address, its shape and, unless it is contiguous, its strides in bytes
        a number: itself, a real one as float64
        a tuple: what is in it

With an address in place of the first 0, the body is not run, and what it would have been given is
written there: each object is asked for that when it is loaded, and not used if anything differs.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from math import prod
from pathlib import Path
from threading import RLock
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

from anamnesis import address_space
from anamnesis.kernels import _cache, watchers

DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
LOADS = not DISABLED and sys.platform != "darwin"  # nobody ever loaded an object file of macOS
ENTRY = "anamnesis_kernel"  # the function of an object file
REALS = (float, np.float32, np.float64)
_COMPILER = "anamnesis.kernels.bodies._compile"
# Address space that importing numba and compiling take, and compiling again. Measured on EXL3's
# kernel, the largest: 101 MiB were enough and 80 were not; 53 of them are LLVM's.
FIRST_COMPILE_BYTES, COMPILE_BYTES = 128 << 20, 64 << 20
_PURPOSE = "to compile a kernel, which is kept for the next run: run it once without the limit"
# The types of a call's arguments: of an array `(dtype, dimensions, whether it is contiguous)`, of a
# tuple another such tuple, and of a number its type.
Key = tuple[Any, ...]
Run = Callable[[bytes], None]
Call = tuple[Run, Callable[..., bytes]]  # and what packs its block
_LOCK = RLock()
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # without the GIL
_first_byte, _address = ctypes.c_char.from_buffer, ctypes.addressof
_kept: list[Any] = []  # engines, whose code is called


class Kernel:
    """A body as Python calls it: with arrays, numbers and tuples of these; nothing is returned.

    `name` is `file:function` below `bodies/`, and with `constants` that of a factory of functions.
    """

    def __init__(self, name: str, *constants: int | str) -> None:
        self.name, self.constants = name, constants
        self.label = "-".join(map(str, (name, *constants)))
        self._calls: dict[Key, Call | None] = {}

    def __call__(self, *arguments: Any) -> None:
        values: list[Any] = [0]
        key = _take(arguments, values)
        try:
            call = self._calls[key]
        except KeyError:
            call = self._prepare(key)
        if call is not None:
            run, pack = call
            run(pack(*values))
        else:
            with np.errstate(all="ignore"):  # as compiled code, which tells nobody
                self._dispatcher(*arguments)

    def _body(self) -> Any:
        """The function that is compiled, or with `NUMBA_DISABLE_JIT=1` the one that is called."""
        module, _, name = self.name.partition(":")
        for watcher in () if DISABLED else tuple(watchers):
            watcher(name)
        found = getattr(import_module(f"anamnesis.kernels.bodies.{module}"), name)
        return found(*self.constants) if self.constants else found

    @cached_property
    def _dispatcher(self) -> Any:
        """What calls a body where no object code does."""
        return self._body() if DISABLED else _imported().dispatcher(self._body())

    def _prepare(self, key: Key) -> Call | None:
        with _LOCK:
            if key not in self._calls:
                code = self._object_code(key) if LOADS else b""
                self._calls[key] = _checked(_RUN(_load(code)), key) if code else None
            return self._calls[key]

    def _object_code(self, key: Key) -> bytes:
        name = file_name(self.label, repr(key))
        code = _cache.read(name)
        if code is None:
            code = _imported().object_code(self._body(), key)
            _cache.write(name, code)
        return code


@cache
def kernel(name: str, *constants: int | str) -> Kernel:
    """The one kernel of a body: see `Kernel`."""
    return Kernel(name, *constants)


def variants(name: str) -> Callable[..., Kernel]:
    """The kernels of a factory of bodies, by its constants."""
    return partial(kernel, name)


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


def _imported() -> Any:
    """The module that imports numba; LimitError where LLVM would end the process in it."""
    need = COMPILE_BYTES if _COMPILER in sys.modules else FIRST_COMPILE_BYTES
    address_space.check(need, _PURPOSE)
    return import_module(_COMPILER)


@cache
def _toolchain() -> str:
    """Whatever decides what a kernel is compiled to, beside its source and its arguments."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    cpu = (binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    versions = (sys.version, _numba_version(), llvmlite.__version__, np.__version__)
    return repr((versions, binding.get_process_triple(), cpu, settings))


def _numba_version() -> str:
    """What tells one numba from another; importing it, or metadata, would take long."""
    found = find_spec("numba")
    return "" if found is None else Path(str(found.origin)).with_name("_version.py").read_text()


def file_name(kernel: str, signature: str) -> str:
    """The name in the cache of a kernel, `file:function`, for arguments of a signature."""
    digest = hashlib.blake2b(f"{kernel}{signature}{_toolchain()}".encode(), digest_size=12)
    return f"{kernel.replace(':', '.')}-{digest.hexdigest()}.kernel"


def _load(code: bytes) -> int:
    """The address of the entry of an object file.

    The first engine of a process makes the process' own symbols known, which an object calls.
    """
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(jit=True)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _kept.append(engine)
    return int(engine.get_function_address(ENTRY))


def is_array(part: Any) -> bool:
    """Whether a part of a key is an array's."""
    return isinstance(part, tuple) and bool(part) and isinstance(part[0], np.dtype)


def _checked(run: Run, key: Key) -> Call | None:
    """How a body is called, if it is given what a block for arguments of these types says.

    No two numbers of the block are the same, so that none can stand for another.
    """
    numbers, kinds = count(2), "q"
    block, wanted = list[float](), list[float]()
    for part in _flat(key):
        dtype, ndim, contiguous = part if is_array(part) else (np.dtype(part), 0, True)
        given = [next(numbers) for _ in range(1 + ndim * (2 - contiguous))]
        if part is bool:
            given[0] %= 2
        kinds += "d" if part in REALS else "q" * len(given)
        block += given
        wanted += given
        if contiguous:
            wanted += [dtype.itemsize * prod(given[2 + axis :]) for axis in range(ndim)]
    report = np.full(len(wanted), np.nan)
    pack = struct.Struct(f"={kinds}").pack
    run(pack(report.ctypes.data, *block))
    return (run, pack) if report.tolist() == wanted else None


def _flat(key: Key) -> Iterator[Any]:
    for part in key:
        yield from _flat(part) if isinstance(part, tuple) and not is_array(part) else (part,)
