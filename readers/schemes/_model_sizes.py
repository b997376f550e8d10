"""How many inputs and outputs a layer must have, by the sizes that a model's configuration states.

| layers | inputs | outputs |
|---|---|---|
| `q_proj` and the like | `hidden_size` | heads times their size |
| `query_key_value`, `c_attn`, `fc1`, … | `hidden_size` | |
| `fc2`, `dense_4h_to_h`, … | `intermediate_size` | |
| `k_proj`, `v_proj` | `hidden_size` | heads of keys and values times their size |
| `gate_proj`, `up_proj`, `w1`, … | `hidden_size` | `intermediate_size`, or that of experts |
| `down_proj`, `w2`, … | `intermediate_size`, or that of experts | `hidden_size` |
| `o_proj` and the like | heads times their size | `hidden_size` |
| `embed_tokens`, `lm_head`, … | `hidden_size` | `vocab_size` |

A multiple is what it must be, too, where models concatenate. Towers (`vision_tower`, …) go by what
their own part of the configuration states. A model may have layers of other sizes, latent experts
say, which its configuration states too: any of them explains a side. What none explains is the
part of a side that codes of one to eight bits would fill: then the numbers are codes in a container
of another dtype, whatever they are called. So are flat arrays in the place of a matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

_FILES = ("config.json", "params.json")
_DEPTH = 4


class _Layer(NamedTuple):
    """What the sides of a layer's matrix must be: a key of `_sides`, "" for no rule."""

    inputs: str
    outputs: str


# Last parts of the names of layers.
_LAYERS: dict[str, _Layer] = {
    **dict.fromkeys("embed_tokens lm_head tok_embeddings wte".split(), _Layer("hidden", "vocab")),
    **dict.fromkeys("gate_proj up_proj w1 w3".split(), _Layer("hidden", "outer")),
    **dict.fromkeys("gate_up_proj w13".split(), _Layer("hidden", "pair")),
    **dict.fromkeys("down_proj w2".split(), _Layer("inner", "hidden")),
    **dict.fromkeys("q_proj wq".split(), _Layer("hidden", "heads")),
    **dict.fromkeys("k_proj v_proj wk wv".split(), _Layer("hidden", "keys")),
    **dict.fromkeys("qkv_proj wqkv".split(), _Layer("hidden", "")),
    "o_proj": _Layer("heads", "hidden"),
    # BERT, BLOOM, CLIP, DistilBERT, Falcon, GPT-2, -J and -NeoX, MPT, OPT, T5, Whisper and others.
    **dict.fromkeys(
        "Wqkv c_attn c_fc dense_h_to_4h fc1 fc_in k_lin key lin1 q_lin query query_key_value v_lin "
        "value wi wi_0 wi_1".split(),
        _Layer("hidden", ""),
    ),
    **dict.fromkeys("dense_4h_to_h fc2 fc_out lin2".split(), _Layer("inner", "")),
}
_NO_LAYER = _Layer("", "")
# What layers read whose names alone do not tell it: BERT's, GPT-2's, T5's and the like.
_ATTENTIONS = "EncDecAttention SelfAttention".split()
_READS = {
    **{f"{one}.{part}": "hidden" for one in _ATTENTIONS for part in "qkv"},
    **{f"{one}.o": "heads" for one in _ATTENTIONS},
    "DenseReluDense.wo": "inner",
    "attention.output.dense": "heads",
    "attention.wo": "heads",
    "attn.c_proj": "heads",
    "intermediate.dense": "hidden",
    "mlp.c_proj": "inner",
    "out_lin": "heads",
    "output.dense": "inner",
    "self_attn.out_proj": "heads",
}
# Layers whose outputs, multiplied, are the inputs of the one that is called so.
_BEFORE = {
    "c_proj": ("c_fc", "w1", "w2"),
    "dense_4h_to_h": ("dense_h_to_4h",),
    "down_proj": ("gate_proj", "up_proj"),
    "fc2": ("fc1",),
    "fc_out": ("fc_in",),
    "lin2": ("lin1",),
    "w2": ("w1", "w3"),
    "wo": ("wi", "wi_0", "wi_1"),
}
_ATTENDED = {
    "o": ("q", "k", "v"),
    "o_proj": ("q_proj", "k_proj", "v_proj"),
    "out_lin": ("q_lin", "k_lin", "v_lin"),
    "out_proj": ("q_proj", "k_proj", "v_proj"),
    "wo": ("wq", "wk", "wv", *_BEFORE["wo"]),
}
_HIDDEN = frozenset(
    "d_model dim embed_dim embedding_size hidden_dim n_embd width".split()  # and *hidden_size
)
_INNER = re.compile(r".*intermediate.*|.*(ffn|mlp|expert).*(size|dim)|d_ff|n_inner|hidden_dim")
_WIDTHS = re.compile(r".*(hidden|embed|embd|latent|width|model|channels|dim|features).*")
_NO_WIDTHS = re.compile(r".*(head|rope|rotary|intermediate|vocab|position|token|layers).*")
_SHARED = re.compile(r"(n|num)_shared_experts")
_KEYS = re.compile(r".*(kv|key_value|key|value)_heads?|n_head_kv|.*multi_query_group.*")
_HEADS = re.compile(r".*heads?")
_HEAD_SIZES = re.compile(r".*head_(dim|size)|d_head|d_kv|kv_channels|key_length|value_length")
_RATES = re.compile(r".*(downsample|reduction)_(rate|ratio)")  # of attention, as SAM has it
_VOCABULARY = re.compile(r".*vocab.*")
_TOWER = re.compile(
    r".*(audio|connector|depth|draft|encoder|image|mtp|projector|speech|talker|tower|video|vision|"
    r"visual|vit).*"
)
# Sizes of layers are factors of others: in Nemotron's search, and in LFM2.
_FACTORS = ("block_configs", "block_auto_adjust_ff_dim")
_EXPERTS = re.compile(r"(.*[._])?experts([._].*)?")
_WEIGHTS = ("kernel", "weight", "weights")
_JOINED = 4  # layers that a model may keep in one
_USUAL = (1, 2, 3, 4, 8)  # bits of codes
_MOST = 8  # bits of codes that lie along the inputs
_KINDS = 64  # different sizes of a kind that a model may have; a longer list is of something else
_WIDE_KINDS = 1_024  # the same of layers' inputs and outputs, which pruned models have of any size


def fed(name: str, shape_of: Callable[[str], tuple[int, ...]]) -> list[int]:
    """The outputs of the layers that, multiplied, are the inputs of that of the weight `name`.

    They are what these must be, whatever the configuration says: in Griffin (`recurrent_gemma` of
    transformers) both are half of `intermediate_size`. `shape_of` gives the shape of a weight, ()
    for one that is not there or may be codes.
    """
    return _outputs(name, shape_of, _BEFORE)


def gathered(name: str, shape_of: Callable[[str], tuple[int, ...]]) -> list[int]:
    """The same, of attention as well: the outputs of what it is made of, all of them or a part."""
    return _outputs(name, shape_of, _BEFORE | _ATTENDED)


def _outputs(
    name: str,
    shape_of: Callable[[str], tuple[int, ...]],
    before: Mapping[str, tuple[str, ...]],
) -> list[int]:
    layer, dot, part = name.rpartition(".")
    around, above, leaf = layer.rpartition(".")
    shapes = [shape_of(f"{around}{above}{one}{dot}{part}") for one in before.get(leaf, ())]
    return [shape[-2] for shape in shapes if len(shape) > 1]


class _Side(NamedTuple):
    """What a side of a matrix must be, or a multiple of, and all that explains another."""

    sizes: frozenset[int]
    explained: frozenset[int]

    def is_whole(self, length: int) -> bool:
        return any(length % size == 0 and length <= _JOINED * size for size in self.sizes)

    def fits(self, length: int) -> bool:
        return length in self.explained or self.is_whole(length)

    def part(self, length: int, bits: int, most: int) -> int:
        """The size of which `length` numbers of `bits` each would be the codes; 0 if none.

        Codes have `most` bits at most.
        """
        codes = range(1, most + 1)
        if length not in self.explained:
            for size in sorted(self.sizes):
                if length == 1 < size or any(length * bits == size * code for code in codes):
                    return size
        return 0


_UNKNOWN = _Side(frozenset(), frozenset())


class Reads(NamedTuple):
    """How many inputs a layer must have, none where that is not known, and what explains others.

    Nothing but the residual stream's own size explains how much is read of that.
    """

    sizes: frozenset[int]
    explained: frozenset[int]
    is_stream: bool


class ModelSizes:
    """The sizes of a model by its configurations; nothing is known where they state none."""

    def __init__(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        found = [one for name in _FILES for one in _numbers(configs.get(name, {}), False, 0)]
        whole = [configs.get(name, {}) for name in _FILES]
        parts = [part for one in whole for part in one.values() if isinstance(part, Mapping)]
        pruned = any(key in one for one in (*whole, *parts) for key in _FACTORS)
        self.known = bool(found)
        self._heads = _few(n for _, key, n in found if _HEADS.fullmatch(key))
        self._keys = _few(n for _, key, n in found if _KEYS.fullmatch(key))
        self.hidden = _few((n for _, key, n in found if _is_hidden(key)), _WIDE_KINDS)
        self._numbers = {n for _, _, n in found}.union(*_by_heads(found)[1:])
        self._sides = {tower: _sides(found, tower, pruned) for tower in (False, True)}

    def packed(self, name: str, shape: tuple[int, ...], bits: int) -> int:
        """A side that the tensor `name` must have, and has a part of, as codes would; 0 if dense.

        `bits` are those of one stored number. One column, or one row, is a flat array of codes.
        """
        layer = self._layer_of(name, len(shape)) if self.known else None
        if layer is None:
            return 0
        inputs, outputs = layer
        if len(shape) < 2:
            return max(inputs.sizes, default=0)
        rows, columns = shape[-2:]
        if inputs.fits(columns) and (outputs.fits(rows) or not outputs.sizes):
            return 0
        if inputs.is_whole(rows) and outputs.is_whole(columns):
            return 0  # as GPT-2's Conv1D keeps them
        # Some models have half of the outputs that they say: eight bits of sixteen tell nothing.
        most = bits // 4
        transposed = outputs.part(columns, bits, most) if inputs.fits(rows) else 0
        size = inputs.part(columns, bits, _MOST) or outputs.part(rows, bits, most) or transposed
        return size or _flat(layer, shape, bits)

    def perhaps_packed(self, name: str, shape: tuple[int, ...], bits: int) -> int:
        """The same for a matrix of any other name whose inputs no number of the model explains.

        It may be of a kind that has such inputs, so that this is no reason to refuse it.
        """
        layer, _, part = name.rpartition(".")
        if part != "weight" or len(shape) != 2 or layer.rpartition(".")[2] in _LAYERS:
            return 0
        width = shape[1]
        if width in self._numbers or any(width % size == 0 for size in self.hidden):
            return 0
        parts = (width * bits == size * code for size in self.hidden for code in _USUAL)
        return max(self.hidden) if any(parts) else 0

    def other(self, layer: str, inputs: int) -> int:
        """The inputs that a layer must have and has not; 0 if nothing speaks against it."""
        sides = self._of(layer)
        heads = _LAYERS.get(layer.rpartition(".")[2], _NO_LAYER).inputs == "heads"
        if sides is None or heads or inputs in sides[0].explained:
            return 0
        return max(sides[0].sizes, default=0)

    def shares(self, queries: int, keys: int) -> bool:
        """Whether so many outputs of queries and of keys are of heads that share keys."""
        counts = ((n, k) for n in self._heads - self._keys for k in self._keys)
        return any(queries * k == keys * n for n, k in counts)

    def reads(self, layer: str) -> Reads:
        """What a layer reads, and how many inputs it must have."""
        parts = layer.split(".")
        ends = (".".join(parts[-n:]) for n in (3, 2, 1))
        kind = next((_READS[end] for end in ends if end in _READS), "")
        kind = kind or _LAYERS.get(parts[-1], _NO_LAYER).inputs
        if kind == "hidden":
            return Reads(self.hidden, self.hidden, is_stream=True)
        tower = _TOWER.fullmatch(".".join(parts[:-1])) is not None
        side = self._sides[tower].get(kind, _UNKNOWN)
        whole = (n * size for size in side.sizes for n in range(1, _JOINED + 1))
        return Reads(side.sizes, side.explained.union(whole), is_stream=False)

    def _layer_of(self, name: str, rank: int) -> tuple[_Side, _Side] | None:
        """The sides of a weight, be it `X.weight`, or `experts.X` of stacked experts."""
        layer, _, part = name.rpartition(".")
        own = part not in _WEIGHTS  # a parameter that is called after the layer
        if own:
            layer = name.removesuffix("_weight")
        if layer.rpartition(".")[2] not in _LAYERS:
            return None
        is_weight = rank < 3 and not own
        if not is_weight and rank in (2, 3):
            is_weight = _EXPERTS.fullmatch(name.rpartition(".")[0]) is not None
        return self._of(layer) if is_weight else None

    def _of(self, layer: str) -> tuple[_Side, _Side] | None:
        around, _, leaf = layer.rpartition(".")
        sides = _LAYERS.get(leaf)
        if sides is None:
            return None
        known = self._sides[_TOWER.fullmatch(around) is not None]
        return known.get(sides.inputs, _UNKNOWN), known.get(sides.outputs, _UNKNOWN)


def _few(sizes: Iterable[int], most: int = _KINDS) -> frozenset[int]:
    """The different sizes of a kind; none where they are more than a model has."""
    found = frozenset(sizes)
    return found if len(found) <= most else frozenset()


def _by_heads(found: list[tuple[bool, str, int]]) -> tuple[Set[int], Set[int], Set[int]]:
    """The sizes of heads, of all heads together, and of all heads of keys and values."""
    hidden = _few(n for _, key, n in found if _is_hidden(key))
    heads = _few(n for _, key, n in found if _HEADS.fullmatch(key))
    keys = _few(n for _, key, n in found if _KEYS.fullmatch(key))
    lengths: Set[int] = _few(n for _, key, n in found if _HEAD_SIZES.fullmatch(key))
    lengths |= {a + b for a in lengths for b in lengths}
    lengths = lengths or {size // n for size in hidden for n in heads if n <= size}
    joined = {n * length for n in heads - keys for length in lengths}
    return lengths, joined, {n * length for n in keys for length in lengths}


def _flat(layer: tuple[_Side, _Side], shape: tuple[int, ...], bits: int) -> int:
    """The inputs of a layer whose codes are as many as the numbers of a shape that is another."""
    inputs, outputs = layer
    if any(side.fits(length) for side in layer for length in shape[-2:]):
        return 0
    codes = range(1, _MOST + 1)
    for numbers in (shape[-1], shape[-2] * shape[-1]):
        for size in sorted(inputs.sizes):
            whole = [size * rows * times for rows in outputs.sizes for times in (1, 2)]
            if any(numbers * bits == one * code for one in whole for code in codes):
                return size
    return 0


def _sides(found: list[tuple[bool, str, int]], tower: bool, pruned: bool) -> dict[str, _Side]:
    """The sides of layers by their kind, of the towers or of the model itself."""
    mine = [(key, n) for part, key, n in found if part is tower]
    hidden = _few((n for key, n in mine if _is_hidden(key)), _WIDE_KINDS)
    ffn = (n for key, n in mine if _INNER.fullmatch(key) and not pruned)
    inner = _few(ffn, _WIDE_KINDS)
    shared = _few(n for _, key, n in found if _SHARED.fullmatch(key))
    # What stands elsewhere explains a side as well.
    widths = {n for _, key, n in found if _is_hidden(key) or _is_width(key)}
    inners = {n for _, key, n in found if _INNER.fullmatch(key)}
    lengths, joined, joint = _by_heads(found)
    words = _few(n for key, n in mine if _VOCABULARY.fullmatch(key))
    rates = _few(n for _, key, n in found if _RATES.fullmatch(key))
    fewer = {n // rate for n in widths for rate in rates}
    by_heads = widths | lengths | fewer | joined | joint
    inners = inners.union(widths, (n * k for n in inners for k in {2, *shared}))
    return {
        "hidden": _Side(hidden, frozenset(widths)),
        "inner": _Side(inner, frozenset(inners)),
        "outer": _Side(inner, frozenset(inners | lengths)),
        "pair": _Side(frozenset(2 * n for n in inner), frozenset(inners)),
        "heads": _Side(frozenset(joined), frozenset(widths | fewer | joined)),
        "keys": _Side(frozenset(joint or joined), frozenset(by_heads)),
        "vocab": _Side(words, frozenset(n for _, key, n in found if "vocab" in key)),
    }


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
