"""Object code of kernels: what it depends on, and how LLVM alone puts it into memory."""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding

ENTRY = "anamnesis_kernel"
# What the code around a body (`numba.cfunc`) calls when a body has raised, or has dropped the last
# reference to an array of its own. Bodies do neither; one that did would end the process.
_UNREACHED = (
    "NRT_Free",
    "NRT_MemInfo_call_dtor",
    "numba_do_raise",
    "numba_gil_ensure",
    "numba_gil_release",
    "numba_runtime_build_excinfo_struct",
    "numba_unpickle",
)
_LIBRARY = ("memcpy", "memmove", "memset", "sqrtf")  # which Python is linked with
_kept: list[Any] = []  # engines, whose code is called


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


def file_name(kernel: str, signature: str) -> str:
    """The name in the cache of a kernel, `file:function`, for arguments of a signature."""
    text = f"{kernel}{signature}{_compiler()}"
    digest = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return f"{kernel.replace(':', '.')}-{digest}.kernel"


def is_given(symbol: str) -> bool:
    """Whether code that needs a symbol can run without numba."""
    return symbol in (*_UNREACHED, *_LIBRARY) or symbol.startswith(("llvm.", "Py"))


def are_loaded() -> bool:
    """Whether object files are loaded here; one in macOS' format (Mach-O) never was, by anybody."""
    return sys.platform != "darwin"


def load(data: bytes) -> int:
    """The address of the entry of an object file; 0 where it has none.

    The first engine of a process makes the process' own symbols known, so it comes before those
    that are looked up here: a symbol without an address is a call of nothing.
    """
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target_machine())
    for symbol in _UNREACHED:
        if binding.address_of_symbol(symbol) is None:
            binding.add_symbol(symbol, binding.address_of_symbol("abort"))
    engine.add_object_file(binding.ObjectFileRef.from_data(data))
    engine.finalize_object()
    _kept.append(engine)
    return int(engine.get_function_address(ENTRY))


def target_machine() -> Any:
    """The machine that code is made for, with relocation as in numba/core/codegen.py."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple, (name, features) = binding.get_process_triple(), cpu()
    return binding.Target.from_triple(triple).create_target_machine(
        cpu=name,
        features=features,
        opt=3,
        codemodel="jitdefault",
        jit=True,
        reloc="static" if triple.startswith("x86") else "default",
    )
