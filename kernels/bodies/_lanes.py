"""Sixteen float32 or int32 numbers side by side: what searches for scales are written with.

A lane is a group of its own: `groups_of` turns sixteen groups so that vector i has element i of
each, and a search then does in every lane what it would do alone, in the same order and with the
same roundings. Branches become masks: `choose` takes each lane from one of two vectors. Numbers
are LLVM's own vectors (`_vector`), to which this adds comparisons, quotients and what is needed
to go between numbers and bits. With `NUMBA_DISABLE_JIT=1` they are numpy arrays.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from anamnesis.kernels.bodies import _vector
from anamnesis.kernels.bodies._jit import DISABLED, inline
from anamnesis.kernels.bodies._transpose import transpose_lines

COUNT = 16


@inline
def groups_of(groups: Any, first: Any, count: Any, tile: Any) -> None:
    """`tile[i, lane] = groups[first + lane, i]`, of `count` numbers a group, a multiple of 16."""
    for at in range(0, count, COUNT):
        transpose_lines(groups, first, at, tile, at, 0)


@inline
def some_groups_of(groups: Any, first: Any, count: Any, tail: Any, tile: Any) -> None:
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

    def lanes(array: Any, at: Any) -> Any:
        return array.reshape(-1)[at : at + COUNT].copy()

    def put_lanes(array: Any, at: Any, numbers: Any) -> None:
        array.reshape(-1)[at : at + COUNT] = numbers

    def put_bytes(out: Any, at: Any, numbers: Any) -> None:
        out.reshape(-1)[at : at + COUNT] = numbers.astype(np.uint8)

    def put_pairs(out: Any, at: Any, codes: Any) -> None:
        out[at : at + COUNT // 2] = (codes[::2] | codes[1::2] << 4).astype(np.uint8)

    def put_pairs_back(out: Any, at: Any, codes: Any) -> None:
        out[at : at + COUNT // 2] = (codes[::2] << 4 | codes[1::2]).astype(np.uint8)

    def splat(number: Any) -> Any:
        kind = np.float32 if isinstance(number, np.float32) else np.int32
        return np.full(COUNT, number, kind)

    def as_bits(numbers: Any) -> Any:
        return numbers.view(np.int32)

    def as_reals(bits: Any) -> Any:
        return bits.view(np.float32)

    def reals(numbers: Any) -> Any:
        return numbers.astype(np.float32)

    def wholes(numbers: Any) -> Any:
        return numbers.astype(np.int32)

    def choose(mask: Any, first: Any, second: Any) -> Any:
        return np.where(mask, first, second)

    def root(numbers: Any) -> Any:
        return np.sqrt(numbers)

    def greatest_of(tile: Any) -> Any:
        return tile.max(1)

    def word(mask: Any) -> Any:
        return int(np.packbits(mask, bitorder="little").view("<u2")[0])

    def is_any(mask: Any) -> Any:
        return mask.any()

else:
    _I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
    _REALS, _WHOLES = _vector.Lanes(types.float32, COUNT), _vector.Lanes(types.int32, COUNT)
    _BITS = ir.VectorType(ir.IntType(1), COUNT)

    class Mask(types.Type):  # type: ignore[misc]
        """The numba type of a truth a lane."""

        def __init__(self) -> None:
            super().__init__(name="Mask")

    _MASK = Mask()

    @register_model(Mask)
    class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, numba_type: Any) -> None:
            super().__init__(manager, numba_type, _BITS)

    def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any, to: Any) -> Any:
        data = context.make_array(kind)(context, builder, array).data
        return builder.bitcast(builder.gep(data, [at]), to.as_pointer())

    def _vector_of(array: Any) -> Any:
        if not isinstance(array, types.Array) or array.layout != "C":
            return None
        return {types.float32: _REALS, types.int32: _WHOLES}.get(array.dtype)

    @intrinsic
    def lanes(typingctx: Any, array: Any, at: Any) -> Any:
        """Sixteen numbers of a contiguous array from element `at` on."""
        result = _vector_of(array)
        if result is None:
            return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(
                _place(context, builder, array, args[0], args[1], result.llvm), align=4
            )

        return result(array, types.intp), build

    @intrinsic
    def put_lanes(typingctx: Any, array: Any, at: Any, numbers: Any) -> Any:
        """Store sixteen numbers from element `at` on."""
        if _vector_of(array) != numbers or not array.mutable:
            return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            where = _place(context, builder, array, args[0], args[1], numbers.llvm)
            builder.store(args[2], where, align=4)
            return context.get_dummy_value()

        return types.void(array, types.intp, numbers), build

    @intrinsic
    def put_bytes(typingctx: Any, out: Any, at: Any, numbers: Any) -> Any:
        """Store the low eight bits of each of sixteen int32 from byte `at` on."""
        if not isinstance(out, types.Array) or out.dtype != types.uint8 or numbers != _WHOLES:
            return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            low = builder.trunc(args[2], ir.VectorType(_I8, COUNT))
            where = _place(context, builder, out, args[0], args[1], low.type)
            builder.store(low, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, numbers), build

    def _pairs(up: int, down: int, doc: str) -> Any:
        @intrinsic
        def put(typingctx: Any, out: Any, at: Any, codes: Any) -> Any:
            if not isinstance(out, types.Array) or out.dtype != types.uint8 or codes != _WHOLES:
                return None

            def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                wide = ir.VectorType(_I64, COUNT // 2)
                both = builder.bitcast(args[2], wide)
                left = builder.shl(both, _vector._same(wide, up))
                right = builder.lshr(both, _vector._same(wide, down))
                low = builder.trunc(builder.or_(left, right), ir.VectorType(_I8, COUNT // 2))
                where = _place(context, builder, out, args[0], args[1], low.type)
                builder.store(low, where, align=1)
                return context.get_dummy_value()

            return types.void(out, types.intp, codes), build

        put.__doc__ = doc
        return put

    # A pair of int32 is a number of 64 bits, whose upper half is the second of both.
    put_pairs = _pairs(0, 28, "Store eight bytes of two codes each, the first in the low half.")
    put_pairs_back = _pairs(4, 32, "The same with the first one in the high half.")

    @intrinsic
    def splat(typingctx: Any, number: Any) -> Any:
        """The same number in every lane: of a float32, or of an integer as int32."""
        real = number == types.float32
        if not real and not isinstance(number, types.Integer | types.IntegerLiteral):
            return None
        result = _REALS if real else _WHOLES
        taken = types.float32 if real else types.int32

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _vector._splat(builder, args[0], COUNT)

        return result(taken), build

    def _one(source: Any, result: Any, build: Any, doc: str) -> Any:
        @intrinsic
        def function(typingctx: Any, numbers: Any) -> Any:
            if numbers != source:
                return None

            def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return build(builder, args[0])

            return result(numbers), lower

        function.__doc__ = doc
        return function

    def _call(builder: Any, name: str, kinds: Any, result: Any, args: Any) -> Any:
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(result, kinds), name)
        return builder.call(function, args)

    def _root(builder: Any, numbers: Any) -> Any:
        return _call(builder, f"llvm.sqrt.v{COUNT}f32", [numbers.type], numbers.type, [numbers])

    def _word(builder: Any, mask: Any) -> Any:
        return builder.zext(builder.bitcast(mask, _I16), _I64)

    @intrinsic
    def greatest_of(typingctx: Any, tile: Any) -> Any:
        """The greatest of each of the 16 lines of a tile, a lane each; none may be NaN."""
        kind = _vector_of(tile)
        if kind is None:
            return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            rows = []
            for row in range(COUNT):
                at = ir.Constant(_I64, COUNT * row)
                where = _place(context, builder, tile, args[0], at, kind.llvm)
                rows.append(builder.load(where, align=4))
            step = COUNT // 2
            while step:
                # Lanes of row i go on where `lane & step` is 0, those of row i + step elsewhere.
                rows = [_folded(builder, rows[i], rows[i + step], step) for i in range(step)]
                step //= 2
            return rows[0]

        return kind(tile), build

    def _folded(builder: Any, first: Any, second: Any, step: int) -> Any:
        """The greater of each lane and the one `step` on, of the first row, then of the second."""
        near = [i if not i & step else i - step + COUNT for i in range(COUNT)]
        far = [i + step for i in near]
        kept, other = (_vector._shuffle(builder, first, second, order) for order in (near, far))
        ask = builder.fcmp_ordered if first.type == _REALS.llvm else builder.icmp_signed
        return builder.select(ask(">", other, kept), other, kept)

    as_bits = _one(
        _REALS, _WHOLES, lambda b, v: b.bitcast(v, _WHOLES.llvm), "The bits of float32 lanes."
    )
    as_reals = _one(
        _WHOLES, _REALS, lambda b, v: b.bitcast(v, _REALS.llvm), "The float32 lanes of bits."
    )
    reals = _one(_WHOLES, _REALS, lambda b, v: b.sitofp(v, _REALS.llvm), "int32 to float32.")
    wholes = _one(
        _REALS,
        _WHOLES,
        lambda b, v: b.fptosi(v, _WHOLES.llvm),
        "float32 towards zero as int32, which has to hold it.",
    )
    root = _one(_REALS, _REALS, _root, "Square roots.")
    word = _one(_MASK, types.intp, _word, "A bit a lane, the first one lowest.")
    is_any = _one(
        _MASK,
        types.boolean,
        lambda b, v: b.icmp_unsigned("!=", b.bitcast(v, _I16), ir.Constant(_I16, 0)),
        "Whether any lane holds.",
    )

    @intrinsic
    def choose(typingctx: Any, mask: Any, first: Any, second: Any) -> Any:
        """Lanes of the first where the mask holds, else of the second."""
        if mask != _MASK or first != second or not isinstance(first, _vector.Lanes):
            return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(*args)

        return first(mask, first, second), build

    def _spread(builder: Any, kind: Any, number: Any) -> Any:
        if number.type == kind.llvm:
            return number
        if isinstance(number.type, ir.IntType) and number.type.width > 32:
            number = builder.trunc(number, _I32)
        return _vector._splat(builder, number, COUNT)

    def _typed(op: Any, result_of: Any) -> None:
        @type_callable(op)
        def typer(context: Any) -> Any:
            def result(left: Any, right: Any) -> Any:
                if left not in (_REALS, _WHOLES):
                    return None
                scalar = right == left.dtype or (
                    left == _WHOLES and isinstance(right, types.Integer)
                )
                return result_of(left) if scalar or right == left else None

            return result

    def _compared(op: Any, sign: str) -> None:
        _typed(op, lambda left: _MASK)

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = signature.args[0]
            right = _spread(builder, kind, args[1])
            if kind == _REALS:
                # As in Python: nothing but `!=` holds of a NaN.
                ask = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
                return ask(sign, args[0], right)
            return builder.icmp_signed(sign, args[0], right)

        lower_builtin(op, _vector.Lanes, _vector.Lanes)(build)
        lower_builtin(op, _vector.Lanes, types.Number)(build)

    for _op, _sign in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "==")):
        _compared(getattr(operator, _op), _sign)
    _compared(operator.ne, "!=")

    def _divided(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left, right = (_spread(builder, _REALS, number) for number in args)
        return builder.fdiv(left, right)

    @type_callable(operator.truediv)
    def _quotient(context: Any) -> Any:
        def result(left: Any, right: Any) -> Any:
            kinds = (_REALS, types.float32)
            fits = left in kinds and right in kinds and _REALS in (left, right)
            return _REALS if fits else None

        return result

    lower_builtin(operator.truediv, _vector.Lanes, _vector.Lanes)(_divided)
    lower_builtin(operator.truediv, _vector.Lanes, types.Number)(_divided)
    lower_builtin(operator.truediv, types.Number, _vector.Lanes)(_divided)

    def _joined(op: Any, name: str) -> None:
        @type_callable(op)
        def typer(context: Any) -> Any:
            return lambda left, right: _MASK if left == right == _MASK else None

        @lower_builtin(op, Mask, Mask)
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

    _joined(operator.and_, "and_")
    _joined(operator.or_, "or_")


@inline
def size_of(numbers: Any) -> Any:
    """Magnitudes: the bits below the sign."""
    return as_reals(as_bits(numbers) & 0x7FFFFFFF)


@inline
def least_of(first: Any, second: Any) -> Any:
    """The lesser of two vectors, lane by lane; the second's where they do not compare."""
    return choose(first < second, first, second)


@inline
def most_of(first: Any, second: Any) -> Any:
    """The greater of two vectors, lane by lane; the second's where they do not compare."""
    return choose(first > second, first, second)


@inline
def some(values: Any, at: Any, end: Any, room: Any) -> Any:
    """The numbers from `at` to `end` of a flat array, fewer than sixteen, and zeros; by `room`."""
    for i in range(COUNT):
        room[i] = values[at + i] if at + i < end else np.float32(0)
    return lanes(room, 0)


@inline
def put_some(out: Any, at: Any, end: Any, numbers: Any, room: Any) -> None:
    """Store the low bytes of int32 lanes from `at` to `end`, fewer than sixteen; by `room`."""
    put_lanes(room, 0, numbers)
    for i in range(end - at):
        out[at + i] = np.uint8(room[i] & 0xFF)


@inline
def between(numbers: Any, low: Any, high: Any) -> Any:
    """int32 lanes between two numbers."""
    return most_of(least_of(numbers, splat(high)), splat(low))
