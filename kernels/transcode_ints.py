"""Integers between layouts: GPTQ, AWQ, compressed-tensors and MLX (`transcoders.Integers`).

| layout | codes | zero points |
|---|---|---|
| GPTQ | words down the inputs, `[words, out]` | `[groups, words]`, fewer by 1 in v1 |
| AWQ GEMM | words of eight outputs, in an order, `[in, out / 8]` | `[groups, out / 8]` |
| `pack-quantized` | words along a row, `[out, words]` | words down the rows, `[words, groups]` |
| `int-quantized` | I8, less by 2**(b-1) | I8, less by 2**(b-1) |
| MLX affine | words along a row, `[out, words]` | as biases: -zero * scale |

A stream of codes is the same in all but AWQ: code k is bits [k * b, (k + 1) * b) of little-endian
words. The modules of the decoders have the layouts and their sources.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales, read_zeros
from anamnesis.kernels._narrow import stored
from anamnesis.kernels._native import variants
from anamnesis.kernels._pack import pack, pack_rows
from anamnesis.kernels.transcoders import Inexact, Integers, group_of
from anamnesis.kernels.types import Array, Bytes, Floats, Outputs, Params, Views

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the outputs in a word, lowest nibble first
spread = variants("_codes:spread")


def codes_of(stream: Bytes, bits: int, columns: int) -> Array:
    """Codes `[rows, columns]` of rows of packed bytes `[rows, bytes]`."""
    rows, nbytes = stream.shape
    each = nbytes * 8 // bits  # with those that fill the last word
    if nbytes * 8 % bits or each % 8:
        each = -(-columns // 32) * 32
        nbytes = each * bits // 8
        padded = np.zeros((rows, nbytes), np.uint8)
        padded[:, : stream.shape[1]] = stream
        stream = padded
    codes = np.empty(rows * each, np.uint8)
    spread(bits)(np.ascontiguousarray(stream).reshape(-1), codes)
    return codes.reshape(rows, each)[:, :columns]


def read_gptq(views: Views, params: Params, window: Window) -> Integers:
    """GPTQ of any version, without act-order."""
    bits, columns = params["bits"], params["in_features"]
    words = views["qweight"].view("<u4")
    # Streams run down the columns of words; turned, a row is a stream.
    codes = codes_of(np.ascontiguousarray(words.T).view(np.uint8), bits, columns)
    scales = read_scales(params["scale_dtype"], views["scales"])
    zeros = None
    if "qzeros" in views:
        carry = 32 // bits if params["zero_carry"] else 0
        offset = params["zero_offset"]
        zeros = read_zeros(views["qzeros"], bits, offset, carry, False, scales.shape).T
    return Integers(codes, bits, group_of(params, columns), scales.T, zeros)


def read_awq(views: Views, params: Params, window: Window) -> Integers:
    """AWQ's GEMM layout."""
    words = views["qweight"].view("<u4")
    codes = np.empty((words.shape[1], 8, words.shape[0]), np.uint8)
    for nibble, output in enumerate(_AWQ_ORDER):
        # Nibble k of a word, from the lowest on, is output `_AWQ_ORDER[k]` of its eight.
        codes[:, output] = (words.T >> np.uint32(4 * nibble)) & np.uint32(15)
    scales = read_scales(params["scale_dtype"], views["scales"])
    zeros = None
    if "qzeros" in views:
        zeros = read_zeros(views["qzeros"], 4, 0, 0, True, scales.shape).T
    group = group_of(params, len(words))
    return Integers(codes.reshape(-1, len(words)), 4, group, scales.T, zeros)


def read_ct_packed(views: Views, params: Params, window: Window) -> Integers:
    """compressed-tensors' packed words, in units of several rows where zero points are packed."""
    bits, columns, groups = params["bits"], params["in_features"], params["groups"]
    unit = params["unit_rows"]
    stream = views["weight_packed"]
    rows = len(stream) * unit
    scales = _ct_scales(views, params, rows)
    codes = codes_of(stream.reshape(rows, -1), bits, columns)[: len(scales)]
    zeros = None
    if params["zero"] == "plain":
        zeros = _signed_zeros(views, len(scales), groups, bits)
    elif params["zero"]:
        zeros = zeros_down(views["weight_zero_point"], groups, bits, rows)[: len(scales)]
    return Integers(codes, bits, group_of(params, columns), scales, zeros)


def zeros_down(stored: Array, groups: int, bits: int, rows: int) -> Array:
    """Zero points, float32 `[rows, groups]`, of bytes of words that are packed down the rows."""
    words = np.ascontiguousarray(stored.reshape(-1)).view("<u4")
    # The stream of a group runs down its column of words.
    lines = np.ascontiguousarray(words.reshape(-1, groups).T).view(np.uint8)
    return np.ascontiguousarray(codes_of(lines, bits, rows).T.astype(np.float32))


def read_ct_bytes(views: Views, params: Params, window: Window) -> Integers:
    """compressed-tensors' codes of a byte."""
    # Two's complement to offset codes, and back: bit 7.
    codes = views["weight"] ^ np.uint8(128)
    scales = _ct_scales(views, params, len(codes))
    zeros = _signed_zeros(views, len(codes), params["groups"], 8) if params["zero"] else None
    return Integers(codes, 8, group_of(params, codes.shape[1]), scales, zeros)


def _ct_scales(views: Views, params: Params, rows: int) -> Array:
    groups = params["groups"]
    size = 4 if params["scale_dtype"] == "F32" else 2
    flat = np.ascontiguousarray(views["weight_scale"].reshape(-1))
    return read_scales(params["scale_dtype"], flat.reshape(-1, groups * size))[:rows]


def _signed_zeros(views: Views, rows: int, groups: int, bits: int) -> Array:
    found = views["weight_zero_point"].reshape(-1).view(np.int8)[: rows * groups]
    return (found.reshape(rows, groups).astype(np.int16) + (1 << bits - 1)).astype(np.float32)


def read_mlx(views: Views, params: Params, window: Window) -> Integers:
    """MLX's affine codes."""
    bits, size, dtype = params["bits"], params["group_size"], params["scale_dtype"]
    stream = views["payload"]
    codes = codes_of(stream.reshape(len(stream), -1), bits, stream.shape[1] * 8 // bits)
    groups = codes.shape[1] // size
    scales, biases = (
        read_scales(dtype, views[role].reshape(len(stream), -1))[:, :groups]
        for role in ("scales", "biases")
    )
    return Integers(codes, bits, size, scales, biases=biases)


def write_ct_packed(found: Integers, params: Params, out: Outputs) -> None:
    """`pack-quantized`."""
    bits = found.bits
    _write_scales(found, params, out)
    _write_stream(found.codes, bits, out["weight"])
    out["shape"][:] = params["shape"][: len(out["shape"])]
    zeros = zeros_of(found, int(params["group"]))
    if "zero" in out:
        lines = np.full((-(-len(zeros) // 32) * 32, zeros.shape[1]), 0, np.uint8)
        lines[: len(zeros)] = zeros
        # Down the rows: a stream for each group, in columns of words.
        packed = pack_rows(np.ascontiguousarray(lines.T), bits).T.reshape(-1)
        out["zero"][:] = packed[: len(out["zero"])]
    else:
        _refuse_zeros(zeros, bits)


def write_ct_bytes(found: Integers, params: Params, out: Outputs) -> None:
    """`int-quantized`."""
    half = 1 << found.bits - 1
    _write_scales(found, params, out)
    out["weight"][:] = (found.codes - np.uint8(half)).view(np.int8).reshape(-1)
    zeros = zeros_of(found, int(params["group"]))
    if "zero" in out:
        out["zero"][:] = (zeros.astype(np.int16) - half).astype(np.int8).reshape(-1)
    else:
        _refuse_zeros(zeros, found.bits)


def write_mlx(found: Integers, params: Params, out: Outputs) -> None:
    """MLX's affine codes; zero points become biases."""
    group, dtype = int(params["group"]), params["scale_dtype"]
    _write_scales(found, params, out)
    biases = repeated(biases_of(found), found, group)
    out["bias"][:] = exactly(biases, dtype, "a bias").reshape(-1)
    _write_stream(found.codes, found.bits, out["weight"])


def repeated(numbers: Array, found: Integers, group: int) -> Array:
    """Numbers of groups for the shorter groups of a target (0: rows)."""
    columns = found.codes.shape[1]
    group = group or columns
    return np.repeat(numbers, found.group // group, axis=1)[:, : columns // group]


def exactly(numbers: Floats, dtype: str, what: str) -> Array:
    """Float32 numbers in a dtype that has them all, in its numpy form; raises Inexact."""
    with np.errstate(all="ignore"):
        found = stored(np.ascontiguousarray(numbers), dtype)
        back = found.astype(np.uint32) << 16 if dtype == "BF16" else found
        wide = back.view(np.float32) if dtype == "BF16" else back.astype(np.float32)
    same = (wide == numbers) & np.isfinite(numbers)
    if not same.all():
        first = np.asarray(numbers)[~same].reshape(-1)[0]
        raise Inexact(f"{what} of {first!r:.40} is no finite number of {dtype}")
    return found


def biases_of(found: Integers) -> Array:
    """Biases that stand for zero points, float32; raises Inexact where a product is rounded."""
    if found.biases is not None:
        return found.biases
    half = np.float32(1 << found.bits - 1)
    zeros = half if found.zeros is None else found.zeros
    # double holds the product exactly: a float32 by a number of at most 8 bits.
    wide = -(found.scales.astype(np.float64) * zeros)
    biases = wide.astype(np.float32)
    if not (biases.astype(np.float64) == wide).all():
        raise Inexact("a scale times its zero point is no float32")
    return biases


def zeros_of(found: Integers, group: int) -> Array:
    """Zero points, float32, in groups of a target; raises Inexact where biases are none."""
    top = (1 << found.bits) - 1
    if found.biases is not None:
        with np.errstate(all="ignore"):
            exact = -found.biases.astype(np.float64) / found.scales
            whole = np.rint(exact) == exact
        fits = whole & (exact >= 0) & (exact <= top)
        if not fits.all():
            raise Inexact("a bias is no whole number of scales that is a code")
        zeros = exact.astype(np.float32)
    elif found.zeros is None:
        zeros = np.full(found.scales.shape, 1 << found.bits - 1, np.float32)
    else:
        zeros = found.zeros
        if not ((zeros >= 0) & (zeros <= top)).all():
            raise Inexact(f"a zero point is not among the codes, 0 to {top}")
    return repeated(zeros, found, group)


def _refuse_zeros(zeros: Array, bits: int) -> None:
    half = 1 << bits - 1
    if not (zeros == half).all():
        first = int(zeros[zeros != half].reshape(-1)[0])
        raise Inexact(f"a zero point is {first} and not {half}; sym=false has zero points")


def _write_scales(found: Integers, params: Params, out: Outputs) -> None:
    scales = repeated(found.scales, found, int(params["group"]))
    out["scale"][:] = exactly(scales, params["scale_dtype"], "a scale").reshape(-1)


def _write_stream(codes: Array, bits: int, out: Array) -> None:
    columns = codes.shape[1]
    if columns * bits % 32 == 0 and columns % 8 == 0:
        pack(np.ascontiguousarray(codes).reshape(-1), bits, out.view(np.uint8))
    else:
        out[:] = pack_rows(codes, bits).reshape(-1)
