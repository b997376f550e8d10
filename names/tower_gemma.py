"""The towers of Gemma 4, for images and for sounds; as in `names.tower_rows`."""

from __future__ import annotations

from anamnesis.names.tower import Tower
from anamnesis.names.tower_blocks import KEYS

_BOUNDS = ("input_max", "input_min", "output_max", "output_min")


def _clipped(text: str) -> str:
    """The rows of layers that clip their inputs and outputs, whose bounds are scalars."""
    lines = []
    for gguf, hf in (line.split() for line in text.strip().splitlines()):
        lines.append(f"{gguf}.weight {hf}.linear.weight")
        lines += [f"{gguf}.{bound}! {hf}.{bound}! -> 1" for bound in _BOUNDS]
    return "\n".join((*lines, ""))


_IMAGES = (
    _clipped("""
attn_q                self_attn.q_proj
attn_k                self_attn.k_proj
attn_v                self_attn.v_proj
attn_out              self_attn.o_proj
ffn_gate              mlp.gate_proj
ffn_up                mlp.up_proj
ffn_down              mlp.down_proj
""")
    + """
attn_q_norm           self_attn.q_norm
attn_k_norm           self_attn.k_norm
ln1                   input_layernorm
attn_post_norm        post_attention_layernorm
ln2                   pre_feedforward_layernorm
ffn_post_norm         post_feedforward_layernorm
"""
)
_SOUNDS = (
    _clipped("""
{a}ffn_up             {s}feed_forward1.ffw_layer_1
{a}ffn_down           {s}feed_forward1.ffw_layer_2
{a}ffn_up_1           {s}feed_forward2.ffw_layer_1
{a}ffn_down_1         {s}feed_forward2.ffw_layer_2
{a}attn_q             {s}self_attn.q_proj
{a}attn_k             {s}self_attn.k_proj
{a}attn_v             {s}self_attn.v_proj
{a}attn_out           {s}self_attn.post
{a}conv_pw1           {s}lconv1d.linear_start
{a}conv_pw2           {s}lconv1d.linear_end
""")
    + """
{a}attn_k_rel         {s}self_attn.relative_k_proj
{a}attn_pre_norm      {s}norm_pre_attn
{a}attn_post_norm     {s}norm_post_attn
{a}conv_dw.weight     {s}lconv1d.depthwise_conv1d.weight  conv
{a}conv_norm          {s}lconv1d.pre_layer_norm
{a}norm_conv          {s}lconv1d.conv_norm
{a}ffn_norm           {s}feed_forward1.pre_layer_norm
{a}ffn_post_norm      {s}feed_forward1.post_layer_norm
{a}ffn_norm_1         {s}feed_forward2.pre_layer_norm
{a}ffn_post_norm_1    {s}feed_forward2.post_layer_norm
{a}ln2                {s}norm_out
{a}per_dim_scale.weight {s}self_attn.per_dim_scale!  softplus
a.conv1d.0            {t}subsample_conv_projection.layer0.conv
a.conv1d.0.norm       {t}subsample_conv_projection.layer0.norm
a.conv1d.1            {t}subsample_conv_projection.layer1.conv
a.conv1d.1.norm       {t}subsample_conv_projection.layer1.norm
a.input_projection    {t}subsample_conv_projection.input_proj_linear
a.pre_encode.out      {t}output_proj
mm.a.input_projection model.embed_audio.embedding_projection
"""
)
for _short, _long in (
    ("{a}", "a.blk.{i}."),
    ("{s}", "{t}layers.{i}."),
    ("{t}", "model.audio_tower."),
):
    _SOUNDS = _SOUNDS.replace(_short, _long)

GEMMA4 = Tower(
    ("gemma4v",),
    {"Gemma4ForCausalLM": "Gemma4ForConditionalGeneration"},
    _SOUNDS
    + """
mm.input_projection   model.embed_vision.embedding_projection
v.patch_embd.weight   {v}patch_embedder.input_proj.weight  {patch}
v.position_embd.weight {v}patch_embedder.position_embedding_table!
v.std_bias!           {v}std_bias!
v.std_scale!          {v}std_scale!
""".replace("{v}", "model.vision_tower.").replace(
        "{patch}", "o (h w c) -> o c h w; h=patch_size w=patch_size"
    ),
    _IMAGES,
    "model.vision_tower.encoder.layers.{i}.",
    "model.language_model.",
    keys=KEYS
    + """
clip.vision.image_size              =224
clip.vision.projector_type          ="gemma4v"
clip.vision.attention.layer_norm_epsilon vision.layer_norm_eps|=1e-6
clip.has_audio_encoder              @of-audio:,true
clip.audio.projector_type           @of-audio:,"gemma4a"
clip.audio.projection_dim           @of-audio:text.hidden_size,
clip.audio.embedding_length         audio.hidden_size
clip.audio.feed_forward_length      audio.hidden_size*4
clip.audio.block_count              audio.num_hidden_layers
clip.audio.attention.head_count     audio.num_attention_heads
clip.audio.num_mel_bins             @of-audio:audio.input_feat_size,128
clip.audio.attention.layer_norm_epsilon @of-audio:audio.layer_norm_eps,1e-6
""",
    single=(
        "a.blk.*.conv_dw.weight",
        "a.conv1d.*.weight",
        "a.input_projection.weight",
        "v.position_embd.weight",
    ),
)
