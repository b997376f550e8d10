"""CRC-32 as in ZIP (reflected polynomial 0xEDB88320) by carry-less multiplication.

After V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction"
(Intel, 2009): the message is folded onto its first 256 bytes, in lanes of 128 bits; a lane is moved
2,048 bits ahead by multiplying its halves with x^2111 and x^2047 modulo P, each a bit short
of the distance because the product of two reflected numbers is one bit short itself. What is left,
256 bytes of the same remainder, goes through zlib, which does the last division as well.

Without PCLMULQDQ it is all zlib: look-up tables, also 16 at a time, were slower (CR1 in
docs/performance-experiments.md).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from anamnesis.kernels._jit import cpu_features, intrinsic, ir, jit, types
from anamnesis.kernels._vector import load64

POLYNOMIAL = 0xEDB88320
FOLD_BYTES = 256  # the state: four vectors of 64 bytes
_SHORT_BYTES = 16 * FOLD_BYTES  # below, calling is what takes the time


def crc32(data: Any, value: int = 0) -> int:
    """`zlib.crc32` of a contiguous buffer: the checksum of what gave `value` and then `data`."""
    if fold is None or len(data) < _SHORT_BYTES:
        return zlib.crc32(data, value)
    flat: Any = np.frombuffer(data, np.uint8)
    flat.setflags(write=False)
    whole = len(flat) // FOLD_BYTES * FOLD_BYTES
    state: Any = np.array(flat[:FOLD_BYTES])
    state[:4] ^= np.frombuffer((value ^ 0xFFFFFFFF).to_bytes(4, "little"), np.uint8)
    _run(flat[FOLD_BYTES:whole], state)
    # The state holds what `value` was, so zlib's register starts at zero: its complement is given.
    return zlib.crc32(flat[whole:], zlib.crc32(state, 0xFFFFFFFF))


def _power(exponent: int) -> int:
    """x^exponent modulo the polynomial; bit 31 is x^0."""
    power = 1 << 31
    for _ in range(exponent):
        power = power >> 1 ^ (POLYNOMIAL if power & 1 else 0)
    return power


def _folder(width: int) -> Any:
    """An intrinsic that folds 64 bytes, by multiplications of 16, 32 or 64 bytes at a time."""
    suffix = {16: "", 32: ".256", 64: ".512"}[width]
    words = width // 8
    keys = [_power(8 * FOLD_BYTES + 63) << 32, _power(8 * FOLD_BYTES - 1) << 32] * (words // 2)
    i8, i32, i64 = (ir.IntType(bits) for bits in (8, 32, 64))
    part = ir.VectorType(i64, words)

    def pick(builder: Any, first: Any, second: Any, start: int, count: int) -> Any:
        order = ir.Constant(ir.VectorType(i32, count), list(range(start, start + count)))
        return builder.shuffle_vector(first, second, order)

    @intrinsic
    def fold(typingctx: Any, state: Any, block: Any) -> Any:
        """64 bytes of the state moved ahead, and the block that they meet."""

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            name = f"llvm.x86.pclmulqdq{suffix}"
            multiply = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(part, [part, part, i8]), name
            )
            key = ir.Constant(part, keys)
            whole = builder.bitcast(args[0], ir.VectorType(i64, 8))
            parts = []
            for start in range(0, 8, words):
                lanes = pick(builder, whole, whole, start, words)
                low, high = (
                    builder.call(multiply, [lanes, key, ir.Constant(i8, half)])
                    for half in (0x00, 0x11)
                )
                parts.append(builder.xor(low, high))
            while len(parts) > 1:
                pairs = zip(parts[::2], parts[1::2], strict=True)
                parts = [pick(builder, a, b, 0, 2 * a.type.count) for a, b in pairs]
            return builder.xor(builder.bitcast(parts[0], args[1].type), args[1])

        return state(state, block), build

    return fold


@intrinsic
def put64(typingctx: Any, out: Any, at: Any, value: Any) -> Any:
    """Store 64 bytes from `at` on."""

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(out)(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), args[2].type.as_pointer())
        builder.store(args[2], place, align=1)
        return context.get_dummy_value()

    return types.void(out, types.intp, value), build


def _widest(features: frozenset[str]) -> int:
    """Bytes that one multiplication takes on a CPU with these features; 0 where there is none."""
    if {"vpclmulqdq", "avx512f"} <= features:
        return 64
    if {"vpclmulqdq", "avx2"} <= features:
        return 32
    return 16 if "pclmul" in features else 0


WIDTH = _widest(cpu_features())
fold: Any = _folder(WIDTH) if WIDTH else None


@jit
def _run(blocks: Any, state: Any) -> None:
    a, b, c, d = load64(state, 0), load64(state, 64), load64(state, 128), load64(state, 192)
    for at in range(0, blocks.shape[0], 256):
        a = fold(a, load64(blocks, at))
        b = fold(b, load64(blocks, at + 64))
        c = fold(c, load64(blocks, at + 128))
        d = fold(d, load64(blocks, at + 192))
    put64(state, 0, a)
    put64(state, 64, b)
    put64(state, 128, c)
    put64(state, 192, d)
