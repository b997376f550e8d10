"""Look-ups for packed pairs: a byte holds element 2k in one half, and 2k + 1 in the other.

As `_lookup.look_up`, with the two halves put side by side: the high one first (`look_up_pairs`) or
the low one (`look_up_low_first`, and `look_up_8_low_first` for eight bytes). Where machines look up
entries of 16 bits, the codes are interleaved before the look-up; where they look up bytes only, it
is the results that are interleaved, since LLVM folds a shuffle of codes into the extracts and then
no longer recognises the look-up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels._sizes import STEP_BYTES
from anamnesis.kernels.bodies import _lookup
from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import Lanes, is_contiguous, pointer, same, shuffle
from anamnesis.kernels.types import Array, Bytes

if DISABLED:

    def look_up_pairs(out: Array, at: int, table: Array, packed: Bytes) -> None:
        out[at : at + 2 * STEP_BYTES : 2] = table[packed >> 4]
        out[at + 1 : at + 2 * STEP_BYTES : 2] = table[packed & 15]

    def look_up_low_first(out: Array, at: int, table: Array, packed: Bytes) -> None:
        out[at : at + 2 * STEP_BYTES : 2] = table[packed & 15]
        out[at + 1 : at + 2 * STEP_BYTES : 2] = table[packed >> 4]

    def look_up_8_low_first(out: Array, at: int, table: Array, packed: np.uint64) -> None:
        codes = packed.reshape(1).view(np.uint8)
        out[at : at + STEP_BYTES : 2] = table[codes & 15]
        out[at + 1 : at + STEP_BYTES : 2] = table[codes >> 4]

else:
    # Lanes of two vectors in turn: the first of both, the second of both.
    _PAIRS = [lane // 2 + lane % 2 * STEP_BYTES for lane in range(2 * STEP_BYTES)]
    _HALF_PAIRS = [lane // 2 + lane % 2 * STEP_BYTES // 2 for lane in range(STEP_BYTES)]

    def _wide(context: Context) -> bool:
        """Whether the machine looks up entries of 16 bits."""
        features = context.codegen().magic_tuple()[2]
        return "+avx512bw" in features and "+avx512vl" in features

    def _fits(out: Type, table: Type) -> bool:
        if not is_contiguous(out, types.uint16, types.float32) or not out.mutable:
            return False
        return bool(table == Lanes(out.dtype, 16))

    def _entries(builder: Builder, out: Type, table: Value) -> Any:
        return builder.bitcast(table, ir.VectorType(ir.IntType(out.dtype.bitwidth), 16))

    def _of_16_bytes(high_first: bool) -> Any:
        bytes_type = Lanes(types.uint8, STEP_BYTES)

        @intrinsic
        def look_up(typingctx: Typing, out: Type, at: Type, table: Type, packed: Type) -> Any:
            """Set `out[at:at+32]` to the entries that the halves of sixteen bytes choose."""
            if not _fits(out, table) or packed != bytes_type:
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                entries = _entries(builder, out, args[2])
                # Bits 4-7 of a byte are one code, bits 0-3 the other; which comes first is the
                # format's.
                high = builder.lshr(args[3], same(bytes_type.llvm, 4))
                low = builder.and_(args[3], same(bytes_type.llvm, 15))
                halves = (high, low) if high_first else (low, high)
                # Entries of 16 bits in one register, looked up whole; elsewhere byte by byte.
                if _wide(context):
                    chosen = []
                    for lanes in (_PAIRS[:STEP_BYTES], _PAIRS[STEP_BYTES:]):
                        codes = shuffle(builder, halves[0], halves[1], lanes)
                        codes = builder.zext(codes, entries.type)
                        chosen.append(_lookup.permute(builder, entries, codes))
                else:
                    both = [_lookup.permute_bytes(builder, entries, half) for half in halves]
                    chosen = [shuffle(builder, both[0], both[1], _PAIRS)]
                where = args[1]
                for part in chosen:
                    into = pointer(context, builder, out, args[0], where, part.type)
                    builder.store(part, into, align=1)
                    where = builder.add(where, where.type(part.type.count))
                return context.get_dummy_value()

            return types.void(out, types.intp, table, packed), build

        return look_up

    look_up_pairs, look_up_low_first = _of_16_bytes(True), _of_16_bytes(False)

    @intrinsic
    def look_up_8_low_first(
        typingctx: Typing, out: Type, at: Type, table: Type, packed: Type
    ) -> Any:
        """Set `out[at:at+16]` to the entries that the halves of eight bytes, a uint64, choose."""
        if not _fits(out, table) or packed != types.uint64:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            entries = _entries(builder, out, args[2])
            # All sixteen halves at once: bits 4 k to 4 k + 3 are code k, what is above is masked
            # off below.
            low, high = args[3], builder.lshr(args[3], args[3].type(4))
            if _wide(context):
                eight = ir.VectorType(ir.IntType(8), STEP_BYTES // 2)
                halves = [builder.bitcast(half, eight) for half in (low, high)]
                codes = shuffle(builder, halves[0], halves[1], _HALF_PAIRS)
                codes = builder.and_(codes, same(codes.type, 15))
                chosen = _lookup.permute(builder, entries, builder.zext(codes, entries.type))
            else:  # joined as numbers: of a shuffle of bytes the look-up would not be recognised
                pair = ir.Constant(ir.VectorType(low.type, 2), ir.Undefined)
                for index, half in enumerate((low, high)):
                    pair = builder.insert_element(pair, half, ir.IntType(32)(index))
                codes = builder.bitcast(pair, ir.VectorType(ir.IntType(8), STEP_BYTES))
                codes = builder.and_(codes, same(codes.type, 15))
                apart = _lookup.permute_bytes(builder, entries, codes)
                chosen = shuffle(builder, apart, apart, _HALF_PAIRS)
            where = pointer(context, builder, out, args[0], args[1], chosen.type)
            builder.store(chosen, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, table, packed), build
