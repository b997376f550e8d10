"""Bodies to object code: numba for the types of a call, then LLVM for the machine code.

numba compiles a body with a C function that takes its arguments by value, and shows the LLVM IR of
both. Beside them goes the entry: a function of one argument, the block that `_native` describes,
which makes the body's arguments out of it. Its IR is written here, so that numba optimises and
compiles nothing but the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count, product
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types

from anamnesis.kernels import _native
from anamnesis.kernels.bodies._ir import Builder, Context, Type, Value
from anamnesis.kernels.bodies._jit import OPTIONS

_I64, _F64 = ir.IntType(64), ir.DoubleType()
# Counts of references to arrays, whose memory is the caller's. numba leaves some of them in loops,
# where each is a call that all registers are saved for.
COUNTS = re.compile(r"^ *(tail )?call void @NRT_(in|de)cref\(.*\n", re.MULTILINE)
# What the C function calls when a body has raised, or has dropped the last reference to an array of
# its own. Bodies do neither; one that did would end the process.
_UNREACHED = ("NRT_Free", "NRT_MemInfo_call_dtor", "numba_")
_END = "define void @{}() {{\n call void @abort()\n ret void\n}}\n"
_GIVEN = ("llvm.", "Py", "memcpy", "memmove", "memset", "sqrt")  # which Python is linked with


def object_code(body: Any, key: _native.Key) -> bytes:
    """A body compiled for arguments of the types `key`; empty where it needs numba to run."""
    kinds = tuple(_type_of(part) for part in key)
    compiled = numba.njit(no_cpython_wrapper=True, **OPTIONS)(body.py_func)
    compiled.compile(kinds)
    context, text = compiled.targetctx, COUNTS.sub("", compiled.inspect_llvm(kinds))
    module = binding.parse_assembly(text)
    named = [*module.functions, *module.global_variables]
    declared = [one.name for one in named if one.is_declaration]
    if not all(name.startswith((*_GIVEN, *_UNREACHED)) for name in declared):
        return b""
    (name,) = {one.name for one in named if one.name.startswith("cfunc.")} - {*declared}
    ends = "".join(_END.format(one) for one in declared if one.startswith(_UNREACHED))
    for more in (str(_entry(context, name, kinds)), f"declare void @abort()\n{ends}"):
        module.link_in(binding.parse_assembly(more))
    for function in module.functions:
        if not function.is_declaration and function.name != _native.ENTRY:
            function.linkage = "internal"  # its name, which is long, is not kept
    triple, cpu, features = context.codegen().magic_tuple()
    reloc = "static" if triple.startswith("x86") else "default"  # as in numba's codegen.py
    target = binding.Target.from_triple(triple)
    machine = target.create_target_machine(cpu, features, opt=3, reloc=reloc, jit=True)
    return bytes(machine.emit_object(module))


def dispatcher(body: Any) -> Any:
    """A body as numba itself calls it, with results and exceptions."""
    return numba.njit(**OPTIONS)(body.py_func)


def _type_of(part: Any) -> Type:
    """numba's type of a part of a key."""
    if _native.is_array(part):
        dtype, ndim, contiguous = part
        return types.Array(numba.from_dtype(dtype), ndim, "C" if contiguous else "A")
    if isinstance(part, tuple):
        return types.Tuple([_type_of(one) for one in part])
    return numba.from_dtype(np.dtype(part))


def _entry(context: Context, name: str, kinds: tuple[Type, ...]) -> ir.Module:
    """The function of a block that calls a body, or says what the body would be given."""
    module = ir.Module("entry")
    module.triple = binding.get_process_triple()
    none, *taken = (context.get_value_type(kind) for kind in (types.none, *kinds))
    body = ir.Function(module, ir.FunctionType(none, taken), name)
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64.as_pointer()]), _native.ENTRY)
    builder = ir.IRBuilder(entry.append_basic_block())
    numbers = (builder.load(builder.gep(entry.args[0], [ir.Constant(_I64, k)])) for k in count())
    report, seen = next(numbers), list[Value]()
    values = [_made(context, builder, kind, numbers, seen) for kind in kinds]
    with builder.if_else(builder.icmp_unsigned("==", report, ir.Constant(_I64, 0))) as (run, say):
        with run:
            builder.call(body, values)
        with say:
            found = builder.inttoptr(report, _F64.as_pointer())
            for place, number in enumerate(seen):
                builder.store(number, builder.gep(found, [ir.Constant(_I64, place)]))
    builder.ret_void()
    return module


def _made(
    context: Context, builder: Builder, kind: Type, numbers: Iterator[Value], seen: list[Value]
) -> Value:
    """An argument of a type, out of the next numbers; what it is goes into `seen`, as float64."""
    if isinstance(kind, types.BaseTuple):
        parts = [_made(context, builder, part, numbers, seen) for part in kind]
        return context.make_tuple(builder, kind, parts)
    if not isinstance(kind, types.Array):
        number, width = next(numbers), context.get_value_type(kind)
        if isinstance(kind, types.Float):
            value = builder.fptrunc(builder.bitcast(number, _F64), width)
        else:
            value = builder.trunc(number, width)
        seen.append(context.cast(builder, value, kind, types.float64))
        return value
    element = context.get_data_type(kind.dtype)
    data = builder.inttoptr(next(numbers), element.as_pointer())
    shape = [next(numbers) for _ in range(kind.ndim)]
    strides = [ir.Constant(_I64, context.get_abi_sizeof(element))]
    fields = {"data": data, "shape": shape, "itemsize": strides[0], "meminfo": None}
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    if kind.layout != "C":
        strides = [next(numbers) for _ in shape]
    array = context.make_array(kind)(context, builder)
    context.populate_array(array, strides=strides, **fields)
    parts = [builder.ptrtoint(array.data, _I64)]
    for pair in product((array.shape, array.strides), range(kind.ndim)):
        parts.append(builder.extract_value(*pair))
    seen += [builder.sitofp(part, _F64) for part in parts]
    return array._getvalue()
