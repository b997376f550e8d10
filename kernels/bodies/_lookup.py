"""Tables of sixteen in a register: the step that all formats of four bits or less share.

Under one scale such a block holds at most sixteen different numbers. They are scaled and rounded
once, and each element is then a look-up by a code of four bits. LLVM has no instruction for a
look-up by indices that only a running program knows; it takes sixteen extracts by extracted indices
for one (`vpermw`, `pshufb`, `tbl`) where the machine has it. Elsewhere they are loads; the results
are the same.

Vectors are those of `_vector`, and so are the rules for loads and stores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
from anamnesis.kernels.bodies._jit import DISABLED, bf16_bits
from anamnesis.kernels.bodies._llvm import (
    Lanes,
    broadcast,
    is_contiguous,
    pointer,
    rounded_up,
    same,
    shuffle,
)
from anamnesis.kernels.types import Array, Bytes, Floats, Integer, Ints

_ENTRIES = 16


if DISABLED:

    def load_u32(data: Bytes, at: int) -> Any:
        return data[at : at + 4].copy().view("<u4")[0]

    def load_u64(data: Bytes, at: int) -> Any:
        return data[at : at + 8].copy().view("<u8")[0]

    def load_numbers(numbers: Floats, at: Integer) -> Any:
        return numbers[at : at + _ENTRIES]

    def words(low: np.uint64, high: np.uint64) -> Any:
        return np.array([low, high], "<u8").view(np.uint8)

    def halves(low: np.float32, high: np.float32) -> Any:
        return np.repeat(np.array([low, high], np.float32), _ENTRIES // 2)

    def first_digits(codes: Bytes) -> Any:
        return (codes.astype(np.uint16) * 3 >> 8).astype(np.uint8)

    def table_for(out: Array, numbers: Floats) -> Any:
        if out.dtype == np.uint16:
            return np.array([bf16_bits(number) for number in numbers], np.uint16)
        return numbers

    def entries_at(table: Floats, places: Ints) -> Any:
        return table[places & 15]

    def look_up(out: Array, at: int, table: Array, codes: Bytes) -> None:
        out[at : at + _ENTRIES] = table[codes & 15]

else:
    _I8, _I16, _I32, _I64 = (ir.IntType(width) for width in (8, 16, 32, 64))
    _BYTES = Lanes(types.uint8, _ENTRIES)
    _NUMBERS = Lanes(types.float32, _ENTRIES)

    def _vectors_of(element: Kind, count: int = _ENTRIES) -> Any:
        return ir.VectorType(element, count)

    def _loader(width: int, dtype: Type) -> Any:
        @intrinsic
        def load(typingctx: Typing, data: Type, at: Type) -> Any:
            if not is_contiguous(data, types.uint8):
                return None

            def build(
                context: Context, builder: Builder, signature: Signature, args: Values
            ) -> Any:
                kind = ir.IntType(width)
                where = pointer(context, builder, data, args[0], args[1], kind)
                return builder.load(where, align=1)

            return dtype(data, types.intp), build

        return load

    @intrinsic
    def load_numbers(typingctx: Typing, numbers: Type, at: Type) -> Any:
        """Sixteen elements of a float32 array, from `at` on."""
        if not is_contiguous(numbers, types.float32):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            kind = _NUMBERS.llvm
            where = pointer(context, builder, numbers, args[0], args[1], kind)
            return builder.load(where, align=4)

        return _NUMBERS(numbers, types.intp), build

    @intrinsic
    def words(typingctx: Typing, low: Type, high: Type) -> Any:
        """Two uint64 as sixteen bytes, the lowest first."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            pair = ir.Constant(_vectors_of(_I64, 2), ir.Undefined)
            for index, word in enumerate(args):
                pair = builder.insert_element(pair, word, _I32(index))
            return builder.bitcast(pair, _BYTES.llvm)

        return _BYTES(types.uint64, types.uint64), build

    @intrinsic
    def halves(typingctx: Typing, low: Type, high: Type) -> Any:
        """One float32 eight times, then another."""

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            first, second = (broadcast(builder, number, _ENTRIES // 2) for number in args)
            return shuffle(builder, first, second, range(_ENTRIES))

        return _NUMBERS(types.float32, types.float32), build

    @intrinsic
    def first_digits(typingctx: Typing, codes: Type) -> Any:
        """The first base-3 digit of each byte, read as a fraction of 256."""
        if not isinstance(codes, Lanes) or codes.dtype != types.uint8:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            # Written `3 * byte >> 8`, the sum in 16 bits hides the look-up from LLVM.
            reached = [
                builder.zext(
                    builder.icmp_unsigned(">=", args[0], same(codes.llvm, least)),
                    codes.llvm,
                )
                for least in (86, 171)
            ]
            return builder.add(*reached)

        return codes(codes), build

    @intrinsic
    def table_for(typingctx: Typing, out: Type, numbers: Type) -> Any:
        """Sixteen float32 as entries of an output: as they are, or as BF16 bits for uint16.

        Rounding and NaNs are as in `_vector.store`.
        """
        if numbers != _NUMBERS:
            return None
        result = Lanes(out.dtype, _ENTRIES)

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            numbers = args[1]
            if out.dtype == types.float32:
                return numbers
            # BF16 is bits 16-31.
            wide = _vectors_of(_I32)
            bits = builder.bitcast(numbers, wide)
            up = rounded_up(builder, bits, 16)
            return builder.trunc(builder.lshr(up, same(wide, 16)), result.llvm)

        return result(out, numbers), build

    def permute(builder: Builder, entries: Value, codes: Value) -> Any:
        chosen = ir.Constant(_vectors_of(entries.type.element), ir.Undefined)
        for index in map(_I32, range(_ENTRIES)):
            # LLVM knows sixteen extracts by extracted indices as one permutation of a register.
            code = builder.extract_element(codes, index)
            if code.type.width < 32:
                code = builder.zext(code, _I32)
            entry = builder.extract_element(entries, code)
            chosen = builder.insert_element(chosen, entry, index)
        return chosen

    def permute_bytes(builder: Builder, entries: Value, codes: Value) -> Any:
        """The same, one byte of the entries at a time."""
        width = entries.type.element.width // 8
        split = builder.bitcast(entries, _vectors_of(_I8, _ENTRIES * width))
        parts = []
        for first in range(width):
            # Byte `first` of every entry: planes of bytes are looked up, and joined pairwise.
            plane = shuffle(builder, split, split, range(first, _ENTRIES * width, width))
            parts.append(permute(builder, plane, codes))
        while len(parts) > 1:
            count, bits = parts[0].type.count, parts[0].type.element.width
            lanes = [lane // 2 + lane % 2 * count for lane in range(2 * count)]
            pairs = [
                shuffle(builder, *pair, lanes) for pair in zip(parts[::2], parts[1::2], strict=True)
            ]
            wider = _vectors_of(ir.IntType(2 * bits))
            parts = [builder.bitcast(pair, wider) for pair in pairs]
        return parts[0]

    def _chosen(context: Context, builder: Builder, entries: Value, codes: Value) -> Any:
        """Entries, integers, by the low four bits of codes."""
        masked = builder.and_(codes, same(codes.type, 15))
        features = context.codegen().magic_tuple()[2]
        if "+avx512bw" in features and "+avx512vl" in features:
            if masked.type.element.width < entries.type.element.width:
                masked = builder.zext(masked, entries.type)
            return permute(builder, entries, masked)
        # Elsewhere, machines look up bytes only.
        if masked.type != _BYTES.llvm:
            masked = builder.trunc(masked, _BYTES.llvm)
        return permute_bytes(builder, entries, masked)

    @intrinsic
    def entries_at(typingctx: Typing, table: Type, places: Type) -> Any:
        """The lanes of a table of sixteen float32 that the low four bits of int32 lanes choose."""
        if table != _NUMBERS or places != Lanes(types.int32, _ENTRIES):
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            entries = builder.bitcast(args[0], _vectors_of(_I32))
            return builder.bitcast(_chosen(context, builder, entries, args[1]), _NUMBERS.llvm)

        return _NUMBERS(table, places), build

    @intrinsic
    def look_up(typingctx: Typing, out: Type, at: Type, table: Type, codes: Type) -> Any:
        """Set `out[at:at+16]` to the entries that the low four bits of sixteen bytes choose."""
        if not is_contiguous(out, types.uint16, types.float32) or not out.mutable:
            return None
        if table != Lanes(out.dtype, _ENTRIES) or codes != _BYTES:
            return None

        def build(context: Context, builder: Builder, signature: Signature, args: Values) -> Any:
            entries = builder.bitcast(args[2], _vectors_of(ir.IntType(out.dtype.bitwidth)))
            chosen = _chosen(context, builder, entries, args[3])
            where = pointer(context, builder, out, args[0], args[1], chosen.type)
            builder.store(chosen, where, align=1)
            return context.get_dummy_value()

        return types.void(out, types.intp, table, codes), build

    load_u32, load_u64 = _loader(32, types.uint32), _loader(64, types.uint64)
