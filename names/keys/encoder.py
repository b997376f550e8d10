"""Encoders, and encoders with decoders."""

from __future__ import annotations

from anamnesis.names.keys import Keys
from anamnesis.names.keys._common import COMMON, POOLING, UNSCALED, VOCABULARY

_BERT = (
    COMMON
    + POOLING
    + """
attention.causal         =false
classifier.output_labels @labels
tokenizer.ggml.token_type_count type_vocab_size|=1
"""
)
_MODERN = (
    COMMON
    + POOLING
    + VOCABULARY
    + UNSCALED
    + """
attention.causal         =false
attention.layer_norm_epsilon norm_eps|layer_norm_eps|layer_norm_epsilon|norm_epsilon
attention.sliding_window local_attention
attention.sliding_window_pattern global_attn_every_n_layers
classifier.output_labels @labels
hidden_activation        hidden_activation
tokenizer.ggml.add_bos_token? =true
tokenizer.ggml.add_eos_token? =true
tokenizer.ggml.add_sep_token? =true
"""
)
_AFTER_PADDING = "context_length @after-padding\n"
_T5_ENCODER = """
block_count              n_layers|num_hidden_layers|n_layer|num_layers
context_length           n_positions|=512
embedding_length         d_model
feed_forward_length      d_ff
attention.head_count     num_heads
attention.key_length     d_kv
attention.value_length   d_kv
attention.layer_norm_epsilon layer_norm_epsilon
attention.layer_norm_rms_epsilon layer_norm_epsilon
attention.relative_buckets_count relative_attention_num_buckets
"""

KEYS = (
    Keys(("BertForMaskedLM", "BertForSequenceClassification", "BertModel"), _BERT),
    Keys(
        ("DistilBertForMaskedLM", "DistilBertForSequenceClassification", "DistilBertModel"),
        _BERT
        + """
feed_forward_length      hidden_dim
attention.layer_norm_epsilon =1e-12
""",
    ),
    Keys(
        ("JinaBertForMaskedLM", "JinaBertModel"),
        _BERT,
    ),
    Keys(
        ("NeoBERT", "NeoBERTLMHead"),
        _BERT
        + UNSCALED
        + """
attention.layer_norm_rms_epsilon norm_eps|=1e-6
feed_forward_length      @two-thirds:intermediate_size
pooling_type             =2
rope.freq_base           =10000.0
""",
    ),
    Keys(
        ("ModernBertForMaskedLM", "ModernBertForSequenceClassification", "ModernBertModel"),
        _MODERN,
    ),
    Keys(
        ("NomicBertModel",),
        _BERT
        + """
context_length           @trained-positions
expert_used_count        moe_top_k
moe_every_n_layers       moe_every_n_layers
rope.freq_base           @rope:rope_theta|rotary_emb_base
""",
        vocabulary="fairseq",
    ),
    Keys(
        ("EuroBertModel",),
        COMMON
        + POOLING
        + UNSCALED
        + """
attention.causal         =false
tokenizer.ggml.add_bos_token? =false
""",
    ),
    Keys(("RobertaForSequenceClassification", "RobertaModel"), _BERT + _AFTER_PADDING),
    Keys(
        ("XLMRobertaForSequenceClassification", "XLMRobertaModel"),
        _BERT + _AFTER_PADDING,
        vocabulary="fairseq",
    ),
    Keys(
        (
            "MT5ForConditionalGeneration",
            "T5ForConditionalGeneration",
            "T5WithLMHeadModel",
            "UMT5ForConditionalGeneration",
            "UMT5Model",
        ),
        _T5_ENCODER
        + """
decoder_block_count      num_decoder_layers
decoder_start_token_id   decoder_start_token_id
""",
        vocabulary="unigram",
    ),
    Keys(("T5EncoderModel",), _T5_ENCODER, vocabulary="unigram"),
)
