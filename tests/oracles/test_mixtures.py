"""Every mixture gives a model the types and bytes that llama.cpp itself gives it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import finish
from imatrix_file import write_imatrix
from llama_cpp_module import llama_cpp_or_skip

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.mixtures import MIXTURES

llama_cpp = llama_cpp_or_skip()
pytestmark = pytest.mark.oracle
LAYERS, WIDTH = 8, 256
# Mixtures that ask for experts; eight of them are much to search through.
FEW = ("IQ2_M", "IQ3_M", "IQ3_XXS", "MXFP4_MOE", "Q2_K", "Q3_K_L", "Q4_K_M")
ELSEWHERE = ("Q3_K_L", "Q4_K_M")  # for other architectures
WITHOUT = ("MXFP4_MOE", "Q1_0", "Q4_1", "Q5_1", "Q6_K", "Q8_0", "TQ1_0", "TQ2_0")
UNREAD = ("Q2_0",)  # by gguf-py
# ggml 0.25.3 sums what IQ1_M's cuts are chosen by in another order than 0.20.
ROUNDED_OTHERWISE = ("IQ1_M",)
# Experts, heads that share a value, whether outputs are embeddings, and the architecture.
MODELS = {
    "plain": (0, 1, False, "llama"),
    "shared": (0, 4, True, "llama"),
    "experts": (8, 4, False, "llama"),
    "fused": (0, 4, False, "phi3"),
    "falcon": (0, 4, False, "falcon"),
}


def matrices(experts: int, shared: int, tied: bool, kind: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small Llama, or of what fuses queries, keys and values."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (32, WIDTH)}
    stack = (experts,) if experts else ()
    end = "_exps" if experts else ""
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        if kind == "llama":
            found[f"{block}.attn_q.weight"] = (WIDTH, WIDTH)
            found[f"{block}.attn_k.weight"] = (WIDTH // shared, WIDTH)
            found[f"{block}.attn_v.weight"] = (WIDTH // shared, WIDTH)
        else:
            found[f"{block}.attn_qkv.weight"] = (WIDTH + 2 * WIDTH // shared, WIDTH)
        found[f"{block}.attn_output.weight"] = (WIDTH, WIDTH)
        for part in ("gate", "up", "down"):
            found[f"{block}.ffn_{part}{end}.weight"] = (*stack, WIDTH, WIDTH)
    if not tied:
        found["output.weight"] = (32, WIDTH)
    return found


def write_model(path: Path, experts: int, shared: int, tied: bool, kind: str) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(8)
    writer.add_head_count_kv(8 // shared)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(32)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    rng = np.random.default_rng(1)
    for name, shape in matrices(experts, shared, tied, kind).items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    finish(writer)
    return path


def weights(experts: int, shared: int, tied: bool, kind: str) -> dict[str, np.ndarray]:
    """Importance of all but embeddings and the output."""
    rng = np.random.default_rng(2)
    return {
        name: (rng.standard_normal(shape[:-2] + shape[-1:]) ** 2).astype(np.float32)
        for name, shape in matrices(experts, shared, tied, kind).items()
        if name.startswith("blk")
    }


def by_llama_cpp(source: Path, out: Path, mixture: str, sums: dict[str, np.ndarray]) -> bool:
    """`llama_model_quantize`; whether it went well."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = MIXTURES[mixture].file_type, 1
    rows: Any = (llama_cpp.llama_model_imatrix_data * (len(sums) + 1))()
    for row, (name, values) in zip(rows, sums.items(), strict=False):
        row.name, row.size = name.encode(), values.size
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if sums:
        settings.imatrix = rows
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), settings)
    return not status


def cases() -> Iterator[Any]:
    for kind in MODELS:
        few = ELSEWHERE if MODELS[kind][3] != "llama" else FEW
        for mixture in sorted(set(MIXTURES) - {*UNREAD}) if kind == "shared" else few:
            alone = mixture in WITHOUT or few is ELSEWHERE
            for weighed in (False,) if alone else (False, True):
                name = f"{kind}-{mixture}-{'imatrix' if weighed else 'alone'}"
                yield pytest.param(kind, mixture, weighed, id=name)


@pytest.mark.parametrize(("kind", "mixture", "weighed"), list(cases()))
def test_types_and_bytes_are_llama_cpps(
    tmp_path: Path, kind: str, mixture: str, weighed: bool
) -> None:
    source = write_model(tmp_path / "in.gguf", *MODELS[kind])
    sums = weights(*MODELS[kind]) if weighed else {}
    imatrix = write_imatrix(tmp_path / "i.dat", sums, calls=1) if weighed else None
    theirs, ours = tmp_path / "theirs.gguf", tmp_path / "ours.gguf"
    if not by_llama_cpp(source, theirs, mixture, sums):
        with pytest.raises(UsageError, match="requires an importance matrix"):
            anamnesis.convert(source, ours, to="gguf", encode=mixture)
        assert not weighed
        return
    anamnesis.convert(source, ours, to="gguf", encode=mixture, imatrix=imatrix, skip_loss=True)
    expected = {t.name: t for t in gguf.GGUFReader(theirs).tensors}
    reader = gguf.GGUFReader(ours)
    found = {t.name: t for t in reader.tensors}
    assert found.keys() == expected.keys()
    types = {n: (t.tensor_type.name, expected[n].tensor_type.name) for n, t in found.items()}
    assert not {n: t for n, t in types.items() if t[0] != t[1]}
    compared = [name for name, pair in types.items() if pair[0] not in ROUNDED_OTHERWISE]
    other = [n for n in compared if found[n].data.tobytes() != expected[n].data.tobytes()]
    assert not other, [(name, types[name][0]) for name in other]
    assert int(reader.fields["general.file_type"].contents()) == MIXTURES[mixture].file_type
