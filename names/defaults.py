"""What llama.cpp takes where a GGUF lacks a key, and a class of transformers takes something else.

Said in so many words in `config.json`, or a file without the key would give another model.
(`llama_model_base::load_hparams` of https://github.com/ggml-org/llama.cpp, src/llama-model.cpp, and
src/models/; the classes' own defaults are those of transformers 5.23.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# KEY  VALUE  `model_type` of classes; a value with `@` is made of others.
_ROWS = """
rope_theta 10000.0 apertus bitnet cohere ernie4_5 ernie4_5_moe gemma3_text gpt_oss lfm2 lfm2_moe \
llama4_text minimax_m2 mixtral modernbert nomic_bert olmo3 phimoe smollm3 solar_open
num_key_value_heads @heads afmoe apertus arcee bamba bitnet cohere cohere2 cohere2_moe dots1 \
ernie4_5 ernie4_5_moe eurobert exaone4 exaone_moe falcon_h1 gemma gemma2 gemma3_text gemma3n_text \
gemma4_text glm glm4 glm4_moe gpt_oss granite granitemoe granitemoehybrid hunyuan_v1_dense \
hunyuan_v1_moe jais2 jamba lfm2 lfm2_moe llama4_text mellum minimax_m2 ministral3 mistral mixtral \
nemotron_h olmo olmo2 olmo3 olmoe phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text \
qwen3_moe qwen3_next seed_oss smollm3 solar_open stablelm starcoder2
head_dim @width afmoe arcee cohere2 cohere2_moe ernie4_5 eurobert gemma gemma2 gemma3_text \
gemma3n_text gemma4_text glm4 glm4_moe gpt_oss jais2 llama4_text mellum minimax_m2 ministral3 \
mistral nemotron nemotron_h qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss \
solar_open
sliding_window null mistral
norm_topk_prob false cohere2_moe deepseek_v3 deepseek_v32 exaone_moe glm4_moe glm_moe_dsa \
mistral4 nemotron_h solar_open
routed_scaling_factor 1.0 deepseek_v3 deepseek_v32 exaone_moe glm_moe_dsa kimi_linear
first_k_dense_replace 0 deepseek_v3 deepseek_v32 exaone_moe glm4_moe glm_moe_dsa
n_group 1 deepseek_v3 deepseek_v32
topk_group 1 deepseek_v3 deepseek_v32
num_dense_layers 0 afmoe lfm2_moe
"""
_VALUES: dict[str, Any] = {"null": None, "false": False}


def _table() -> dict[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for line in _ROWS.strip().splitlines():
        key, value, *types = line.split()
        for name in types:
            found.setdefault(name, []).append((key, value))
    return {name: tuple(pairs) for name, pairs in found.items()}


_BY_TYPE = _table()


def where_not_said(config: Mapping[str, Any]) -> dict[str, Any]:
    """What to say of a class, by its `model_type`, besides what the file says."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    made: dict[str, Any] = {"@heads": heads}
    if isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        made["@width"] = hidden // heads
    found = {}
    for key, text in _BY_TYPE.get(str(config.get("model_type")), ()):
        value = made.get(text) if text.startswith("@") else _VALUES.get(text, text)
        if isinstance(value, str):
            value = float(value) if "." in value else int(value)
        if key not in config and (value is not None or text == "null"):
            found[key] = value
    return found
