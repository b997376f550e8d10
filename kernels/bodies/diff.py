"""Bodies of `kernels/diff.py`, which has the layout."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import DISABLED, jit
from anamnesis.kernels.bodies._llvm import call, rounded_up, same, shuffle
from anamnesis.kernels.diff import DOT, LANES, MAX, NOISE, OTHER, SIGNAL, STEP, SUM, reduce_numpy
from anamnesis.kernels.types import Array, Doubles, Floats, Indices

if DISABLED:
    reduce = reduce_numpy

else:
    from anamnesis.kernels.bodies._lane_memory import REALS, load

    _I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
    _SINGLES, _WORDS = ir.VectorType(ir.FloatType(), STEP), ir.VectorType(_I32, STEP)
    _DOUBLES = ir.VectorType(ir.DoubleType(), LANES)

    def _round(builder: Builder, bits: Value) -> Any:
        # BF16 is bits 16-31.
        return builder.lshr(rounded_up(builder, bits, 16), same(_WORDS, 16))

    def _count(builder: Builder, mask: Value) -> Any:
        bits = builder.bitcast(mask, _I16)
        return builder.zext(call(builder, "llvm.ctpop.i16", _I16, bits), _I64)

    def _finite(builder: Builder, bits: Value) -> Any:
        magnitude = builder.and_(bits, same(_WORDS, 0x7FFFFFFF))
        # Exponents below 255.
        return builder.icmp_unsigned("<", magnitude, same(_WORDS, 0x7F800000))

    def _half(builder: Builder, vector: Value, half: int) -> Any:
        lanes = range(half * LANES, (half + 1) * LANES)
        return builder.fpext(shuffle(builder, vector, vector, lanes), _DOUBLES)

    def _add(builder: Builder, fuses: bool, sums: list[Any], x: Value, y: Value) -> list[Any]:
        distance = call(builder, "llvm.fabs.v8f64", _DOUBLES, builder.fsub(x, y))
        # Double sums in eight lanes, whatever the vectors of the machine.
        more = builder.fcmp_ordered(">", distance, sums[MAX])
        found = list(sums)
        found[MAX] = builder.select(more, distance, sums[MAX])
        found[SUM] = builder.fadd(sums[SUM], distance)
        found[NOISE] = builder.fadd(sums[NOISE], builder.fmul(distance, distance))
        for row, first, second in ((SIGNAL, x, x), (OTHER, y, y), (DOT, x, y)):
            product = (first, second, sums[row])
            found[row] = _fused(builder, *product) if fuses else _added(builder, *product)
        return found

    # A product of two float32, which float64 holds: fused or not, the sum is rounded once.

    def _fused(builder: Builder, first: Value, second: Value, total: Value) -> Any:
        return call(builder, f"llvm.fma.v{LANES}f64", _DOUBLES, first, second, total)

    def _added(builder: Builder, first: Value, second: Value, total: Value) -> Any:
        return builder.fadd(total, builder.fmul(first, second))

    @intrinsic
    def _loop(typingctx: Typing, a: Type, b: Type, state: Type, counts: Type, steps: Type) -> Any:
        """`reduce` of so many steps."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            fuses = "+fma" in context.codegen().magic_tuple()[2].split(",")
            arrays = zip(signature.args[:4], args[:4], strict=True)
            data = [
                context.make_array(kind)(context, builder, array).data for kind, array in arrays
            ]
            rows = [builder.gep(data[2], [ir.Constant(_I64, LANES * row)]) for row in range(6)]
            places = [builder.bitcast(row, _DOUBLES.as_pointer()) for row in rows]
            tallies = [builder.gep(data[3], [ir.Constant(_I64, n)]) for n in range(2)]
            first = [builder.load(place, align=8) for place in places]
            first += [builder.load(tally) for tally in tallies]
            entry = builder.block
            head, body, end = (builder.append_basic_block(n) for n in ("head", "body", "end"))
            builder.branch(head)
            builder.position_at_end(head)
            at = builder.phi(_I64)
            at.add_incoming(ir.Constant(_I64, 0), entry)
            carried = [builder.phi(value.type) for value in first]
            for phi, value in zip(carried, first, strict=True):
                phi.add_incoming(value, entry)
            builder.cbranch(builder.icmp_signed("<", at, args[4]), body, end)

            builder.position_at_end(body)
            where = builder.mul(at, ir.Constant(_I64, STEP))
            x, y = (
                load(context, builder, kind, (array, where), REALS)
                for kind, array in zip(signature.args[:2], args[:2], strict=True)
            )
            x_bits, y_bits = builder.bitcast(x, _WORDS), builder.bitcast(y, _WORDS)
            finite = builder.and_(_finite(builder, x_bits), _finite(builder, y_bits))
            equal = builder.icmp_unsigned("==", _round(builder, x_bits), _round(builder, y_bits))
            found = [
                builder.add(carried[6], _count(builder, finite)),
                builder.add(carried[7], _count(builder, builder.and_(finite, equal))),
            ]
            x, y = (builder.select(finite, v, same(_SINGLES, 0.0)) for v in (x, y))
            sums = carried[:6]
            for half in range(2):
                sums = _add(builder, fuses, sums, *(_half(builder, of, half) for of in (x, y)))
            for phi, value in zip(carried, [*sums, *found], strict=True):
                phi.add_incoming(value, builder.block)
            at.add_incoming(builder.add(at, ir.Constant(_I64, 1)), builder.block)
            builder.branch(head)

            builder.position_at_end(end)
            for place, phi in zip(places, carried[:6], strict=True):
                builder.store(phi, place, align=8)
            for tally, phi in zip(tallies, carried[6:], strict=True):
                builder.store(phi, tally)
            return context.get_dummy_value()

        return types.void(a, b, state, counts, types.intp), build

    @jit
    def reduce(a: Array, b: Floats, state: Doubles, counts: Indices) -> None:
        """Add whole steps to the sums, of float32 or BF16's bits; see `reduce_numpy`."""
        _loop(a, b, state, counts, a.shape[0] // STEP)
