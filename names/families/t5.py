"""T5: an encoder, and a decoder that most of its files have too."""

from __future__ import annotations

from anamnesis.names.family import Family


def _stack(gguf: str, hf: str, feed_forward: int) -> str:
    """Rows of one stack, whose feed-forward part is the sub-layer of that number."""
    blk, block = f"{gguf}.blk.{{i}}.", f"{hf}.block.{{i}}.layer."
    return f"""
{gguf}.output_norm    {hf}.final_layer_norm
{blk}attn_q           {block}0.SelfAttention.q
{blk}attn_k           {block}0.SelfAttention.k
{blk}attn_v           {block}0.SelfAttention.v
{blk}attn_o           {block}0.SelfAttention.o
{blk}attn_rel_b       {block}0.SelfAttention.relative_attention_bias
{blk}attn_norm        {block}0.layer_norm
{blk}ffn_norm         {block}{feed_forward}.layer_norm
{blk}ffn_down         {block}{feed_forward}.DenseReluDense.wo
"""


def _gated(gguf: str, hf: str, feed_forward: int) -> str:
    blk, dense = f"{gguf}.blk.{{i}}.", f"{hf}.block.{{i}}.layer.{feed_forward}.DenseReluDense."
    return f"""
{blk}ffn_gate         {dense}wi_0
{blk}ffn_up           {dense}wi_1
"""


def _ungated(gguf: str, hf: str, feed_forward: int) -> str:
    return f"""
{gguf}.blk.{{i}}.ffn_up {hf}.block.{{i}}.layer.{feed_forward}.DenseReluDense.wi
"""


_CROSS = """
dec.blk.{i}.cross_attn_q     decoder.block.{i}.layer.1.EncDecAttention.q
dec.blk.{i}.cross_attn_k     decoder.block.{i}.layer.1.EncDecAttention.k
dec.blk.{i}.cross_attn_v     decoder.block.{i}.layer.1.EncDecAttention.v
dec.blk.{i}.cross_attn_o     decoder.block.{i}.layer.1.EncDecAttention.o
dec.blk.{i}.cross_attn_norm  decoder.block.{i}.layer.1.layer_norm
"""

_TOP = """
token_embd            shared
output                lm_head
"""

_ENCODER = _stack("enc", "encoder", 1)
_DECODER = _stack("dec", "decoder", 2) + _CROSS
_GATE = ("enc.blk.0.ffn_gate.weight",)

FAMILIES = (
    Family(
        "t5",
        ("t5",),
        (
            "T5ForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "T5WithLMHeadModel",
            "UMT5ForConditionalGeneration",
            "UMT5Model",
        ),
        _TOP + _ENCODER + _DECODER + _gated("enc", "encoder", 1) + _gated("dec", "decoder", 2),
        has=_GATE,
    ),
    Family(
        "t5-v1.0",
        ("t5",),
        ("T5ForConditionalGeneration", "T5WithLMHeadModel"),
        _TOP + _ENCODER + _DECODER + _ungated("enc", "encoder", 1) + _ungated("dec", "decoder", 2),
        lacks=_GATE,
    ),
    Family(
        "t5encoder",
        ("t5encoder",),
        ("T5EncoderModel",),
        _TOP + _ENCODER + _gated("enc", "encoder", 1),
        has=_GATE,
    ),
    Family(
        "t5encoder-v1.0",
        ("t5encoder",),
        ("T5EncoderModel",),
        _TOP + _ENCODER + _ungated("enc", "encoder", 1),
        lacks=_GATE,
    ),
)
