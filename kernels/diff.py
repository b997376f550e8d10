"""How far two arrays of float32 are apart: the sums of one pass, for `diff`.

All sums are of float64 and run in eight lanes: element `i` of a call goes to lane `i % 8`, in
order, and no product is contracted into an addition. So the sums of the same calls are the same
bits on every machine, whatever the width of its vectors; the numpy twin, which runs without
the compiler, gives those bits too. LLVM may not reorder a float sum into lanes by itself, so the
loop is written as vectors here.

Only pairs of finite numbers count in the sums. The others are rare, and are counted by numpy.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels._jit import DISABLED, intrinsic, ir, jit, types

LANES = 8
_STEP = 2 * LANES
# Rows of the state: |a-b| summed and its maximum, then sums of (a-b)^2, a^2, b^2 and ab.
_SUM, _MAX, _NOISE, _SIGNAL, _OTHER, _DOT = range(6)


class Sums(NamedTuple):
    """What a comparison adds up to; counts are of elements, sums of finite pairs alone.

    `equal` counts pairs whose BF16 bits are equal; any two NaNs are. `nan_a` and `nan_b` count NaNs
    on that side alone, `nan_both` on both; `inf_differs` counts other pairs with an infinity
    on one side that is not on the other.
    """

    elems: int = 0
    finite: int = 0
    equal: int = 0
    nan_a: int = 0
    nan_b: int = 0
    nan_both: int = 0
    inf_differs: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    noise: float = 0.0  # sum of (a - b)^2
    signal: float = 0.0  # sum of a^2
    other: float = 0.0  # sum of b^2
    dot: float = 0.0  # sum of a b

    def __add__(self, more: Sums) -> Sums:  # type: ignore[override]
        """Both together. The order of additions is the caller's, and counts in the last bits."""
        joined: Any = [x + y for x, y in zip(self, more, strict=True)]
        joined[self._fields.index("max_abs")] = max(self.max_abs, more.max_abs)
        return Sums(*joined)


class Comparison:
    """Sums that grow call by call; equal calls give equal bits."""

    def __init__(self) -> None:
        self._state: Any = np.zeros((6, LANES))
        self._counts: Any = np.zeros(2, np.int64)  # finite pairs, equal ones among them
        self._last: Any = np.zeros((2, _STEP), np.float32)
        self._rest = Sums()

    def add(self, a: Any, b: Any) -> None:
        """Compare two contiguous float32 arrays of one dimension and the same length."""
        elems = len(a)
        whole = elems // _STEP * _STEP
        before = int(self._counts[0])
        _reduce(_read_only(a[:whole]), _read_only(b[:whole]), self._state, self._counts)
        if whole < elems:  # zeros are finite, equal, and add nothing to a sum
            self._last[:] = 0
            self._last[0, : elems - whole] = a[whole:]
            self._last[1, : elems - whole] = b[whole:]
            first, second = self._last
            _reduce(_read_only(first), _read_only(second), self._state, self._counts)
            self._counts -= whole + _STEP - elems
        finite = int(self._counts[0]) - before
        self._rest += Sums(elems=elems) if finite == elems else _others(a, b)

    def result(self) -> Sums:
        """The sums so far."""
        finite, equal = map(int, self._counts)
        lanes = [math.fsum(row) for row in self._state]
        sums = Sums(
            finite=finite,
            equal=equal,
            max_abs=float(self._state[_MAX].max()),
            sum_abs=lanes[_SUM],
            noise=lanes[_NOISE],
            signal=lanes[_SIGNAL],
            other=lanes[_OTHER],
            dot=lanes[_DOT],
        )
        return sums + self._rest


def metrics(sums: Sums) -> dict[str, float]:
    """Figures of merit, as the table of a diff has them.

    SQNR is 10 log10(sum a^2 / sum (a-b)^2) in dB: inf without error, -inf where A is zero and B
    is not. The relative error is the same ratio's root, |a-b| / |a|: 0 without error. The cosine
    is NaN where one side is all zeros. All are NaN where no pair is finite.
    """
    nothing = sums.finite == 0
    mean = math.nan if nothing else sums.sum_abs / sums.finite
    rms = math.nan if nothing else math.sqrt(sums.noise / sums.finite)
    norms = math.sqrt(sums.signal) * math.sqrt(sums.other)
    # Rounding of the last bits may take the quotient past 1, where no cosine is.
    cosine = min(1.0, max(-1.0, sums.dot / norms)) if norms else math.nan
    return {
        "max_abs_error": math.nan if nothing else sums.max_abs,
        "mean_abs_error": mean,
        "rms_error": rms,
        "relative_error": math.nan if nothing else _relative(sums),
        "sqnr_db": math.nan if nothing else sqnr_db(sums.signal, sums.noise),
        "cosine": cosine,
    }


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantisation noise in dB, of sums of squares; see `metrics` for the ends."""
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))


def _relative(sums: Sums) -> float:
    if sums.noise == 0:
        return 0.0
    return math.sqrt(sums.noise) / math.sqrt(sums.signal) if sums.signal else math.inf


def _read_only(array: Any) -> Any:
    """Always of one type, so that the kernel is compiled once."""
    view = array[:]
    view.setflags(write=False)
    return view


def _others(a: Any, b: Any) -> Sums:
    """Count the pairs that are not finite."""
    elems = len(a)
    where = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))
    a, b = a[where], b[where]
    nan_a, nan_b = np.isnan(a), np.isnan(b)
    both = int(np.count_nonzero(nan_a & nan_b))
    neither = ~(nan_a | nan_b)
    same = int(np.count_nonzero(_bf16(a[neither]) == _bf16(b[neither])))
    return Sums(
        elems=elems,
        equal=both + same,
        nan_a=int(np.count_nonzero(nan_a)) - both,
        nan_b=int(np.count_nonzero(nan_b)) - both,
        nan_both=both,
        inf_differs=int(np.count_nonzero(a[neither] != b[neither])),
    )


def _bf16(values: Any) -> Any:
    """float32 numbers rounded to BF16 bits, to nearest and ties to even; not for NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)


def _reduce_numpy(a: Any, b: Any, state: Any, counts: Any) -> None:
    """What `_reduce` does, of whole steps; the same bits."""
    finite = np.isfinite(a) & np.isfinite(b)
    counts[0] += np.count_nonzero(finite)
    counts[1] += np.count_nonzero(finite & (_bf16(a) == _bf16(b)))
    x = np.where(finite, a, np.float32(0)).astype(np.float64).reshape(-1, LANES)
    y = np.where(finite, b, np.float32(0)).astype(np.float64).reshape(-1, LANES)
    distance = np.abs(x - y)
    state[_MAX] = np.maximum(state[_MAX], distance.max(axis=0, initial=0))
    terms = ((_SUM, distance), (_NOISE, distance * distance), (_SIGNAL, x * x))
    for row, added in (*terms, (_OTHER, y * y), (_DOT, x * y)):
        state[row] = np.add.reduce(np.vstack([state[row], added]), axis=0)


if DISABLED:
    _reduce = _reduce_numpy

else:
    _I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
    _F32, _F64 = ir.FloatType(), ir.DoubleType()
    _SINGLES, _WORDS = ir.VectorType(_F32, _STEP), ir.VectorType(_I32, _STEP)
    _DOUBLES = ir.VectorType(_F64, LANES)

    def _every(vector: Any, number: Any) -> Any:
        return ir.Constant(vector, [number] * vector.count)

    def _call(builder: Any, name: str, kind: Any, *args: Any) -> Any:
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(kind, [arg.type for arg in args]), name
        )
        return builder.call(function, args)

    def _round(builder: Any, bits: Any) -> Any:
        odd = builder.and_(builder.lshr(bits, _every(_WORDS, 16)), _every(_WORDS, 1))
        up = builder.add(builder.add(bits, _every(_WORDS, 0x7FFF)), odd)
        return builder.lshr(up, _every(_WORDS, 16))

    def _count(builder: Any, mask: Any) -> Any:
        bits = builder.bitcast(mask, _I16)
        return builder.zext(_call(builder, "llvm.ctpop.i16", _I16, bits), _I64)

    def _finite(builder: Any, bits: Any) -> Any:
        magnitude = builder.and_(bits, _every(_WORDS, 0x7FFFFFFF))
        return builder.icmp_unsigned("<", magnitude, _every(_WORDS, 0x7F800000))

    def _half(builder: Any, vector: Any, half: int) -> Any:
        order = list(range(half * LANES, (half + 1) * LANES))
        lanes = ir.Constant(ir.VectorType(_I32, LANES), order)
        return builder.fpext(builder.shuffle_vector(vector, vector, lanes), _DOUBLES)

    def _add(builder: Any, sums: list[Any], x: Any, y: Any) -> list[Any]:
        distance = _call(builder, "llvm.fabs.v8f64", _DOUBLES, builder.fsub(x, y))
        more = builder.fcmp_ordered(">", distance, sums[_MAX])
        terms = {
            _SUM: distance,
            _NOISE: builder.fmul(distance, distance),
            _SIGNAL: builder.fmul(x, x),
            _OTHER: builder.fmul(y, y),
            _DOT: builder.fmul(x, y),
        }
        return [
            builder.select(more, distance, old) if row == _MAX else builder.fadd(old, terms[row])
            for row, old in enumerate(sums)
        ]

    @intrinsic
    def _loop(typingctx: Any, a: Any, b: Any, state: Any, counts: Any, steps: Any) -> Any:
        """`_reduce` of so many steps."""

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
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
            where = builder.mul(at, ir.Constant(_I64, _STEP))
            pointers = [builder.gep(d, [where]) for d in data[:2]]
            x, y = (
                builder.load(builder.bitcast(p, _SINGLES.as_pointer()), align=4) for p in pointers
            )
            x_bits, y_bits = builder.bitcast(x, _WORDS), builder.bitcast(y, _WORDS)
            finite = builder.and_(_finite(builder, x_bits), _finite(builder, y_bits))
            same = builder.icmp_unsigned("==", _round(builder, x_bits), _round(builder, y_bits))
            found = [
                builder.add(carried[6], _count(builder, finite)),
                builder.add(carried[7], _count(builder, builder.and_(finite, same))),
            ]
            x, y = (builder.select(finite, v, _every(_SINGLES, 0.0)) for v in (x, y))
            sums = carried[:6]
            for half in range(2):
                sums = _add(builder, sums, _half(builder, x, half), _half(builder, y, half))
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
    def _reduce(a: Any, b: Any, state: Any, counts: Any) -> None:
        _loop(a, b, state, counts, a.shape[0] // _STEP)
