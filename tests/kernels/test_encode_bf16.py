"""Encoders that take BF16 as it is stored make of it what they make of the same float32 numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import encode_cases as ours
import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels.diff import Comparison
from anamnesis.kernels.encoders import ENCODERS, Setting, encoder, former
from anamnesis.kernels.ends import NO_ENDS, Ends
from anamnesis.kernels.loss import BLOCK, Losses

NAMES = sorted(name for name, row in ENCODERS.items() if row.bf16)
ROWS, COLUMNS = 72, 512


def _encoded(
    name: str, values: np.ndarray, least: Any, most: Any, given: Mapping[str, Setting] | None = None
) -> dict[str, np.ndarray]:
    settings = {key: row.default for key, row in ENCODERS[name].keys.items()} | dict(given or {})
    shape = values.shape
    form = former(name)("X.weight", shape, "BF16", settings)
    units = -(-values.size // form.unit_elems)
    parts = ours.rooms(form, units)
    params = {**settings, "dtype": "BF16", "columns": form.unit_elems, "shape": shape, "first": 0}
    encoder(name)(values.reshape(-1), {**params, "least": least, "most": most}, parts)
    return parts


@pytest.mark.parametrize("kind", [*ours.CLASSES, *ours.EXTREMES, *ours.SPOILED])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_those_of_float32(name: str, kind: str) -> None:
    make = ours.matrix if kind in ours.CLASSES else ours.extreme
    with np.errstate(all="ignore"):
        stored = make(kind, ROWS, COLUMNS).astype(ml_dtypes.bfloat16)
        wide = stored.astype(np.float32)
    ends = wide.min(), wide.max()
    found = _encoded(name, stored.view(np.uint16), *ends)
    wanted = _encoded(name, wide, *ends)
    for role, array in wanted.items():
        assert array.tobytes() == found[role].tobytes(), role


@pytest.mark.parametrize(
    ("name", "given", "shape"),
    [
        ("bnb-fp4", {"block": 4096}, (3, 70)),
        ("bnb-int8", {}, (5, 17)),
        ("bnb-nf4", {"block": 32}, (13, 1000)),
        ("ct-int-quantized", {"group": 7, "bits": 3}, (3, 70)),
        ("ct-pack-quantized", {"group": 5, "bits": 5, "sym": False}, (32, 35)),
        ("fp8-block", {"block": 7, "style": "compressed-tensors"}, (13, 1000)),
        ("fp8-block", {"block": 5, "style": "transformers"}, (10, 35)),
        ("fp8-channel", {}, (5, 17)),
        ("fp8-tensor", {}, (1, 33)),
        ("mxfp4", {"style": "mlx"}, (17, 96)),
        ("mxfp8", {"style": "mlx"}, (17, 96)),
        ("nvfp4", {"style": "modelopt"}, (17, 96)),
        ("nvfp4", {"style": "mlx"}, (17, 96)),
    ],
)
def test_bytes_of_any_bits_in_odd_shapes(
    name: str, given: Mapping[str, Setting], shape: tuple[int, int]
) -> None:
    """Numbers are all bits that there are: NaNs, infinities and subnormal numbers among them."""
    rows, columns = shape
    bits = np.random.default_rng(3).integers(0, 1 << 16, rows * columns, np.uint16)
    bits[: columns // 2] = 0x8000
    bits, wide = bits.reshape(shape), (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    finite = wide[np.isfinite(wide)]
    ends = finite.min(), finite.max()
    wanted, found = (_encoded(name, values, *ends, given) for values in (wide, bits))
    for role, array in wanted.items():
        assert array.tobytes() == found[role].tobytes(), role


def test_int8_of_every_bf16() -> None:
    """Numbers that binary16 rounds have the same codes: 0, or under a factor that rounds them."""
    every = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    every = every[np.isfinite(every)]
    given = [*np.geomspace(2.0**-12, 2.0**-8, 33), 0.1, 1.0, 65280.0, 65536.0]
    tops = np.array(given).astype(ml_dtypes.bfloat16).astype(np.float32)
    rows = np.stack([np.where(np.abs(every) <= top, every, top) for top in tops])
    rows[-3, 7] = np.nan
    bits = rows.view(np.uint32) >> 16
    wanted, found = (_encoded("bnb-int8", v, 0, 0) for v in (rows, bits.astype(np.uint16)))
    assert found["weight"].tobytes() == wanted["weight"].tobytes()
    assert found["scale"].tobytes() == wanted["scale"].tobytes()


@pytest.mark.parametrize("columns", [64, 40, 8])
def test_losses_of_bf16_are_those_of_float32(columns: int) -> None:
    stored = ours.matrix("plain", 99, columns).astype(ml_dtypes.bfloat16)
    stored[3, 3:6] = np.nan, np.inf, -0.0
    wide, bits = stored.astype(np.float32).reshape(-1), stored.view(np.uint16).reshape(-1)
    changed = (wide * np.float32(1.01)).astype(np.float32)
    groups = -(-columns // 32)
    low, high = (np.full(99 * groups, end, np.float32) for end in (-0.3, 0.01))
    low[::3] = -0.1
    found = []
    for values in (wide, bits):
        losses = Losses()
        losses.add(values, changed, Ends(columns, 32, low, high))
        found.append(losses.result())
    assert found[0] == found[1]
    least = np.repeat(low.reshape(99, groups), 32, axis=1)[:, :columns].reshape(-1)
    assert found[0].clipped == np.count_nonzero((wide < least) | (wide > high[0]))


@pytest.mark.parametrize("size", [2.0**-75, 2.0**-60, 1.0, 2.0**70, 0.0])
@pytest.mark.parametrize("elems", [1, 15, 16, 4095, 6001])
def test_losses_are_the_sums_of_a_diff(elems: int, size: float) -> None:
    """Of numbers whose squares float32 has not, too; and of some that have no error."""
    rng = np.random.default_rng(elems)
    a = (rng.standard_normal(elems) * size).astype(np.float32)
    b = a * (1 + 0.1 * rng.standard_normal(elems)).astype(np.float32)
    b[: elems // 2] = a[: elems // 2]
    a[rng.random(elems) < 0.0005], b[rng.random(elems) < 0.0005] = np.nan, np.inf
    losses, comparison = Losses(), Comparison()
    losses.add(a, b, NO_ENDS)
    comparison.add(a, b)
    found, wanted = losses.result().sums, comparison.result()
    assert found[:7] == wanted[:7]  # counts
    assert found[7:] == pytest.approx(wanted[7:], rel=2e-6, abs=0)


def test_equal_numbers_are_those_that_round_alike() -> None:
    """Ties, their neighbours, and zeros of either sign."""
    bits = np.arange(0x3C00, 0x4400, dtype=np.int64).repeat(11).reshape(-1, 11)
    bits[:16] = 0
    bits[::2] |= 0x8000
    near = np.array([-0x8001, -0x8000, -0x7FFF, -1, 0, 1, 0x7FFF, 0x8000, 0x8001, 0x10000, 1 << 31])
    others = ((bits << 16) + near & 0xFFFFFFFF).astype(np.uint32).view(np.float32).reshape(-1)
    others = np.where(np.isfinite(others), others, np.float32(0))
    stored = bits.astype(np.uint16).reshape(-1)
    wanted = np.count_nonzero(others.astype(ml_dtypes.bfloat16).view(np.uint16) == stored)
    for values in (stored, stored.view(ml_dtypes.bfloat16).astype(np.float32)):
        losses = Losses()
        losses.add(values, others, NO_ENDS)
        assert losses.result().sums.equal == wanted > len(stored) // 3


def test_losses_do_not_depend_on_the_window() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 9 * BLOCK + 100)).astype(np.float32)
    found = []
    for cuts in ((), (BLOCK,), (3 * BLOCK, 8 * BLOCK)):
        losses = Losses()
        for first, last in pairwise((0, *cuts, len(a))):
            losses.add(a[first:last], b[first:last], NO_ENDS)
        found.append(losses.result())
    assert found[0] == found[1] == found[2]
