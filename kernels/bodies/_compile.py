"""Bodies to object code: numba for the types of a call, then LLVM for the machine code.

A body is wrapped in a C function of one argument, the block that `_native` describes, which makes
the body's arguments of it. numba compiles that function and shows its LLVM IR.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba import types

from anamnesis.kernels import _native, _objects
from anamnesis.kernels.bodies._jit import OPTIONS, pointer

_BLOCK = types.CPointer(types.int64)


def object_code(body: Callable[..., Any], key: _native.Key) -> bytes:
    """A body compiled for arguments of the types `key`; empty where it needs numba to run."""
    entry = numba.cfunc(types.void(_BLOCK), **OPTIONS)(_entry(body, key))
    module = binding.parse_assembly(entry.inspect_llvm())
    for function in module.functions:
        if not function.is_declaration:
            function.linkage = "internal"  # its name, which is long, is not kept
    made = module.get_function(entry.native_name)
    made.name, made.linkage = _objects.ENTRY, "external"
    declared = [f.name for f in module.functions if f.is_declaration]
    declared += [v.name for v in module.global_variables if v.is_declaration]
    if not all(map(_objects.is_given, declared)):
        return b""
    code: bytes = _objects.target_machine().emit_object(module)
    return code


def dispatcher(body: Any) -> Any:
    """A body as numba itself calls it, with results and exceptions."""
    return numba.njit(**OPTIONS)(body.py_func)


def _entry(body: Callable[..., Any], key: _native.Key) -> Any:
    """The wrapper of a body, as Python of which numba takes the bytecode."""
    names = {"body": body, "carray": numba.carray, "pointer": pointer, "float64": np.float64}
    names["as_strided"] = np.lib.stride_tricks.as_strided
    lines: list[str] = []  # that make the body's arguments of the block
    seen: list[str] = []  # what it is given
    places = (f"[{place}]" for place in count(1))

    def numbers(many: int) -> str:
        return f"({''.join(f'block{next(places)}, ' for _ in range(many))})"

    def made(part: Any) -> str:
        if _native.is_array(part):
            return array(*part)
        if isinstance(part, tuple):
            return f"({''.join(f'{made(one)}, ' for one in part)})"
        names[part.__name__] = part
        block = "reals" if part in _native.REALS else "block"
        seen.append(f"{part.__name__}({block}{next(places)})")
        return seen[-1]

    def array(dtype: Any, ndim: int, contiguous: bool) -> str:
        name = f"a{len(lines)}"
        names[f"{name}_dtype"] = dtype.type
        address, shape = f"pointer(block{next(places)})", numbers(ndim)
        value = f"carray({address}, {shape if contiguous else (1,)}, {name}_dtype)"
        if not contiguous:
            value = f"as_strided({value}, {shape}, {numbers(ndim)})"
        lines.append(f"    {name} = {value}")
        seen.append(f"{name}.ctypes.data")
        seen.extend(f"{name}.{what}[{i}]" for what in ("shape", "strides") for i in range(ndim))
        return name

    call = f"body(*{made(key)})"
    source = [
        "def entry(block):",
        "    reals = carray(pointer(block.ctypes.data), block.shape, float64)",
        *lines,
        "    if block[0] == 0:",
        f"        {call}",
        "    else:",
        f"        report = carray(pointer(block[0]), ({len(seen) + 1},), float64)",
        *(f"        report[{i}] = {what}" for i, what in enumerate([*seen, len(seen)])),
    ]
    source.insert(1, f"    block = carray(block, ({next(places)[1:-1]},))")
    exec("\n".join(source), names)  # noqa: S102  # made of types alone
    return names["entry"]
