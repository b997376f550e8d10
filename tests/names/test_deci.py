"""DeciLM's blocks (Nemotron Super): heads and widths by layer, in a GGUF and back."""

from __future__ import annotations

from typing import Any

import pytest
from gguf_shapes import config

from anamnesis.errors import FormatError
from anamnesis.names import deci
from anamnesis.names.gguf_config import architecture_values, keys_of
from anamnesis.readers.model import Model

NAME = "DeciLMForCausalLM"


def block(group: int | None, factor: float | None, **attention: Any) -> dict[str, Any]:
    """A block with so many heads to one of keys, and a width of two thirds of a factor."""
    ends = {"replace_with_linear": False}
    return {
        "attention": {"n_heads_in_group": group, "no_op": group is None, **ends, **attention},
        "ffn": {"ffn_mult": factor, "no_op": factor is None, **ends},
    }


def values(*blocks: Any) -> dict[str, Any]:
    """What a file of such layers says."""
    said = config(NAME) | {"hidden_size": 192, "block_configs": list(blocks)}
    said["num_hidden_layers"] = len(blocks)
    found = architecture_values(keys_of(NAME, ""), "deci", said, "m")
    return {key: value.value for key, value in found.items()}


def test_layers_have_heads_and_widths_of_their_own() -> None:
    found = values(block(2, 6.0), block(None, 2.625), block(4, None), block(1, 5.25))
    assert found["deci.attention.head_count"] == [4, 0, 4, 4]
    assert found["deci.attention.head_count_kv"] == [2, 0, 1, 4]
    # Two thirds of 1152, 504, and 1008, each rounded up to whole 256.
    assert found["deci.feed_forward_length"] == [768, 512, 0, 768]
    said: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 4}
    deci.blocks(said, found, "deci", Model("m", "gguf", (), {}, ()))
    assert [b["attention"]["n_heads_in_group"] for b in said["block_configs"]] == [2, None, 4, 1]
    assert values(*said["block_configs"]) == found


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (block(None, 6.0, replace_with_linear=True), "attention of layer 1 is linear"),
        (block(None, 6.0, no_op=False), "attention of layer 1 has no n_heads_in_group"),
        ({"attention": {}}, "feed_forward_length cannot be made of"),
        ("no block", "feed_forward_length cannot be made of"),
    ],
)
def test_blocks_of_another_kind_are_refused(wrong: Any, expected: str) -> None:
    with pytest.raises(FormatError, match=expected):
        values(block(2, 6.0), wrong)
