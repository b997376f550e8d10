"""Vision towers by the kind of their projector: the names of an `mmproj` file's tensors, and keys.

The towers of `conversion/` in https://github.com/ggml-org/llama.cpp; rows as in `names.family`.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.names.tower import Tower
from anamnesis.names.tower_blocks import (
    EMBEDDED,
    GATED,
    KEYS,
    PATCHES,
    PIXTRAL,
    PIXTRAL_KEYS,
    PIXTRAL_TOP,
    QWEN_ATTENTION,
    SIGLIP,
)
from anamnesis.names.tower_gemma import GEMMA4
from anamnesis.names.tower_more import MORE

_GLM_TOP = (
    PATCHES.replace("{tower}", "model.visual.")
    + """
v.post_ln           model.visual.post_layernorm
mm.patch_merger     model.visual.downsample
mm.model.fc         model.visual.merger.proj
mm.post_norm        model.visual.merger.post_projection_norm
mm.gate             model.visual.merger.gate_proj
mm.up               model.visual.merger.up_proj
mm.down             model.visual.merger.down_proj
"""
)

_QWEN2_TOP = (
    PATCHES.replace("{tower}", "visual.")
    + """
v.post_ln           visual.merger.ln_q
mm.0                visual.merger.mlp.0
mm.2                visual.merger.mlp.2
"""
)

_GLM_KEYS = (
    KEYS
    + """
clip.projector_type                 ="glm4v"
clip.use_silu                       @true-if:vision.hidden_act,silu
clip.use_gelu                       @true-if:vision.hidden_act,gelu
clip.vision.attention.layer_norm_epsilon vision.rms_norm_eps|=1e-5
"""
)

_QWEN2_KEYS = (
    KEYS
    + """
clip.vision.image_size              vision.image_size|=560
clip.vision.embedding_length        vision.embed_dim|vision.hidden_size
clip.vision.feed_forward_length     @inner-of-embedded
clip.vision.attention.layer_norm_epsilon model.rms_norm_eps|=1e-6
"""
)

_FUSED = """
ln1                 norm1
ln2                 norm2
attn_qkv            attn.qkv
attn_out            attn.proj
"""

_QK_NORMS = """
attn_q_norm         attn.q_norm
attn_k_norm         attn.k_norm
"""


_BROKEN_TOP = f"{PIXTRAL_TOP}v.token_embd.img_break!  -\n"
_BREAK = {"v.token_embd.img_break": "[IMG_BREAK]"}  # llama.cpp loads no Pixtral without

_GEMMA3 = Tower(
    ("gemma3",),
    {"Gemma3ForCausalLM": "Gemma3ForConditionalGeneration"},
    """
mm.input_projection.weight  multi_modal_projector.mm_input_projection_weight!
mm.soft_emb_norm.weight     multi_modal_projector.mm_soft_emb_norm.weight  +1
v.patch_embd                vision_tower.vision_model.embeddings.patch_embedding
v.position_embd             vision_tower.vision_model.embeddings.position_embedding
v.post_ln                   vision_tower.vision_model.post_layernorm
""",
    SIGLIP,
    "vision_tower.vision_model.encoder.layers.{i}.",
    "language_model.model.",
    "language_model.",
    keys=KEYS
    + """
clip.projector_type                 ="gemma3"
clip.vision.attention.layer_norm_epsilon vision.layer_norm_eps|=1e-6
clip.use_gelu                       =true
clip.vision.projector.scale_factor  @pooled-side
""",
    half="mm.input_projection.weight",
    single=EMBEDDED,
)
_LFM2 = Tower(
    ("lfm2",),
    {"Lfm2ForCausalLM": "Lfm2VlForConditionalGeneration"},
    """
mm.input_norm       model.multi_modal_projector.layer_norm
mm.1                model.multi_modal_projector.linear_1
mm.2                model.multi_modal_projector.linear_2
v.patch_embd.weight {lfm2}embeddings.patch_embedding.weight  o (h w c) -> o c h w; h=16 w=16
v.patch_embd.bias   {lfm2}embeddings.patch_embedding.bias
v.position_embd     {lfm2}embeddings.position_embedding
v.post_ln           {lfm2}post_layernorm
""".replace("{lfm2}", "model.vision_tower.vision_model."),
    SIGLIP,
    "model.vision_tower.vision_model.encoder.layers.{i}.",
    "model.language_model.",
    keys=KEYS
    + """
clip.projector_type                 ="lfm2"
clip.vision.image_size              =256
clip.vision.block_count             vision.num_hidden_layers
clip.vision.attention.layer_norm_epsilon vision.layer_norm_eps|=1e-6
clip.vision.projector.scale_factor  model.downsample_factor|=2
clip.use_gelu                       =true
""",
    single=EMBEDDED,
)


def _as_saved(tower: Tower) -> Tower:
    """The same in a folder that transformers 5 wrote: without `vision_model` in its names."""
    top, layers = (text.replace(".vision_model.", ".") for text in (tower.top, tower.layers))
    return replace(tower, top=top, layers=layers, only="to-gguf")


TOWERS = (
    _GEMMA3,
    _as_saved(_GEMMA3),
    Tower(
        ("glm4v",),
        {"Glm4vForConditionalGeneration": "GlmOcrForConditionalGeneration"},
        _GLM_TOP,
        _FUSED + GATED + _QK_NORMS,
        "model.visual.blocks.{i}.",
        "model.language_model.",
        has=("v.blk.0.attn_q_norm.weight",),
        keys=_GLM_KEYS,
    ),
    Tower(
        ("glm4v",),
        {
            "Glm4vForConditionalGeneration": "Glm4vForConditionalGeneration",
            "Glm4MoeForCausalLM": "Glm4vMoeForConditionalGeneration",
        },
        _GLM_TOP
        + """
v.norm_embd         model.visual.post_conv_layernorm
v.position_embd     model.visual.embeddings.position_embedding
""",
        _FUSED + GATED,
        "model.visual.blocks.{i}.",
        "model.language_model.",
        keys=_GLM_KEYS,
    ),
    Tower(
        ("idefics3",),
        {"LlamaForCausalLM": "Idefics3ForConditionalGeneration"},
        """
mm.model.fc         model.connector.modality_projection.proj
v.patch_embd        model.vision_model.embeddings.patch_embedding
v.position_embd     model.vision_model.embeddings.position_embedding
v.post_ln           model.vision_model.post_layernorm
""",
        SIGLIP,
        "model.vision_model.encoder.layers.{i}.",
        "model.text_model.",
        others=("SmolVLMForConditionalGeneration",),
        keys=KEYS
        + """
clip.projector_type                 ="idefics3"
clip.vision.attention.layer_norm_epsilon vision.layer_norm_eps|=1e-5
clip.vision.projector.scale_factor  model.scale_factor|=2
clip.use_gelu                       =true
clip.vision.preproc_image_size      processor.size.longest_edge|vision.image_size
""",
        single=EMBEDDED,
    ),
    _LFM2,
    _as_saved(_LFM2),
    Tower(
        ("llama4",),
        {"Llama4ForCausalLM": "Llama4ForConditionalGeneration"},
        """
mm.model.fc         multi_modal_projector.linear_1
mm.model.mlp.1      vision_model.vision_adapter.mlp.fc1
mm.model.mlp.2      vision_model.vision_adapter.mlp.fc2
v.class_embd!       vision_model.class_embedding
v.patch_embd        vision_model.patch_embedding.linear
v.position_embd.weight vision_model.positional_embedding_vlm!
v.post_ln           vision_model.layernorm_post
v.pre_ln            vision_model.layernorm_pre
""",
        """
ln1                 input_layernorm
attn_post_norm      post_attention_layernorm
attn_q              self_attn.q_proj
attn_k              self_attn.k_proj
attn_v              self_attn.v_proj
attn_out            self_attn.o_proj
ffn_up              mlp.fc1
ffn_down            mlp.fc2
""",
        "vision_model.model.layers.{i}.",
        "language_model.model.",
        "language_model.",
        keys=KEYS
        + """
clip.projector_type                 ="llama4"
clip.vision.attention.layer_norm_epsilon vision.norm_eps|=1e-5
clip.vision.projector.scale_factor  @inverse:vision.pixel_shuffle_ratio
clip.use_gelu                       =true
""",
        single=EMBEDDED,
    ),
    Tower(
        ("pixtral",),
        dict.fromkeys(
            (
                "LlamaForCausalLM",
                "Ministral3ForCausalLM",
                "Mistral4ForCausalLM",
                "MistralForCausalLM",
            ),
            "Mistral3ForConditionalGeneration",
        ),
        _BROKEN_TOP
        + """
mm.input_norm       multi_modal_projector.norm
mm.patch_merger     multi_modal_projector.patch_merger.merging_layer
""",
        PIXTRAL,
        "vision_tower.transformer.layers.{i}.",
        "language_model.model.",
        "language_model.",
        said=("clip.vision.spatial_merge_size",),
        keys=PIXTRAL_KEYS + "clip.vision.spatial_merge_size model.spatial_merge_size|=2\n",
        token_rows=_BREAK,
    ),
    Tower(
        ("pixtral",),
        {"LlamaForCausalLM": "LlavaForConditionalGeneration"},
        _BROKEN_TOP,
        PIXTRAL,
        "vision_tower.transformer.layers.{i}.",
        "language_model.model.",
        "language_model.",
        keys=PIXTRAL_KEYS,
        token_rows=_BREAK,
    ),
    Tower(
        ("qwen2.5vl_merger",),
        {"Qwen2VLForConditionalGeneration": "Qwen2_5_VLForConditionalGeneration"},
        _QWEN2_TOP,
        QWEN_ATTENTION + GATED,
        "visual.blocks.{i}.",
        "model.",
        keys=_QWEN2_KEYS
        + """
clip.projector_type                 ="qwen2.5vl_merger"
clip.use_silu                       =true
clip.vision.n_wa_pattern            vision.fullatt_block_indexes.0+1
""",
    ),
    Tower(
        ("qwen2vl_merger",),
        {"Qwen2VLForConditionalGeneration": "Qwen2VLForConditionalGeneration"},
        _QWEN2_TOP,
        QWEN_ATTENTION
        + """
ffn_up              mlp.fc1
ffn_down            mlp.fc2
""",
        "visual.blocks.{i}.",
        "model.",
        keys=_QWEN2_KEYS + 'clip.projector_type ="qwen2vl_merger"\n',
    ),
    Tower(
        ("qwen3vl_merger",),
        {
            "Qwen3VLForConditionalGeneration": "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration": "Qwen3VLMoeForConditionalGeneration",
            "Qwen3_5ForCausalLM": "Qwen3_5ForConditionalGeneration",
            "Qwen3_5MoeForCausalLM": "Qwen3_5MoeForConditionalGeneration",
        },
        PATCHES.replace("{tower}", "model.visual.")
        + """
v.position_embd     model.visual.pos_embed
v.post_ln           model.visual.merger.norm
mm.0                model.visual.merger.linear_fc1
mm.2                model.visual.merger.linear_fc2
v.deepstack.{i}.fc1   model.visual.deepstack_merger_list.{k}.linear_fc1
v.deepstack.{i}.fc2   model.visual.deepstack_merger_list.{k}.linear_fc2
v.deepstack.{i}.norm  model.visual.deepstack_merger_list.{k}.norm
""",
        _FUSED
        + """
ffn_up              mlp.linear_fc1
ffn_down            mlp.linear_fc2
""",
        "model.visual.blocks.{i}.",
        "model.language_model.",
        keys=KEYS
        + """
clip.projector_type                 ="qwen3vl_merger"
clip.vision.image_size              vision.image_size|@positions-side
clip.use_gelu                       =true
clip.vision.spatial_merge_size      vision.spatial_merge_size
clip.vision.attention.layer_norm_epsilon model.text_config.rms_norm_eps|=1e-6
clip.vision.is_deepstack_layers     @deepstack-layers
""",
    ),
    GEMMA4,
    *MORE,
)
READ = tuple(tower for tower in TOWERS if tower.only != "to-gguf")
