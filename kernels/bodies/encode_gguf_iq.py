"""Bodies of `kernels/encode_gguf_iq2.py` and `kernels/encode_gguf_iq3.py`, which have the layouts.

Sixteen or 32 elements have a scale. Around the first guess others are tried: under each, elements
become codes, eight or four of them a point, and a point that is not in the grid the best of its
neighbours there. Then codes are chosen again under the best scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels.bodies._ggml import clamped, half_bits, nearest, put_half
from anamnesis.kernels.bodies._ggml_lanes import nearest_lanes
from anamnesis.kernels.bodies._ggml_weights import search_positive
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_lanes
from anamnesis.kernels.bodies._lanes import between
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Bytes, Floats, Halves, Ints

_f32 = np.float32
_i32 = np.int32
_ODD_8 = np.tile(np.arange(1, 16, 2), 2).astype(np.float32)
_ODD_4 = np.tile(np.arange(1, 8, 2), 4).astype(np.float32)

_x, _numbers, _roots, _scales = stack(128), stack(1024), stack(1024), stack(64)
_best, _tried = stack(128), stack(128)
_signs, _is_on, _were_on, _terms = stack(16), stack(32), stack(32), stack(128)


class _Type(NamedTuple):
    """How a type is searched for, `redo` being which points are chosen again under the best scale.

    `width` codes below `most` are a point. Scales are `2 * most - 1 + step * k` codes, k from
    `-tries` to `tries`. With `even` signs have an even number of ones. Scales of a block are
    multiples of the greatest / 31, which is stored times `fudge`. Groups whose magnitudes are below
    `least` count as zeros. `keeps` points and signs where all scales are 0.
    """

    nbytes: int
    width: int
    most: int
    group: int
    tries: int
    step: float
    even: bool
    redo: str  # those that are not in the grid; all, if one is not; always all
    fudge: float
    least: float
    keeps: bool = False


_TYPES = {
    "iq2_s": _Type(82, 8, 3, 16, 9, 0.1, False, "each", 0.9875, 1e-8, keeps=True),
    "iq2_xs": _Type(74, 8, 3, 16, 9, 0.1, True, "each", 1.0, 1e-15),
    "iq2_xxs": _Type(66, 8, 3, 32, 6, 0.1, True, "always", 1.0, 1e-15),
    "iq3_s": _Type(110, 4, 8, 32, 9, 0.2, False, "any", 1.033, 0.0, keeps=True),
    "iq3_xxs": _Type(98, 4, 8, 32, 15, 0.2, True, "each", 1.0125, 1e-8),
}


@inline
def _sign_bits(values: Floats, weights: Floats, first: int, even: bool, x: Floats, at: int) -> Any:
    """Magnitudes of eight numbers into `x` from `at` on, and a bit of each that is negative.

    Where these have to be even in number, the element that counts least changes its sign.
    """
    bits, ones = _i32(0), _i32(0)
    for i in range(8):
        value = values[first + i]
        if value >= 0:
            x[at + i] = value
        else:
            x[at + i] = -value
            bits |= _i32(1) << i
            ones += 1
    if even and ones % 2:
        place = 0
        least = _f32(_f32(weights[first] * values[first]) * values[first])
        for i in range(1, 8):
            value = values[first + i]
            size = _f32(_f32(weights[first + i] * value) * value)
            if size < least:
                least, place = size, i
        x[at + place] = -x[at + place]
        bits ^= _i32(1) << place
    return bits


@inline
# Two bits a code of eight, three bits a code of four: what the index of a grid is by.
def _key(codes: Ints, at: int, width: int) -> Any:
    key = 0
    for i in range(width):
        key |= int(codes[at + i]) << ((2 if width == 8 else 3) * i)
    return key


@inline
def _best_neighbour(
    tables: tuple[Bytes, Ints, Halves],
    start: int,
    spread: tuple[Floats, Floats],
    at: int,
    scale: np.float32,
) -> Any:
    """`iq2_find_best_neighbour`, `iq3_find_best_neighbour`: a point's number, the first of equals.

    Where nothing compares, which aborts there, it is the nearest. What each code of each number
    adds to a distance is found first, for all 32 of a point side by side; `spread` are numbers and
    roots of weights, each as often as there are codes.
    """
    grid, _, neighbours = tables
    terms, width = local(_terms(), 32, _f32), grid.shape[1]
    numbers, roots = spread
    step = 32 // width
    for i in range(0, 32, 16):
        odd = lanes(_ODD_8, 0) if width == 4 else lanes(_ODD_4, 0)
        gap = odd * scale - lanes(numbers, step * at + i)
        put_lanes(terms, i, lanes(roots, step * at + i) * gap * gap)
    best, found = _f32(3.4028234663852886e38), int(neighbours[start + 1])
    for j in range(start + 1, start + 1 + int(neighbours[start])):
        point = int(neighbours[j])
        distance = terms[grid[point, 0]]
        for i in range(1, width):
            distance = _f32(distance + terms[step * i + int(grid[point, i])])
        if distance < best:
            best, found = distance, point
    return found


@inline
def _codes_under(x: Floats, inverse: np.float32, most: int, group: int, codes: Ints) -> None:
    """The nearest codes of a group's numbers under the inverse of a scale."""
    for i in range(0, group, 16):
        halves = (lanes(x, i) * inverse - _f32(1)) * _f32(0.5)
        put_lanes(codes, i, between(nearest_lanes(halves), 0, most - 1))


@inline
def _settle(
    tables: tuple[Bytes, Ints, Halves],
    spread: tuple[Floats, Floats],
    at: int,
    scale: np.float32,
    codes: Ints,
) -> Any:
    """Make a point in the grid of the codes from `at` on; whether they were one."""
    grid, index, _ = tables
    width = grid.shape[1]
    number = index[_key(codes, at, width)]
    if number >= 0:
        return 1
    point = _best_neighbour(tables, -int(number) - 1, spread, at, scale)
    for i in range(width):
        codes[at + i] = _i32(grid[point, i])
    return 0


@inline
def _sums(x: Floats, weights: Floats, codes: Ints, group: int) -> Any:
    """Weighted sums of products of numbers and points, and of squares of points."""
    sum_qx, sum_q2 = _f32(0), _f32(0)
    for i in range(group):
        weight, number = weights[i], _f32(2 * codes[i] + 1)
        sum_qx = _f32(sum_qx + _f32(_f32(weight * x[i]) * number))
        sum_q2 = _f32(sum_q2 + _f32(_f32(weight * number) * number))
    return sum_qx, sum_q2


@inline
def _spread(x: Floats, weights: Floats, choices: int, spread: tuple[Floats, Floats]) -> None:
    """Numbers and roots of weights of a group, each as often as a number has codes."""
    for i in range(weights.shape[0]):
        root = np.sqrt(weights[i])
        for k in range(choices):
            spread[0][choices * i + k] = x[i]
            spread[1][choices * i + k] = root


def _search(kind: str) -> Any:
    """The scale of a group, of numbers `x`; its codes go to `best_codes`."""
    _, width, most, group, tries, step, _, redo, _, _, _ = _TYPES[kind]
    count, each, always = group // width, redo == "each", redo == "always"
    top_code, fresh = _f32(2 * most - 1), 0 if redo == "any" else 1

    def search(
        x: Floats,
        weights: Floats,
        spread: tuple[Floats, Floats],
        top: np.float32,
        tables: tuple[Bytes, Ints, Halves],
        best_codes: Ints,
    ) -> Any:
        tried = local(_tried(), 32, _i32)
        were, now = local(_were_on(), 8, _i32), local(_is_on(), 8, _i32)
        if always:
            scale = search_positive(x, weights, group, most + 1, best_codes)
            top = _f32(scale * _f32(most))
            if top <= 0:
                return _f32(0)
        else:
            scale = np.divide(top, top_code)
        for i in range(group):
            best_codes[i] = 0
        for k in range(count):
            were[k] = fresh
        best = _f32(0)
        for number in range(-tries, tries + 1):
            wanted = _f32(top_code + _f32(_f32(number) * _f32(step)))
            inverse = np.divide(wanted, top)
            this_scale = np.divide(_f32(1), inverse)
            _codes_under(x, inverse, most, group, tried)
            for k in range(count):
                now[k] = _settle(tables, spread, width * k, this_scale, tried)
            sum_qx, sum_q2 = _sums(x, weights, tried, group)
            if sum_q2 > 0 and _f32(sum_qx * sum_qx) > _f32(best * sum_q2):
                scale = np.divide(sum_qx, sum_q2)
                best = _f32(scale * sum_qx)
                for i in range(group):
                    best_codes[i] = tried[i]
                for k in range(count):
                    were[k] = now[k]
        missing = 0
        for k in range(count):
            missing += 1 - were[k]
        if scale > 0 and (missing or always):
            _codes_under(x, np.divide(_f32(1), scale), most, group, tried)
            for k in range(count):
                if not each or not were[k]:
                    _settle(tables, spread, width * k, scale, tried)
                    for i in range(width * k, width * k + width):
                        best_codes[i] = tried[i]
            sum_qx, sum_q2 = _sums(x, weights, best_codes, group)
            if sum_q2 > 0:
                scale = np.divide(sum_qx, sum_q2)
        return scale

    return inline(search)


def _place(kind: str) -> Any:
    """Store a group's points and signs; in IQ3_S as the `slot`-th of those that have any."""
    _, width, _, group, *_ = _TYPES[kind]
    count = group // width

    def place(
        codes: Ints, signs: Ints, index: Ints, places: tuple[int, int], out: Bytes, at: int
    ) -> None:
        g, slot = places
        for k in range(count):
            point = int(index[_key(codes, width * k, width)])
            if kind == "iq2_xxs":
                out[at + 2 + 8 * g + k] = np.uint8(point)
            elif kind == "iq2_xs":
                # A little-endian word: bits 0-8 the point, bits 9-15 the signs.
                both = point | int(signs[k]) << 9
                out[at + 2 + 4 * g + 2 * k] = np.uint8(both & 0xFF)
                out[at + 3 + 4 * g + 2 * k] = np.uint8(both >> 8)
            elif kind == "iq2_s":
                number = 2 * g + k
                out[at + 2 + number] = np.uint8(point & 0xFF)
                # Bits 2 i, 2 i + 1 of a byte of qh are bits 8, 9 of its i-th point.
                out[at + 66 + number // 4] |= np.uint8((point >> 8) << (2 * (number % 4)))
            elif kind == "iq3_xxs":
                out[at + 2 + 8 * g + k] = np.uint8(point)
            else:
                out[at + 2 + 8 * slot + k] = np.uint8(point & 0xFF)
                # Bit k of byte g of qh is bit 8 of point k of run g.
                out[at + 66 + g] |= np.uint8((point >> 8) << k)
        if kind in ("iq2_s", "iq3_s"):
            start = at + 34 + 2 * g if kind == "iq2_s" else at + 74 + 4 * slot
            for k in range(group // 8):
                out[start + k] = np.uint8(signs[k] & 0xFF)
        elif kind in ("iq2_xxs", "iq3_xxs"):
            # A little-endian word: four times seven bits of signs; the scale takes bits 28-31.
            bits = u32(signs[0]) | u32(signs[1]) << u32(7)
            bits |= u32(signs[2]) << u32(14) | u32(signs[3]) << u32(21)
            start = at + 6 + 8 * g if kind == "iq2_xxs" else at + 66 + 4 * g
            for i in range(4):
                out[start + i] = np.uint8(bits >> u32(8 * i) & u32(0xFF))

    return inline(place)


def _place_scale(kind: str) -> Any:
    """Store four bits of a group's scale."""
    nbytes, groups = _TYPES[kind].nbytes, 256 // _TYPES[kind].group

    def place_scale(scale: int, g: int, out: Bytes, at: int) -> None:
        if kind == "iq2_xxs":
            out[at + 9 + 8 * g] |= np.uint8(scale << 4)
        elif kind == "iq3_xxs":
            out[at + 69 + 4 * g] |= np.uint8(scale << 4)
        else:
            # The last bytes of a block: scales in halves, the even group in the low one.
            start = at + nbytes - groups // 2
            out[start + g // 2] |= np.uint8(scale << (4 * (g % 2)))

    return inline(place_scale)


@variants
def points(kind: str) -> Any:
    """IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS or IQ3_S, of numbers and the weights of their errors."""
    nbytes, width, _, group, _, _, even, redo, fudge, least, keeps = _TYPES[kind]
    always, groups, choices = redo == "always", 256 // group, 32 // width
    search, place, place_scale = _search(kind), _place(kind), _place_scale(kind)

    def run(
        values: Floats, weights: Floats, grid: Bytes, index: Ints, neighbours: Halves, out: Bytes
    ) -> None:
        tables = grid, index, neighbours
        x, numbers = local(_x(), 32, _f32), local(_numbers(), 256, _f32)
        roots = local(_roots(), 256, _f32)
        scales, signs = local(_scales(), 16, _f32), local(_signs(), 4, _i32)
        codes = local(_best(), 32, _i32)
        for b in range(values.shape[0] // 256):
            at, most_scale, slot = nbytes * b, _f32(0), 0
            # Bits are stored by `|=` below.
            for i in range(nbytes):
                out[at + i] = np.uint8(0)
            for g in range(groups):
                first = 256 * b + group * g
                for k in range(group // 8):
                    bits = _sign_bits(values, weights, first + 8 * k, even, x, 8 * k)
                    signs[k] = bits & 127 if even else bits
                top = x[0]
                for i in range(1, group):
                    # ggml's MAX: the second of two that do not compare.
                    top = top if top > x[i] else x[i]
                scales[g] = _f32(0)
                if top < _f32(least) or (least == 0.0 and top == 0):
                    continue
                own = weights[first : first + group]
                _spread(x, own, choices, (numbers, roots))
                scale = search(x, own, (numbers, roots), top, tables, codes)
                if always and scale == 0:
                    continue
                if scale < 0:
                    scale = -scale
                    for k in range(group // 8):
                        # The same numbers under the positive scale; seven bits where the eighth
                        # follows from them.
                        signs[k] = ~signs[k] & (127 if even else 255)
                place(codes, signs, index, (g, slot), out, at)
                slot += 1
                scales[g] = scale
                most_scale = most_scale if most_scale > scale else scale
            if most_scale == 0:
                if not keeps:
                    for i in range(nbytes):
                        out[at + i] = np.uint8(0)
                continue
            # A scale of four bits s stands for 2 s + 1: 31 at most.
            d = np.divide(most_scale, _f32(31))
            put_half(out, at, half_bits(_f32(d * _f32(fudge))))
            inverse = np.divide(_f32(1), d)
            for g in range(groups):
                code = nearest(_f32(_f32(0.5) * _f32(_f32(inverse * scales[g]) - _f32(1))))
                place_scale(clamped(code, 0, 15), g, out, at)

    return run
