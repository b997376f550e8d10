"""Vectors of float32 rounded to a narrower format and back, as libraries do that compute in it.

To nearest, ties to even; infinities, NaNs and signs stay. A NaN has to be one of `clean_nan`'s or
of arithmetic's. Written in integers, since not every CPU converts binary16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import Builder, Context, Signature, Type, Typing, Value, Values
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import Lanes, rounded_up, same
from anamnesis.kernels.types import Floats

if DISABLED:

    def through_bf16(values: Floats) -> Any:
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(values), values, rounded.view(np.float32))

    def through_f16(values: Floats) -> Any:
        return values.astype(np.float16).astype(np.float32)

else:

    def _of_lanes(build: Callable[..., Any]) -> Any:
        @intrinsic
        def rounded(typingctx: Typing, values: Type) -> Any:
            """Float32 lanes, rounded."""
            if not isinstance(values, Lanes) or values.dtype != types.float32:
                return None

            def lower(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                bits = builder.bitcast(args[0], ir.VectorType(ir.IntType(32), values.count))
                return builder.bitcast(build(builder, bits), values.llvm)

            return values(values), lower

        return rounded

    def _cut(builder: Builder, bits: Value, places: int) -> Any:
        """Integers rounded to multiples of `2 ** places`."""
        kept = same(bits.type, 0xFFFFFFFF >> places << places)
        return builder.and_(rounded_up(builder, bits, places), kept)

    def _f16(builder: Builder, bits: Value) -> Any:
        def every(number: int) -> Any:
            return same(bits.type, number)

        magnitude = builder.and_(bits, every(0x7FFFFFFF))
        sign = builder.and_(bits, every(0x80000000))
        # 23 bits of mantissa to 10.
        rounded = _cut(builder, magnitude, 13)
        large = builder.icmp_unsigned(">=", rounded, every(0x47800000))  # 65536: past the largest
        rounded = builder.select(large, every(0x7F800000), rounded)
        # Subnormals are multiples of 2**-24, the last place of 0.5.
        reals = ir.VectorType(ir.FloatType(), bits.type.count)
        half = builder.bitcast(every(0x3F000000), reals)
        moved = builder.fadd(builder.bitcast(magnitude, reals), half)
        small = builder.bitcast(builder.fsub(moved, half), bits.type)
        is_small = builder.icmp_unsigned("<", magnitude, every(0x38800000))
        rounded = builder.select(is_small, small, rounded)
        is_nan = builder.icmp_unsigned(">", magnitude, every(0x7F800000))
        return builder.or_(builder.select(is_nan, magnitude, rounded), sign)

    through_bf16 = _of_lanes(lambda builder, bits: _cut(builder, bits, 16))
    through_f16 = _of_lanes(_f16)
