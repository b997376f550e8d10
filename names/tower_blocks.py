"""Rows and keys that several vision towers share; as in `names.tower_rows`."""

from __future__ import annotations

SIGLIP = """
ln1                 layer_norm1
ln2                 layer_norm2
attn_q              self_attn.q_proj
attn_k              self_attn.k_proj
attn_v              self_attn.v_proj
attn_out            self_attn.out_proj
ffn_up              mlp.fc1
ffn_down            mlp.fc2
"""

GATED = """
ffn_gate            mlp.gate_proj
ffn_up              mlp.up_proj
ffn_down            mlp.down_proj
"""

PATCHES = """
v.patch_embd.weight!    {tower}patch_embed.proj.weight  o c +t h w -> o c h w; t=1
v.patch_embd.weight.1!  {tower}patch_embed.proj.weight  o c +t h w -> o c h w; t=1
v.patch_embd.bias       {tower}patch_embed.proj.bias
"""

QWEN_ATTENTION = """
ln1                 norm1
ln2                 norm2
attn_q              attn.qkv              +r ... -> r ...
attn_k              attn.qkv              +r ... -> r ...
attn_v              attn.qkv              +r ... -> r ...
attn_out            attn.proj
"""

KEYS = """
clip.has_vision_encoder             =true
clip.vision.projection_dim          text.hidden_size|text.n_embd
clip.vision.image_size              vision.image_size
clip.vision.patch_size              vision.patch_size
clip.vision.embedding_length        vision.hidden_size
clip.vision.feed_forward_length     vision.intermediate_size
clip.vision.block_count             vision.num_hidden_layers|vision.depth
clip.vision.attention.head_count    vision.num_attention_heads|vision.num_heads
clip.vision.image_mean              processor.image_mean
clip.vision.image_std               processor.image_std
"""
PIXTRAL_TOP = """
mm.1                multi_modal_projector.linear_1
mm.2                multi_modal_projector.linear_2
v.pre_ln            vision_tower.ln_pre
v.patch_embd        vision_tower.patch_conv
"""
PIXTRAL = """
attn_q              attention.q_proj      rope:heads
attn_k              attention.k_proj      rope:heads
attn_v              attention.v_proj
attn_out            attention.o_proj
ln1                 attention_norm
ln2                 ffn_norm
ffn_gate            feed_forward.gate_proj
ffn_up              feed_forward.up_proj
ffn_down            feed_forward.down_proj
"""
PIXTRAL_KEYS = (
    KEYS
    + """
clip.projector_type                 ="pixtral"
clip.vision.attention.layer_norm_epsilon vision.layer_norm_eps|=1e-5
clip.use_silu                       @true-if:vision.hidden_act,silu
clip.use_gelu                       @true-if:vision.hidden_act,gelu
"""
)
EMBEDDED = ("v.patch_embd.weight", "v.position_embd.weight")
