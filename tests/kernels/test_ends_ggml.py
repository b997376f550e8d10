"""The ends of groups of IQ1 to IQ3 are those of what the decoders give for any block."""

from __future__ import annotations

import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window, decoder
from anamnesis.kernels.ends import ends_of
from anamnesis.kernels.readback import Facts

# The greatest number of a type's codebook in its own ends, which are half a step farther away.
GREATEST = {
    "iq1_m": 1.125 / 1.625,
    "iq1_s": 1.125 / 1.625,
    "iq2_s": 43 / 52,
    "iq2_xs": 43 / 52,
    "iq2_xxs": 43 / 52,
    "iq3_s": 15 / 16,
    "iq3_xxs": 62 / 67,
}


@pytest.mark.parametrize("kind", GREATEST)
def test_decoded_numbers_reach_so_far(kind: str) -> None:
    name = "gguf-" + kind.replace("_", "-")
    row = ENCODINGS[name]
    blocks = np.random.default_rng(3).integers(0, 256, (400, row.block_bytes), np.uint8)
    if kind == "iq1_m":
        blocks[:, 55] &= 0xBF  # no exponent of all ones
    else:
        blocks[:, 1] &= 0xBF
    out = np.empty(400 * 256, np.float32)
    decoder(name)({"payload": blocks}, {}, Window(0, 400), out)
    _, size, low, high = ends_of({"blocks": blocks.reshape(-1)}, Facts(name, {}, "F32", 256, 400))
    groups = out.reshape(-1, size)
    with np.errstate(all="ignore"):
        shares = np.maximum(groups.max(1) / high, groups.min(1) / low)
    shares = shares[np.isfinite(shares)]
    assert len(shares) > 300 * 256 // size
    assert shares.max() == pytest.approx(GREATEST[kind], rel=1e-6)
