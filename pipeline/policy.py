"""Which tensors a target leaves alone, as the tools that write it do; and ggml's types by layer.

Quantisers of compressed-tensors, bitsandbytes and FP8 take linear layers: no embeddings, heads,
norms, routers or convolutions. MLX takes embeddings and heads too, and llama.cpp's quantize any
matrix whose name ends in `weight`, but for a list of its own. Its mixtures (`Q4_K_M`) give some
layers more bits; this is `llama_tensor_get_type` of llama.cpp, src/llama-quant.cpp, for models that
are not Falcon and have no eight experts' special case but that of attention.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_EMBEDDINGS = re.compile(
    r"(?:^|[._])(?:(?:word_|position_|token_type_|patch_|tok_|pos_)?embed(?:s|d|der|ding|dings)?"
    r"(?:_tokens|_positions|_in|_out)?|wte|wpe|token_embd)(?:[._]|$)|(?:^|\.)shared\.weight$"
)
_HEADS = re.compile(
    r"(?:^|[._])(?:lm_head|head|score|classifier|embed_out)\.weight$|^output\.weight$"
)
_NO_LAYERS = re.compile(
    r"(?:^|[._])(?:\w*norm\w*|ln_?\w*|router|gate|shared_expert_gate|ffn_gate_inp\w*|conv\w*|"
    r"rotary\w*|bias|A_log|D)(?:\.(?:weight|bias|wg\.weight))?$"
)
_GGML_KEEPS = re.compile(
    r"_norm\.weight|ffn_gate_inp|pos_embd|position_embd|patch_embd|token_types|ssm_conv1d|"
    r"shortconv|attn_rel_b|time_mix_(?:first|w[012]|v[012]|a[012]|g[12]|decay_w|lerp_fused)|"
    r"altup|laurel|per_layer_model_proj|\.rel_pos|\.patch_merger|norm\w*\.weight|router"
)


def left_alone(name: str, dimensions: int, kind: str) -> str:
    """Why a tensor stays as it is; empty when it does not.

    `kind` is that of the target: ggml, mlx, or linear for all others.
    """
    if dimensions < 2:
        return "it is no matrix"
    if kind == "ggml":
        if "." in name and (not name.endswith("weight") or _GGML_KEEPS.search(name)):
            return "llama.cpp keeps it"
        return ""
    if dimensions > 3:
        return "it is a convolution"
    if _NO_LAYERS.search(name):
        return "norms, routers, biases and convolutions are kept"
    if kind == "mlx":
        return ""
    if _EMBEDDINGS.search(name):
        return "embeddings are kept"
    if _HEADS.search(name):
        return "output heads are kept"
    if dimensions == 2 and "." in name and not name.endswith("weight"):
        return "it is no layer's weight"
    return ""


# What llama.cpp takes for rows that are no whole blocks of a type.
FALLBACKS: Mapping[str, str] = {
    "IQ1_M": "IQ4_NL",
    "IQ1_S": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
}
# `general.file_type` of a model that is mostly of a type (llama.h, llama_ftype).
FILE_TYPES: Mapping[str, int] = {
    "IQ1_M": 31, "IQ1_S": 24, "IQ2_S": 29, "IQ2_XS": 20, "IQ2_XXS": 19, "IQ3_S": 26,
    "IQ3_XXS": 23, "IQ4_NL": 25, "IQ4_XS": 30, "MXFP4": 38, "NVFP4": 39, "Q1_0": 40,
    "Q2_0": 41, "Q2_K": 10, "Q3_K": 11, "Q4_0": 2, "Q4_1": 3,
    "Q4_K": 14, "Q5_0": 8, "Q5_1": 9, "Q5_K": 16, "Q6_K": 18,
    "Q8_0": 7, "TQ1_0": 36, "TQ2_0": 37,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mixture:
    """llama.cpp's name for a choice of types: its `general.file_type` and the usual type."""

    file_type: int
    usual: str


MIXTURES: Mapping[str, Mixture] = {
    "Q3_K_L": Mixture(13, "Q3_K"),
    "Q3_K_M": Mixture(12, "Q3_K"),
    "Q3_K_S": Mixture(11, "Q3_K"),
    "Q4_K_M": Mixture(15, "Q4_K"),
    "Q4_K_S": Mixture(14, "Q4_K"),
    "Q5_K_M": Mixture(17, "Q5_K"),
    "Q5_K_S": Mixture(16, "Q5_K"),
}
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a mixture asks of a model: layers, experts, and whether it is one of 70 billion."""

    layers: int
    experts: int = 0
    large: bool = False


def mixed(mixture: str, names: Iterable[str], facts: Facts) -> dict[str, str]:
    """The type of each tensor of a GGUF's names."""
    ordered = sorted(names, key=_by_layer)
    values = [name for name in ordered if _is_value(name)]
    downs = [name for name in ordered if "ffn_down" in name]
    place = {name: number for number, name in enumerate(values)}
    place |= {
        name: _by_layer(name)[0] if facts.experts > 1 else number
        for number, name in enumerate(downs)
    }
    tied = "output.weight" not in ordered
    return {
        name: _type(mixture, name, place.get(name, 0), len(values), facts, tied) for name in ordered
    }


def _by_layer(name: str) -> tuple[int, str]:
    found = _LAYER.match(name)
    return (int(found[1]) if found else -1), name


def _is_value(name: str) -> bool:
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


def _more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _type(mixture: str, name: str, number: int, values: int, facts: Facts, tied: bool) -> str:
    usual = MIXTURES[mixture].usual
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "Q6_K"
    if "attn_qkv.weight" in name:
        fused = {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}
        return fused.get(mixture, usual)
    if _is_value(name):
        return _value_type(mixture, usual, number, values, facts)
    if "attn_k.weight" in name and facts.experts == 8:
        return "Q8_0"
    if "ffn_down" in name:
        return _down_type(mixture, usual, number, facts.layers)
    if "attn_output.weight" in name:
        if facts.experts == 8 and mixture not in ("Q3_K_L", "Q5_K_S", "Q5_K_M"):
            return "Q5_K"
        if facts.experts != 8:
            return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(mixture, usual)
    return usual


def _value_type(mixture: str, usual: str, number: int, values: int, facts: Facts) -> str:
    found = usual
    if mixture == "Q3_K_M":
        found = "Q5_K" if number < 2 else "Q4_K"
    elif mixture == "Q3_K_L" or (mixture == "Q4_K_S" and number < 4):
        found = "Q5_K"
    elif mixture in ("Q4_K_M", "Q5_K_M") and _more_bits(number, values):
        found = "Q6_K"
    if facts.large and found in ("Q3_K", "Q4_K"):
        found = "Q5_K"
    return "Q8_0" if facts.experts == 8 else found


def _down_type(mixture: str, usual: str, layer: int, layers: int) -> str:
    if mixture == "Q3_K_M":
        return "Q5_K" if layer < layers // 16 else "Q4_K"
    if mixture == "Q3_K_L" or (mixture == "Q4_K_S" and layer < layers // 8):
        return "Q5_K"
    if mixture in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
        return "Q6_K"
    return usual
