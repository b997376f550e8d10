"""Sixteen float32 or int32 numbers side by side: what searches for scales are written with.

A lane is a group of its own: `groups_of` turns sixteen groups so that vector i has element i of
each, and a search then does in every lane what it would do alone, in the same order and with the
same roundings. Branches become masks: `choose` takes each lane from one of two vectors. Numbers
are LLVM's own vectors (`_vector`), to which this adds comparisons, quotients and what is needed
to go between numbers and bits. With `NUMBA_DISABLE_JIT=1` they are numpy arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import DISABLED, inline
from anamnesis.kernels.bodies._lane_memory import COUNT
from anamnesis.kernels.bodies._llvm import Lanes, broadcast, call, pointer, shuffle
from anamnesis.kernels.bodies._transpose import transpose_lines
from anamnesis.kernels.types import Array, Flags, Floats, Integer, Ints, Real


@inline
def groups_of(groups: Array, first: int, count: int, tile: Array) -> None:
    """`tile[i, lane] = groups[first + lane, i]`, of `count` numbers a group, a multiple of 16."""
    for at in range(0, count, COUNT):
        transpose_lines(groups, first, at, tile, at, 0)


@inline
def some_groups_of(groups: Array, first: int, count: int, tail: Array, tile: Array) -> None:
    """As `groups_of`; where fewer than sixteen are left, zeros stand for others, in `tail`."""
    left = groups.shape[0] - first
    if left >= COUNT:
        groups_of(groups, first, count, tile)
        return
    for lane in range(COUNT):
        for i in range(count):
            tail[lane, i] = groups[first + lane, i] if lane < left else np.float32(0)
    groups_of(tail, 0, count, tile)


if DISABLED:

    def splat(number: Real | Integer) -> Any:
        kind = np.float32 if isinstance(number, np.float32) else np.int32
        return np.full(COUNT, number, kind)

    def as_bits(numbers: Floats) -> Any:
        return numbers.view(np.int32)

    def as_reals(bits: Ints) -> Any:
        return bits.view(np.float32)

    def reals(numbers: Ints) -> Any:
        return numbers.astype(np.float32)

    def wholes(numbers: Floats) -> Any:
        return numbers.astype(np.int32)

    def choose(mask: Flags, first: Array, second: Array) -> Any:
        return np.where(mask, first, second)

    def root(numbers: Floats) -> Any:
        return np.sqrt(numbers)

    def fused(first: Floats, second: Floats, third: Floats) -> Any:
        product = first.astype(np.longdouble) * second.astype(np.longdouble)  # exact
        return (product + third).astype(np.float32)

    def greatest_of(tile: Array) -> Any:
        return tile.max(1)

    def most_of_pairs(first: Ints, second: Ints) -> Any:
        return np.maximum(first.view(np.int16), second.view(np.int16)).view(np.int32)

    def count_of(mask: Flags) -> Any:
        return int(mask.sum())

    def not_below(first: Floats, second: Floats) -> Any:
        return ~(first < second)

    def at_most(first: Ints, second: Ints) -> Any:
        return first.view(np.uint32) <= second.view(np.uint32)

    def word(mask: Flags) -> Any:
        return int(np.packbits(mask, bitorder="little").view("<u2")[0])

    def is_any(mask: Flags) -> Any:
        return mask.any()

else:
    from anamnesis.kernels.bodies._lane_memory import REALS, WHOLES, vector_of

    _I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
    _BITS = ir.VectorType(ir.IntType(1), COUNT)

    class Mask(types.Type):  # type: ignore[misc]
        """The numba type of a truth a lane."""

        def __init__(self) -> None:
            super().__init__(name="Mask")

    _MASK = Mask()

    @register_model(Mask)
    class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, numba_type: Type) -> None:
            super().__init__(manager, numba_type, _BITS)

    @intrinsic
    def splat(typingctx: Typing, number: Type) -> Any:
        """The same number in every lane: of a float32, or of an integer as int32."""
        real = number == types.float32
        if not real and not isinstance(number, types.Integer | types.IntegerLiteral):
            return None
        result = REALS if real else WHOLES
        taken = types.float32 if real else types.int32

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return broadcast(builder, args[0], COUNT)

        return result(taken), build

    def _one(source: Type, result: Type, build: Callable[..., Any], doc: str) -> Any:
        @intrinsic
        def function(typingctx: Typing, numbers: Type) -> Any:
            if numbers != source:
                return None

            def lower(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                return build(builder, args[0])

            return result(numbers), lower

        function.__doc__ = doc
        return function

    def _asked(kind: Type, ask: Callable[..., Any], doc: str) -> Any:
        @intrinsic
        def function(typingctx: Typing, first: Type, second: Type) -> Any:
            if not first == second == kind:
                return None

            def lower(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                return ask(builder, *args)

            return _MASK(first, second), lower

        function.__doc__ = doc
        return function

    def _count(builder: Builder, mask: Value) -> Any:
        found = call(builder, "llvm.ctpop.i16", _I16, builder.bitcast(mask, _I16))
        return builder.zext(found, _I64)

    def _root(builder: Builder, numbers: Value) -> Any:
        return call(builder, f"llvm.sqrt.v{COUNT}f32", numbers.type, numbers)

    def _word(builder: Builder, mask: Value) -> Any:
        return builder.zext(builder.bitcast(mask, _I16), _I64)

    @intrinsic
    def fused(typingctx: Typing, first: Type, second: Type, third: Type) -> Any:
        """`first * second + third` of float32 lanes, rounded once."""
        if not first == second == third == REALS:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            kind = REALS.llvm
            return call(builder, f"llvm.fma.v{COUNT}f32", kind, *args)

        return REALS(first, second, third), build

    @intrinsic
    def most_of_pairs(typingctx: Typing, first: Type, second: Type) -> Any:
        """The greater of each half, an int16, of int32 lanes."""
        if not first == second == WHOLES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            kind = ir.VectorType(_I16, 2 * COUNT)
            halves = (builder.bitcast(number, kind) for number in args)
            found = call(builder, f"llvm.smax.v{2 * COUNT}i16", kind, *halves)
            return builder.bitcast(found, WHOLES.llvm)

        return WHOLES(first, second), build

    @intrinsic
    def greatest_of(typingctx: Typing, tile: Type) -> Any:
        """The greatest of each of the 16 lines of a tile, a lane each; none may be NaN."""
        kind = vector_of(tile)
        if kind is None:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            rows = []
            for row in range(COUNT):
                at = ir.Constant(_I64, COUNT * row)
                where = pointer(context, builder, tile, args[0], at, kind.llvm)
                rows.append(builder.load(where, align=4))
            step = COUNT // 2
            while step:
                # Lanes of row i go on where `lane & step` is 0, those of row i + step elsewhere.
                rows = [_folded(builder, rows[i], rows[i + step], step) for i in range(step)]
                step //= 2
            return rows[0]

        return kind(tile), build

    def _folded(builder: Builder, first: Value, second: Value, step: int) -> Any:
        """The greater of each lane and the one `step` on, of the first row, then of the second."""
        # Where bit `step` of the lane is clear, of the first row, else of the second: one is `step`
        # on.
        near = [i if not i & step else i - step + COUNT for i in range(COUNT)]
        far = [i + step for i in near]
        kept, other = (shuffle(builder, first, second, order) for order in (near, far))
        ask = builder.fcmp_ordered if first.type == REALS.llvm else builder.icmp_signed
        return builder.select(ask(">", other, kept), other, kept)

    as_bits = _one(
        REALS, WHOLES, lambda b, v: b.bitcast(v, WHOLES.llvm), "The bits of float32 lanes."
    )
    as_reals = _one(
        WHOLES, REALS, lambda b, v: b.bitcast(v, REALS.llvm), "The float32 lanes of bits."
    )
    reals = _one(WHOLES, REALS, lambda b, v: b.sitofp(v, REALS.llvm), "int32 to float32.")
    wholes = _one(
        REALS,
        WHOLES,
        lambda b, v: b.fptosi(v, WHOLES.llvm),
        "float32 towards zero as int32, which has to hold it.",
    )
    count_of = _one(_MASK, types.intp, _count, "How many lanes hold.")
    not_below = _asked(
        REALS,
        lambda b, first, second: b.fcmp_unordered(">=", first, second),
        "Where the first is not below the second, or one is NaN.",
    )
    at_most = _asked(
        WHOLES,
        lambda b, first, second: b.icmp_unsigned("<=", first, second),
        "Where the first is the second at most, both without a sign.",
    )
    root = _one(REALS, REALS, _root, "Square roots.")
    word = _one(_MASK, types.intp, _word, "A bit a lane, the first one lowest.")
    is_any = _one(
        _MASK,
        types.boolean,
        lambda b, v: b.icmp_unsigned("!=", b.bitcast(v, _I16), ir.Constant(_I16, 0)),
        "Whether any lane holds.",
    )

    @intrinsic
    def choose(typingctx: Typing, mask: Type, first: Type, second: Type) -> Any:
        """Lanes of the first where the mask holds, else of the second."""
        if mask != _MASK or first != second or not isinstance(first, Lanes):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return builder.select(*args)

        return first(mask, first, second), build

    def _spread(builder: Builder, kind: Type, number: Value) -> Any:
        if number.type == kind.llvm:
            return number
        if isinstance(number.type, ir.IntType) and number.type.width > 32:
            number = builder.trunc(number, _I32)
        return broadcast(builder, number, COUNT)

    def _typed(op: Callable[..., Any], result_of: Callable[..., Any]) -> None:
        @type_callable(op)
        def typer(context: Context) -> Any:
            def result(left: Type, right: Type) -> Any:
                if left not in (REALS, WHOLES):
                    return None
                scalar = right == left.dtype or (
                    left == WHOLES and isinstance(right, types.Integer)
                )
                return result_of(left) if scalar or right == left else None

            return result

    def _compared(op: Callable[..., Any], sign: str) -> None:
        _typed(op, lambda left: _MASK)

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            kind = signature.args[0]
            right = _spread(builder, kind, args[1])
            if kind == REALS:
                # As in Python: nothing but `!=` holds of a NaN.
                ask = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
                return ask(sign, args[0], right)
            return builder.icmp_signed(sign, args[0], right)

        lower_builtin(op, Lanes, Lanes)(build)
        lower_builtin(op, Lanes, types.Number)(build)

    for _op, _sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "==")):
        _compared(getattr(operator, _op), _sign)
    _compared(operator.ne, "!=")

    def _divided(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
        left, right = (_spread(builder, REALS, number) for number in args)
        return builder.fdiv(left, right)

    @type_callable(operator.truediv)
    def _quotient(context: Context) -> Any:
        def result(left: Type, right: Type) -> Any:
            kinds = (REALS, types.float32)
            fits = left in kinds and right in kinds and REALS in (left, right)
            return REALS if fits else None

        return result

    lower_builtin(operator.truediv, Lanes, Lanes)(_divided)
    lower_builtin(operator.truediv, Lanes, types.Number)(_divided)
    lower_builtin(operator.truediv, types.Number, Lanes)(_divided)

    def _joined(op: Callable[..., Any], name: str) -> None:
        @type_callable(op)
        def typer(context: Context) -> Any:
            return lambda left, right: _MASK if left == right == _MASK else None

        @lower_builtin(op, Mask, Mask)
        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return getattr(builder, name)(*args)

    _joined(operator.and_, "and_")
    _joined(operator.or_, "or_")


@inline
def size_of(numbers: Floats) -> Any:
    """Magnitudes: the bits below the sign."""
    return as_reals(as_bits(numbers) & 0x7FFFFFFF)


@inline
def least_of(first: Array, second: Array) -> Any:
    """The lesser of two vectors, lane by lane; the second's where they do not compare."""
    return choose(first < second, first, second)


@inline
def most_of(first: Array, second: Array) -> Any:
    """The greater of two vectors, lane by lane; the second's where they do not compare."""
    return choose(first > second, first, second)


@inline
def between(numbers: Ints, low: int, high: int) -> Any:
    """int32 lanes between two numbers."""
    return most_of(least_of(numbers, splat(high)), splat(low))
