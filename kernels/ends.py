"""How far the numbers of an encoder's groups reach, from the parts that it filled.

A number is clipped where it lies farther past the last code of its group than rounding goes: by
more than half of the step between the last two codes. `ends_of` gives both bounds for each group of
a window, half steps included. Of K types and IQ4_XS, whose groups have scales in a few bits, they
are what blocks of the lowest and of the highest codes decode to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import ENCODINGS, Window, decoder
from anamnesis.kernels._codes import read_zeros
from anamnesis.kernels._ends_iq import reach
from anamnesis.kernels.encode_fp4 import e4m3_values
from anamnesis.kernels.encoders import ENCODERS
from anamnesis.kernels.readback import Facts, Parts
from anamnesis.kernels.transcode_ints import zeros_down
from anamnesis.kernels.types import Array, Floats

_E4M3_END, _E2M1_END = np.float32(464), np.float32(7)  # 448 and 6, and half a step
_BNB_ENDS = {"bnb-fp4": (-7 / 6, 7 / 6), "bnb-nf4": (-1.1519036, 1.1385216)}
_SUB_BLOCK = 16


class Ends(NamedTuple):
    """`size` elements of a row of `columns`, the last fewer, lie between `low` and `high`, flat."""

    columns: int
    size: int
    low: Floats
    high: Floats


NO_ENDS = Ends(1, 1, np.empty(0, np.float32), np.empty(0, np.float32))  # where nothing is lost


class _Legacy(NamedTuple):
    """A ggml type with one scale, binary16 at `at`: ends in scales, and whether a bias follows."""

    low: float
    high: float
    at: int = 0
    biased: bool = False


_LEGACY: Mapping[str, _Legacy] = {
    "gguf-iq4-nl": _Legacy(-138.5, 125.0),
    "gguf-q1-0": _Legacy(-2, 2),
    "gguf-q2-0": _Legacy(-1.5, 2.5),
    "gguf-q4-0": _Legacy(-8.5, 7.5),
    "gguf-q4-1": _Legacy(-0.5, 15.5, biased=True),
    "gguf-q5-0": _Legacy(-16.5, 15.5),
    "gguf-q5-1": _Legacy(-0.5, 31.5, biased=True),
    "gguf-q8-0": _Legacy(-127.5, 127.5),
    "gguf-tq1-0": _Legacy(-1.5, 1.5, at=52),
    "gguf-tq2-0": _Legacy(-1.5, 1.5, at=64),
}
# Bytes of a block that hold codes, and how many codes there are.
_CODES: Mapping[str, tuple[int, int, int]] = {
    "gguf-iq4-xs": (8, 136, 11),  # its last two are as far apart as if there were so many
    "gguf-q2-k": (16, 80, 4),
    "gguf-q3-k": (0, 96, 8),
    "gguf-q4-k": (16, 144, 16),
    "gguf-q5-k": (16, 176, 32),
    "gguf-q6-k": (0, 192, 64),
}


def ends_of(parts: Parts, facts: Facts) -> Ends:
    """The ends of every group of a window of `facts.rows` units."""
    encoding = ENCODERS[facts.target].reads_back
    with np.errstate(all="ignore"):
        if facts.target in _LEGACY:
            return _legacy(parts, encoding, _LEGACY[facts.target])
        if facts.target in _CODES:
            return _by_codes(parts, encoding, *_CODES[facts.target])
        return _ENDS[facts.target if encoding.startswith("gguf-") else encoding](parts, facts)


def _around(size: Floats, columns: int, group: int) -> Ends:
    size = np.abs(np.ascontiguousarray(size, np.float32).reshape(-1))
    return Ends(columns, group, -size, size)


def _between(first: Floats, last: Floats, columns: int, group: int) -> Ends:
    ends = [np.ascontiguousarray(e, np.float32).reshape(-1) for e in (first, last)]
    return Ends(columns, group, np.minimum(*ends), np.maximum(*ends))


def _legacy(parts: Parts, encoding: str, row: _Legacy) -> Ends:
    size = ENCODINGS[encoding].block_elems
    data = parts["blocks"].reshape(-1, ENCODINGS[encoding].block_bytes)
    count = 4 if row.biased else 2
    numbers = np.ascontiguousarray(data[:, row.at : row.at + count]).view("<f2").astype(np.float32)
    bias = numbers[:, 1] if row.biased else np.float32(0)
    scale = numbers[:, 0]
    return _between(
        scale * np.float32(row.low) + bias, scale * np.float32(row.high) + bias, size, size
    )


def _by_codes(parts: Parts, encoding: str, first: int, last: int, codes: int) -> Ends:
    row = ENCODINGS[encoding]
    data = parts["blocks"].reshape(-1, row.block_bytes).copy()
    found = []
    for byte in (0x00, 0xFF):
        data[:, first:last] = byte
        out = np.empty(len(data) * row.block_elems, np.float32)
        decoder(encoding)({"payload": data}, {}, Window(0, len(data)), out)
        found.append(out[::_SUB_BLOCK])
    half = (found[1] - found[0]) / np.float32(2 * (codes - 1))
    return _between(found[0] - half, found[1] + half, _SUB_BLOCK, _SUB_BLOCK)


def _gguf_iq(parts: Parts, facts: Facts) -> Ends:
    row = ENCODINGS[facts.target]
    kind = facts.target.removeprefix("gguf-").replace("-", "_")
    size, low, high = reach(kind, parts["blocks"].reshape(-1, row.block_bytes))
    return Ends(row.block_elems, size, low, high)


def _gguf_mxfp4(parts: Parts, facts: Facts) -> Ends:
    return _by_exponents(parts["blocks"][::17], _E2M1_END, 32, 32)


def _gguf_nvfp4(parts: Parts, facts: Facts) -> Ends:
    scales = np.ascontiguousarray(parts["blocks"].reshape(-1, 36)[:, :4])
    return _around(e4m3_values(scales.reshape(-1)) * _E2M1_END, 16, 16)


def _by_exponents(exponents: Array, end: Any, columns: int, group: int) -> Ends:
    low, high = _reaches(float(end))
    return Ends(columns, group, low[exponents].reshape(-1), high[exponents].reshape(-1))


@cache
def _reaches(end: float) -> tuple[Any, Any]:
    """Where groups of each exponent end, of numbers that end with `end` under 2**0."""
    powers = np.ldexp(np.float32(1), np.arange(256) - 127)
    with np.errstate(over="ignore"):
        high = powers * np.float32(end)
    return -high, high


def _wide(numbers: Array, dtype: str) -> Any:
    """Scales, of BF16 bits or numpy's own floats, as float32."""
    if numbers.dtype == np.uint16:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32)


def _fp8(parts: Parts, facts: Facts) -> Ends:
    rows, columns = facts.rows, facts.columns
    scale, size = parts["scale"], columns
    if facts.target.endswith("mxfp8"):
        return _by_exponents(scale, _E4M3_END, columns, 32)
    numbers = _wide(scale, facts.dtype) * _E4M3_END
    if facts.target == "fp8-block":
        size = int(facts.settings["block"])
        lines = numbers.reshape(-1, -(-columns // size))
        numbers = np.repeat(lines, size, axis=0)[:rows]
    elif facts.target == "fp8-tensor":
        numbers = np.repeat(numbers.reshape(-1)[:1], rows)
    return _around(numbers, columns, size)


def _mx(parts: Parts, facts: Facts) -> Ends:
    return _by_exponents(parts["scale"], _E2M1_END, facts.columns, 32)


def _nv(parts: Parts, facts: Facts) -> Ends:
    scales = e4m3_values(np.arange(256, dtype=np.uint8) & np.uint8(0x7F))
    if "global" in parts:
        divide = facts.settings.get("style") == "compressed-tensors"
        whole = parts["global"].reshape(-1)[0]
        scales = scales / whole if divide else scales * whole
    high, codes = np.abs(scales * _E2M1_END).astype(np.float32), parts["scale"].view(np.uint8)
    return Ends(facts.columns, 16, (-high)[codes].reshape(-1), high[codes].reshape(-1))


def _integers(parts: Parts, facts: Facts) -> Ends:
    settings, columns = facts.settings, facts.columns
    bits, group = int(settings["bits"]), int(settings["group"]) or columns
    scales = _wide(parts["scale"], facts.dtype)
    zeros: Any = np.float32(1 << bits - 1)
    if "zero" in parts:
        groups = columns // group
        zeros = parts["zero"]
        if facts.target == "ct-pack-quantized":
            zeros = zeros_down(zeros.view(np.uint8), groups, bits, facts.rows).reshape(-1)
        else:
            zeros = zeros.astype(np.float32) + np.float32(1 << bits - 1)
    first, last = np.float32(-0.5) - zeros, np.float32((1 << bits) - 0.5) - zeros
    return _between(first * scales, last * scales, columns, group)


def _affine(parts: Parts, facts: Facts) -> Ends:
    scales, biases = (_wide(parts[role], facts.dtype) for role in ("scale", "bias"))
    last = np.float32((1 << int(facts.settings["bits"])) - 0.5)
    group = int(facts.settings["group"])
    return _between(biases - scales * np.float32(0.5), biases + scales * last, facts.columns, group)


def _transposed(parts: Parts, facts: Facts) -> Ends:
    settings, outputs = facts.settings, facts.columns
    group, bits = int(settings["group"]), int(settings["bits"])
    groups = facts.rows // group
    scales = _wide(parts["scale"], facts.dtype).reshape(groups, outputs)
    offset, nibbles = int(settings.get("version", 0) == 1), facts.target == "awq"
    stored = parts["zero"].view(np.uint8).reshape(groups, -1)
    zeros = read_zeros(stored, bits, offset, 0, nibbles, (groups, outputs))
    first = (np.float32(-0.5) - zeros) * scales
    last = (np.float32((1 << bits) - 0.5) - zeros) * scales
    first, last = np.repeat(first, group, axis=0), np.repeat(last, group, axis=0)
    return _between(first, last, outputs, 1)


def _four_bits(parts: Parts, facts: Facts) -> Ends:
    absmax, size = parts["absmax"], int(facts.settings["block"])
    if "nested" in parts:
        nested = np.repeat(parts["nested"], 256)[: len(absmax)]
        absmax = parts["nested_map"][absmax] * nested + np.float32(facts.settings["absmax_mean"])
    low, high = map(np.float32, _BNB_ENDS[facts.target])
    return _between(absmax * low, absmax * high, size, size)


def _int8(parts: Parts, facts: Facts) -> Ends:
    return _around(parts["scale"] * np.float32(127.5 / 127), facts.columns, facts.columns)


_ENDS: Mapping[str, Callable[[Parts, Facts], Ends]] = {
    "awq-gemm": _transposed,
    "bnb-4bit": _four_bits,
    "bnb-int8": _int8,
    "ct-int8": _integers,
    "ct-packed": _integers,
    "fp4-mx": _mx,
    "fp4-nv": _nv,
    "fp8-e4m3": _fp8,
    "gguf-iq1-m": _gguf_iq,
    "gguf-iq1-s": _gguf_iq,
    "gguf-iq2-s": _gguf_iq,
    "gguf-iq2-xs": _gguf_iq,
    "gguf-iq2-xxs": _gguf_iq,
    "gguf-iq3-s": _gguf_iq,
    "gguf-iq3-xxs": _gguf_iq,
    "gguf-mxfp4": _gguf_mxfp4,
    "gguf-nvfp4": _gguf_nvfp4,
    "gptq": _transposed,
    "mlx-affine": _affine,
}
