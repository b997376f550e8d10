"""Look-ups for packed pairs: a byte holds element 2k in its high half, 2k + 1 in its low half.

As `_lookup.look_up`, with the two halves put side by side. Where machines look up entries of 16
bits, the codes are interleaved before the look-up; where they look up bytes only, it is the results
that are interleaved, since LLVM folds a shuffle of codes into the extracts and then no longer
recognises the look-up.
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels import _lookup, _vector
from anamnesis.kernels._jit import DISABLED, intrinsic, ir, types

STEP_BYTES = 16  # packed bytes a call; twice as many elements

if DISABLED:

    def look_up_pairs(out: Any, at: Any, table: Any, packed: Any) -> None:
        out[at : at + 2 * STEP_BYTES : 2] = table[packed >> 4]
        out[at + 1 : at + 2 * STEP_BYTES : 2] = table[packed & 15]

else:
    _PAIRS = [lane // 2 + lane % 2 * STEP_BYTES for lane in range(2 * STEP_BYTES)]

    @intrinsic
    def look_up_pairs(typingctx: Any, out: Any, at: Any, table: Any, packed: Any) -> Any:
        """Set `out[at:at+32]` to the entries that the halves of sixteen bytes choose."""
        if not _vector._contiguous(out, types.uint16, types.float32) or not out.mutable:
            return None
        bytes_type = _vector.Lanes(types.uint8, STEP_BYTES)
        if table != _vector.Lanes(out.dtype, 16) or packed != bytes_type:
            return None

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            entry = ir.IntType(out.dtype.bitwidth)
            entries = builder.bitcast(args[2], ir.VectorType(entry, 16))
            high = builder.lshr(args[3], _vector._same(bytes_type.llvm, 4))
            low = builder.and_(args[3], _vector._same(bytes_type.llvm, 15))
            features = context.codegen().magic_tuple()[2]
            if "+avx512bw" in features and "+avx512vl" in features:
                chosen = []
                for lanes in (_PAIRS[:STEP_BYTES], _PAIRS[STEP_BYTES:]):
                    codes = builder.zext(_vector._shuffle(builder, high, low, lanes), entries.type)
                    chosen.append(_lookup._permute(builder, entries, codes))
            else:
                first = _lookup._permute_bytes(builder, entries, high)
                second = _lookup._permute_bytes(builder, entries, low)
                chosen = [_vector._shuffle(builder, first, second, _PAIRS)]
            where = args[1]
            for part in chosen:
                into = _vector._pointer(context, builder, out, args[0], where, part.type)
                builder.store(part, into, align=1)
                where = builder.add(where, where.type(part.type.count))
            return context.get_dummy_value()

        return types.void(out, types.intp, table, packed), build
