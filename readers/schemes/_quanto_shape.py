"""The shape of a matrix that Quanto stored in groups, which no tensor of the file says.

`_data` is `[ceil(N / per byte), g]` and `_scale` `[N, 1]`, for N groups of g neighbours. Loading,
the library makes the model first and takes its shapes. Here the number of inputs has to follow from

1. how Quanto chooses groups: 128, or what is left after taking off 32 until it divides the inputs,
   down to 32; inputs up to 128, and those that nothing divides, are one group;
2. a bias, as long as there are outputs;
3. `hidden_size` of config.json: the inputs of some layers and the outputs of others.

Source: https://github.com/huggingface/optimum-quanto 0.2.7 optimum/quanto/nn/qmodule.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes.base import Ledger

_HIDDEN = ("hidden_size", "d_model", "n_embd")
# Layers of a decoder by the last part of their name, for a hidden state that goes in or comes out.
_FROM_HIDDEN = frozenset(
    "q_proj k_proj v_proj qkv_proj gate_proj up_proj gate_up_proj lm_head fc1 wi wi_0 wi_1".split()
)
_TO_HIDDEN = frozenset("o_proj out_proj down_proj fc2 wo".split())
# Parts of a model whose hidden size is another.
_OTHER = re.compile(r"vision|visual|image|audio|speech|encoder|mm_|multi_modal|projector", re.I)


def group_size(inputs: int) -> int:
    """Neighbours that share a scale, for so many inputs."""
    size = 128
    if inputs > size:
        while inputs % size and size > 32:
            size -= 32
        if not inputs % size:
            return size
    return inputs


def shape_of(ledger: Ledger, name: str, groups: int, size: int, where: str) -> tuple[int, int]:
    """`(outputs, inputs)` of the tensor called `name`, of `groups` groups of `size`.

    Raises FormatError when nothing tells, or what tells does not fit.
    """
    sources = [*_by_bias(ledger, name, groups, size), *_by_config(ledger, name, groups * size)]
    if group_size(size) != size:
        raise FormatError(f"{where}: Quanto makes no groups of {size:,}")
    if not sources and size not in (32, 64, 96, 128):
        return groups, size  # a group is a row
    for source, outputs, inputs in sources:
        if outputs * inputs != groups * size or not inputs or group_size(inputs) != size:
            raise FormatError(
                f"{where}: {groups:,} groups of {size:,} make no {outputs:,} x {inputs:,} weights, "
                f"which {source} says"
            )
    if (
        sources
        and sources[0][2] != size
        and "conv" in name.removesuffix(".weight").rpartition(".")[2]
    ):
        raise FormatError(
            f"{where}: a convolution in groups of {size:,}, whose shape Quanto does not store"
        )
    if not sources:
        raise FormatError(
            f"{where}: {groups:,} groups of {size:,}, and nothing says how many make a row: Quanto "
            "stores no shape, and there is neither a bias beside it nor a hidden_size in "
            "config.json that is this layer's"
        )
    if len({t[1:] for t in sources}) > 1:
        raise FormatError(
            f"{where}: {' and '.join(t[0] for t in sources)} say different shapes, "
            f"{' and '.join(str(list(t[1:])) for t in sources)}"
        )
    return sources[0][1], sources[0][2]


def _by_bias(ledger: Ledger, name: str, groups: int, size: int) -> list[tuple[str, int, int]]:
    stem, _, part = name.rpartition("weight")
    bias: Stored | None = ledger.container.stored.get(f"{stem}bias") if not part else None
    if bias is None or len(bias.shape) != 1 or not bias.shape[0]:
        return []
    outputs = bias.shape[0]
    return [("the bias", outputs, groups * size // outputs)]


def _by_config(ledger: Ledger, name: str, elems: int) -> list[tuple[str, int, int]]:
    config = ledger.configs.get("config.json", {})
    text = config.get("text_config")
    block: Mapping[str, Any] = text if isinstance(text, Mapping) else config
    hidden = next((block[k] for k in _HIDDEN if type(block.get(k)) is int), 0)
    if hidden <= 0 or _OTHER.search(name):
        return []
    # A norm as long as the hidden state says that the config is this model's.
    if not any(s.shape == (hidden,) for s in ledger.container.stored.values()):
        return []
    layer = name.removesuffix(".weight").rpartition(".")[2]
    if layer in _FROM_HIDDEN:
        return [("hidden_size", elems // hidden, hidden)]
    if layer in _TO_HIDDEN:
        return [("hidden_size", hidden, elems // hidden)]
    return []
