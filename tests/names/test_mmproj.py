"""The vision tower of a folder as an `mmproj` file.

tests/oracles/test_gguf_folder.py compares such files with those of llama.cpp's converter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import anamnesis
from anamnesis.cli.main import cli
from anamnesis.errors import FormatError, UnsupportedError, UsageError
from anamnesis.names.keys import sources_of
from anamnesis.names.mmproj import settings_of
from anamnesis.names.tower_rows import TOWERS

gguf = pytest.importorskip("gguf")

WIDTH, INNER, TEXT = 8, 12, 6
GEMMA: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {"hidden_size": TEXT},
    "vision_config": {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    },
}
QWEN: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "text_config": {"hidden_size": TEXT, "rms_norm_eps": 1e-5},
    "vision_config": {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "depth": 3,
        "num_heads": 2,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [1, 2],
    },
}


def numbers(*shape: int) -> Any:
    """Values that every type here holds."""
    rng = np.random.default_rng(sum(shape))
    return (rng.integers(-64, 64, shape) / 32).astype(ml_dtypes.bfloat16)


def folder(path: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    processor = {"image_mean": [0.5, 0.5, 1], "image_std": [0.25, 0.5, 0.5]}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file(tensors, path / "model.safetensors")
    return path


def gemma(path: Path, config: dict[str, Any] = GEMMA) -> tuple[Path, dict[str, Any]]:
    tower = "vision_tower.vision_model."
    tensors = {
        "language_model.model.norm.weight": numbers(TEXT),
        "multi_modal_projector.mm_input_projection_weight": numbers(WIDTH, TEXT),
        "multi_modal_projector.mm_soft_emb_norm.weight": numbers(WIDTH),
        f"{tower}embeddings.patch_embedding.weight": numbers(WIDTH, 3, 14, 14),
        f"{tower}encoder.layers.0.mlp.fc1.weight": numbers(INNER, WIDTH),
        f"{tower}head.probe": numbers(1, 1, WIDTH),
    }
    return folder(path, config, tensors), tensors


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Key/values, arrays, and types by name, as the package reads them."""
    reader = gguf.GGUFReader(str(path))
    keys = {key: field.contents() for key, field in reader.fields.items()}
    arrays = {
        t.name: gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1])
        for t in reader.tensors
    }
    return keys, arrays, {t.name: t.tensor_type.name for t in reader.tensors}


def test_the_tower_alone_is_written(tmp_path: Path) -> None:
    source, tensors = gemma(tmp_path / "hf")
    out = tmp_path / "mmproj.gguf"
    done = anamnesis.convert(source, out, to="gguf", names="mmproj")
    keys, arrays, types = read(out)
    assert types == {
        "mm.input_projection.weight": "F16",
        "mm.soft_emb_norm.weight": "F32",
        "v.patch_embd.weight": "F32",
        "v.blk.0.ffn_up.weight": "BF16",
    }
    norm = tensors["multi_modal_projector.mm_soft_emb_norm.weight"].astype(np.float32)
    np.testing.assert_array_equal(arrays["mm.soft_emb_norm.weight"], norm + 1)
    inner = tensors["vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"]
    np.testing.assert_array_equal(arrays["v.blk.0.ffn_up.weight"], inner.astype(np.float32))
    wanted = {"general.architecture": "clip", "general.type": "mmproj"}
    wanted |= {"clip.projector_type": "gemma3", "clip.vision.projection_dim": TEXT}
    assert keys.items() >= wanted.items()
    assert keys["clip.vision.image_mean"] == [0.5, 0.5, 1.0]
    assert "clip.vision.projector.scale_factor" not in keys
    assert "head.probe is left out" in "\n".join(done.notes)


def test_layers_with_an_output_of_their_own_have_their_numbers(tmp_path: Path) -> None:
    tensors = {
        f"model.visual.deepstack_merger_list.{number}.norm.weight": numbers(WIDTH) * (number + 1)
        for number in range(2)
    }
    tensors["model.visual.patch_embed.proj.weight"] = numbers(WIDTH, 3, 2, 4, 4)
    out = tmp_path / "mmproj.gguf"
    anamnesis.convert(folder(tmp_path / "hf", QWEN, tensors), out, to="gguf", names="mmproj")
    keys, arrays, types = read(out)
    assert keys["clip.vision.is_deepstack_layers"] == [False, True, True]
    assert keys["clip.vision.image_size"] == 16
    for layer in (1, 2):
        wanted = tensors[f"model.visual.deepstack_merger_list.{layer - 1}.norm.weight"]
        np.testing.assert_array_equal(
            arrays[f"v.deepstack.{layer}.norm.weight"], wanted.astype(np.float32)
        )
    patches = tensors["model.visual.patch_embed.proj.weight"].astype(np.float32)
    np.testing.assert_array_equal(arrays["v.patch_embd.weight"], patches[:, :, 0])
    np.testing.assert_array_equal(arrays["v.patch_embd.weight.1"], patches[:, :, 1])
    assert types["v.patch_embd.weight"] == "F32"


def test_the_flag_is_llama_cpps(tmp_path: Path) -> None:
    source, _ = gemma(tmp_path / "hf")
    out = tmp_path / "mmproj.gguf"
    command = ["convert", str(source), "--to", "gguf", "-o", str(out), "--mmproj"]
    done = CliRunner().invoke(cli, [*command, "--outtype", "f16"])
    assert done.exit_code == 0, done.output
    assert read(out)[2]["v.blk.0.ffn_up.weight"] == "F16"
    done = CliRunner().invoke(cli, [*command, "--names", "hf", "--overwrite"])
    assert isinstance(done.exception, UsageError)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    source, _ = gemma(tmp_path / "hf")
    with pytest.raises(UsageError, match="mmproj is for gguf"):
        anamnesis.convert(source, tmp_path / "out", to="safetensors", names="mmproj")
    anamnesis.convert(source, tmp_path / "mmproj.gguf", to="gguf", names="mmproj")
    with pytest.raises(UsageError, match="made of a model folder"):
        anamnesis.convert(tmp_path / "mmproj.gguf", tmp_path / "b.gguf", to="gguf", names="mmproj")
    text = {**GEMMA, "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(UnsupportedError, match="has no vision tower"):
        anamnesis.convert(
            gemma(tmp_path / "text", text)[0], tmp_path / "c.gguf", to="gguf", names="mmproj"
        )
    vision = {k: v for k, v in GEMMA["vision_config"].items() if k != "num_attention_heads"}
    with pytest.raises(FormatError, match="head_count"):
        anamnesis.convert(
            gemma(tmp_path / "less", {**GEMMA, "vision_config": vision})[0],
            tmp_path / "d.gguf",
            to="gguf",
            names="mmproj",
        )
    assert not (tmp_path / "d.gguf").exists()


def test_every_tower_says_what_llama_cpp_needs() -> None:
    needed = "projection_dim image_size patch_size embedding_length block_count image_mean".split()
    for tower in TOWERS:
        keys = sources_of(tower.keys)
        assert keys.keys() >= {f"clip.vision.{name}" for name in needed}
        kind = keys.get("clip.projector_type") or keys["clip.vision.projector_type"]
        assert json.loads(kind[1:]) in tower.projectors


def test_the_processors_file_counts_before_the_older_one() -> None:
    config = {
        "preprocessor_config": {"image_mean": [1.0], "size": 2},
        "processor_config": {"image_processor": {"image_mean": [3.0]}},
    }
    settings = settings_of(config)
    assert settings.get("processor.image_mean") == [3.0]
    assert settings.get("processor.size") == 2


def test_a_folder_that_transformers_5_saved_has_the_same_tower(tmp_path: Path) -> None:
    """Its names do not have `vision_model`; a layer of any other name is refused."""
    _, tensors = gemma(tmp_path / "hf")
    saved = {name.replace(".vision_model.", "."): array for name, array in tensors.items()}
    files = []
    for name, found in (("hf", tensors), ("saved", saved)):
        source = tmp_path / name if name == "hf" else folder(tmp_path / name, GEMMA, found)
        anamnesis.convert(source, tmp_path / f"{name}.gguf", to="gguf", names="mmproj")
        files.append(read(tmp_path / f"{name}.gguf"))
    assert files[0][2] == files[1][2]
    for name, array in files[0][1].items():
        np.testing.assert_array_equal(files[1][1][name], array)
    other = {"vision_tower.body.layers.0.mlp.fc1.weight": numbers(INNER, WIDTH)}
    source = folder(tmp_path / "other", GEMMA, saved | other)
    with pytest.raises(UnsupportedError, match=r"body\.layers\.0\.mlp.*not in the table"):
        anamnesis.convert(source, tmp_path / "other.gguf", to="gguf", names="mmproj")


@pytest.mark.parametrize("decoder", [True, False], ids=["decoder", "tokenizer.json"])
def test_pixtral_s_tower_has_the_embedding_of_a_break(decoder: bool, tmp_path: Path) -> None:
    """llama.cpp loads no such tower without, and nothing of it is a tensor of the folder's."""
    config = {**GEMMA, "architectures": ["LlavaForConditionalGeneration"]}
    embeddings = numbers(5, TEXT)
    tensors = {
        "language_model.model.embed_tokens.weight": embeddings,
        "vision_tower.ln_pre.weight": numbers(WIDTH),
    }
    source = folder(tmp_path / "hf", config, tensors)
    token = {"content": "[IMG_BREAK]"}
    settings = {"added_tokens_decoder": {"3": token}} if decoder else {}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "tokenizer.json").write_text(json.dumps({"added_tokens": [token | {"id": 3}]}))
    out = tmp_path / "mmproj.gguf"
    assert not anamnesis.convert(source, out, to="gguf", names="mmproj").notes
    _, arrays, types = read(out)
    assert types["v.token_embd.img_break"] == "F32"
    found = arrays["v.token_embd.img_break"]
    np.testing.assert_array_equal(found, embeddings[3].astype(np.float32))
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").unlink()
    notes = anamnesis.convert(source, tmp_path / "b.gguf", to="gguf", names="mmproj").notes
    assert "v.token_embd.img_break is left out: no tokenizer has [IMG_BREAK]" in "\n".join(notes)
