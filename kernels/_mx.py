"""Shared exponents of microscaling groups: the rules of the libraries, and the powers of two.

E8M0 byte `e` stands for 2**(e - 127).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from anamnesis.kernels._narrow import narrow
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Bytes, Floats

# Where a group's greatest magnitude goes: floor(log2(the format's largest)).
_TOP = {4: 2, 8: 8}
_MANTISSA = {"F32": 23, "BF16": 7, "F16": 10}


Rule = Callable[..., tuple[Any, Any]]


def of_groups(rule: Rule, greatest: Floats, reach: int, dtype: str) -> tuple[Any, Any]:
    """What `rule(greatest, reach, dtype)` gives: bytes, and scales, of groups' greatest magnitudes.

    Of binary16 they are looked up.
    """
    if dtype != "F16":
        return rule(greatest, reach, dtype)
    stored, scales = table_of(rule, reach, dtype)
    places = greatest.astype(np.float16).view(np.uint16)
    return stored[places], scales[places]


@cache
def table_of(rule: Rule, reach: int, dtype: str) -> tuple[Any, Any]:
    """The bytes and scales of every magnitude of a 16-bit dtype, by its bits."""
    # Magnitudes: bit 15 is 0.
    bits = np.arange(1 << 15, dtype=np.uint16)
    half = bits.view(np.float16).astype(np.float32)
    numbers = half if dtype == "F16" else (bits.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return rule(numbers, reach, dtype)


def ct_scales(greatest: Floats, reach: int, dtype: str) -> tuple[Any, Any]:
    """compressed-tensors' rule for codes of `reach` bits: stored bytes, and what it divides by."""
    found = exponents(greatest, reach, dtype)
    return stored_exponents(found, greatest), powers(found)


def powers(exponents: Bytes) -> Array:
    """2**(e - 127) as float32; infinity for 255, as torch's `2.0 ** 128` is."""
    scales = to_float32("F8_E8M0", exponents)
    return np.where(exponents == 255, np.float32(np.inf), scales)


def exponents(greatest: Array, bits: int, dtype: str) -> Array:
    """compressed-tensors' `generate_mx_scales`: uint8, for the greatest magnitudes of groups.

    A magnitude is rounded to a power of two as one of a single mantissa bit would be: up from 1.75
    times the power on. What has no exponent, zeros and subnormals, gives 0. What is rounded up to
    infinity, or is NaN, gives 255: `powers` is what it is divided by, and `stored_exponents` what
    is written.
    """
    mantissa = _MANTISSA[dtype]
    if dtype == "F16":
        raw, bias, most = greatest.astype(np.float16).view(np.uint16).astype(np.int64), 15, 31
    else:
        shift = 23 - mantissa
        raw, bias, most = greatest.view(np.uint32).astype(np.int64) >> shift, 127, 255
    # A quarter of the mantissa is added: from 1.75 on it carries into the exponent.
    field = (raw + (1 << mantissa - 2)) >> mantissa
    exponent = 127 + field - bias - _TOP[bits]
    exponent = np.where(field == 0, 0, np.where(field >= most, 255, exponent))
    if dtype == "F16":  # in which powers below 2**-24 are 0, and a scale of 0 becomes 1
        exponent = np.where(exponent < 127 - 24, 127, exponent)
    return np.clip(exponent, 0, 255).astype(np.uint8)


def stored_exponents(found: Bytes, greatest: Floats) -> Array:
    """The bytes that compressed-tensors writes for `exponents`: 127 for an infinite scale.

    It takes the logarithm of that as an int32, of which nothing is left in the byte. A group with
    NaN keeps the exponent that is NaN: there, the library's own depends on the bits of the NaN.
    """
    return np.where((found == 255) & ~np.isnan(greatest), np.uint8(127), found)


def mlx_scales(greatest: Floats, largest: int, dtype: str) -> tuple[Any, Any]:
    """MLX's `fp_quantize` on the CPU: stored bytes, and the scales that it divides by.

    The exponent is ceil(log2(greatest / largest)), 0 for a quotient of 0; quotients, the exponent's
    sum with 127 and its power of two are rounded to `dtype`. What is not finite becomes the least
    int32, a power of 0.
    """
    quotient = narrow(greatest / np.float32(largest), dtype)
    logs = np.ceil(np.log2(quotient.astype(np.float64)).astype(np.float32))
    logs = np.where(np.isfinite(logs), logs, np.float32(-(2.0**31)))
    logs = np.where(quotient == 0, np.float32(0), logs)
    biased = narrow(logs + np.float32(127), dtype)
    scales = narrow(np.exp2(np.maximum(logs, -1000).astype(np.float64)).astype(np.float32), dtype)
    return np.where(np.isfinite(biased), biased, 0).astype(np.int64).astype(np.uint8), scales


def ceilings(greatest: Floats, largest: int, dtype: str) -> tuple[Any, Any]:
    """ModelOpt's `MXFP4QTensor`: stored bytes, and the scales that it divides by.

    The exponent is ceil(log2(greatest / largest)) in float32 whatever the dtype, -127 at least.
    What is not finite has the byte 0, and is divided by itself.
    """
    logs = np.log2((greatest / np.float32(largest)).astype(np.float64)).astype(np.float32)
    found = np.ceil(np.maximum(logs, np.float32(-127)))
    stored = np.where(np.isfinite(found), found + np.float32(127), 0).astype(np.uint8)
    return stored, np.exp2(found.astype(np.float64)).astype(np.float32)
