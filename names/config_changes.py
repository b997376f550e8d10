"""Keys of `config.json` that no single key of a GGUF is: they follow from several, or from tensors.

Each takes the configuration as it stands, the key/values, their prefix and the model, and changes
the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from anamnesis.names.config_class import layers_with
from anamnesis.readers.model import Model

Config = dict[str, Any]
Values = Mapping[str, Any]

# Of the largest Gemma 2 and 3, whose scale of attention is another.
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}


def latent(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Multi-head latent attention: the part of a head that is not rotary, and YaRN's scale."""
    length = values.get(f"{prefix}.attention.key_length_mla")
    length = length or values.get(f"{prefix}.attention.key_length", 0)
    config["qk_nope_head_dim"] = length - config.get("qk_rope_head_dim", 0)
    config.setdefault("v_head_dim", config["qk_nope_head_dim"])
    config.setdefault("q_lora_rank", None)
    config["head_dim"] = config.get("qk_rope_head_dim")
    config.pop("partial_rotary_factor", None)


def latent_scale(config: Config, values: Values, prefix: str, model: Model) -> None:
    """What YaRN multiplies attention by: a tenth of `mscale_all_dim` is stored."""
    _scale_of_yarn(config, values, prefix, 10.0)


def ministral(config: Config, values: Values, prefix: str, model: Model) -> None:
    """YaRN's scale, and what `rope_block` has."""
    _scale_of_yarn(config, values, prefix, 1.0)
    rope_block(config, values, prefix, model)


def rope_block(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The scaling of rotary embeddings, and the temperature by position, beside the base."""
    scaling = config.pop("rope_scaling", {"rope_type": "default"})
    scaling["rope_theta"] = config.pop("rope_theta", 10000.0)
    temperature = values.get(f"{prefix}.attention.temperature_scale")
    if temperature is not None:
        scaling["llama_4_scaling_beta"] = _decimal(temperature)
        length = values.get(f"{prefix}.attention.temperature_length")
        length = length or config["max_position_embeddings"]
        scaling.setdefault("original_max_position_embeddings", length)
    config["rope_parameters"] = scaling


def mistral4(config: Config, values: Values, prefix: str, model: Model) -> None:
    """No scale of attention by position where none is said; a head's width is that of its parts."""
    rope_block(config, values, prefix, model)
    config["rope_parameters"].setdefault("llama_4_scaling_beta", 0.0)
    config.pop("head_dim", None)


def _scale_of_yarn(config: Config, values: Values, prefix: str, times: float) -> None:
    stored = values.get(f"{prefix}.rope.scaling.yarn_log_multiplier")
    if stored is not None and "rope_scaling" in config:
        scale = round(times * stored, 6)
        config["rope_scaling"] |= {"mscale": scale, "mscale_all_dim": scale}


def value_dim(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The width of a value head of linear attention, and which layers have it."""
    heads = config.get("linear_num_value_heads") or 1
    config["linear_value_head_dim"] = values.get(f"{prefix}.ssm.inner_size", 0) // heads
    found = values.get(f"{prefix}.rope.dimension_sections")
    if found:
        scaling = config.setdefault("rope_scaling", {"rope_type": "default"})
        scaling |= {"mrope_section": found[:3], "mrope_interleaved": True}


def sections(config: Config, values: Values, prefix: str, model: Model) -> None:
    """How a head's dimensions are shared out among time, height and width; Hunyuan's has four."""
    found = values.get(f"{prefix}.rope.dimension_sections")
    if found:
        shares = found[: 4 if prefix == "hunyuan_vl" else 3]
        config.setdefault("rope_scaling", {"rope_type": "default"})["mrope_section"] = shares


def scaled_base(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The base of rotary embeddings that Hunyuan's scaling by `alpha` comes to."""
    alpha, width = values.get(f"{prefix}.rope.scaling.alpha"), config.get("head_dim") or 0
    if alpha and width > 2:
        config["rope_theta"] = config.get("rope_theta", 10000.0) * alpha ** (width / (width - 2))


def interleaved_sections(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The same, one dimension of each after another."""
    sections(config, values, prefix, model)
    config.setdefault("rope_scaling", {"rope_type": "default"})["mrope_interleaved"] = True


def two_bases(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Rotary embeddings of layers that look at a window, and of those that look at everything."""
    full = config.pop("rope_scaling", {"rope_type": "default"})
    full["rope_theta"] = config.pop("rope_theta", 10000.0)
    base = values.get(f"{prefix}.rope.freq_base_swa", full["rope_theta"])
    sliding = {"rope_type": "default", "rope_theta": base}
    config["rope_parameters"] = {"full_attention": full, "sliding_attention": sliding}


def plain_rotation(config: Config, values: Values, prefix: str, model: Model) -> None:
    """No scaling, said in so many words to a class that scales unless it is said."""
    config.setdefault("rope_scaling", {"rope_type": "default"})


def gemma2(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The attention's scale, which llama.cpp derives from the size of the model."""
    _attention_scale(config, LAYERS_OF_27B["gemma2"])


def gemma3(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Two bases, and the attention's scale."""
    base = values.get(f"{prefix}.rope.freq_base_swa")
    if base is not None:
        config["rope_local_base_freq"] = base
    sliding_layers(config, values, prefix, model)
    _attention_scale(config, LAYERS_OF_27B["gemma3"])


def _attention_scale(config: Config, layers_of_27b: int) -> None:
    width = config.get("head_dim", 0)
    if config.get("num_hidden_layers") == layers_of_27b:
        width = config["hidden_size"] // config["num_attention_heads"]
    config["query_pre_attn_scalar"] = width


def gemma3n(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Sizes of the small matrices, and the share of each layer's activations that is zero.

    The file has the quantile of the standard normal distribution at that share.
    """
    config["vocab_size_per_layer_input"] = model.stored["per_layer_token_embd.weight"].shape[0]
    ranks = [s.shape[0] for n, s in model.stored.items() if n.endswith(".laurel_l.weight")]
    config["laurel_rank"] = ranks[0] if ranks else 0
    stored = values.get(f"{prefix}.activation_sparsity_scale", [])
    config["activation_sparsity_pattern"] = [round(NormalDist().cdf(x), 6) for x in stored]


def gemma4(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Heads of layers that look at everything, which are wider and fewer, and share k and v."""
    config["global_head_dim"] = values.get(f"{prefix}.attention.key_length")
    full = layers_with(model, "attn_k.weight")
    kinds = config.setdefault("layer_types", ["full_attention"] * config["num_hidden_layers"])
    full = [i for i in full if kinds[i : i + 1] == ["full_attention"]]
    counts = values.get(f"{prefix}.attention.head_count_kv")
    if isinstance(counts, list):
        sliding = [i for i, kind in enumerate(kinds) if kind != "full_attention"]
        config["num_key_value_heads"] = counts[sliding[0]] if sliding else counts[0]
        config["num_global_key_value_heads"] = counts[full[0]] if full else counts[0]
    own = set(layers_with(model, "attn_v.weight"))
    config["attention_k_eq_v"] = any(i not in own for i in full)
    widths = values.get(f"{prefix}.feed_forward_length")
    if isinstance(widths, list):
        config["intermediate_size"] = widths[0]
        config["use_double_wide_mlp"] = len(set(widths)) > 1
    embeddings = model.stored.get("per_layer_token_embd.weight")
    if embeddings is not None:
        config["vocab_size_per_layer_input"] = embeddings.shape[0]
    config["enable_moe_block"] = f"{prefix}.expert_count" in values
    two_bases(config, values, prefix, model)


def short_convolutions(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The feed-forward size of the file is the one that is used."""
    config["block_auto_adjust_ff_dim"] = False


def sliding_layers(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Which layers look at a window."""
    pattern = values.get(f"{prefix}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        config["layer_types"] = [
            "sliding_attention" if windowed else "full_attention" for windowed in pattern
        ]


def alternating(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Every other layer looks at a window, the first one does, unless the file says which do."""
    kinds = ("sliding_attention", "full_attention")
    config["layer_types"] = [kinds[i % 2] for i in range(config.get("num_hidden_layers", 0))]
    sliding_layers(config, values, prefix, model)


def modern_bert(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Its window, every so many layers that look at everything, and two bases."""
    config["global_rope_theta"] = config.pop("rope_theta", None)
    config["local_rope_theta"] = values.get(f"{prefix}.rope.freq_base_swa")


def untruncated(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The bounds of its scaling are not rounded to whole dimensions."""
    if "rope_scaling" in config:
        config["rope_scaling"]["truncate"] = False


def falcon(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The two decoders of Falcon, by their norms."""
    new = "blk.0.attn_norm_2.weight" in model.stored
    kv = values.get(f"{prefix}.attention.head_count_kv", 1)
    config |= {"new_decoder_architecture": new, "multi_query": kv == 1, "parallel_attn": True}
    config |= {"alibi": False, "bias": "blk.0.attn_qkv.bias" in model.stored}
    config["num_kv_heads"] = kv


def state_space(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Sizes of Mamba that are products of others."""
    inner = values.get(f"{prefix}.ssm.inner_size", 0)
    config["expand"] = _ratio(inner, config.get("hidden_size"))
    rank = values.get(f"{prefix}.ssm.time_step_rank", 0)
    if config["model_type"] == "mamba2":
        config |= {"num_heads": rank, "head_dim": inner // max(1, rank)}
        config["n_groups"] = values.get(f"{prefix}.ssm.group_count", 1)
    else:
        config |= {"time_step_rank": rank, "intermediate_size": inner}


def mixers(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The same where attention lies between, under the names of hybrids."""
    inner = values.get(f"{prefix}.ssm.inner_size", 0)
    config["mamba_expand"] = _ratio(inner, config.get("hidden_size"))
    if "mamba_n_heads" in config:
        config["mamba_d_head"] = inner // max(1, config["mamba_n_heads"])


def rotary_share(config: Config, values: Values, prefix: str, model: Model) -> None:
    """GPT-NeoX's own name of the share of a head that is rotary, beside the usual one."""
    config["rotary_pct"] = config["partial_rotary_factor"]


def bamba(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Which layers have attention; the share of a head that is rotary is the class's own."""
    config["attn_layer_indices"] = layers_with(model, "attn_q.weight")
    config.pop("partial_rotary_factor", None)


def jamba(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Every so many layers have attention, and every so many experts."""
    for key, tensor in (("attn", "attn_q.weight"), ("expert", "ffn_gate_inp.weight")):
        found = layers_with(model, tensor)
        count = config["num_hidden_layers"]
        period = found[1] - found[0] if len(found) > 1 else count
        config[f"{key}_layer_offset"] = found[0] if found else count
        config[f"{key}_layer_period"] = period if found else count + 1


def nemotron_h(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The letters of its layers, and sizes of its three kinds."""
    config["hybrid_override_pattern"] = "".join(config["hybrid_override_pattern"])
    inner = values.get(f"{prefix}.ssm.inner_size", 0)
    ratio = _ratio(inner, config.get("hidden_size"))
    if isinstance(ratio, int):  # heads and their width are what counts
        config["expand"] = ratio
    config["mamba_head_dim"] = inner // max(1, config.get("mamba_num_heads", 1))
    if not layers_with(model, "ffn_up.weight"):
        config.pop("intermediate_size", None)


def positions(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Whether heads are rotary at all (Granite's hybrids)."""
    finetuned = values.get(f"{prefix}.rope.scaling.finetuned", True)  # as llama.cpp takes it
    config["position_embedding_type"] = "rope" if finetuned else "nope"
    config.pop("partial_rotary_factor", None)


def llama4(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Which layers have experts; those of other layers are wider."""
    config["moe_layers"] = layers_with(model, "ffn_gate_inp.weight")
    config["use_qk_norm"] = config.get("num_local_experts") != EXPERTS_OF_MAVERICK


EXPERTS_OF_MAVERICK = 128


def ernie_layers(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The last layer that has experts."""
    config["moe_layer_end_index"] = max(layers_with(model, "ffn_gate_inp.weight"), default=-1)


def layer_norms(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Whether queries and keys have norms."""
    config["use_qk_norm"] = "blk.0.attn_q_norm.weight" in model.stored


def whole_heads(config: Config, values: Values, prefix: str, model: Model) -> None:
    """All of a head is rotary, whatever the file says: it was written with another class's half."""
    config.pop("partial_rotary_factor", None)


def t5(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Version 1.1 has a gate, and does not scale what goes into the head."""
    gated = any(name.endswith(".ffn_gate.weight") for name in model.stored)
    config["feed_forward_proj"] = "gated-gelu" if gated else "relu"
    if gated:
        config["scale_decoder_outputs"] = False


def roberta(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Positions begin after the padding's, whose rows the file lacks."""
    config["pad_token_id"] = 1
    config["max_position_embeddings"] = config.get("max_position_embeddings", 0) + 2


def nomic(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The sizes under the names of the model's own code as well."""
    for own, key in (
        ("n_embd", "hidden_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_inner", "intermediate_size"),
        ("n_positions", "max_position_embeddings"),
        ("layer_norm_epsilon", "layer_norm_eps"),
        ("rotary_emb_base", "rope_theta"),
    ):
        if key in config:
            config[own] = config[key]


def token_types(config: Config, values: Values, prefix: str, model: Model) -> None:
    """How many kinds of segments there are."""
    types = model.stored.get("token_types.weight")
    if types is not None:
        config["type_vocab_size"] = types.shape[0]


def key_heads(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Heads of keys, by the rows of the first layer that has some: files may say another number."""
    found = [s.shape[0] for n, s in model.stored.items() if n.endswith(".attn_k.weight")]
    heads, hidden = config.get("num_attention_heads", 0), config.get("hidden_size", 0)
    if found and heads and hidden:
        config["num_key_value_heads"] = found[0] * heads // hidden


def labels(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The names of a classifier's labels; as many as its matrix has rows where there are none."""
    head = model.stored.get("cls.output.weight")
    names = values.get(f"{prefix}.classifier.output_labels")
    if not isinstance(names, list) or head is None or len(names) != head.shape[0]:
        names = [f"LABEL_{i}" for i in range(head.shape[0] if head else 0)]
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    config["label2id"] = {name: number for number, name in enumerate(names)}


def kimi(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Which layers have full attention, and which Kimi's linear one, counted from 1."""
    full = layers_with(model, "attn_kv_a_mqa.weight")
    layers = range(config["num_hidden_layers"])
    config["linear_attn_config"] |= {
        "full_attn_layers": [layer + 1 for layer in full],
        "kda_layers": [layer + 1 for layer in layers if layer not in full],
        "num_heads": config["num_attention_heads"],
    }


def glm(config: Config, values: Values, prefix: str, model: Model) -> None:
    """The width of a head, which the class would take for 128, and the share that is rotary."""
    config["head_dim"] = config["hidden_size"] // max(1, config["num_attention_heads"])
    rotary = values.get(f"{prefix}.rope.dimension_count")
    if rotary:
        config["partial_rotary_factor"] = rotary / max(1, config["head_dim"])


def cohere2_moe(config: Config, values: Values, prefix: str, model: Model) -> None:
    """How its router chooses experts (llama_expert_gating_func_type)."""
    kinds = {1: "softmax", 2: "sigmoid"}
    found = kinds.get(values.get(f"{prefix}.expert_gating_func", 0))
    if found:
        config["expert_selection_fn"] = found


def _ratio(inner: int, hidden: int | None) -> int | float:
    hidden = hidden or 1
    return inner // hidden if inner % hidden == 0 else inner / hidden


def minicpm(config: Config, values: Values, prefix: str, model: Model) -> None:
    """Granite's arithmetic: attention is divided by the root of a head's width."""
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config["attention_multiplier"] = 1 / math.sqrt(width)


def _decimal(value: float) -> float:
    return round(value, 7)
