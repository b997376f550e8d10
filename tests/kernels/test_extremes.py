"""Least and greatest numbers of groups beside numpy's, of whole runs of sixteen and others."""

from __future__ import annotations

import numpy as np
import pytest

from anamnesis.kernels._extremes import ends


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("group", [1, 3, 16, 32, 48, 80, 128])
def test_ends_are_numpys(group: int, bf16: bool) -> None:
    rng = np.random.default_rng(group)
    for count in (1, 16, 37):  # sixteen groups are taken together
        powers = rng.integers(-38, 38, (count, 1)).astype(np.float32)
        values = rng.standard_normal((count, group)).astype(np.float32) * np.float32(10) ** powers
        values[::3], values[1::4] = -np.abs(values[::3]), np.abs(values[1::4])
        values[2::7, 0], values[3::11, -1] = np.inf, -np.inf
        values[4::13, group // 2], values[5::17, 0] = np.nan, -np.nan
        given = values.reshape(-1)
        if bf16:
            given = (given.view(np.uint32) >> 16).astype(np.uint16)
            values = (given.astype(np.uint32) << 16).view(np.float32).reshape(count, group)
        least, most = ends(given, group)
        np.testing.assert_array_equal(least, values.min(1))
        np.testing.assert_array_equal(most, values.max(1))
