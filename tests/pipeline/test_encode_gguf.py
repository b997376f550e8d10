"""`--to gguf --encode`: ggml's bytes, llama.cpp's choice of types, fallbacks and key/values."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import libggml
import numpy as np
import pytest
from gguf_files import finish

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.encode_setting import parse_encode, parse_target
from anamnesis.pipeline.mixtures import Facts, mixed
from anamnesis.pipeline.policy import left_alone

LIBRARY = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))
LAYERS = 4


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A llama of four layers, F32, as a converter would write it."""
    path = tmp_path / "in.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_file_type(0)
    rng = np.random.default_rng(5)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))

    add("token_embd.weight", 64, 256)
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{part}.weight", 64, 256)
        add(f"blk.{layer}.ffn_down.weight", 32, 512)
        add(f"blk.{layer}.attn_norm.weight", 256)
        add(f"blk.{layer}.ffn_gate_inp.weight", 8, 256)
    add("narrow.weight", 16, 96)
    add("odd.weight", 16, 30)
    finish(writer)
    return path


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def by_ggml(kind: int, values: np.ndarray) -> bytes:
    call = LIBRARY.ggml_quantize_chunk
    call.restype, size, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    out = np.zeros(values.nbytes, np.uint8)
    rows, columns = values.shape
    wrote = call(kind, values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    return out[:wrote].tobytes()


@pytest.mark.parametrize("encode", ["q8-0", "Q4_K", "gguf-q6-k", "iq4-xs", "Q4_K_M", "mxfp4"])
def test_blocks_are_ggmls(model: Path, tmp_path: Path, encode: str) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(model, out, to="gguf", encode=encode)
    before, after = tensors(model), tensors(out)
    assert before.keys() == after.keys()
    quantised = 0
    for name, tensor in after.items():
        source = np.ascontiguousarray(before[name].data)
        if tensor.tensor_type in (0, 1):
            kept = source.astype(np.float16) if name == "odd.weight" else source
            assert tensor.data.tobytes() == kept.tobytes()
            continue
        quantised += 1
        expected = by_ggml(int(tensor.tensor_type), source.reshape(-1, source.shape[-1]))
        assert tensor.data.tobytes() == expected, name
    assert quantised >= 7 * LAYERS
    anamnesis.verify(out)


def test_fallbacks_and_key_values(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(model, out, to="gguf", encode="q4-k")
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors(out).items()}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "Q4_K"
    assert kinds["narrow.weight"] == "Q5_0"
    assert kinds["odd.weight"] == "F16"  # as llama-quantize has rows that no type holds
    assert kinds["blk.1.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_gate_inp.weight"] == "F32"
    fields = gguf.GGUFReader(out).fields
    assert int(fields["general.file_type"].parts[-1][0]) == 14
    assert int(fields["general.quantization_version"].parts[-1][0]) == 2


def test_mixture_of_four_layers(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(model, out, to="gguf", encode="Q4_K_M")
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors(out).items()}
    # An eighth of four layers is none: the last one, and every third from the third on.
    assert [kinds[f"blk.{n}.attn_v.weight"] for n in range(4)] == ["Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert [kinds[f"blk.{n}.ffn_down.weight"] for n in range(4)] == ["Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert kinds["token_embd.weight"] == "Q6_K"  # which is the output, too
    assert kinds["blk.0.ffn_gate.weight"] == "Q4_K"
    fields = gguf.GGUFReader(out).fields
    assert int(fields["general.file_type"].parts[-1][0]) == 15


def test_mixtures_of_many_layers() -> None:
    names = [f"blk.{n}.{part}.weight" for n in range(32) for part in ("attn_v", "ffn_down")]
    names += ["output.weight", "token_embd.weight"]
    found = mixed("Q4_K_M", names, Facts(32))
    more = [n for n in range(32) if found[f"blk.{n}.ffn_down.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert found["output.weight"] == "Q6_K"
    assert found["token_embd.weight"] == "Q4_K"
    small = mixed("Q4_K_S", names, Facts(32))
    assert [n for n in range(32) if small[f"blk.{n}.attn_v.weight"] == "Q5_K"] == [0, 1, 2, 3]
    eight = mixed("Q5_K_M", names, Facts(32, experts=8))
    assert {eight[f"blk.{n}.attn_v.weight"] for n in range(32)} == {"Q8_0"}


def test_mixtures_of_small_types() -> None:
    """What llama.cpp gives; tests/oracles/test_mixtures.py asks it."""
    parts = ("attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up")
    names = [f"blk.{n}.{part}.weight" for n in range(16) for part in parts]
    names += ["output.weight", "token_embd.weight"]
    columns = dict.fromkeys(names, 256)

    def layer(mixture: str, number: int, facts: Facts) -> list[str]:
        found = mixed(mixture, names, facts, columns)
        return [found[f"blk.{number}.{part}.weight"] for part in parts]

    few, many = Facts(16, weighed=True), Facts(16, shared=4)
    first = ["IQ2_XXS", "IQ2_XXS", "IQ2_XXS", "Q2_K", "Q2_K", "IQ2_XXS", "IQ2_XXS"]
    assert layer("IQ2_XXS", 0, few) == first
    assert layer("IQ2_XXS", 2, many)[3:5] == ["Q4_K", "IQ2_XXS"]
    assert layer("IQ2_M", 1, few)[1:5] == ["IQ3_S", "IQ2_S", "IQ3_S", "IQ3_S"]
    assert layer("IQ3_XXS", 2, few)[:5] == ["IQ2_S", "IQ3_S", "IQ2_S", "IQ3_XXS", "IQ3_XXS"]
    assert layer("IQ3_XXS", 2, Facts(16))[3:5] == ["IQ3_S", "Q3_K"]
    inner, outer = layer("IQ3_XS", 2, few)[5:], layer("IQ3_XS", 14, few)[5:]
    assert (inner, outer) == (["IQ3_XXS"] * 2, ["IQ3_S"] * 2)
    assert mixed("IQ1_S", names, few, columns)["token_embd.weight"] == "Q2_K"
    assert mixed("IQ1_S", names, few, columns)["output.weight"] == "Q5_K"
    q2 = layer("Q2_K", 0, few)
    assert q2 == ["Q2_K", "Q3_K", "Q2_K", "Q3_K", "Q3_K", "Q2_K", "Q2_K"]
    assert layer("IQ4_XS", 0, many)[3:5] == ["Q5_K", "Q5_K"]
    assert layer("Q4_0", 0, few)[4] == "Q4_1"  # with weights
    assert layer("Q4_0", 0, many)[4] == "Q4_0"
    stacks = frozenset(["blk.1.ffn_up.weight"])
    assert layer("MXFP4_MOE", 1, Facts(16, stacks=stacks))[5:] == ["Q8_0", "MXFP4"]
    falcon = Facts(16, falcon=True)
    assert [layer("Q4_K_M", n, falcon)[4] for n in (0, 1, 2)] == ["Q6_K", "Q5_K", "Q4_K"]
    assert mixed("Q4_K_M", names, falcon, columns)["output.weight"] == "Q8_0"
    columns["output.weight"] = 96
    assert mixed("IQ1_S", names, few, columns)["output.weight"] == "Q8_0"


def test_fused_queries_keys_and_values_are_values() -> None:
    names = [f"blk.{n}.attn_qkv.weight" for n in range(8)]
    found = [mixed("Q4_K_M", names, Facts(8))[name] for name in names]
    assert found == ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K"]
    assert set(mixed("Q4_K_M", names, Facts(8, experts=8)).values()) == {"Q8_0"}


def test_capitals_are_mixtures_and_small_letters_types() -> None:
    types = dict.fromkeys(["q4-0", "q4_0", "gguf-q4-0", "Q4_K", "iq3-s"], "")
    mixtures = {name: name for name in ("Q4_0", "IQ3_S", "IQ4_XS", "Q4_K_M")}
    others = {"q4_k_m": "Q4_K_M", "mxfp4-moe": "MXFP4_MOE"}
    for text, mixture in {**types, **mixtures, **others}.items():
        found = parse_encode(text, "output.encode", "gguf")
        assert found is not None
        assert found.mixture == mixture, text


@pytest.mark.parametrize("text", ["q4km", "Q4KM", "q4-km", "gguf-q4-k-m"])
def test_a_mixture_that_is_misspelt_is_named(text: str) -> None:
    """And not the type that most of its blocks have."""
    with pytest.raises(UsageError, match=r"; did you mean 'Q4_K_M'\? docs/encoding"):
        parse_encode(text, "output.encode", "gguf")
    with pytest.raises(UsageError, match="did you mean 'gguf-q4-k'"):  # a rule takes no mixture
        parse_target(text, form="gguf")


def test_what_a_gguf_cannot_hold(model: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'gguf-nvfp4'\? docs/encoding\.md has all"):
        parse_target("nvfp5", form="gguf")
    with pytest.raises(UsageError, match=r"found 'zzz'; allowed: gguf-iq1-m"):
        parse_target("zzz", form="gguf")
    with pytest.raises(UsageError, match="found 'bnb-nf4'"):
        parse_target("bnb-nf4", form="gguf")


@pytest.mark.parametrize(
    ("name", "kind", "kept"),
    [
        ("model.layers.0.mlp.gate.weight", "linear", True),
        ("model.layers.0.mlp.gate_proj.weight", "linear", False),
        ("model.layers.0.mlp.shared_expert.gate_proj.weight", "linear", False),
        ("model.layers.0.mlp.shared_expert_gate.weight", "linear", True),
        ("model.layers.0.block_sparse_moe.router.layer.weight", "linear", True),
        ("model.layers.0.router.proj.weight", "linear", True),
        ("model.layers.0.router.proj.weight", "mlx", True),
        ("model.layers.0.mlp.gate.router_mlp.fc1.weight", "linear", True),
        ("model.layers.0.self_attn.attn_output.weight", "linear", False),
        ("model.layers.0.self_attn.output_projection.weight", "linear", False),
        ("lm_heads.0.weight", "linear", True),
        ("lm_head.decoder.weight", "linear", True),
        ("cls.predictions.decoder.weight", "linear", True),
        ("cls.predictions.transform.dense.weight", "linear", False),
        ("output.weight", "linear", True),
        ("model.embed_tokens.weight", "linear", True),
        ("model.embed_tokens.weight", "mlx", False),
        ("shared.weight", "linear", True),
        ("encoder.block.0.layer.1.DenseReluDense.wo.weight", "linear", True),
        ("model.layers.0.self_attn.indexer.weights_proj.weight", "linear", True),
        ("layers.0.attention.wo.weight", "linear", False),
        ("transformer.h.0.ln_1.weight", "linear", True),
        ("blk.0.ffn_gate.weight", "ggml", False),
        ("blk.0.ffn_gate.weight", "linear", False),
        ("blk.0.ffn_gate_inp.weight", "linear", True),
        ("blk.0.ffn_gate_inp.weight", "ggml", True),
        ("mm.input_projection.weight", "ggml", True),
        ("blk.0.ffn_gate_inp_shexp.weight", "ggml", False),
        ("blk.0.shortconv.in_proj.weight", "ggml", False),
        ("blk.0.shortconv.conv.weight", "ggml", True),
        ("blk.0.indexer.k_proj.weight", "ggml", True),
        ("blk.0.time_mix_decay_w1.weight", "ggml", True),
    ],
)
def test_names_that_are_left_alone(name: str, kind: str, kept: bool) -> None:
    assert bool(left_alone(name, 2, kind)) == kept
