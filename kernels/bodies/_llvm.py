"""Steps of LLVM code that intrinsics share: vectors, addresses, and rounding in integers.

Nothing here is bounds-checked. A `kind` or `to` is LLVM's own type, an `array_type` numba's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import lower_builtin, models, register_model, type_callable

from anamnesis.kernels.bodies._ir import Builder, Context, Kind, Signature, Type, Value, Values

_I32 = ir.IntType(32)
BYTE_POINTER = ir.IntType(8).as_pointer()


class Lanes(types.Type):  # type: ignore[misc]
    """The numba type of a vector of `count` numbers of a scalar type; its operators are below."""

    def __init__(self, dtype: Type, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")

    @property
    def llvm(self) -> Any:
        real = isinstance(self.dtype, types.Float)
        element = ir.FloatType() if real else ir.IntType(self.dtype.bitwidth)
        return ir.VectorType(element, self.count)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Type) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


def same(vector: Kind, number: float) -> Any:
    """A vector constant of one number in every lane."""
    return ir.Constant(vector, [number] * vector.count)


def broadcast(builder: Builder, number: Value, count: int) -> Any:
    """A number that only the running program knows, in every lane."""
    nothing = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(_I32, 0))
    return shuffle(builder, one, nothing, [0] * count)


def shuffle(builder: Builder, first: Value, second: Value, lanes: Iterable[int]) -> Any:
    """Lanes of two vectors in an order; those of the second are counted on from the first's."""
    order = list(lanes)
    return builder.shuffle_vector(
        first, second, ir.Constant(ir.VectorType(_I32, len(order)), order)
    )


def is_contiguous(array: Type, *dtypes: Type) -> bool:
    """Whether a numba type is that of a C-ordered array of one of the dtypes."""
    return isinstance(array, types.Array) and array.layout == "C" and array.dtype in dtypes


def pointer(
    context: Context, builder: Builder, array_type: Type, array: Value, at: Value, to: Kind
) -> Any:
    """Where element `at` of a contiguous array is, as a pointer to `to`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


def line_of(context: Context, builder: Builder, array_type: Type, array: Value, row: Value) -> Any:
    """Where a row of a 2-D array begins, as a pointer to bytes; rows may lie apart."""
    view = context.make_array(array_type)(context, builder, array)
    offset = builder.mul(row, builder.extract_value(view.strides, 0))
    return builder.gep(builder.bitcast(view.data, BYTE_POINTER), [offset])


def call(builder: Builder, name: str, result: Kind, *args: Value) -> Any:
    """Call a function of LLVM's own by its name."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [arg.type for arg in args])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, args)


def prefetch(builder: Builder, where: Value, *, write: bool, near: int) -> None:
    """Bring the cache line of an address near: `near` is 3 for L1, 2 for L2."""
    address = builder.bitcast(where, BYTE_POINTER)
    data = 1  # not instructions
    hints = (_I32(int(write)), _I32(near), _I32(data))
    call(builder, "llvm.prefetch.p0i8", ir.VoidType(), address, *hints)


def rounded_up(builder: Builder, bits: Value, places: int) -> Any:
    """Integers whose bits from `places` on are their number rounded there, ties to even.

    What is below is left to the caller: to shift out, mask or not to look at.
    """
    # Half of the last place less one, and one more if that place is odd.
    odd = builder.and_(builder.lshr(bits, same(bits.type, places)), same(bits.type, 1))
    return builder.add(builder.add(bits, same(bits.type, (1 << places - 1) - 1)), odd)


def _operate(op: Callable[..., Any], on_unsigned: str, on_signed: str, on_real: str) -> None:
    @type_callable(op)
    def typer(context: Context) -> Any:
        def result(left: Type, right: Type) -> Any:
            if not isinstance(left, Lanes):
                return None
            real = isinstance(left.dtype, types.Float)
            if real and not on_real:
                return None
            scalar = right == left.dtype or (not real and isinstance(right, types.Integer))
            return left if scalar or right == left else None

        return result

    def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
        (left, right), kind = args, signature.args[0]
        if not isinstance(signature.args[1], Lanes):
            element = kind.llvm.element
            if isinstance(kind.dtype, types.Integer) and right.type.width > element.width:
                right = builder.trunc(right, element)
            right = broadcast(builder, right, kind.count)
        if isinstance(kind.dtype, types.Float):
            return getattr(builder, on_real)(left, right)
        return getattr(builder, on_signed if kind.dtype.signed else on_unsigned)(left, right)

    lower_builtin(op, Lanes, Lanes)(build)
    lower_builtin(op, Lanes, types.Number)(build)


_operate(operator.and_, "and_", "and_", "")
_operate(operator.or_, "or_", "or_", "")
_operate(operator.xor, "xor", "xor", "")
_operate(operator.lshift, "shl", "shl", "")
_operate(operator.rshift, "lshr", "ashr", "")
_operate(operator.add, "add", "add", "fadd")
_operate(operator.sub, "sub", "sub", "fsub")
_operate(operator.mul, "mul", "mul", "fmul")
