"""Rows of `scan` of compressed-tensors' layers: codes times these scales are the values."""

from __future__ import annotations

from typing import Any

import ct_cases as cases
import numpy as np
import pytest

from anamnesis.analytics.scan.run import scan_reader


@pytest.mark.parametrize("name", cases.NAMES)
def test_codes_less_zeros_times_scales(name: str) -> None:
    tensor = cases.tensor(name)
    found = scan_reader((tensor,)).read_all().to_pydict()
    rows = scan_reader((tensor,), decode="f32").read_all()["values"]
    wanted = np.concatenate([chunk.values.to_numpy() for chunk in rows.chunks])
    bits, groups = tensor.params["bits"], tensor.params["groups"]
    at = 0
    for i, elems in enumerate(found["elems"]):
        assert at == found["row"][i] * tensor.shape[-1] + found["col"][i]
        part, scale = wanted[at : at + elems], found["scale"][i]
        at += elems
        if scale is None:
            check_list(tensor, found["scales"][i], part)
            continue
        scale = np.float32(scale)
        zero = np.float32(found["zero"][i] or 0)
        with np.errstate(all="ignore"):
            codes = np.round(part.astype(np.float64) / scale + zero).astype(np.float32)
            if np.isfinite(codes).all() and scale:
                assert codes.min() >= -(1 << (bits - 1))
                assert codes.max() < 1 << (bits - 1)
                np.testing.assert_array_equal((codes - zero) * scale, part)
        assert (found["zero"][i] is None) == (not tensor.params["zero"])
    assert at == tensor.elems
    assert len(found["row"]) in (tensor.elems // tensor.shape[-1] * n for n in (1, groups))
    stored = cases.ENTRIES[tensor.components[0].stored.name][2]
    assert b"".join(found["payload"]) == stored


def check_list(tensor: Any, scales: Any, part: Any) -> None:
    """A whole row under several scales, or in an order of its own."""
    if tensor.params["act_order"]:
        assert not scales
        return
    each = np.array(scales, np.float32)
    assert len(each) == tensor.params["groups"]
    if not tensor.params["zero"]:
        values, column = part.reshape(len(each), -1), each[:, None]
        np.testing.assert_array_equal(np.round(values / column) * column, values)
