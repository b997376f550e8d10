"""Falcon-H1: weights that a GGUF has multiplied with the numbers of the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_folder import add_tokenizer
from safetensors.numpy import save_file

import anamnesis

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

HIDDEN, INNER, GROUPS, STATE, HEADS = 32, 64, 2, 8, 8
PARTS = (INNER, INNER, GROUPS * STATE, GROUPS * STATE, HEADS)
CONFIG: dict[str, Any] = {
    "architectures": ["FalconH1ForCausalLM"],
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 280,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "mamba_d_ssm": INNER,
    "mamba_n_groups": GROUPS,
    "mamba_d_state": STATE,
    "mamba_n_heads": HEADS,
    "mamba_d_head": INNER // HEADS,
    "embedding_multiplier": 5.656854249492381,
    "lm_head_multiplier": 0.01953125,
    "attention_in_multiplier": 0.7,
    "attention_out_multiplier": 0.9375,
    "key_multiplier": 0.39,
    "mlp_multipliers": [0.88, 0.27],
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.23,
    "ssm_multipliers": [0.35, 0.25, 0.125, 0.3, 0.7],
}
LAYER = "model.layers.0."
# Shape, name in the GGUF, and the factors in the order of llama.cpp's converter.
TENSORS: dict[str, tuple[tuple[int, ...], str, tuple[float, ...]]] = {
    "model.embed_tokens": ((280, HIDDEN), "token_embd", (5.656854249492381,)),
    "lm_head": ((280, HIDDEN), "output", (0.01953125,)),
    f"{LAYER}self_attn.q_proj": ((32, HIDDEN), "blk.0.attn_q", (0.7,)),
    f"{LAYER}self_attn.k_proj": ((16, HIDDEN), "blk.0.attn_k", (0.39, 0.7)),
    f"{LAYER}self_attn.v_proj": ((16, HIDDEN), "blk.0.attn_v", (0.7,)),
    f"{LAYER}self_attn.o_proj": ((HIDDEN, 32), "blk.0.attn_output", (0.9375,)),
    f"{LAYER}feed_forward.gate_proj": ((24, HIDDEN), "blk.0.ffn_gate", (0.88,)),
    f"{LAYER}feed_forward.up_proj": ((24, HIDDEN), "blk.0.ffn_up", ()),
    f"{LAYER}feed_forward.down_proj": ((HIDDEN, 24), "blk.0.ffn_down", (0.27,)),
    f"{LAYER}mamba.out_proj": ((HIDDEN, INNER), "blk.0.ssm_out", (0.23,)),
    f"{LAYER}mamba.in_proj": ((sum(PARTS), HIDDEN), "blk.0.ssm_in", ()),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
def test_weights_are_multiplied_as_torch_does(dtype: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    rng = np.random.default_rng(1)
    held = {
        f"{name}.weight": rng.standard_normal(shape, np.float32)
        for name, (shape, _, _) in TENSORS.items()
    }
    folder = tmp_path / "hf"
    folder.mkdir()
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    add_tokenizer(folder, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    options: dict[str, Any] = {"encode": "Q8_0"} if dtype == "q8_0" else {"dtype": dtype}
    anamnesis.convert(folder, tmp_path / "m.gguf", to="gguf", **options)
    found = {t.name: t for t in gguf.GGUFReader(str(tmp_path / "m.gguf")).tensors}
    for name, (shape, stored, factors) in TENSORS.items():
        expected = torch.from_numpy(held[f"{name}.weight"].copy())
        for factor in factors:
            expected = expected * factor
        if name.endswith("in_proj"):
            expected = expected * CONFIG["ssm_in_multiplier"]
            for part, factor in zip(expected.split(PARTS), CONFIG["ssm_multipliers"], strict=True):
                part *= factor
        tensor = found[f"{stored}.weight"]
        kind = gguf.GGMLQuantizationType[tensor.tensor_type.name]
        if dtype == "q8_0":  # rows that are no whole blocks are kept
            assert kind.name == ("Q8_0" if shape[-1] % 32 == 0 else "F16")
        assert tensor.data.tobytes() == gguf.quants.quantize(expected.numpy(), kind).tobytes(), name
    if dtype == "bf16":  # a comparison multiplies the folder's, too
        report = anamnesis.diff(tmp_path / "m.gguf", folder)
        assert len(report.rows) == len(TENSORS)
        assert all(row.sums.equal == row.sums.elems for row in report.rows if row.sums)
        assert anamnesis.diff(folder, tmp_path / "m.gguf", include="*k_proj*").rows[0].sums
