"""Encoders: BERT and its relatives."""

from __future__ import annotations

from anamnesis.names.families._blocks import ATTENTION, MLP, NORMS, TOP
from anamnesis.names.family import Family

_EMBEDDINGS = """
token_embd          {m}embeddings.word_embeddings
token_embd_norm     {m}embeddings.LayerNorm
token_types         {m}embeddings.token_type_embeddings
"""

_BERT_TOP = (
    _EMBEDDINGS
    + """
position_embd       {m}embeddings.position_embeddings
"""
)

_BERT_PATHS = (("", ""), ("bert.", ""))
_DISTILBERT_PATHS = (("distilbert.", ""),)
_MODERN_PATHS = (("", ""), ("model.", ""))
_ROBERTA_PATHS = (("", ""), ("roberta.", ""))
# What labels a text, under llama.cpp's names.
_LABELS = ("cls.output.weight",)
_ROBERTA_HEAD = """
cls                 classifier.dense
cls.output          classifier.out_proj
"""
_NO_POSITIONS = (
    "the first two rows of {m}embeddings.position_embeddings.weight are zero: those of padding, "
    "which the file does not have"
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

_MODERN_TOP = """
token_embd          {m}embeddings.tok_embeddings
token_embd_norm     {m}embeddings.norm
output_norm         {m}final_norm
"""

_MODERN_LAYER = """
attn_norm           attn_norm
attn_qkv            attn.Wqkv
attn_output         attn.Wo
ffn_norm            mlp_norm
ffn_up              mlp.Wi
ffn_down            mlp.Wo
"""

_DISTILBERT_TOP = """
token_embd          {m}embeddings.word_embeddings
token_embd_norm     {m}embeddings.LayerNorm
position_embd       {m}embeddings.position_embeddings
"""
_DISTILBERT_LAYER = """
attn_q              attention.q_lin
attn_k              attention.k_lin
attn_v              attention.v_lin
attn_output         attention.out_lin
attn_output_norm    sa_layer_norm
ffn_up              ffn.lin1
ffn_down            ffn.lin2
layer_output_norm   output_layer_norm
"""

_NOMIC_TOP = """
token_embd          embeddings.word_embeddings
token_embd_norm     emb_ln
token_types         embeddings.token_type_embeddings
"""
_NOMIC = """
attn_qkv            attn.Wqkv
attn_output         attn.out_proj
attn_output_norm    norm1
layer_output_norm   norm2
"""
_JINA_ATTENTION = """
attn_q              attention.self.query
attn_k              attention.self.key
attn_v              attention.self.value
attn_output         attention.output.dense
attn_output_norm    attention.output.LayerNorm
"""
_JINA = (
    _JINA_ATTENTION
    + """
ffn_down            mlp.wo
layer_output_norm   mlp.layernorm
"""
)
# Norms of queries and keys, which its models of code have.
_JINA_CODE = ("blk.0.attn_q_norm.weight",)

FAMILIES = (
    Family(
        "bert",
        ("bert",),
        ("BertModel", "BertForMaskedLM"),
        _BERT_TOP,
        _LAYER,
        layers="{m}encoder.layer.{i}.",
        lacks=_LABELS,
        paths=_BERT_PATHS,
        vocabularies=("bert",),
    ),
    Family(
        "bert-labels",
        ("bert",),
        ("BertForSequenceClassification",),
        _BERT_TOP + "cls.output classifier\n",
        _LAYER,
        layers="{m}encoder.layer.{i}.",
        has=_LABELS,
        paths=_BERT_PATHS[1:],
        vocabularies=("bert",),
    ),
    Family(
        "distilbert",
        ("bert",),
        ("DistilBertModel", "DistilBertForMaskedLM"),
        _DISTILBERT_TOP,
        _DISTILBERT_LAYER,
        layers="{m}transformer.layer.{i}.",
        lacks=("token_types.weight", *_LABELS),
        paths=_DISTILBERT_PATHS,
        vocabularies=("bert",),
    ),
    Family(
        "distilbert-labels",
        ("bert",),
        ("DistilBertForSequenceClassification",),
        _DISTILBERT_TOP
        + """
cls                 pre_classifier
cls.output          classifier
""",
        _DISTILBERT_LAYER,
        layers="{m}transformer.layer.{i}.",
        has=_LABELS,
        lacks=("token_types.weight",),
        paths=_DISTILBERT_PATHS,
        vocabularies=("bert",),
    ),
    Family(
        "eurobert",
        ("eurobert",),
        ("EuroBertModel",),
        TOP,
        ATTENTION + MLP + NORMS,
        paths=(("", ""), ("model.", "")),
    ),
    Family(
        "jina-bert-v2",
        ("jina-bert-v2",),
        ("JinaBertForMaskedLM", "JinaBertModel"),
        _EMBEDDINGS,
        _JINA + "ffn_up              mlp.gated_layers\n",
        layers="{m}encoder.layer.{i}.",
        lacks=_JINA_CODE,
        paths=_BERT_PATHS,
    ),
    # Files of its first months have a matrix of gates, and one of what they gate.
    Family(
        "jina-bert-v2-split",
        ("jina-bert-v2",),
        ("JinaBertForMaskedLM", "JinaBertModel"),
        _EMBEDDINGS,
        _JINA
        + """
ffn_gate.weight     mlp.gated_layers.weight  +r c -> r c
ffn_up.weight       mlp.gated_layers.weight  +r c -> r c
""",
        layers="{m}encoder.layer.{i}.",
        has=("blk.0.ffn_gate.weight",),
        lacks=_JINA_CODE,
        paths=_BERT_PATHS,
        only="to-hf",
    ),
    Family(
        "jina-bert-v2-code",
        ("jina-bert-v2",),
        ("JinaBertForMaskedLM", "JinaBertModel"),
        _EMBEDDINGS,
        _JINA_ATTENTION
        + """
attn_q_norm         attention.self.layer_norm_q
attn_k_norm         attention.self.layer_norm_k
attn_norm_2         layer_norm_1
ffn_up              mlp.up_gated_layer
ffn_down            mlp.down_layer
layer_output_norm   layer_norm_2
""",
        layers="{m}encoder.layer.{i}.",
        has=_JINA_CODE,
        paths=_BERT_PATHS,
    ),
    Family(
        "modern-bert",
        ("modern-bert",),
        ("ModernBertModel", "ModernBertForMaskedLM"),
        _MODERN_TOP,
        _MODERN_LAYER,
        lacks=_LABELS,
        some_layers=("attn_norm.",),
        paths=_MODERN_PATHS,
    ),
    Family(
        "modern-bert-labels",
        ("modern-bert",),
        ("ModernBertForSequenceClassification",),
        _MODERN_TOP
        + """
cls                 head.dense
cls.norm            head.norm
cls.output          classifier
""",
        _MODERN_LAYER,
        has=_LABELS,
        some_layers=("attn_norm.",),
        paths=_MODERN_PATHS[1:],
    ),
    Family(
        "neo-bert",
        ("neo-bert",),
        ("NeoBERTLMHead", "NeoBERT"),
        """
token_embd          {m}encoder
enc.output_norm     {m}layer_norm
""",
        """
attn_qkv            qkv
attn_output         wo
attn_norm           attention_norm
ffn_norm            ffn_norm
ffn_up              ffn.w12
ffn_down            ffn.w3
""",
        layers="{m}transformer_encoder.{i}.",
        lacks=_LABELS,
        paths=(("model.", ""), ("", "")),
    ),
    Family(
        "nomic-bert",
        ("nomic-bert",),
        ("NomicBertModel",),
        _NOMIC_TOP,
        _NOMIC
        + """
ffn_up              mlp.fc11
ffn_gate            mlp.fc12
ffn_down            mlp.fc2
""",
        layers="encoder.layers.{i}.",
    ),
    Family(
        "nomic-bert-moe",
        ("nomic-bert-moe",),
        ("NomicBertModel",),
        _NOMIC_TOP,
        _NOMIC
        + """
ffn_up              mlp.fc1
ffn_down            mlp.fc2
ffn_gate_inp        mlp.router.layer
ffn_up_exps.weight  mlp.experts.mlp.w1!  experts:experts
ffn_down_exps.weight mlp.experts.mlp.w2!  experts-transposed:experts
""",
        layers="encoder.layers.{i}.",
        notes=(
            "config.json: transformers has no NomicBertModel of experts; it needs the model's own "
            "code beside it, and encoder.layers.*.mlp.experts.bias, which no GGUF has",
        ),
    ),
    Family(
        "roberta",
        ("bert",),
        ("RobertaModel", "XLMRobertaModel"),
        _BERT_TOP,
        _LAYER,
        layers="{m}encoder.layer.{i}.",
        lacks=_LABELS,
        paths=_ROBERTA_PATHS,
        notes=(_NO_POSITIONS.replace("{m}", ""),),
        vocabularies=("gpt2", "t5"),
        zero_rows={"{m}embeddings.position_embeddings.weight": 2},
    ),
    Family(
        "roberta-labels",
        ("bert",),
        ("RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"),
        _BERT_TOP + _ROBERTA_HEAD,
        _LAYER,
        layers="{m}encoder.layer.{i}.",
        has=_LABELS,
        paths=_ROBERTA_PATHS[1:],
        notes=(_NO_POSITIONS.replace("{m}", "roberta."),),
        vocabularies=("gpt2", "t5"),
        zero_rows={"{m}embeddings.position_embeddings.weight": 2},
    ),
)
