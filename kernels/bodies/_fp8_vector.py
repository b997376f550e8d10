"""FP8 codes as vectors: 32 codes to float32 by way of binary16, and tables held in registers.

Codes, shifted, are the upper bits of a binary16 number of which only the exponent's offset differs,
and CPUs turn binary16 into float32 in one instruction, subnormals included. (E5M2FNUZ has numbers
where binary16 has infinities, so that its exponents are lowered by one.) Where one scale covers
many codes it is faster to scale and round the 128 magnitudes once: as BF16 they fill four registers
of AVX-512, and two permutations look 32 codes up (llvm.x86.avx512.vpermi2var).

Which of the two a CPU has is known when a kernel is compiled: `has_lanes` and `has_tables` are
constants there, and what they guard is left out of the machine code. Without either, and with
`NUMBA_DISABLE_JIT=1`, kernels go one code at a time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from anamnesis.kernels.bodies._ir import (
    Builder,
    Context,
    Kind,
    Signature,
    Type,
    Typing,
    Value,
    Values,
)
from anamnesis.kernels.bodies._jit import DISABLED
from anamnesis.kernels.bodies._llvm import Lanes, broadcast, is_contiguous, pointer, same
from anamnesis.kernels.types import Array, Bytes, Floats, Halves

STEP = 32  # codes in a vector
ENTRIES = 128  # magnitudes of a format


if DISABLED:

    def has_lanes() -> bool:
        return False

    def has_tables(out: Array) -> bool:
        return False

    def to_reals(codes: Bytes, shift: int, mask: int, keep: int, nan: int) -> Any:
        raise NotImplementedError

    def to_reals_e5m2fnuz(codes: Bytes) -> Any:
        raise NotImplementedError

    def load_scales(scales: Floats, at: int) -> Any:
        raise NotImplementedError

    def load_table(table: Halves, at: int) -> Any:
        raise NotImplementedError

    def look_up(out: Array, at: int, codes: Bytes, nan: int, *parts: Halves) -> None:
        raise NotImplementedError

else:
    _I1, _I8, _I16 = (ir.IntType(width) for width in (1, 8, 16))
    _CODES = Lanes(types.uint8, STEP)
    _REALS = Lanes(types.float32, STEP)
    _PART = Lanes(types.uint16, STEP)

    def _features(context: Context) -> str:
        triple, _, features = context.codegen().magic_tuple()
        arm = triple.startswith(("aarch64", "arm64"))  # Apple's name is the second
        return f"{features},+f16c" if arm else features

    def _tables_for(context: Context, out: Type) -> bool:
        return out.dtype == types.uint16 and "+avx512bw" in _features(context)

    @intrinsic
    def has_lanes(typingctx: Typing) -> Any:
        """Whether `to_reals` can be used: the CPU converts binary16."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return ir.Constant(_I1, "+f16c" in _features(context))

        return types.boolean(), build

    @intrinsic
    def has_tables(typingctx: Typing, out: Type) -> Any:
        """Whether `look_up` can be used: an output of BF16, and AVX-512 for 16-bit lanes."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            return ir.Constant(_I1, _tables_for(context, out))

        return types.boolean(out), build

    @intrinsic
    def to_reals(
        typingctx: Typing, codes: Type, shift: Type, mask: Type, keep: Type, nan: Type
    ) -> Any:
        """32 codes as float32, times a power of two that belongs to the format.

        A code's sign, exponent and mantissa, shifted left by `shift` and masked, are binary16
        bits; codes that are `nan` in the bits `keep` become NaN.
        """
        if codes != _CODES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            codes = args[0]
            halves = ir.VectorType(_I16, STEP)

            def all_lanes(number: Value, vector: Kind) -> Any:
                return broadcast(builder, builder.trunc(number, vector.element), STEP)

            shift, mask = (all_lanes(number, halves) for number in args[1:3])
            keep, nan = (all_lanes(number, codes.type) for number in args[3:])
            # Bit 7, the sign, is in bits 7-15 now: the mask keeps bit 15, and below it what was
            # shifted.
            bits = builder.and_(builder.shl(builder.sext(codes, halves), shift), mask)
            is_nan = builder.icmp_unsigned("==", builder.and_(codes, keep), nan)
            return _extended(context, builder, bits, is_nan)

        return _REALS(codes, *[types.int64] * 4), build

    @intrinsic
    def to_reals_e5m2fnuz(typingctx: Typing, codes: Type) -> Any:
        """32 codes of E5M2FNUZ as float32; 0x80 becomes NaN."""
        if codes != _CODES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            halves = ir.VectorType(_I16, STEP)
            # E5M2 is the upper byte of a binary16; FNUZ has its bias one higher, so values are
            # half.
            wide = builder.shl(builder.zext(args[0], halves), same(halves, 8))
            magnitude = builder.and_(wide, same(halves, 0x7F00))
            # Half of it: an exponent less, or a place to the right for the two lowest exponents,
            # which are subnormal then. The one that is too large elsewhere loses to the other.
            lower = builder.sub(magnitude, same(halves, 0x0400))
            right = builder.lshr(magnitude, same(halves, 1))
            larger = builder.icmp_signed(">", lower, right)
            half = builder.select(larger, lower, right)
            bits = builder.or_(half, builder.and_(wide, same(halves, 0x8000)))
            is_nan = builder.icmp_unsigned("==", args[0], same(args[0].type, 0x80))
            return _extended(context, builder, bits, is_nan)

        return _REALS(codes), build

    def _extended(context: Context, builder: Builder, bits: Value, is_nan: Value) -> Any:
        """Bits of binary16 as float32, with some made NaN."""
        quiet = builder.or_(bits, same(bits.type, 0x7E00))
        bits = builder.select(is_nan, quiet, bits)
        if "+f16c" not in _features(context):  # would be a call that does not link
            return ir.Constant(_REALS.llvm, ir.Undefined)
        half = ir.VectorType(ir.HalfType(), STEP)
        return builder.fpext(builder.bitcast(bits, half), _REALS.llvm)

    def _loader(result: Type) -> Any:
        @intrinsic
        def load(typingctx: Typing, numbers: Type, at: Type) -> Any:
            if not is_contiguous(numbers, types.uint16, types.float32):
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                kind = result.llvm
                where = pointer(context, builder, numbers, args[0], args[1], kind)
                return builder.load(where, align=1)

            return result(numbers, types.intp), build

        return load

    load_scales, load_table = _loader(_REALS), _loader(_PART)

    @intrinsic
    def look_up(
        typingctx: Typing,
        out: Type,
        at: Type,
        codes: Type,
        nan: Type,
        t0: Type,
        t1: Type,
        t2: Type,
        t3: Type,
    ) -> Any:
        """Set `out[at:at+32]` to the entries of a table in four parts, with the codes' signs.

        The code that is `nan`, as a signed number, becomes NaN; none if it is above 127.
        """
        if codes != _CODES or {t0, t1, t2, t3} != {_PART}:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            if not _tables_for(context, out):
                return context.get_dummy_value()
            kind = _PART.llvm
            permute = builder.module.declare_intrinsic(
                "llvm.x86.avx512.vpermi2var.hi.512", fnty=ir.FunctionType(kind, [kind] * 3)
            )
            # Bits 0-6 the entry, bit 7 the sign in all bits above.
            wide = builder.sext(args[2], kind)
            low = builder.call(permute, [args[4], wide, args[5]])  # by the low six bits
            high = builder.call(permute, [args[6], wide, args[7]])
            bit_6 = builder.and_(wide, same(kind, 64))
            is_high = builder.icmp_unsigned("!=", bit_6, same(kind, 0))
            sign = builder.and_(wide, same(kind, 0x8000))
            bits = builder.xor(builder.select(is_high, high, low), sign)
            lone = broadcast(builder, builder.trunc(args[3], _I16), STEP)
            is_nan = builder.icmp_unsigned("==", wide, lone)
            bits = builder.select(is_nan, same(kind, 0x7FC0), bits)
            where = pointer(context, builder, out, args[0], args[1], kind)
            builder.store(bits, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, codes, types.int64, t0, t1, t2, t3), build
