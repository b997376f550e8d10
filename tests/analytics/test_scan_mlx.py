"""Raw blocks of MLX's affine layers: codes times scales plus minimums are the decoded values."""

from __future__ import annotations

from typing import Any

import mlx_cases as cases
import numpy as np
import pytest

from anamnesis.analytics.scan.run import scan_reader


@pytest.mark.parametrize("name", cases.names("affine", "experts", "metal"))
def test_codes_times_scales(name: str) -> None:
    tensor = cases.tensor(name)
    bits, size = tensor.params["bits"], tensor.params["group_size"]
    found: dict[str, Any] = scan_reader((tensor,)).read_all().to_pydict()
    assert set(found["elems"]) == {size}
    payload = np.frombuffer(b"".join(found["payload"]), np.uint8)
    ones = np.unpackbits(payload, bitorder="little").reshape(-1, size, bits)
    codes = (ones @ (1 << np.arange(bits))).astype(np.float32)
    scales, minimums = (np.array(found[n], np.float32) for n in ("scales", "minimums"))
    np.testing.assert_array_equal(scales[:, 0], np.array(found["scale"], np.float32))
    np.testing.assert_array_equal(minimums[:, 0], np.array(found["minimum"], np.float32))
    wanted = cases.decoded(tensor, dtype=np.float32)
    np.testing.assert_array_equal((codes * scales + minimums).reshape(tensor.shape), wanted)
    first = np.array(found["row"]) * tensor.shape[-1] + np.array(found["col"])
    np.testing.assert_array_equal(first, np.arange(len(first)) * size)
