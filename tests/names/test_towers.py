"""Every tower there and back, and the class of the whole, which its text model decides."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import finish
from safetensors.numpy import save_file
from towers import model, numbers

import anamnesis
from anamnesis.errors import FormatError
from anamnesis.names.tower import Tower
from anamnesis.names.tower_rows import READ, TOWERS

gguf = pytest.importorskip("gguf")

TEXTS = {
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Glm4vForConditionalGeneration": "glm4",
    "GlmOcrForConditionalGeneration": "glm4",
    "HunYuanVLForConditionalGeneration": "hunyuan_vl",
    "Idefics3ForConditionalGeneration": "llama",
    "InternVLForConditionalGeneration": "qwen2",
    "Lfm2VlForConditionalGeneration": "lfm2",
    "LightOnOcrForConditionalGeneration": "qwen3",
    "Llama4ForConditionalGeneration": "llama4",
    "LlavaForConditionalGeneration": "llama",
    "Mistral3ForConditionalGeneration": "mistral3",
    "PaddleOCRVLForConditionalGeneration": "paddleocr",
    "Qwen2VLForConditionalGeneration": "qwen2vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2vl",
    "Qwen3VLForConditionalGeneration": "qwen3vl",
}
SIZES: dict[str, Any] = {
    "block_count": 1,
    "attention.layer_norm_epsilon": 1e-6,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "is_deepstack_layers": [True],
    "n_wa_pattern": 1,
    "projector.scale_factor": 2,
}
FLAT = {"v.patch_embd.weight": (8, 3 * 4 * 4)}
SHAPES = {
    "HunYuanVLForConditionalGeneration": {"mm.0.weight": (8, 8, 2, 2), "mm.2.weight": (8, 8, 1, 1)},
    "InternVLForConditionalGeneration": {"v.class_embd": (1, 1, 8)}
    | {"v.position_embd.weight": (1, 17, 8)},
    "Lfm2VlForConditionalGeneration": {"v.patch_embd.weight": (8, 3, 16, 16)},
    "Llama4ForConditionalGeneration": FLAT | {"v.class_embd": (8,)},
}


def tensors(tower: Tower) -> dict[str, Any]:
    """One of every tensor of a tower with one layer: weights are matrices, but for norms."""
    found = {}
    for row in tower.rows:
        name = row.gguf.replace("{i}", "0")
        stem = name.removesuffix(".weight").removesuffix(".bias")
        shape: tuple[int, ...] = (8, 8)
        if name.endswith(".bias") or re.search(r"norm|ln\d?$|_ln$", stem):
            shape = (8,)
        elif name.endswith(("_min", "_max")):
            shape = (1,)
        elif stem.startswith("v.patch_embd"):
            shape = (8, 3, 4, 4)
        shape = SHAPES.get(tower.architecture, {}).get(name, shape)
        found[name] = np.round(numbers(*shape) * 64) / 64
    return found


def merged(tower: Tower) -> dict[str, int]:
    """What a tower that puts patches together says of it."""
    return (
        {} if tower.architecture == "LlavaForConditionalGeneration" else {"spatial_merge_size": 2}
    )


@pytest.mark.parametrize("tower", READ, ids=lambda tower: tower.architecture)
def test_a_tower_there_and_back_is_itself(tower: Tower, tmp_path: Path) -> None:
    before = tensors(tower)
    source = model(
        tmp_path, tower.projectors[0], before, TEXTS[tower.architecture], **SIZES, **merged(tower)
    )
    anamnesis.convert(source, tmp_path / "hf", to="hf", dtype="f32")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [tower.architecture]
    out = tmp_path / "back.gguf"
    anamnesis.convert(tmp_path / "hf", out, to="gguf", names="mmproj", dtype="f32")
    reader = gguf.GGUFReader(str(out))
    after = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    assert after.keys() == before.keys() - tower.token_rows.keys()  # which are the text model's
    for name, array in after.items():
        found = array.reshape(before[name].shape)
        if name.endswith("per_dim_scale.weight"):  # a softplus of its rounded inverse
            np.testing.assert_array_max_ulp(found, before[name], 4)
        else:
            assert np.array_equal(found, before[name]), name
    first = gguf.GGUFReader(str(tmp_path / "mmproj-model.gguf"))
    for key in ("embedding_length", "block_count", "attention.head_count"):
        name = f"clip.vision.{key}"
        assert reader.fields[name].contents() == first.fields[name].contents(), name


@pytest.mark.parametrize(
    ("text", "projector", "expected", "kind"),
    [
        ("glm4", "glm4v", "Glm4vForConditionalGeneration", "glm4v_text"),
        ("gpt-oss", "internvl", "InternVLForConditionalGeneration", "gpt_oss"),
        ("mistral4", "pixtral", "Mistral3ForConditionalGeneration", "mistral4"),
        ("llama", "pixtral", "Mistral3ForConditionalGeneration", "llama"),  # of before mistral3
        ("mistral3", "pixtral", "Mistral3ForConditionalGeneration", "mistral"),
        ("qwen35", "qwen3vl_merger", "Qwen3_5ForConditionalGeneration", "qwen3_5_text"),
        ("qwen35moe", "qwen3vl_merger", "Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe_text"),
        ("qwen3vl", "qwen3vl_merger", "Qwen3VLForConditionalGeneration", "qwen3_vl_text"),
        ("qwen3vlmoe", "qwen3vl_merger", "Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe_text"),
    ],
)
def test_the_text_model_decides_the_class(
    text: str, projector: str, expected: str, kind: str, tmp_path: Path
) -> None:
    name = "mm.1.bias" if projector == "pixtral" else "v.patch_embd.bias"
    source = model(tmp_path, projector, {name: numbers(8)}, text, spatial_merge_size=2)
    anamnesis.convert(source, tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [expected]
    assert config["text_config"]["model_type"] == kind
    processor = json.loads((tmp_path / "hf" / "processor_config.json").read_text())
    assert processor["processor_class"] in (
        "Glm4vProcessor",
        "InternVLProcessor",
        "PixtralProcessor",
        "Qwen3VLProcessor",
    )


@pytest.mark.parametrize(
    ("text", "projector", "sizes", "expected"),
    [
        ("llama", "qwen2vl_merger", {}, "LlamaForCausalLM"),
        ("qwen3", "qwen3vl_merger", {}, "Qwen3ForCausalLM"),
        ("qwen2vl", "qwen3vl_merger", {}, "Qwen2ForCausalLM"),
        ("qwen2vl", "qwen2vl_merger", {"projection_dim": 10}, "Qwen2ForCausalLM"),
    ],
)
def test_the_tower_of_another_model_is_left_out(
    text: str, projector: str, sizes: dict[str, int], expected: str, tmp_path: Path
) -> None:
    source = model(tmp_path, projector, {"v.patch_embd.bias": numbers(8)}, text, **sizes)
    notes = "\n".join(anamnesis.convert(source, tmp_path / "hf", to="hf").notes)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [expected]
    assert f"the vision tower is left out: {tmp_path / 'mmproj-model.gguf'}: " in notes


def test_glm_s_mixture_has_the_same_tower() -> None:
    tower = next(t for t in TOWERS if t.projectors == ("glm4v",) and not t.has)
    assert tower.texts["Glm4MoeForCausalLM"] == "Glm4vMoeForConditionalGeneration"


def test_qwen2_s_width_inside_is_that_of_its_tensors(tmp_path: Path) -> None:
    """Converters write the text model's width where the feed-forward's belongs."""
    tower = {"v.blk.0.ffn_up.weight": numbers(32, 8)}
    source = model(tmp_path, "qwen2vl_merger", tower, feed_forward_length=6)
    anamnesis.convert(source, tmp_path / "hf", to="hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["vision_config"]["mlp_ratio"] == 4


def test_experts_of_qwen3_vl_alone_are_those_of_qwen3(tmp_path: Path) -> None:
    """Beside a tower they are two stacks, `[experts, in, out]`; alone a matrix each."""
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "qwen3vlmoe")
    writer.add_embedding_length(8)
    gate, down = numbers(2, 3, 8), numbers(2, 8, 3)
    writer.add_tensor("blk.0.ffn_gate_exps.weight", gate)
    writer.add_tensor("blk.0.ffn_up_exps.weight", gate + 1)
    writer.add_tensor("blk.0.ffn_down_exps.weight", down)
    finish(writer)
    source, prefix = tmp_path / "model.gguf", "layers.0.mlp.experts."
    anamnesis.convert(source, tmp_path / "alone", to="hf", dtype="f32")
    alone = load_file(tmp_path / "alone" / "model.safetensors")
    assert np.array_equal(alone[f"model.{prefix}1.up_proj.weight"], gate[1] + 1)
    tower = tmp_path / "mmproj-model.gguf"
    (tmp_path / "other").mkdir()
    model(tmp_path / "other", "qwen3vl_merger", {"v.patch_embd.bias": numbers(8)}, projection_dim=8)
    (tmp_path / "other" / "mmproj-model.gguf").rename(tower)
    anamnesis.convert(source, tmp_path / "beside", to="hf", dtype="f32")
    beside = load_file(tmp_path / "beside" / "model.safetensors")
    stack = beside[f"model.language_model.{prefix}gate_up_proj"]
    assert np.array_equal(stack, np.concatenate((gate, gate + 1), 1).swapaxes(1, 2))
    found = beside[f"model.language_model.{prefix}down_proj"]
    assert np.array_equal(found, down.swapaxes(1, 2))


def test_a_tower_whose_sizes_are_none_is_an_error(tmp_path: Path) -> None:
    source = model(
        tmp_path, "qwen2vl_merger", {"v.patch_embd.bias": numbers(8)}, patch_size="small"
    )
    with pytest.raises(FormatError, match=r"mmproj-model\.gguf: no configuration can be made"):
        anamnesis.convert(source, tmp_path / "hf", to="hf")


@pytest.mark.parametrize("prefix", ["vision_tower.", "model.vision_tower.", "vision_model."])
def test_internvl_s_tower_has_one_file_whatever_its_folder_calls_it(
    prefix: str, tmp_path: Path
) -> None:
    """In transformers' releases, and in the code beside the model, where q, k and v are one."""
    own = prefix == "vision_model."
    layer = f"{prefix}encoder.layers.0.attn." if own else f"{prefix}encoder.layer.0.attention."
    parts = numbers(3, 8, 8)
    tensors = {f"{layer}{name}_proj.weight": parts[i] for i, name in enumerate("qkv")}
    token = "class_embedding" if own else "cls_token"
    tensors = {f"{layer}qkv.weight": parts.reshape(24, 8)} if own else tensors
    tensors[f"{prefix}embeddings.{token}"] = numbers(1, 1, 8)
    (tmp_path / "hf").mkdir()
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    side = {"image_size": 28, "patch_size": 14} if own else {"image_size": [28], "patch_size": [14]}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, **side}
    config = {
        "architectures": ["InternVLChatModel" if own else "InternVLForConditionalGeneration"],
        "llm_config" if own else "text_config": {"hidden_size": 6},
        "vision_config": vision | {"num_attention_heads": 2, "hidden_act": "gelu"},
        "downsample_ratio": 0.5,
        "preprocessor_config": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    }
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "mmproj.gguf"
    anamnesis.convert(tmp_path / "hf", out, to="gguf", names="mmproj", dtype="f32")
    reader = gguf.GGUFReader(str(out))
    found = {t.name: t.data.reshape(t.shape[::-1]) for t in reader.tensors}
    assert sorted(found) == [*(f"v.blk.0.attn_{name}.weight" for name in "kqv"), "v.class_embd"]
    for number, name in enumerate("qkv"):
        assert np.array_equal(found[f"v.blk.0.attn_{name}.weight"], parts[number])
    anamnesis.convert(tmp_path / "hf", tmp_path / "half.gguf", to="gguf", names="mmproj")
    half = gguf.GGUFReader(str(tmp_path / "half.gguf"))
    types = {t.name: t.tensor_type.name for t in half.tensors}
    assert types.pop("v.class_embd") == "F32"  # though it has three dimensions
    assert set(types.values()) == {"BF16"}
    sizes = {"projection_dim": 6, "image_size": 28, "projector.scale_factor": 2}
    for key, value in sizes.items():
        assert reader.fields[f"clip.vision.{key}"].contents() == value
