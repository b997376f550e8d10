"""Vision towers of InternVL and of models that read documents; as in `names.tower_rows`."""

from __future__ import annotations

from anamnesis.names.tower import Tower
from anamnesis.names.tower_blocks import (
    KEYS,
    PIXTRAL,
    PIXTRAL_KEYS,
    PIXTRAL_TOP,
    SIGLIP,
)

_PIXELS = """
clip.vision.image_min_pixels        processor.min_pixels|processor.size.shortest_edge
clip.vision.image_max_pixels        processor.max_pixels|processor.size.longest_edge
"""
_INTERNVL_KEYS = (
    KEYS
    + """
clip.vision.image_size              vision.image_size.0|vision.image_size
clip.vision.patch_size              vision.patch_size.0|vision.patch_size
clip.projector_type                 ="internvl"
clip.vision.attention.layer_norm_epsilon vision.layer_norm_eps|=1e-6
clip.use_silu                       @true-if:vision.hidden_act,silu
clip.use_gelu                       @true-if:vision.hidden_act,gelu
clip.vision.projector.scale_factor  @inverse:model.downsample_ratio
clip.vision.preproc_min_tiles       @unless-zero:model.min_dynamic_patch
clip.vision.preproc_max_tiles       @unless-zero:model.max_dynamic_patch
"""
)
_INTERNVL_TEXTS = (
    "Qwen2ForCausalLM",
    "GptOssForCausalLM",
    "LlamaForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
_INTERNVL_TOP = """
mm.model.mlp.0        {p}multi_modal_projector.layer_norm
mm.model.mlp.1        {p}multi_modal_projector.linear_1
mm.model.mlp.3        {p}multi_modal_projector.linear_2
v.class_embd!         {p}vision_tower.embeddings.cls_token!
v.patch_embd          {p}vision_tower.embeddings.patch_embeddings.projection
v.position_embd.weight {p}vision_tower.embeddings.position_embeddings!
"""
_INTERNVL = """
attn_q                attention.q_proj
attn_k                attention.k_proj
attn_v                attention.v_proj
attn_out              attention.projection_layer
attn_q_norm           attention.q_norm
attn_k_norm           attention.k_norm
ffn_up                mlp.fc1
ffn_down              mlp.fc2
ln1                   layernorm_before
ln2                   layernorm_after
ls1.weight            lambda_1!
ls2.weight            lambda_2!
"""
_INTERNVL_LAYERS = "vision_tower.encoder.layer.{i}."

_INTERNVL_TOWERS = (
    Tower(
        ("internvl",),
        dict.fromkeys(_INTERNVL_TEXTS, "InternVLForConditionalGeneration"),
        _INTERNVL_TOP.replace("{p}", ""),
        _INTERNVL,
        _INTERNVL_LAYERS,
        "language_model.model.",
        "language_model.",
        keys=_INTERNVL_KEYS,
    ),
    Tower(  # as later releases of transformers saved it
        ("internvl",),
        dict.fromkeys(_INTERNVL_TEXTS, "InternVLForConditionalGeneration"),
        _INTERNVL_TOP.replace("{p}", "model."),
        _INTERNVL,
        f"model.{_INTERNVL_LAYERS}",
        "model.language_model.",
        keys=_INTERNVL_KEYS,
        only="to-gguf",
    ),
    Tower(  # as its own code has it
        ("internvl",),
        dict.fromkeys(_INTERNVL_TEXTS, "InternVLChatModel"),
        """
mm.model.mlp.0        mlp1.0
mm.model.mlp.1        mlp1.1
mm.model.mlp.3        mlp1.3
v.class_embd!         vision_model.embeddings.class_embedding!
v.patch_embd          vision_model.embeddings.patch_embedding
v.position_embd.weight vision_model.embeddings.position_embedding!
""",
        """
attn_q                attn.qkv              +r ... -> r ...
attn_k                attn.qkv              +r ... -> r ...
attn_v                attn.qkv              +r ... -> r ...
attn_out              attn.proj
attn_q_norm           attn.q_norm
attn_k_norm           attn.k_norm
ffn_up                mlp.fc1
ffn_down              mlp.fc2
ln1                   norm1
ln2                   norm2
ls1.weight            ls1!
ls2.weight            ls2!
""",
        "vision_model.encoder.layers.{i}.",
        "language_model.model.",
        "language_model.",
        keys=_INTERNVL_KEYS,
        only="to-gguf",
    ),
)

_DOCUMENTS = (
    Tower(
        ("dots_ocr",),
        {"Qwen2ForCausalLM": "DotsOCRForCausalLM"},
        """
mm.0                  vision_tower.merger.mlp.0
mm.2                  vision_tower.merger.mlp.2
mm.input_norm         vision_tower.merger.ln_q
mm.post_norm          vision_tower.post_trunk_norm
v.patch_embd          vision_tower.patch_embed.patchifier.proj
v.pre_ln              vision_tower.patch_embed.patchifier.norm
""",
        """
attn_qkv              attn.qkv
attn_out              attn.proj
ffn_gate              mlp.fc1
ffn_down              mlp.fc2
ffn_up                mlp.fc3
ln1                   norm1
ln2                   norm2
""",
        "vision_tower.blocks.{i}.",
        "model.",
        keys=KEYS
        + _PIXELS
        + """
clip.vision.image_size              =0
clip.projector_type                 ="dots_ocr"
clip.use_silu                       =true
clip.vision.attention.layer_norm_epsilon vision.rms_norm_eps
clip.vision.projector.scale_factor  vision.spatial_merge_size
""",
        only="to-gguf",  # transformers has no class of it
    ),
    Tower(
        ("hunyuanvl",),
        {"HunYuanVLForConditionalGeneration": "HunYuanVLForConditionalGeneration"},
        """
mm.0                  vit.perceive.proj.0
mm.2                  vit.perceive.proj.2
mm.model.fc           vit.perceive.mlp
mm.pre_norm           vit.perceive.before_rms
mm.post_norm          vit.perceive.after_rms
mm.image_begin!       vit.perceive.image_begin!
mm.image_end!         vit.perceive.image_end!
v.image_newline!      vit.perceive.image_newline!
v.view_seperator!     vit.perceive.image_sep!
v.patch_embd          vit.embeddings.patch_embedding
v.position_embd       vit.embeddings.position_embedding
""",
        """
attn_q                self_attn.q_proj
attn_k                self_attn.k_proj
attn_v                self_attn.v_proj
attn_out              self_attn.o_proj
ffn_up                mlp.dense_h_to_4h
ffn_down              mlp.dense_4h_to_h
ln1                   input_layernorm
ln2                   post_attention_layernorm
""",
        "vit.layers.{i}.",
        "model.",
        keys=KEYS
        + _PIXELS
        + """
clip.vision.image_size              vision.image_size|vision.max_image_size|=2048
clip.projector_type                 ="hunyuanvl"
clip.use_gelu                       =true
clip.vision.attention.layer_norm_epsilon vision.rms_norm_eps|=1e-5
clip.vision.spatial_merge_size      vision.spatial_merge_size|=2
""",
        patches=("mm.0.weight", "mm.2.weight"),
        zero_rows={"vit.embeddings.position_embedding.weight": 1},  # of a class's token
    ),
    Tower(
        ("lightonocr",),
        {"Qwen3ForCausalLM": "LightOnOcrForConditionalGeneration"},
        PIXTRAL_TOP.replace("multi_modal_projector.", "model.vision_projection.").replace(
            "vision_tower.", "model.vision_encoder."
        )
        + """
mm.input_norm         model.vision_projection.norm
mm.patch_merger       model.vision_projection.patch_merger.merging_layer
""",
        PIXTRAL,
        "model.vision_encoder.transformer.layers.{i}.",
        "model.language_model.",
        others=("LightOnOCRForConditionalGeneration",),
        keys=PIXTRAL_KEYS
        + """
clip.projector_type                 ="lightonocr"
clip.vision.spatial_merge_size      model.spatial_merge_size
""",
    ),
    Tower(
        ("paddleocr",),
        {"PaddleOCRVLForConditionalGeneration": "PaddleOCRVLForConditionalGeneration"},
        """
mm.input_norm         mlp_AR.pre_norm
mm.1                  mlp_AR.linear_1
mm.2                  mlp_AR.linear_2
v.patch_embd          visual.vision_model.embeddings.patch_embedding
v.position_embd       visual.vision_model.embeddings.position_embedding
v.post_ln             visual.vision_model.post_layernorm
""",
        SIGLIP,
        "visual.vision_model.encoder.layers.{i}.",
        "model.",
        keys=KEYS
        + _PIXELS
        + """
clip.vision.image_size              @root:processor.max_pixels|@root:processor.size.longest_edge
clip.projector_type                 ="paddleocr"
clip.use_gelu                       =true
clip.vision.attention.layer_norm_epsilon vision.rms_norm_eps|=1e-6
""",
    ),
)

MORE = (*_INTERNVL_TOWERS, *_DOCUMENTS)
