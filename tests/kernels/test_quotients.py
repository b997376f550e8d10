"""Codes of quotients are those of divisions, wherever reciprocals take their place.

Expected are numpy's quotients, cut to the end of the format and cast by `ml_dtypes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels._native import variants

BF16 = ml_dtypes.bfloat16
KINDS: dict[int, Any] = {0: np.float32, 1: BF16, 2: np.float16}
E4M3_TIES = [m * 2.0**e for e in range(-10, 9) for m in (1, *np.arange(17, 32, 2) / 16)]
E2M1_TIES = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]


def _quotients(values: Any, scales: Any, kind: int) -> Any:
    """float32 over scales, `[scales, values]`, rounded to the dtype."""
    with np.errstate(all="ignore"):
        return (values / scales[:, None]).astype(KINDS[kind]).astype(np.float32)


def _e4m3(quotients: Any) -> Any:
    with np.errstate(all="ignore"):
        near = np.clip(quotients, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    # ml_dtypes drops the sign of a NaN, which has one code for each.
    found = near.view(np.uint8)
    sign = np.signbit(quotients).astype(np.uint8) << 7
    return np.where(np.isnan(quotients), sign | 0x7F, found)


def _e2m1(quotients: Any) -> Any:
    with np.errstate(all="ignore"):
        near = np.clip(np.nan_to_num(quotients, nan=0.0), -6, 6).astype(ml_dtypes.float4_e2m1fn)
    # Of 0 nothing keeps its sign, and of what becomes 0 what is negative.
    found = near.view(np.uint8) & 7 | np.uint8(8) * (quotients < 0)
    return (found[:, ::2] | found[:, 1::2] << 4).astype(np.uint8)


def _same(found: Any, wanted: Any, quotients: Any) -> None:
    wrong = np.flatnonzero(found.reshape(-1) != wanted.reshape(-1))
    per = quotients.size // found.size
    some = quotients.reshape(-1)[per * wrong[0] :][:per] if len(wrong) else None
    assert not len(wrong), (len(wrong), some)


def _all_halves(kind: int) -> Any:
    """Every number of a 16-bit dtype but NaNs, whose signs processors choose."""
    values = np.arange(1 << 16, dtype=np.uint16).view(KINDS[kind]).astype(np.float32)
    return np.where(np.isnan(values), np.float32(1), values)


def _scales(kind: int) -> Any:
    """Every mantissa of BF16, eight of binary16, and powers at the ends of what has reciprocals."""
    powers = 2.0 ** np.array([-133, -130, -128, -127, -126, -125, -64, -24, 0, 1, 2, 15, 126, 127])
    some = [*np.linspace(1, 2, 128 if kind == 1 else 8, endpoint=False) / 512, *powers, np.inf]
    with np.errstate(all="ignore"):
        found = np.array([*some, *1.9921875 * powers], np.float32).astype(KINDS[kind])
    return np.unique(found[found != 0]).astype(np.float32)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", [1, 2])
def test_e4m3_of_all_numbers_of_16_bits(kind: int, zero: bool) -> None:
    values, scales = _all_halves(kind), _scales(kind)
    for part in np.array_split(scales, 16):
        given, out = np.tile(values, len(part)), np.empty(len(part) << 16, np.uint8)
        variants("encode_fp8:codes_of")(kind, zero)(given, part, 1 << 16, out)
        quotients = _quotients(values, part, kind) + np.float32(0 if zero else -0.0)
        numbers = ~np.isnan(quotients)
        found, wanted = out.reshape(len(part), -1), _e4m3(quotients)
        _same(np.where(numbers, found, 0), np.where(numbers, wanted, 0), quotients)
        assert (found[~numbers] & 0x7F == 0x7F).all()


@pytest.mark.parametrize("kind", [1, 2])
def test_e2m1_of_all_numbers_of_16_bits(kind: int) -> None:
    values, scales = _all_halves(kind), _scales(kind)
    for part in np.array_split(scales, 16):
        given, out = np.tile(values, len(part)), np.empty(len(part) << 15, np.uint8)
        variants("encode_fp4:codes_of")(kind, 0)(given, part, 1 << 16, out)
        quotients = _quotients(values, part, kind)
        _same(out.reshape(len(part), -1), _e2m1(quotients), quotients)


def _beside(ties: list[float], scales: Any) -> Iterator[Any]:
    """Of each scale, float32 whose quotients are a few ulp from ties, on both sides."""
    for scale in scales:
        products = np.array(ties, np.float32) * scale
        near = products.view(np.int32)[:, None] + np.arange(-6, 7, dtype=np.int32)
        numbers = near.view(np.float32).reshape(-1)
        yield np.concatenate([numbers, -numbers, np.zeros(-2 * len(numbers) % 16, np.float32)])


@pytest.mark.parametrize("format_", ["e4m3", "e2m1"])
def test_float32_beside_ties(format_: str) -> None:
    e4m3, rng = format_ == "e4m3", np.random.default_rng(0)
    scales = rng.uniform(1, 2, 4000).astype(np.float32) * np.float32(2.0**-9)
    scales[:4] = 2.0**-130, 2.0**-126, np.nextafter(np.float32(2), np.float32(0)), 2.0**-9
    values = np.stack(list(_beside(E4M3_TIES if e4m3 else E2M1_TIES, scales)))
    group = values.shape[1]
    out = np.empty(values.size if e4m3 else values.size // 2, np.uint8)
    body = variants(f"encode_fp{8 if e4m3 else 4}:codes_of")(0, False if e4m3 else 0)
    body(values.reshape(-1), scales, group, out)
    quotients = values / scales[:, None]
    _same(out, _e4m3(quotients) if e4m3 else _e2m1(quotients), quotients)


@pytest.mark.parametrize("power", [0, -9, -30, -60, -110, 100])
def test_448ths_of_every_greatest_number(power: int) -> None:
    # A row for each mantissa of a greatest magnitude, with every number that has a code.
    greatest = np.linspace(1, 2, 128, endpoint=False) * 2.0**power
    below = np.linspace(1, 2, 128, endpoint=False) * 2.0 ** np.arange(-21, 1)[:, None]
    with np.errstate(all="ignore"):
        sizes = np.minimum(below.reshape(-1) * 2.0**power, greatest[:, None])
        sizes[:, 0] = 0
        values = np.concatenate([sizes, -sizes], 1).astype(np.float32).astype(BF16)
    rows, columns = values.shape
    scales, out = np.empty((rows, 1), np.float32), np.empty(values.shape, np.uint8)
    given = np.ascontiguousarray(values).view(np.uint16).reshape(-1)
    run = variants("encode_fp8:blocks")("deepseek", 0)
    run(given, columns, (1, columns), 0.0, scales, out.reshape(-1))
    numbers = values.astype(np.float32)
    assert scales[:, 0].tolist() == (numbers.max(1) / np.float32(448)).tolist()
    quotients = numbers / scales
    _same(out, _e4m3(quotients), quotients)
