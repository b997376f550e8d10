"""Object code of kernels: what it depends on, and how LLVM alone puts it into memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

from anamnesis.kernels import _entry

_METH_FASTCALL = 0x80  # Include/methodobject.h
_kept: list[Any] = []  # what they hold is called


class _Method(ctypes.Structure):
    """CPython's `PyMethodDef`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_new_function = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)(("PyCFunction_NewEx", ctypes.pythonapi))


@cache
def cpu() -> tuple[str, str]:
    """The CPU that kernels are compiled for and its features, as numba takes them to be."""
    name = os.environ.get("NUMBA_CPU_NAME")
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        generic = name is not None and name.lower() == "generic"
        features = "" if generic else binding.get_host_cpu_features().flatten()
    return name or binding.get_host_cpu_name(), features


@cache
def _compiler() -> str:
    """Whatever decides what a kernel is compiled to, beside its source and its arguments."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    versions = (sys.version, _numba_version(), llvmlite.__version__, np.__version__)
    return repr((versions, binding.get_process_triple(), cpu(), settings))


def _numba_version() -> str:
    """What tells one numba from another; importing it, or metadata, would take long."""
    found = find_spec("numba")
    if found is None or found.origin is None:
        return ""
    file = Path(found.origin)
    try:
        return file.with_name("_version.py").read_text()
    except OSError:
        return f"{file} {file.stat().st_mtime_ns}"


def file_name(function: Any, signature: str) -> str:
    """The name in the cache of a function compiled for arguments of a signature."""
    module = function.__module__.rpartition(".")[2]
    text = f"{function.__module__}.{function.__qualname__}{signature}{_compiler()}"
    digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return f"{module}.{function.__qualname__}-{digest}.kernel"


def pack(objects: Sequence[bytes]) -> bytes:
    """Object files as one piece."""
    sizes = " ".join(str(len(data)) for data in objects)
    return b"".join([sizes.encode(), b"\n", *objects])


def _unpack(data: bytes) -> list[bytes]:
    """What `pack` was given; nothing unless the sizes are those of all the bytes."""
    line, _, rest = data.partition(b"\n")
    numbers = line.split()
    if not all(number.isdigit() for number in numbers):
        return []
    sizes = [int(number) for number in numbers]
    if 0 in sizes or sum(sizes) != len(rest):
        return []
    ends = list(accumulate(sizes))
    return [rest[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def load(data: bytes, key: _entry.Key) -> Any:
    """The function of Python's that `pack` kept the code of; None where numba has to do."""
    objects = _unpack(data)
    if not objects or not _entry.fits():
        return None
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target_machine())
    for each in objects:
        engine.add_object_file(binding.ObjectFileRef.from_data(each))
    engine.finalize_object()
    address, table = (engine.get_function_address(n) for n in (_entry.NAME, _entry.TABLE))
    if not address or not table:
        return None
    addresses = _entry.table(key)
    filled: Any = (ctypes.c_void_p * len(addresses)).from_address(table)
    filled[:] = addresses
    method = _Method(_entry.NAME.encode(), address, _METH_FASTCALL, None)
    _kept.append((engine, method, key))
    return _new_function(ctypes.byref(method), None, None)


def target_machine() -> Any:
    """The machine that code is made for, with relocation as in numba/core/codegen.py."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_process_triple()
    reloc = "static" if triple.startswith("x86") else "default"
    target = binding.Target.from_triple(triple)
    return target.create_target_machine(codemodel="jitdefault", jit=True, reloc=reloc)
