"""Bodies to object code: numba for the types of a call, then LLVM for the machine code.

numba compiles a body with a C function that takes its arguments by value, and shows the LLVM IR of
both. Beside them goes the entry: a function of one argument, the block that `_native` describes,
which makes the body's arguments out of it. Its IR is written here, so that numba optimises and
compiles nothing but the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types

from anamnesis.kernels import _native, _objects
from anamnesis.kernels.bodies._ir import Builder, Context, Type, Value
from anamnesis.kernels.bodies._jit import OPTIONS

_I64, _F64 = ir.IntType(64), ir.DoubleType()
_C_FUNCTION = "cfunc."  # what the name of the function begins with that C calls for a body
_Numbers = Iterator[Value]  # of a block, one after the other


def object_code(body: Any, key: _native.Key) -> bytes:
    """A body compiled for arguments of the types `key`; empty where it needs numba to run."""
    kinds = tuple(_type_of(part) for part in key)
    compiled = numba.njit(no_cpython_wrapper=True, **OPTIONS)(body.py_func)
    compiled.compile(kinds)
    module = binding.parse_assembly(compiled.inspect_llvm(kinds))
    (name,) = (
        function.name
        for function in module.functions
        if function.name.startswith(_C_FUNCTION) and not function.is_declaration
    )
    module.link_in(binding.parse_assembly(str(_entry(compiled.targetctx, name, kinds))))
    for function in module.functions:
        if not function.is_declaration and function.name != _objects.ENTRY:
            function.linkage = "internal"  # its name, which is long, is not kept
    declared = [f.name for f in module.functions if f.is_declaration]
    declared += [v.name for v in module.global_variables if v.is_declaration]
    if not all(map(_objects.is_given, declared)):
        return b""
    code: bytes = _objects.target_machine().emit_object(module)
    return code


def dispatcher(body: Any) -> Any:
    """A body as numba itself calls it, with results and exceptions."""
    return numba.njit(**OPTIONS)(body.py_func)


def _entry(context: Context, name: str, kinds: tuple[Type, ...]) -> ir.Module:
    """The function of a block that calls a body, or says what the body would be given."""
    module = ir.Module("entry")
    module.triple = binding.get_process_triple()
    none, *taken = (context.get_value_type(kind) for kind in (types.none, *kinds))
    body = ir.Function(module, ir.FunctionType(none, taken), name)
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64.as_pointer()]), _objects.ENTRY)
    builder = ir.IRBuilder(entry.append_basic_block())
    places = (ir.Constant(_I64, place) for place in count())
    numbers = (builder.load(builder.gep(entry.args[0], [place])) for place in places)
    report = next(numbers)
    values = [_made(context, builder, kind, numbers) for kind in kinds]
    with builder.if_else(builder.icmp_unsigned("==", report, ir.Constant(_I64, 0))) as (run, say):
        with run:
            builder.call(body, values)
        with say:
            _report(context, builder, report, zip(kinds, values, strict=True))
    builder.ret_void()
    return module


def _type_of(part: Any) -> Type:
    """numba's type of a part of a key."""
    if _native.is_array(part):
        dtype, ndim, contiguous = part
        return types.Array(numba.from_dtype(dtype), ndim, "C" if contiguous else "A")
    if isinstance(part, tuple):
        return types.Tuple([_type_of(one) for one in part])
    return numba.from_dtype(np.dtype(part))


def _made(context: Context, builder: Builder, kind: Type, numbers: _Numbers) -> Value:
    """An argument of a type, out of the next numbers."""
    if isinstance(kind, types.BaseTuple):
        parts = [_made(context, builder, part, numbers) for part in kind]
        return context.make_tuple(builder, kind, parts)
    if isinstance(kind, types.Array):
        return _array(context, builder, kind, numbers)
    number = next(numbers)
    if isinstance(kind, types.Float):
        real = builder.bitcast(number, _F64)
        return real if kind.bitwidth == 64 else builder.fptrunc(real, ir.FloatType())
    if isinstance(kind, types.Boolean):
        return builder.icmp_signed("!=", number, ir.Constant(_I64, 0))
    return number if kind.bitwidth == 64 else builder.trunc(number, ir.IntType(kind.bitwidth))


def _array(context: Context, builder: Builder, kind: Type, numbers: _Numbers) -> Value:
    """An array: its address, its shape, and the strides of one that is not contiguous."""
    element = context.get_data_type(kind.dtype)
    itemsize = context.get_abi_sizeof(element)
    data = builder.inttoptr(next(numbers), element.as_pointer())
    shape = [next(numbers) for _ in range(kind.ndim)]
    if kind.layout == "C":
        strides = [ir.Constant(_I64, itemsize)]
        for length in reversed(shape[1:]):
            strides.insert(0, builder.mul(strides[0], length))
        strides = strides[: kind.ndim]
    else:
        strides = [next(numbers) for _ in range(kind.ndim)]
    array = context.make_array(kind)(context, builder)
    context.populate_array(
        array, data=data, shape=shape, strides=strides, itemsize=itemsize, meminfo=None
    )
    return array._getvalue()


def _report(
    context: Context, builder: Builder, address: Value, arguments: Iterable[tuple[Type, Value]]
) -> None:
    """Write what `_native._reported` says of arguments, and how many numbers that are."""
    report = builder.inttoptr(address, _F64.as_pointer())
    found = [number for one in arguments for number in _seen(context, builder, *one)]
    for place, number in enumerate([*found, ir.Constant(_F64, len(found))]):
        builder.store(number, builder.gep(report, [ir.Constant(_I64, place)]))


def _seen(context: Context, builder: Builder, kind: Type, value: Value) -> Iterator[Value]:
    """The numbers of an argument as a body sees it, each a float64."""
    if isinstance(kind, types.BaseTuple):
        for place, part in enumerate(kind):
            yield from _seen(context, builder, part, builder.extract_value(value, place))
    elif isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        yield builder.sitofp(builder.ptrtoint(array.data, _I64), _F64)
        for numbers in (array.shape, array.strides):
            for axis in range(kind.ndim):
                yield builder.sitofp(builder.extract_value(numbers, axis), _F64)
    else:
        yield context.cast(builder, value, kind, types.float64)
