"""How many bits Gemma's packed layers have: what the configuration says of each name."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import resolved

from anamnesis.errors import UnsupportedError

NAME = "model.layers.10.mlp.up_proj"
PARTS = {f"{NAME}.weight": ("U8", (8, 16)), f"{NAME}.weight_scale": ("F32", (8, 1))}


def columns(config: dict[str, Any], **sizes: int) -> int:
    block = {"quant_method": "gemma", **config}
    (tensor,) = resolved(PARTS, {**sizes, "quantization_config": block}).tensors.values()
    assert tensor.shape[0] == 8
    return tensor.shape[1]


@pytest.mark.parametrize(
    ("stated", "patterns", "bits"),
    [
        (None, None, 4),  # transformers' own default
        (2, None, 2),
        (2, {"mlp": {}}, 2),
        (8, {"mlp": {"num_bits": 2}}, 2),
        (4, {"q_proj": {"num_bits": 2}}, 4),
        # One expression of all: the first place in the name, then the first in the file.
        (8, {"mlp": {"num_bits": 4}, r"layers\.10": {"num_bits": 2}}, 2),
        (8, {"layers": {"num_bits": 4}, r"layers\.10": {"num_bits": 2}}, 4),
        (4, {r"layers\.(1|10)\.": {"num_bits": 2}}, 2),
        (4, {r"layers\.1\.": {"num_bits": 2}}, 4),
        (4, {r"^layers": {"num_bits": 2}}, 4),
        (4, {r".*up_proj$": {"num_bits": 2}}, 2),
        (4, {"up.proj": {"num_bits": 2}}, 2),
    ],
)
def test_bits_are_those_of_transformers(stated: Any, patterns: Any, bits: int) -> None:
    config = {} if stated is None else {"num_bits": stated}
    assert columns({**config, "module_quant_configs": patterns}) == 16 * 8 // bits


def test_what_may_take_long_is_not_run() -> None:
    slow = {"(a+)+$": {"num_bits": 2}}
    assert columns({"module_quant_configs": slow}, hidden_size=64) == 64
    assert columns({"module_quant_configs": slow}, hidden_size=32) == 32
    with pytest.raises(UnsupportedError, match="of 4 bits or others"):
        columns({"module_quant_configs": slow})


@pytest.mark.parametrize(
    ("bits", "hidden", "found"),
    [(2, 64, 64), (2, 63, 63), (2, 61, 61), (2, 60, 64), (4, 31, 31), (4, 30, 32), (4, 16, 32)],
)
def test_a_last_byte_that_is_not_full_is_told_by_the_model(
    bits: int, hidden: int, found: int
) -> None:
    assert columns({"num_bits": bits}, hidden_size=hidden) == found
