"""MLX's affine codes beside its formula in numpy, where products and quotients could differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anamnesis.kernels.encoders import encoder

GROUP = 32


def formula(values: Any, bits: int) -> tuple[Any, Any, Any]:
    """Codes, scales and biases of groups, `[groups, GROUP]`, as MLX 0.32's CPU has them."""
    levels = np.float32((1 << bits) - 1)
    with np.errstate(all="ignore"):
        least, most = values.min(1), values.max(1)  # NaN where one is
        below = np.abs(least) > np.abs(most)
        scales = np.maximum((most - least) / levels, np.float32(1e-7))
        scales, edge = np.where(below, scales, -scales), np.where(below, least, most)
        steps = np.rint(edge / scales)
        scales = np.where(steps != 0, edge / steps, scales)
        biases = np.where(steps != 0, edge, np.float32(0))
        found = (values - biases[:, None]) / scales[:, None]
        found = np.where(found > 0, found, 0)
        codes = np.rint(np.where(found < levels, found, levels)).astype(np.uint8)
    return codes, scales, biases


def near_ties(bits: int, groups: int) -> Any:
    """Groups between the same two ends, of numbers within 3 ulp of the middle of two codes."""
    rng = np.random.default_rng(bits)
    values = np.empty((groups, GROUP), np.float32)
    for group in values:
        group[:2] = rng.uniform(0.5, 1) * np.float32([-1, rng.uniform(0.2, 0.9)])
        group[2:] = group[0]
        _, scales, biases = formula(group[None], bits)
        middles = rng.integers(0, (1 << bits) - 1, GROUP - 2) + 0.5
        near = (biases[0].astype(np.float64) + middles * scales[0]).astype(np.float32)
        group[2:] = (near.view(np.int32) + rng.integers(-3, 4, GROUP - 2).astype(np.int32)).view(
            np.float32
        )
    return values


def spoilt(groups: int) -> Any:
    """Groups with NaN, infinity, both zeros, subnormals, one number alone, all far away."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((groups, GROUP)).astype(np.float32)
    values[0::8, 5] = np.nan
    values[1::8, 7] = -np.inf
    values[2::8] = np.float32([0.0, -0.0] * (GROUP // 2))
    values[3::8] *= np.float32(1e-42)
    values[4::8] = np.float32(-3.5)
    values[5::8] += np.float32(1000)
    values[6::8] *= np.float32(3e37)
    return values


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("make", ["ties", "spoilt"])
def test_codes_of_the_formula(bits: int, make: str) -> None:
    # No multiple of sixteen groups, which are taken together.
    values = near_ties(bits, 43) if make == "ties" else spoilt(43)
    out: dict[str, Any] = {
        "weight": np.empty(values.size * bits // 32, np.uint32),
        "scale": np.empty(len(values), np.float32),
        "bias": np.empty(len(values), np.float32),
    }
    params = {"bits": bits, "group": GROUP, "dtype": "F32"}
    encoder("mlx-affine")(values.reshape(-1), params, out)
    codes, scales, biases = formula(values, bits)
    np.testing.assert_array_equal(out["scale"], scales)
    np.testing.assert_array_equal(out["bias"], biases)
    ones = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    np.testing.assert_array_equal(
        out["weight"].view(np.uint8), np.packbits(ones, bitorder="little")
    )
