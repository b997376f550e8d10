"""Encoders: BERT and its relatives."""

from __future__ import annotations

from anamnesis.names.family import Family

_EMBEDDINGS = """
token_embd          embeddings.word_embeddings
token_embd_norm     embeddings.LayerNorm
token_types         embeddings.token_type_embeddings
"""

_BERT_TOP = (
    _EMBEDDINGS
    + """
position_embd       embeddings.position_embeddings
"""
)

_LAYER = """
attn_q              attention.self.query
attn_k              attention.self.key
attn_v              attention.self.value
attn_output         attention.output.dense
attn_output_norm    attention.output.LayerNorm
ffn_up              intermediate.dense
ffn_down            output.dense
layer_output_norm   output.LayerNorm
"""

FAMILIES = (
    Family(
        "bert",
        ("bert",),
        ("BertModel", "BertForMaskedLM"),
        _BERT_TOP,
        _LAYER,
        layers="encoder.layer.{i}.",
        vocabularies=("bert",),
    ),
    Family(
        "distilbert",
        ("bert",),
        ("DistilBertModel", "DistilBertForMaskedLM"),
        """
token_embd          distilbert.embeddings.word_embeddings
token_embd_norm     distilbert.embeddings.LayerNorm
position_embd       distilbert.embeddings.position_embeddings
""",
        """
attn_q              attention.q_lin
attn_k              attention.k_lin
attn_v              attention.v_lin
attn_output         attention.out_lin
attn_output_norm    sa_layer_norm
ffn_up              ffn.lin1
ffn_down            ffn.lin2
layer_output_norm   output_layer_norm
""",
        layers="distilbert.transformer.layer.{i}.",
        lacks=("token_types.weight",),
    ),
    Family(
        "modern-bert",
        ("modern-bert",),
        ("ModernBertModel", "ModernBertForMaskedLM"),
        """
token_embd          embeddings.tok_embeddings
token_embd_norm     embeddings.norm
output_norm         final_norm
""",
        """
attn_norm           attn_norm
attn_qkv            attn.Wqkv
attn_output         attn.Wo
ffn_norm            mlp_norm
ffn_up              mlp.Wi
ffn_down            mlp.Wo
""",
        layers="layers.{i}.",
    ),
    Family(
        "nomic-bert",
        ("nomic-bert",),
        ("NomicBertModel",),
        """
token_embd          embeddings.word_embeddings
token_embd_norm     emb_ln
token_types         embeddings.token_type_embeddings
""",
        """
attn_qkv            attn.Wqkv
attn_output         attn.out_proj
attn_output_norm    norm1
layer_output_norm   norm2
ffn_up              mlp.fc11
ffn_gate            mlp.fc12
ffn_down            mlp.fc2
""",
        layers="encoder.layers.{i}.",
    ),
    Family(
        "roberta",
        ("bert",),
        ("RobertaModel", "XLMRobertaModel"),
        _BERT_TOP,
        _LAYER,
        layers="encoder.layer.{i}.",
        notes=(
            "the first two rows of embeddings.position_embeddings.weight are zero: those of "
            "padding, which the file does not have",
        ),
        vocabularies=("gpt2", "t5"),
        zero_rows={"embeddings.position_embeddings.weight": 2},
    ),
)
