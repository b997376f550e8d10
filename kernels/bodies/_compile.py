"""Bodies to object code: numba for the types of a call, then LLVM for the machine code.

A body is wrapped in a C function of one argument, the block that `_native` describes, out of which
an intrinsic makes the body's arguments. numba compiles that function and shows its LLVM IR.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels import _native, _objects
from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import OPTIONS

_BLOCK = types.CPointer(types.int64)
_I64, _F64 = ir.IntType(64), ir.DoubleType()
_Numbers = Iterator[Value]  # of a block, one after the other


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
    """The function of a block that runs a body, or says what the body would be given."""
    kinds = _type_of(key)

    @intrinsic
    def arguments(typingctx: Typing, block: Type) -> Any:
        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            places = (ir.Constant(_I64, place) for place in count(1))
            numbers = (builder.load(builder.gep(args[0], [place])) for place in places)
            return _made(context, builder, kinds, numbers)

        return kinds(block), build

    def entry(block: Any) -> None:
        if block[0] == 0:
            body(*arguments(block))
        else:
            _report(block[0], arguments(block))

    return entry


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


@intrinsic
def _report(typingctx: Typing, address: Type, arguments: Type) -> Any:
    """Write what `_native._reported` says of arguments, and how many numbers that are."""

    def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
        report = builder.inttoptr(args[0], _F64.as_pointer())
        found = list(_seen(context, builder, arguments, args[1]))
        for place, number in enumerate([*found, ir.Constant(_F64, len(found))]):
            builder.store(number, builder.gep(report, [ir.Constant(_I64, place)]))
        return context.get_dummy_value()

    return types.void(address, arguments), build


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
