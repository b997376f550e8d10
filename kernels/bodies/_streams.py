"""Streams of codes of 1 to 7 bits to bytes, 32 codes at a time.

    code k = bits [k * b, (k + 1) * b) of the little-endian bytes

A code lies in two neighbouring bytes. The pairs of 32 codes are gathered by one shuffle whose lanes
are constants; then a shift by lane puts each code at the top of its 16 bits, and one shift for all
brings it down without its neighbours. Nothing here is bounds-checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import is_contiguous, pointer, same, shuffle
from anamnesis.kernels.types import Bytes

STEP = 32  # codes; b of them fill 4 * b bytes


if DISABLED:

    def _unpacker(bits: int) -> Any:
        def unpack(stream: Bytes, at: int, codes: Bytes, to: int) -> None:
            ones = np.unpackbits(stream[at : at + 4 * bits], bitorder="little").reshape(STEP, bits)
            codes[to : to + STEP] = np.packbits(ones, axis=1, bitorder="little")[:, 0]

        return unpack

else:
    _I8, _I16 = ir.IntType(8), ir.IntType(16)

    def _unpacker(bits: int) -> Any:
        @intrinsic
        def unpack(typingctx: Typing, stream: Type, at: Type, codes: Type, to: Type) -> Any:
            """Set `codes[to:to+32]` to the codes that begin with byte `at` of `stream`."""
            if not is_contiguous(stream, types.uint8):
                return None
            if not is_contiguous(codes, types.uint8) or not codes.mutable:
                return None
            size = 4 * bits

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                kind, wide = ir.VectorType(_I8, size), ir.VectorType(_I16, STEP)
                where = pointer(context, builder, stream, args[0], args[1], kind)
                data = builder.load(where, align=1)
                # Code k begins in byte k * bits / 8 and ends in it or the next: both make 16 bits,
                # from which what is above and below is shifted out.
                first = [min(k * bits // 8, size - 2) for k in range(STEP)]
                left = [16 - bits - (k * bits - 8 * byte) for k, byte in enumerate(first)]
                lanes = [byte + half for byte in first for half in (0, 1)]
                pairs = builder.bitcast(shuffle(builder, data, data, lanes), wide)
                high = builder.shl(pairs, ir.Constant(wide, left))
                low = builder.lshr(high, same(wide, 16 - bits))
                found = builder.trunc(low, ir.VectorType(_I8, STEP))
                into = pointer(context, builder, codes, args[2], args[3], found.type)
                builder.store(found, into, align=1)
                return context.get_dummy_value()

            return types.void(stream, types.intp, codes, types.intp), build

        return unpack


UNPACK = {bits: _unpacker(bits) for bits in (1, 3, 5, 6, 7)}
