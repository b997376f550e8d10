"""Bodies to object code: numba for the types of a call, then LLVM for the machine code.

A body is wrapped in a C function of one argument, the block that `_native` describes, which makes
the body's arguments of it. numba compiles that function and shows its LLVM IR.
"""

from __future__ import annotations

from collections.abc import Callable
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
    source = _Source()
    arguments = source.tuple_of(key)
    lines = [
        "def entry(block):",
        f"    block = carray(block, ({source.size},))",
        f"    reals = carray(pointer(block.ctypes.data), ({source.size},), float64)",
        *source.lines,
        "    if block[0] == 0:",
        f"        body(*{arguments})",
        "    else:",
        f"        report = carray(pointer(block[0]), ({len(source.seen) + 1},), float64)",
        *(f"        report[{i}] = {what}" for i, what in enumerate(source.seen)),
        f"        report[{len(source.seen)}] = {len(source.seen)}",
    ]
    names = {**source.names, "body": body, "carray": numba.carray, "pointer": pointer}
    names |= {"as_strided": np.lib.stride_tricks.as_strided, "float64": np.float64}
    exec("\n".join(lines), names)  # noqa: S102  # made of types alone
    return names["entry"]


class _Source:
    """The lines that make a body's arguments of a block, and what they `seen` of each."""

    def __init__(self) -> None:
        self.size = 1
        self.lines: list[str] = []
        self.seen: list[str] = []
        self.names: dict[str, Any] = {}

    def tuple_of(self, key: _native.Key) -> str:
        """An expression for arguments of the types `key`."""
        return f"({''.join(f'{self._one(part)}, ' for part in key)})"

    def _one(self, part: Any) -> str:
        if _native.is_array(part):
            return self._array(*part)
        if isinstance(part, tuple):
            return self.tuple_of(part)
        value = f"{'reals' if part in _native.REALS else 'block'}[{self._next()}]"
        if part not in (int, float):
            self.names[part.__name__] = part
            value = f"{part.__name__}({value})"
        self.seen.append(value)
        return value

    def _array(self, dtype: Any, ndim: int, contiguous: bool) -> str:
        name, address = f"a{self.size}", self._next()
        self.names[f"{name}_dtype"] = dtype.type
        shape = self._numbers(ndim)
        made = f"carray(pointer(block[{address}]), {shape}, {name}_dtype)"
        if not contiguous:
            first = f"carray(pointer(block[{address}]), (1,), {name}_dtype)"
            made = f"as_strided({first}, {shape}, {self._numbers(ndim)})"
        self.lines.append(f"    {name} = {made}")
        self.seen.append(f"{name}.ctypes.data")
        self.seen += [
            f"{name}.{what}[{axis}]" for what in ("shape", "strides") for axis in range(ndim)
        ]
        return name

    def _numbers(self, many: int) -> str:
        return f"({''.join(f'block[{self._next()}], ' for _ in range(many))})"

    def _next(self) -> int:
        self.size += 1
        return self.size - 1
