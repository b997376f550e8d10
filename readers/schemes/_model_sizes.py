"""How many inputs a layer must have, by the sizes that the model's configuration states.

| layers | inputs |
|---|---|
| that read the residual stream (`q_proj`, `embed_tokens`, …) | `hidden_size`, or a multiple |
| that end a feed-forward part (`down_proj`, `w2`, …) | `intermediate_size`, or that of experts |

Towers (`vision_tower`, …) go by what their own part of the configuration states. A model may have
layers of other sizes, latent experts say, which its configuration states too: any of them explains
a width. What none explains is the part of the inputs that codes of one to eight bits would fill:
then the numbers are codes in a container of another dtype, whatever they are called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_FILES = ("config.json", "params.json")
_DEPTH = 4
# Last parts of the names of layers that read the residual stream.
READ_HIDDEN = frozenset(
    "embed_tokens gate_proj gate_up_proj k_proj lm_head q_proj qkv_proj up_proj v_proj "
    "w1 w3".split()
)
_READ_INNER = frozenset(("down_proj", "w2"))
_HIDDEN = frozenset(
    "d_model dim embed_dim embedding_size hidden_dim n_embd width".split()  # and *hidden_size
)
_INNER = re.compile(r".*intermediate.*|.*(ffn|mlp|expert).*(size|dim)|n_inner|hidden_dim")
_WIDTHS = re.compile(r".*(hidden|embed|embd|latent|width|model|channels|dim|features).*")
_NO_WIDTHS = re.compile(r".*(head|rope|rotary|intermediate|vocab|position|token|layers).*")
_SHARED = re.compile(r"(n|num)_shared_experts")
_TOWER = re.compile(
    r".*(audio|connector|depth|draft|encoder|image|mtp|projector|speech|talker|tower|video|vision|"
    r"visual|vit).*"
)
_PRUNED = "block_configs"  # of Nemotron's search: sizes of layers are factors of others
_CODE_BITS = range(1, 9)


class ModelSizes:
    """The sizes of a model by its configurations; nothing is known where they state none."""

    def __init__(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        found = [one for name in _FILES for one in _numbers(configs.get(name, {}), False, 0)]
        pruned = any(_PRUNED in configs.get(name, {}) for name in _FILES)
        hidden = [(tower, n) for tower, key, n in found if _is_hidden(key)]
        inner = [] if pruned else [(tower, n) for tower, key, n in found if _INNER.fullmatch(key)]
        self.hidden = {n for _, n in hidden}
        self._hidden = {part: {n for tower, n in hidden if tower is part} for part in (False, True)}
        self._inner = {part: {n for tower, n in inner if tower is part} for part in (False, True)}
        shared = {n for _, key, n in found if _SHARED.fullmatch(key)}
        self._widths = self.hidden | {n for _, key, n in found if _is_width(key)}
        self._inner_widths = self._widths.union(
            *({n, *(n * k for k in shared)} for _, n in inner), (n for _, n in inner)
        )

    def packed(self, layer: str, width: int, bits: int) -> int:
        """The inputs of which `width` numbers of `bits` each would be the codes; 0 if dense.

        `layer` is the name of a module. One column is a flat array of codes, of whatever inputs.
        """
        sizes, explained = self._of(layer)
        if width not in explained:
            for size in sorted(sizes):
                if width == 1 < size or any(width * bits == size * code for code in _CODE_BITS):
                    return size
        return 0

    def other(self, layer: str, inputs: int) -> int:
        """The inputs that a layer must have and has not; 0 if nothing speaks against it."""
        sizes, explained = self._of(layer)
        if not sizes or inputs in explained or any(inputs % size == 0 for size in sizes):
            return 0
        return max(sizes)

    def _of(self, layer: str) -> tuple[set[int], set[int]]:
        """What the inputs must be, and all that explains them."""
        around, _, leaf = layer.rpartition(".")
        if leaf not in READ_HIDDEN and leaf not in _READ_INNER:
            return set(), set()
        tower = _TOWER.fullmatch(around) is not None
        if leaf in READ_HIDDEN:
            return self._hidden[tower], self._widths
        return self._inner[tower], self._inner_widths


def _is_hidden(key: str) -> bool:
    return key.endswith("hidden_size") or key in _HIDDEN


def _is_width(key: str) -> bool:
    return _WIDTHS.fullmatch(key) is not None and _NO_WIDTHS.fullmatch(key) is None


def _numbers(config: Mapping[str, Any], tower: bool, depth: int) -> Iterator[tuple[bool, str, int]]:
    """`(whether of a tower, key, number)` of every number above 0, those in lists included."""
    for key, value in config.items():
        mine = tower or _TOWER.fullmatch(key) is not None
        for one in value if isinstance(value, list) else (value,):
            if type(one) is int and one > 0:
                yield mine, key, one
            elif isinstance(one, Mapping) and depth < _DEPTH:
                yield from _numbers(one, mine, depth + 1)
