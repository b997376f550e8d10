"""A small model of any class that is written as GGUF: one configuration, and shapes by GGUF name.

The numbers of a configuration stand under every name that some class has for them, so that one
serves all; `OTHERS` has what single classes need besides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

from anamnesis.names.family import Family

# One letter a size: tokens, hidden, heads, heads of keys, width of a head, feed-forward, experts,
# their width, one, two, ranks of queries and keys, turned part and value of a latent head,
# state-space: inner, state, rank of steps, kernel, groups, heads; positions.
SIZES = {
    "V": 304,
    "H": 32,
    "N": 4,
    "K": 2,
    "D": 8,
    "F": 24,
    "E": 4,
    "X": 16,
    "1": 1,
    "2": 2,
    "3": 3,
    "Q": 12,
    "L": 10,
    "R": 4,
    "U": 6,
    "I": 64,
    "S": 8,
    "T": 3,
    "C": 4,
    "G": 2,
    "M": 8,
    "P": 64,
}
_SHAPES = """
altup_correct_coef E E        altup_correct_scale H         altup_predict_coef EE E
altup_proj 3 H H              altup_router E H              altup_unembd_proj 3 H H
attn_gate I H                 attn_k KD H                   attn_k_b N L D
attn_kv_a_mqa L H             attn_kv_b ND L                attn_output H ND
attn_q ND H                   attn_q_a Q H                  attn_q_b ND Q
attn_qkv NKD+ H               attn_rel_b E N                attn_sinks N
attn_v KD H                   attn_v_b N U L                cross_attn_k ND H
cross_attn_o H ND             cross_attn_q ND H             cross_attn_v ND H
attn_o H ND                   exp_probs_b E                 ffn_down H F
ffn_down_exps E H X           ffn_down_shexp H X            ffn_gate F H
ffn_gate_exps E X H           ffn_gate_inp E H              ffn_gate_inp_shexp H
ffn_gate_shexp X H            ffn_up F H                    ffn_up_exps E X H
cls H H                       cls.output 3 H
ffn_gate_chexps E F H         ffn_up_chexps E F H         ffn_down_chexps E H F
ffn_gate_up_exps E 2X H       ffn_latent_down X H           ffn_latent_up H X
layer_output_scale 1
ffn_up_shexp X H              inp_gate X H                  laurel_l X H
laurel_r H X                  output V H                    per_layer_model_proj X H
per_layer_token_embd V X      position_embd P H             proj H X
shortconv.conv H C            shortconv.in_proj 3H H        shortconv.out_proj H H
ssm_a M 1                     ssm_alpha M H                 ssm_b_norm S
ssm_ba 2M H                   ssm_beta M H                  ssm_c_norm S
ssm_conv1d I C                ssm_d M 1                     ssm_dt I T
ssm_dt_norm T                 ssm_in 2I H                   ssm_norm G H
ssm_out H I                   ssm_x T I                     token_embd V H
token_types 2 H
indexer.attn_k S H            indexer.attn_q_b NS Q         indexer.proj N H
ssm_f_a D H                   ssm_f_b ND D                  ssm_g_a D H
ssm_g_b ND D
"""
_ENTRIES = re.findall(r"([a-z]\S*) ((?:[A-Z1-9+]+ ?)+)", _SHAPES)
SHAPES = {name: tuple(dims.split()) for name, dims in _ENTRIES}
# Shapes of single classes' families, where they are others.
_LINEAR = {
    "attn_qkv": ("3GGS", "H"),  # two times groups of keys, and the inner size
    "ssm_a": ("M",),
    "ssm_conv1d": ("3GGS", "C"),
    "ssm_norm": ("S",),
}
_MAMBA = {"ssm_a": ("I", "S"), "ssm_d": ("I",), "ssm_dt.bias": ("I",), "ssm_norm": ("I",)}
FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    "jamba": _MAMBA,
    "kimi-linear": {
        "ssm_a": ("1", "1", "N", "1"),
        "ssm_beta": ("N", "H"),
        **{f"ssm_conv1d_{letter}": ("1", "ND", "1", "C") for letter in "qkv"},
        "ssm_dt.bias": ("ND",),
        "ssm_norm": ("D",),
    },
    "mamba": _MAMBA,
    # gates, values, keys and queries of two groups, and a step each head
    "falcon-h1": {"ssm_in": ("2I+2GS+M", "H"), "ffn_norm": ("H",)},
    "gemma4": {"ffn_down_exps.scale": ("E",), "ffn_gate_inp.scale": ("H",)},
    "plamo2": {
        "ssm_a": ("M",),
        "ssm_d": ("M",),
        "attn_q_norm": ("N", "D"),
        "attn_k_norm": ("K", "D"),
    },
    "qwen35": _LINEAR,
    "qwen35moe": _LINEAR,
    "qwen3next": _LINEAR,
    "gpt-oss": {"ffn_down_exps.bias": ("E", "H")},
    "nomic-bert-moe": {
        "ffn_down_exps": ("E", "H", "X"),
        "ffn_up_exps": ("E", "X", "H"),
    },
    "stablelm": {"attn_q_norm": ("N", "D"), "attn_k_norm": ("K", "D")},
}

CONFIG: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "num_query_groups"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_ff", "intermediate_size_mlp"), 24),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_epsilon", "norm_eps"), 1e-6),
    "vocab_size": 304,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 16,
    "kv_lora_rank": 10,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "mamba_n_groups": 2,
    "n_groups": 2,
    "mamba_n_heads": 8,
    "mamba_expand": 2,
    "expand": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "layer_types": ["full_attention"],
    "attn_config": {"kv_n_heads": 2},
    "ffn_config": {"moe_num_experts": 4, "moe_top_k": 2},
    "rotary_pct": 1.0,
}
MANY = {"num_key_value_heads": 4}  # as many heads of keys as of queries
_GEMMA4 = {"global_head_dim": 8, "num_kv_shared_layers": 0}
OTHERS: dict[str, dict[str, Any]] = {
    "BaiChuanForCausalLM": MANY,
    "BaichuanForCausalLM": MANY,
    "BloomForCausalLM": MANY,
    "FalconForCausalLM": {"new_decoder_architecture": True},
    "FalconMambaForCausalLM": {"intermediate_size": 64, "state_size": 8},
    "FalconH1ForCausalLM": {"mamba_d_ssm": 64, "mamba_d_head": 8},
    "GPTNeoXForCausalLM": MANY,
    "Glm4vForConditionalGeneration": {"rope_parameters": {"mrope_section": [1, 1, 0]}},
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": _GEMMA4,
    "KimiLinearForCausalLM": {
        "linear_attn_config": {"full_attn_layers": [1], "head_dim": 8, "num_heads": 4}
    },
    "MambaForCausalLM": {"intermediate_size": 64, "state_size": 8},
    "Mamba2ForCausalLM": {"intermediate_size": 64, "state_size": 8},
    "NomicBertModel": {"n_positions": 2048},
    "NemotronHForCausalLM": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8},
    "OpenELMForCausalLM": {
        "model_dim": 32,
        "num_transformer_layers": 1,
        "ffn_multipliers": [0.75],
        "ffn_dim_divisor": 8,
        "num_query_heads": [4],
        "num_kv_heads": [2],
    },
    "RobertaModel": {"pad_token_id": 1},
    "RobertaForSequenceClassification": {"pad_token_id": 1},
    "XLMRobertaForSequenceClassification": {"pad_token_id": 1},
    "XLMRobertaModel": {"pad_token_id": 1},
}


def config(name: str) -> dict[str, Any]:
    """The configuration of a class."""
    return {**CONFIG, **OTHERS.get(name, {}), "architectures": [name]}


def shapes(family: Family, kv_heads: int) -> dict[str, tuple[int, ...]]:
    """The tensors of one layer by GGUF name: every weight that has rows, and biases without."""
    found: dict[str, tuple[int, ...]] = {}
    parts = {row.hf for row in family.rows if row.pattern.hf.join >= 0}
    for row in family.rows:
        gguf = row.gguf.replace("{i}", "0")
        if gguf.rpartition(".")[0] in family.arrays:  # among the key/values
            continue
        if ".nextn." in gguf:  # of a layer that the model itself does not have
            continue
        whole = row.hf in parts and row.pattern.hf.join < 0  # files have one or the other
        weight = gguf.endswith(".weight") or "." not in gguf.removeprefix("blk.0.")
        if row.hf and not whole and (weight or _only_bias(family, row.gguf)):
            found[gguf] = _shape(family, gguf, kv_heads)
    return found


def _only_bias(family: Family, name: str) -> bool:
    """Whether it is a bias with a row of its own, rather than that of a weight."""
    return f"{name.removesuffix('.bias')}.weight" not in {row.gguf for row in family.rows} or (
        "exps" in name and family.name == "gpt-oss"
    )


def _shape(family: Family, name: str, kv_heads: int) -> tuple[int, ...]:
    own: Mapping[str, tuple[str, ...]] = FAMILIES.get(family.name, {})
    short = re.sub(r"^(?:(?:enc|dec)\.)?(?:blk\.0\.)?", "", name)
    stem = short.removesuffix(".weight").removesuffix(".bias")
    dims = own.get(short) or own.get(stem) or SHAPES.get(stem)
    if dims is None or (short.endswith(".bias") and own.get(short) is None):
        if short == "ssm_dt.bias":
            dims = ("M",)
        elif "norm" in stem:
            dims = ("H",)
        elif dims is None:
            raise KeyError(name)
        else:
            dims = dims[:-1]
    return tuple(_size(text, kv_heads) for text in dims)


def _size(text: str, kv_heads: int) -> int:
    sizes = SIZES | {"K": kv_heads}
    if text == "2I+2GS+M":  # what a state-space layer is made of
        return 2 * sizes["I"] + 2 * sizes["G"] * sizes["S"] + sizes["M"]
    if text == "NKD+":  # queries, keys and values together
        return (sizes["N"] + 2 * kv_heads) * sizes["D"]
    return prod(sizes[letter] for letter in text)
