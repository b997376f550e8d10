"""8 x 8 blocks of 32-bit numbers, and square ones of cache lines, transposed in registers.

Packed layouts store `[in, out]` and the output is `[out, in]`. Moving words one by one costs a load
and a store each; eight vectors of eight words turned by three rounds of shuffles cost a third of
that (docs/performance-experiments.md). The shuffles are LLVM's own, so every CPU has them.
With `NUMBA_DISABLE_JIT=1` numpy does it. Nothing here is bounds-checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import BYTE_POINTER, line_of
from anamnesis.kernels.bodies._llvm import prefetch as hint
from anamnesis.kernels.types import Array, Indices, Words

LANES = 8
LINE_BYTES = 64


if DISABLED:

    def transpose8(source: Words, row: int, column: int, tile: Words, line: int, at: int) -> None:
        rows = np.arange(row, row + LANES)
        transpose8_rows(source, rows, 0, column, tile, line, at)

    def transpose8_rows(
        source: Words, rows: Indices, first: int, column: int, tile: Words, line: int, at: int
    ) -> None:
        block = source[rows[first : first + LANES], column : column + LANES]
        tile[line : line + LANES, at : at + LANES] = block.T

    def transpose_lines(
        source: Array, row: int, column: int, tile: Array, line: int, at: int
    ) -> None:
        side = LINE_BYTES // source.itemsize
        block = source[row : row + side, column : column + side]
        tile[line : line + side, at : at + side] = block.T

    stream_lines = transpose_lines

    def prefetch(words: Words, row: int, column: int) -> None:
        """Nothing to do."""

    def transpose_nibbles(words: Words, row: int, column: int, planes: Words, at: int) -> None:
        block = words[row : row + LANES, column : column + LANES]
        shifts = np.arange(0, 32, 4, dtype=np.uint32)
        for k in range(LANES):
            nibbles = (block >> shifts[k]) & np.uint32(15)
            planes[k, at, :LANES] = (nibbles << shifts[:, None]).sum(axis=0, dtype=np.uint32)

else:
    _I32, _I64 = ir.IntType(32), ir.IntType(64)
    _VECTOR = ir.VectorType(_I32, LANES)
    _LINES = types.uint16, types.uint32, types.float32

    def _turned(builder: Builder, rows: Values) -> Any:
        """Swap the off-diagonal halves, then those of each quarter, and so on."""
        count = len(rows)
        step = count // 2
        while step:
            # Butterflies: bit `step` of a number's row changes places with bit `step` of its lane.
            kept = [lane + count - step if lane & step else lane for lane in range(count)]
            moved = [lane + count if lane & step else lane + step for lane in range(count)]
            turned = list(rows)
            for i in range(count):
                if not i & step:
                    for to, order in ((i, kept), (i + step, moved)):
                        lanes = ir.Constant(ir.VectorType(_I32, count), order)
                        turned[to] = builder.shuffle_vector(rows[i], rows[i + step], lanes)
            rows = turned
            step //= 2
        return rows

    def _place(
        context: Context, builder: Builder, kind: Type, array: Value, row: Value, column: Value
    ) -> Any:
        """Pointer to eight numbers of a row; only the last axis has to be contiguous."""
        address = _address(context, builder, kind, array, row, column, 4)
        return builder.bitcast(address, _VECTOR.as_pointer())

    def _address(
        context: Context,
        builder: Builder,
        kind: Type,
        array: Value,
        row: Value,
        column: Value,
        itemsize: int,
    ) -> Any:
        start = line_of(context, builder, kind, array, row)
        return builder.gep(start, [builder.mul(column, ir.Constant(_I64, itemsize))])

    def _words(*arrays: Type) -> bool:
        return _are((types.uint32, types.float32), *arrays)

    def _are(numbers: Sequence[Type], *arrays: Type) -> bool:
        return all(isinstance(a, types.Array) and a.ndim == 2 for a in arrays) and all(
            a.dtype in numbers and a.layout in "AC" for a in arrays
        )

    def _emit(
        context: Context,
        builder: Builder,
        kinds: Sequence[Type],
        arrays: Values,
        rows: Values,
        column: Value,
        to: Values,
    ) -> Any:
        (source_kind, tile_kind), (source, tile), (line, at) = kinds, arrays, to
        loaded = [
            builder.load(_place(context, builder, source_kind, source, row, column), align=4)
            for row in rows
        ]
        for i, vector in enumerate(_turned(builder, loaded)):
            place = builder.add(line, ir.Constant(_I64, i))
            builder.store(vector, _place(context, builder, tile_kind, tile, place, at), align=4)
        return context.get_dummy_value()

    @intrinsic
    def transpose8(
        typingctx: Typing, source: Type, row: Type, column: Type, tile: Type, line: Type, at: Type
    ) -> Any:
        """`tile[line + i, at + j] = source[row + j, column + i]` for i, j below 8."""
        if not _words(source, tile) or not tile.mutable:
            return None
        intp = types.intp

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            rows = [builder.add(args[1], ir.Constant(_I64, j)) for j in range(LANES)]
            arrays = args[0], args[3]
            return _emit(context, builder, (source, tile), arrays, rows, args[2], args[4:])

        return types.void(source, intp, intp, tile, intp, intp), build

    @intrinsic
    def transpose8_rows(
        typingctx: Typing,
        source: Type,
        rows: Type,
        first: Type,
        column: Type,
        tile: Type,
        line: Type,
        at: Type,
    ) -> Any:
        """As `transpose8`, with row numbers `rows[first : first + 8]` (int64, contiguous)."""
        if not _words(source, tile) or not tile.mutable:
            return None
        if not isinstance(rows, types.Array) or rows.dtype != types.int64 or rows.layout != "C":
            return None
        intp = types.intp

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            data = context.make_array(rows)(context, builder, args[1]).data
            numbers = [
                builder.load(builder.gep(data, [builder.add(args[2], ir.Constant(_I64, j))]))
                for j in range(LANES)
            ]
            arrays = args[0], args[4]
            return _emit(context, builder, (source, tile), arrays, numbers, args[3], args[5:])

        return types.void(source, rows, intp, intp, tile, intp, intp), build

    def _lines(streamed: bool, doc: str) -> Any:
        @intrinsic
        def turn(
            typingctx: Typing,
            source: Type,
            row: Type,
            column: Type,
            tile: Type,
            line: Type,
            at: Type,
        ) -> Any:
            if not any(_are((kind,), source, tile) for kind in _LINES):
                return None
            if not tile.mutable:
                return None
            itemsize = source.dtype.bitwidth // 8
            lanes, intp = LINE_BYTES // itemsize, types.intp
            vector = ir.VectorType(ir.IntType(8 * itemsize), lanes).as_pointer()

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                def place(kind: Type, array: Value, row: Value, step: int, column: Value) -> Any:
                    line = builder.add(row, ir.Constant(_I64, step))
                    where = _address(context, builder, kind, array, line, column, itemsize)
                    return builder.bitcast(where, vector)

                rows = [
                    builder.load(place(source, args[0], args[1], j, args[2]), align=itemsize)
                    for j in range(lanes)
                ]
                once = builder.module.add_metadata([ir.Constant(_I32, 1)])
                for i, row in enumerate(_turned(builder, rows)):
                    where = place(tile, args[3], args[4], i, args[5])
                    stored = builder.store(row, where, align=LINE_BYTES if streamed else itemsize)
                    if streamed:
                        stored.set_metadata("nontemporal", once)
                return context.get_dummy_value()

            return types.void(source, intp, intp, tile, intp, intp), build

        turn.__doc__ = doc
        return turn

    transpose_lines = _lines(
        False,
        """`tile[line + i, at + j] = source[row + j, column + i]` for all of a cache line's numbers.

        Of uint16, 32 by 32, or of uint32 or float32, 16 by 16: each line of both is touched once,
        however many of them fall into one set of the cache.
        """,
    )
    stream_lines = _lines(
        True,
        """The same past the caches, which do not fetch the lines that are written.

        Those of `tile` have to begin with cache lines.
        """,
    )

    @intrinsic
    def prefetch(typingctx: Typing, words: Type, row: Type, column: Type) -> Any:
        """Bring the line of `words[row, column]` near; any address will do, even past the end."""
        if not _words(words):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            hint(builder, _place(context, builder, words, *args), write=False, near=2)
            return context.get_dummy_value()

        return types.void(words, types.intp, types.intp), build

    def _nibbles_turned(builder: Builder, rows: Values) -> Any:
        """As `_turned`, for the eight nibbles of each lane."""
        step = LANES // 2
        while step:
            # Bit `step` of a nibble's number changes places with that of its row.
            ones = (1 << 4 * step) - 1
            low = sum(ones << 8 * step * i for i in range(LANES // 2 // step))
            keep, move, shift = (
                ir.Constant(_VECTOR, [number] * LANES)
                for number in (low, low << 4 * step, 4 * step)
            )
            turned = list(rows)
            for i in range(LANES):
                if not i & step:
                    a, b = rows[i], rows[i + step]
                    up = builder.shl(builder.and_(b, keep), shift)
                    down = builder.lshr(builder.and_(a, move), shift)
                    turned[i] = builder.or_(builder.and_(a, keep), up)
                    turned[i + step] = builder.or_(down, builder.and_(b, move))
            rows = turned
            step //= 2
        return rows

    @intrinsic
    def transpose_nibbles(
        typingctx: Typing, words: Type, row: Type, column: Type, planes: Type, at: Type
    ) -> Any:
        """Nibble j of `planes[k, at, i]` = nibble k of `words[row + j, column + i]`, all to 7."""
        if not _words(words) or not isinstance(planes, types.Array) or planes.ndim != 3:
            return None
        if planes.dtype != types.uint32 or planes.layout != "C":
            return None
        intp = types.intp

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            rows = [builder.add(args[1], ir.Constant(_I64, j)) for j in range(LANES)]
            loaded = [
                builder.load(_place(context, builder, words, args[0], j, args[2]), align=4)
                for j in rows
            ]
            view = context.make_array(planes)(context, builder, args[3])
            base = builder.bitcast(view.data, BYTE_POINTER)
            line = builder.mul(args[4], builder.extract_value(view.strides, 1))
            for k, vector in enumerate(_nibbles_turned(builder, loaded)):
                plane = builder.mul(builder.extract_value(view.strides, 0), ir.Constant(_I64, k))
                where = builder.gep(base, [builder.add(plane, line)])
                builder.store(vector, builder.bitcast(where, _VECTOR.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(words, intp, intp, planes, intp), build
