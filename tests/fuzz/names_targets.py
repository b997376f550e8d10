"""What is fuzzed of the table of names: what a GGUF becomes as a folder, and a folder as a GGUF.

An input of `to-hf` is a GGUF; one of `to-gguf` is what `layer_targets` takes, the tensors and the
configuration of a folder. No payload is read: rows, shapes, key/values and settings are tried.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf_parts import Parts, Tensor, write_parts
from layer_targets import LIMITS, Guard, write_layers

from anamnesis.names.folder import describe
from anamnesis.names.folder_config import folder_config
from anamnesis.names.gguf_view import gguf_view
from anamnesis.names.open import open_named
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Options

_BF16 = 30  # GGML_TYPE_BF16
_SIZES = {"block_count": 1, "embedding_length": 8, "attention.head_count": 2, "context_length": 16}
_MODEL = {"token_embd": (4, 8), "output_norm": (8,), "blk.0.attn_norm": (8,)}
_LAYER = {
    "blk.0.attn_q": (8, 8),
    "blk.0.attn_k": (4, 8),
    "blk.0.attn_v": (4, 8),
    "blk.0.attn_output": (8, 8),
    "blk.0.ffn_norm": (8,),
}
_DENSE = {"blk.0.ffn_gate": (6, 8), "blk.0.ffn_up": (6, 8), "blk.0.ffn_down": (8, 6)}
_ROPED = _SIZES | {"attention.head_count_kv": 1, "rope.freq_base": 1e6}
_EXPERTS = {
    "blk.0.ffn_gate_inp": (2, 8),
    "blk.0.ffn_gate_exps": (2, 6, 8),
    "blk.0.ffn_up_exps": (2, 6, 8),
    "blk.0.ffn_down_exps": (2, 8, 6),
}
_GPT2 = {"position_embd": (16, 8), "blk.0.attn_qkv": (24, 8), "blk.0.ffn_up": (6, 8)}
_MAMBA = {
    "blk.0.ssm_in": (32, 8),
    "blk.0.ssm_conv1d": (16, 4),
    "blk.0.ssm_x": (11, 16),
    "blk.0.ssm_dt": (16, 3),
    "blk.0.ssm_a": (16, 4),
    "blk.0.ssm_d": (16,),
    "blk.0.ssm_out": (8, 16),
}
_SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 16, "ssm.state_size": 4, "ssm.time_step_rank": 3}
_LATENT = {
    "blk.0.attn_q_a": (6, 8),
    "blk.0.attn_q_b": (12, 6),
    "blk.0.attn_kv_a_mqa": (7, 8),
    "blk.0.attn_k_b": (2, 5, 4),
    "blk.0.attn_v_b": (2, 3, 5),
    "blk.0.attn_output": (8, 6),
}
_RANKS = {"attention.q_lora_rank": 6, "attention.kv_lora_rank": 5, "rope.dimension_count": 2}
_RANKS |= {"attention.key_length_mla": 6, "attention.value_length_mla": 3}
# Architectures whose rows are of each kind: names alone, heads and experts moved, values changed.
_SEEDS: dict[str, tuple[Mapping[str, float], Mapping[str, tuple[int, ...]]]] = {
    "deepseek2": (_ROPED | _RANKS, _MODEL | _LATENT | _DENSE),
    "gemma3": (_ROPED | {"attention.sliding_window": 4}, _MODEL | _LAYER | _DENSE),
    "gpt2": (_SIZES, _MODEL | _GPT2),
    "llama": (_ROPED | {"rope.scaling.factor": 2.0}, _MODEL | _LAYER | _DENSE),
    "mamba": (_SIZES | _SSM, _MODEL | _MAMBA),
    "qwen2moe": (_ROPED | {"expert_count": 2}, _MODEL | _LAYER | _EXPERTS),
}


def check_to_hf(guard: Guard, path: str) -> None:
    """The tensors and files of a folder."""
    with guard(path):
        model = open_named(path, Options(names="hf"), LIMITS)
        files, _ = describe(model, "bf16", LIMITS)
        for name, data in files.items():
            if name.endswith(".json"):
                json.loads(data)


def check_to_gguf(guard: Guard, root: Path, data: bytes) -> None:
    """The tensors and key/values of a GGUF."""
    folder = root / "named"
    folder.mkdir(exist_ok=True)
    if write_layers(folder, data):
        with guard(str(folder)):
            model = load_model(str(folder), limits=LIMITS)
            gguf_view(model, folder_config(LocalFolder(str(folder)), LIMITS))


def gguf_seeds() -> dict[str, bytes]:
    """A GGUF of one layer of each architecture."""
    made = {}
    for name, (values, shapes) in _SEEDS.items():
        text = struct.pack("<Q", len(name)) + name.encode()
        pairs = [(b"general.architecture", 8, text)]
        for key, value in values.items():
            kind, code = (6, "<f") if isinstance(value, float) else (4, "<I")
            pairs.append((f"{name}.{key}".encode(), kind, struct.pack(code, value)))
        tensors = [
            Tensor(_full(tensor).encode(), shape[::-1], _BF16, 0)
            for tensor, shape in shapes.items()
        ]
        made[name] = write_parts(Parts(3, pairs, tensors, b""))
    return made


def _full(tensor: str) -> str:
    return tensor if tensor.endswith((".ssm_a", ".ssm_d")) else f"{tensor}.weight"


def folder_seeds() -> dict[str, bytes]:
    """The tensors and configurations of the folders that those become."""
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, data in gguf_seeds().items():
            path = Path(folder) / "m.gguf"
            path.write_bytes(data)
            model = open_named(str(path), Options(names="hf"))
            config = json.loads(describe(model, "bf16", LIMITS)[0]["config.json"])
            tensors: dict[str, Any] = {t.name: ["BF16", list(t.shape)] for t in model.tensors}
            made[name] = json.dumps({"config": config, "tensors": tensors}).encode()
    return made


SEEDS = {"to-gguf": folder_seeds, "to-hf": gguf_seeds}
