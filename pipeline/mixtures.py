"""llama.cpp's mixtures of types (`Q4_K_M`, `IQ2_XXS`), which give some tensors more bits.

This is `llama_tensor_get_type_impl` of llama.cpp, src/llama-quant.cpp. Tensors have the names of a
GGUF, and are taken in the order of their layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anamnesis.kernels import ENCODINGS
from anamnesis.readers.gguf_types import encoding_of


@dataclass(frozen=True, slots=True)
class Mixture:
    """llama.cpp's name for a choice of types: its `general.file_type` and the usual type.

    `output` is the type of outputs, and of embeddings that are outputs too; `embedding` that of
    others, where it is not the usual one.
    """

    file_type: int
    usual: str
    output: str = "Q6_K"
    embedding: str = ""


MIXTURES: Mapping[str, Mixture] = {
    "IQ1_M": Mixture(31, "IQ1_M", "Q5_K", "Q2_K"),
    "IQ1_S": Mixture(24, "IQ1_S", "Q5_K", "Q2_K"),
    "IQ2_M": Mixture(29, "IQ2_S", "Q5_K", "IQ3_S"),
    "IQ2_S": Mixture(28, "IQ2_XS", "Q5_K", "IQ3_S"),
    "IQ2_XS": Mixture(20, "IQ2_XS", "Q5_K", "Q2_K"),
    "IQ2_XXS": Mixture(19, "IQ2_XXS", "Q5_K", "Q2_K"),
    "IQ3_M": Mixture(27, "IQ3_S"),
    "IQ3_S": Mixture(26, "IQ3_S"),
    "IQ3_XS": Mixture(22, "IQ3_S"),
    "IQ3_XXS": Mixture(23, "IQ3_XXS", "Q5_K", "IQ3_S"),
    "IQ4_NL": Mixture(25, "IQ4_NL"),
    "IQ4_XS": Mixture(30, "IQ4_XS"),
    "MXFP4_MOE": Mixture(38, "Q8_0", "Q8_0"),
    "Q1_0": Mixture(40, "Q1_0"),
    "Q2_0": Mixture(41, "Q2_0", embedding="Q4_K"),
    "Q2_K": Mixture(10, "Q2_K"),
    "Q2_K_S": Mixture(21, "Q2_K"),
    "Q3_K_L": Mixture(13, "Q3_K"),
    "Q3_K_M": Mixture(12, "Q3_K"),
    "Q3_K_S": Mixture(11, "Q3_K"),
    "Q4_0": Mixture(2, "Q4_0"),
    "Q4_1": Mixture(3, "Q4_1"),
    "Q4_K_M": Mixture(15, "Q4_K"),
    "Q4_K_S": Mixture(14, "Q4_K"),
    "Q5_0": Mixture(8, "Q5_0"),
    "Q5_1": Mixture(9, "Q5_1"),
    "Q5_K_M": Mixture(17, "Q5_K"),
    "Q5_K_S": Mixture(16, "Q5_K"),
    "Q6_K": Mixture(18, "Q6_K"),
    "Q8_0": Mixture(7, "Q8_0", "Q8_0"),
    "TQ1_0": Mixture(36, "TQ1_0", embedding="Q4_K"),
    "TQ2_0": Mixture(37, "TQ2_0", embedding="Q4_K"),
}
_LOW = ("IQ1_M", "IQ1_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
# What attention's outputs become; under eight experts Q5_K, but for those that stay as they are.
_ATTENTION_OUTPUT = {
    "IQ1_M": "IQ2_XXS", "IQ1_S": "IQ2_XXS", "IQ2_M": "IQ3_S", "IQ2_S": "IQ3_S",
    "IQ3_M": "Q4_K", "IQ3_XXS": "IQ3_S", "Q2_K": "Q3_K", "Q3_K_L": "Q5_K", "Q3_K_M": "Q4_K",
}  # fmt: skip
_MORE_UNDER_EXPERTS = (
    *("IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K_M", "Q3_K_S"),
    *("Q4_K_M", "Q4_K_S"),
)
_FALCON = ("Q3_K_L", "Q3_K_M", "Q4_K_M", "Q4_K_S")
_KEYS_AND_QUERIES = {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_VALUES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a mixture asks of a model.

    `large` is one of 70 billion, `shared` the heads that have a value in common, and `weighed`
    whether there is an importance matrix. `stacks` are the tensors of more than one matrix.
    """

    layers: int
    experts: int = 0
    large: bool = False
    shared: int = 1
    weighed: bool = False
    falcon: bool = False
    stacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor stands: its `number` among those of its kind, of `of`, and its layer."""

    number: int
    of: int
    layer: int


def mixed(
    mixture: str, names: Iterable[str], facts: Facts, columns: Mapping[str, int] | None = None
) -> dict[str, str]:
    """The type of each tensor of a GGUF's names, whose rows have so many `columns`."""
    ordered = sorted(names, key=_by_layer)
    values = [name for name in ordered if _has(name, *_VALUES)]
    tied = "output.weight" not in ordered
    counts: dict[str, int] = {}
    found = {}
    for name in ordered:
        kind = _kind(name)
        number = counts[kind] = counts.get(kind, -1) + 1
        layer = _by_layer(name)[0] if facts.experts > 1 else number
        if name == "output.weight" or (tied and name in EMBEDDINGS):
            width = (columns or {}).get(name, 0)
            found[name] = "Q8_0" if facts.falcon else _output(mixture, width)
        elif mixture == "MXFP4_MOE":
            found[name] = "MXFP4" if name in facts.stacks else "Q8_0"
        elif name in EMBEDDINGS:
            found[name] = MIXTURES[mixture].embedding or MIXTURES[mixture].usual
        elif mixture in _LOW:
            place = _Place(number, facts.layers, layer)
            found[name] = _low(mixture, name, kind, place, facts)
        else:
            of = len(values) if kind == "value" else facts.layers
            found[name] = _type(mixture, name, kind, _Place(number, of, layer), facts)
    return found


def _by_layer(name: str) -> tuple[int, str]:
    found = _LAYER.match(name)
    return (int(found[1]) if found else -1), name


def _has(name: str, *parts: str) -> bool:
    return any(part in name for part in parts)


def _kind(name: str) -> str:
    """The kind of a tensor, by its name."""
    if _has(name, *_VALUES):
        return "value"
    for part in ("attn_k.weight", "attn_q.weight", "attn_output.weight"):
        if part in name:
            return part
    return next((part for part in ("ffn_up", "ffn_gate", "ffn_down") if part in name), "")


def _output(mixture: str, columns: int) -> str:
    usual = ENCODINGS[encoding_of(MIXTURES[mixture].usual)]
    return "Q8_0" if columns % usual.block_elems else MIXTURES[mixture].output


def _low(mixture: str, name: str, kind: str, place: _Place, facts: Facts) -> str:
    """The type in a mixture of less than three bits."""
    better = "IQ3_S" if mixture in ("IQ2_M", "IQ2_S") else "Q2_K"
    if kind == "value":
        return "Q4_K" if facts.shared >= 4 or facts.experts >= 4 else better
    if kind == "attn_k.weight" and facts.experts == 8:
        return "Q4_K"
    if kind == "ffn_down" and place.number < facts.layers // 8:
        return better
    if kind == "attn_output.weight":
        if facts.experts == 8:
            return "Q5_K"
        return _ATTENTION_OUTPUT.get(mixture, MIXTURES[mixture].usual)
    return MIXTURES[mixture].usual


def _type(mixture: str, name: str, kind: str, place: _Place, facts: Facts) -> str:
    """The type in any other mixture."""
    usual, eight = MIXTURES[mixture].usual, facts.experts == 8
    if kind == "value":
        return _value(mixture, usual, place, facts)
    if kind == "attn_k.weight" and eight:
        return "Q8_0"
    if kind in ("attn_k.weight", "attn_q.weight"):
        return _KEYS_AND_QUERIES.get(mixture, usual)
    if kind == "ffn_down":
        return _down(mixture, usual, place.layer, facts)
    if kind in ("ffn_up", "ffn_gate"):
        inner = facts.layers // 8 <= place.layer < 7 * facts.layers // 8
        return "IQ3_XXS" if mixture == "IQ3_XS" and inner else usual
    if kind == "attn_output.weight":
        if facts.falcon:
            return "Q4_K" if mixture == "Q3_K_L" else usual
        if eight:
            return "Q5_K" if mixture in _MORE_UNDER_EXPERTS else usual
        return _ATTENTION_OUTPUT.get(mixture, usual)
    return usual


def _more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _value(mixture: str, usual: str, place: _Place, facts: Facts) -> str:
    found, shared = usual, facts.shared >= 4
    if mixture == "IQ3_XXS":
        found = "Q4_K" if shared else "IQ3_XXS" if facts.weighed else "IQ3_S"
    elif mixture == "Q2_K":
        found = "Q4_K" if shared else "Q3_K"
    elif mixture in ("IQ4_NL", "IQ4_XS") and shared:
        found = "Q5_K"
    elif mixture == "IQ3_M" or (mixture in ("IQ3_S", "IQ3_XS", "Q2_K_S") and shared):
        found = "Q4_K"
    elif mixture == "Q3_K_M":
        found = "Q5_K" if place.number < 2 else "Q4_K"
    elif mixture == "Q3_K_L" or (mixture == "Q4_K_S" and place.number < 4):
        found = "Q5_K"
    elif mixture in ("Q4_K_M", "Q5_K_M") and _more_bits(place.number, place.of):
        found = "Q6_K"
    if facts.large and found in ("Q3_K", "Q4_K"):
        found = "Q5_K"
    return "Q8_0" if facts.experts == 8 else found


def _down(mixture: str, usual: str, layer: int, facts: Facts) -> str:
    layers, early = facts.layers, layer < facts.layers // 8
    if facts.falcon and mixture in _FALCON:
        return _of_falcon(mixture, layer, layers)
    if mixture == "Q2_K":
        return "Q3_K"
    if mixture in ("IQ4_NL", "IQ4_XS") and early and not facts.weighed:
        return "Q5_K"
    if mixture in ("Q4_0", "Q5_0") and early and facts.weighed:
        return f"{mixture[:2]}_1"
    if mixture == "IQ3_XXS" and not facts.weighed:
        return "Q4_K" if early else "Q3_K"
    if mixture == "IQ3_M":
        more = facts.experts == 8 and _more_bits(layer, layers)
        return "Q4_K" if early or more else usual
    if mixture == "Q2_K_S" and early:
        return "Q4_K"
    if mixture == "Q3_K_M":
        return "Q5_K" if layer < layers // 16 else "Q4_K"
    if mixture == "Q3_K_L" or (mixture == "Q4_K_S" and early):
        return "Q5_K"
    if mixture in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
        return "Q6_K"
    return usual


def _of_falcon(mixture: str, layer: int, layers: int) -> str:
    more = _more_bits(layer, layers)
    if mixture == "Q3_K_M" and layer >= layers // 16:
        return "Q4_K" if more else "Q3_K"
    if mixture == "Q4_K_M":
        return "Q6_K" if layer < layers // 16 else "Q5_K" if more else "Q4_K"
    return "Q5_K" if mixture == "Q3_K_M" else "Q4_K"
