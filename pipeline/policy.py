"""Which tensors a target leaves alone, as the tools that write it do.

Quantisers of compressed-tensors, bitsandbytes and FP8 take linear layers: no embeddings, heads,
norms, routers or convolutions. MLX takes embeddings and heads too, and llama.cpp's quantize any
matrix whose name ends in `weight`, but for a list of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_EMBEDDINGS = re.compile(
    r"(?:^|[._])(?:(?:word_|position_|token_type_|patch_|tok_|pos_)?embed(?:s|d|der|ding|dings)?"
    r"(?:_tokens|_positions|_in|_out)?|wte|wpe|token_embd)(?:[._]|$)|(?:^|\.)shared\.weight$"
)
_HEADS = re.compile(
    r"(?:^|[._])(?:lm_head|head|score|classifier|embed_out|logits_dense|decoder\.output_projection|"
    r"lm_heads\.\d+|(?:head|predictions)\.decoder)\.weight$|^output\.weight$"
)
_NO_LAYERS = re.compile(
    r"(?:^|[._])router[._]\w|"  # GraniteMoE's router.layer, Gemma 4's router.proj
    r"(?:^|[._])(?:\w*norm\w*|ln_?\w*|router|(?<!ffn_)gate|shared_expert_gate|ffn_gate_inp\w*|conv\w*|"
    r"rotary\w*|bias|A_log|D)(?:\.(?:weight|bias|wg\.weight))?$"
)
# `_keep_in_fp32_modules` of transformers' classes: T5 and its kin, DeepSeek-V3.2's indexer, BLIP-2.
_IN_FLOAT32 = re.compile(
    r"(?:^|\.)(?:DenseReluDense\.wo|indexer\.weights_proj|qformer\..*)\.weight$"
)
# `tensor_allows_quantization` of llama.cpp, src/llama-quant.cpp; and Gemma 3's projection, which
# its clip.cpp turns as it loads it.
_GGML_KEEPS = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj|"
    r"^position_embd\.weight|^token_types\.weight|ssm_conv1d|shortconv\.conv\.weight|"
    r"indexer\.[kq]_proj\.weight|attn_rel_b\.weight|"
    r"time_mix_(?:first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight|"
    r"\.position_embd|sam\.(?:pos_embd|neck\.|net_)|\.rel_pos|\.patch_embd|\.patch_merger|"
    r"a\.rvq\.codebook|mm\.a\.code_embd|mm\.input_projection"
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
    if _IN_FLOAT32.search(name):
        return "its class keeps it in float32"
    if dimensions == 2 and "." in name and not name.endswith("weight"):
        return "it is no layer's weight"
    return ""


# Why experts in one tensor stay as they are. Of FP8 transformers 5.23 casts their codes and leaves
# the scales out, with `dequantize=True` or without a GPU; other targets it does not load.
STACKED = "experts in one tensor are no linear layers, which its tools take and loaders know"

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
