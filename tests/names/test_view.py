"""Hugging Face names of GGUF files, made with numpy and the `gguf` package, and given ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gguf_files import finish
from safetensors.numpy import load_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.names.families import families
from anamnesis.names.family import Family
from anamnesis.pipeline import plan

gguf = pytest.importorskip("gguf")

CORPUS = Path(os.environ.get("ANAMNESIS_SHARED", "/nonexistent")) / "gguf-hf"
if not CORPUS.is_dir():
    CORPUS = Path(__file__).resolve().parents[3] / "shared" / "gguf-hf"
GIVEN = sorted(p.parent.name for p in CORPUS.glob("*/inverse.json"))


def write(path: Path, name: str, keys: dict[str, int], tensors: dict[str, Any]) -> Path:
    """A GGUF of an architecture with some integers and arrays."""
    writer = gguf.GGUFWriter(str(path), name)
    for key, value in keys.items():
        writer.add_uint32(f"{name}.{key}", value)
    for tensor, array in tensors.items():
        kind = gguf.GGMLQuantizationType.BF16 if array.dtype == ml_dtypes.bfloat16 else None
        data = array.view(np.uint8) if kind else array
        writer.add_tensor(tensor, data, raw_dtype=kind)
    finish(writer)
    return path


def permuted(weight: Any, heads: int) -> Any:
    """As `LlamaModel.permute` of llama.cpp's converter."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weight.shape))


HEADS = {"attention.head_count": 4, "attention.head_count_kv": 2, "embedding_length": 32}


def values(*shape: int, dtype: Any = np.float32) -> Any:
    """Numbers that BF16 and F16 have, all different."""
    rng = np.random.default_rng(sum(shape))
    return (rng.integers(-120, 120, shape) / 64).astype(dtype)


def through(source: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """The tensors of the folder that a GGUF is converted to."""
    anamnesis.convert(source, out, to="hf", **settings)
    found: dict[str, Any] = {}
    for file in out.glob("*.safetensors"):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("window", [64, 200, 2 << 20])
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_heads_rows_come_back_whatever_the_window_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, executor: str
) -> None:
    monkeypatch.setattr(plan, "WINDOW_BYTES", window)
    q, k, bias = values(32, 24), values(16, 24), values(32)
    tensors = {
        "blk.0.attn_q.weight": permuted(q, 4),
        "blk.0.attn_k.weight": permuted(k, 2),
        "blk.0.attn_q.bias": permuted(bias, 4),
    }
    source = write(tmp_path / "m.gguf", "llama", HEADS, tensors)
    found = through(source, tmp_path / "out", executor=executor, names="hf")
    prefix = "model.layers.0.self_attn."
    assert set(found) == {
        f"{prefix}q_proj.weight",
        f"{prefix}k_proj.weight",
        f"{prefix}q_proj.bias",
    }
    assert np.array_equal(found[f"{prefix}q_proj.weight"], q)
    assert np.array_equal(found[f"{prefix}k_proj.weight"], k)
    assert np.array_equal(found[f"{prefix}q_proj.bias"], bias)


@pytest.mark.parametrize("window", [64, 2 << 20])
def test_a_part_of_each_head_is_turned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """GLM-4V: neighbours of the first half of a head's rows lie apart, evens before odds."""
    monkeypatch.setattr(plan, "WINDOW_BYTES", window)
    q, bias = values(32, 24), values(32)
    order = [8 * head + row for head in range(4) for row in (0, 2, 1, 3, 4, 5, 6, 7)]
    tensors = {"blk.0.attn_q.weight": q[order], "blk.0.attn_q.bias": bias[order]}
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "glm4")
    writer.add_head_count(4)
    writer.add_rope_dimension_count(4)
    writer.add_rope_dimension_sections([2, 1, 1, 0])
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    finish(writer)
    found = through(tmp_path / "m.gguf", tmp_path / "out", names="hf")
    assert np.array_equal(found["model.layers.0.self_attn.q_proj.weight"], q)
    assert np.array_equal(found["model.layers.0.self_attn.q_proj.bias"], bias)


def test_more_heads_than_any_model_has_are_refused(tmp_path: Path) -> None:
    """Each is a record of its own."""
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "glm4")
    writer.add_head_count(5000)
    writer.add_rope_dimension_count(2)
    writer.add_rope_dimension_sections([1, 0, 0, 0])
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((20000, 1), np.float32))
    finish(writer)
    with pytest.raises(FormatError, match="found 5000 groups of rows; at most 4096"):
        through(tmp_path / "m.gguf", tmp_path / "out", names="hf")


@pytest.mark.parametrize("window", [48, 2 << 20])
def test_transposes_and_interleaved_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(plan, "WINDOW_BYTES", window)
    fused, down = values(3, 8, 10), values(3, 5, 8)  # [expert, in, gate and up in turn]
    tensors = {
        "blk.1.ffn_gate_exps.weight": np.ascontiguousarray(fused[..., 0::2].swapaxes(1, 2)),
        "blk.1.ffn_up_exps.weight": np.ascontiguousarray(fused[..., 1::2].swapaxes(1, 2)),
        "blk.1.ffn_down_exps.weight": np.ascontiguousarray(down.swapaxes(1, 2)),
    }
    source = write(tmp_path / "m.gguf", "gpt-oss", {"expert_count": 3}, tensors)
    found = through(source, tmp_path / "out")
    assert np.array_equal(found["model.layers.1.mlp.experts.gate_up_proj"], fused)
    assert np.array_equal(found["model.layers.1.mlp.experts.down_proj"], down)


def test_experts_are_bytes_of_their_stack(tmp_path: Path) -> None:
    stack = values(3, 4, 6)
    source = write(tmp_path / "m.gguf", "olmoe", {}, {"blk.0.ffn_up_exps.weight": stack})
    model = anamnesis.open_model(source, names="hf")
    for expert in range(3):
        tensor = model[f"model.layers.0.mlp.experts.{expert}.up_proj.weight"]
        assert tensor.tensor.encoding == "copy"
        assert np.array_equal(tensor.to_numpy(), stack[expert])


def test_quantised_rows_move_as_they_are_dequantised(tmp_path: Path) -> None:
    q = values(32, 64)
    codes = gguf.quantize(permuted(q, 4), gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_tensor("blk.0.attn_q.weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    finish(writer)
    found = through(tmp_path / "m.gguf", tmp_path / "out", dtype="f32")
    expected = gguf.dequantize(gguf.quantize(q, gguf.GGMLQuantizationType.Q8_0), codes_type())
    assert np.array_equal(found["model.layers.0.self_attn.q_proj.weight"], expected)


def codes_type() -> Any:
    return gguf.GGMLQuantizationType.Q8_0


def test_norms_lose_the_one_that_was_added(tmp_path: Path) -> None:
    norm = values(16)
    tensors = {"output_norm.weight": norm + np.float32(1)}
    source = write(tmp_path / "m.gguf", "gemma2", {}, tensors)
    found = through(source, tmp_path / "out")
    assert np.array_equal(found["model.norm.weight"], norm)


def test_an_unknown_architecture_names_the_page_of_the_known_ones(tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf", "nothing", {}, {"a.weight": values(4)})
    with pytest.raises(UnsupportedError, match=r"gguf-and-hf\.md\); --names stored"):
        anamnesis.convert(source, tmp_path / "out", to="hf")
    image = write(tmp_path / "i.gguf", "flux", {}, {"img_in.weight": values(4)})
    with pytest.raises(UnsupportedError, match=r"--to safetensors .* ComfyUI and from_single_file"):
        anamnesis.convert(image, tmp_path / "out", to="hf")
    other = write(tmp_path / "x.gguf", "llama", {}, {"x.weight": values(4)})
    with pytest.raises(UnsupportedError, match=r"'x\.weight' is not in the table"):
        anamnesis.convert(other, tmp_path / "out", to="hf")


def test_shapes_that_contradict_the_heads_are_refused(tmp_path: Path) -> None:
    tensors = {"blk.0.attn_q.weight": values(10, 4)}
    source = write(tmp_path / "m.gguf", "llama", HEADS, tensors)
    with pytest.raises(FormatError, match=r"dimension 0 is 10, which is not 4 x 4 x 2"):
        anamnesis.convert(source, tmp_path / "out", to="hf")


def test_rows_are_as_many_as_heads_of_the_stated_width_have(tmp_path: Path) -> None:
    """Two heads of 8 rows, in a file that does not say that keys have fewer heads than queries."""
    keys = {"attention.head_count": 8, "embedding_length": 64}
    source = write(tmp_path / "m.gguf", "llama", keys, {"blk.0.attn_k.weight": values(16, 64)})
    with pytest.raises(FormatError, match=r"dimension 0 is 16, which is not 8 x 4 x 2"):
        anamnesis.open_model(source, names="hf")
    keys["attention.head_count_kv"] = 2
    source = write(tmp_path / "n.gguf", "llama", keys, {"blk.0.attn_k.weight": values(16, 64)})
    assert anamnesis.open_model(source, names="hf")["model.layers.0.self_attn.k_proj.weight"]


def test_plain_remember_names_the_command(tmp_path: Path) -> None:
    from anamnesis.pipeline.jobs import run_job
    from anamnesis.pipeline.keys import job_for

    source = write(tmp_path / "m.gguf", "olmoe", {}, {"output.weight": values(4, 4)})
    summary = run_job(job_for(str(source), str(tmp_path / "plain")))
    assert f"amn convert {source} --to hf -o FOLDER" in summary.notes[-1]
    renamed = run_job(job_for(str(source), str(tmp_path / "renamed"), names="hf"))
    assert not renamed.notes


def test_verify_reads_the_view_again(tmp_path: Path) -> None:
    q = values(32, 24)
    source = write(tmp_path / "m.gguf", "llama", HEADS, {"blk.0.attn_q.weight": permuted(q, 4)})
    anamnesis.convert(source, tmp_path / "out", to="hf")
    counts = anamnesis.verify(tmp_path / "out", against=source)
    assert counts["pieces_decoded"] == counts["pieces"] == 1


def test_the_vision_tower_beside_a_model_comes_along(tmp_path: Path) -> None:
    source = write(tmp_path / "m.gguf", "qwen2vl", HEADS, {"output_norm.weight": values(16)})
    patches = values(4, 3, 2, 2)
    writer = gguf.GGUFWriter(str(tmp_path / "mmproj-m.gguf"), "clip")
    writer.add_string("clip.projector_type", "qwen2vl_merger")
    writer.add_uint32("clip.vision.block_count", 1)
    qkv = values(3, 4)
    for name, array in {
        "v.blk.0.attn_q.weight": qkv[0:1],
        "v.blk.0.attn_k.weight": qkv[1:2],
        "v.blk.0.attn_v.weight": qkv[2:3],
        "v.patch_embd.weight": patches,
        "v.patch_embd.weight.1": patches + 1,
    }.items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    finish(writer)
    found = through(source, tmp_path / "out")
    both = np.stack([patches, patches + 1], axis=2)
    assert np.array_equal(found["visual.patch_embed.proj.weight"], both)
    assert np.array_equal(found["visual.blocks.0.attn.qkv.weight"], qkv)
    assert "model.norm.weight" in found
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    assert config["vision_config"]["depth"] == 1
    assert config["text_config"]["num_attention_heads"] == 4
    (tmp_path / "mmproj-other.gguf").write_bytes((tmp_path / "mmproj-m.gguf").read_bytes())
    assert set(through(source, tmp_path / "alone")) == {"model.norm.weight"}


def test_diff_and_stats_take_the_view(tmp_path: Path) -> None:
    q = values(32, 24)
    tensors = {"blk.0.attn_q.weight": permuted(q, 4), "output_norm.weight": values(24)}
    source = write(tmp_path / "m.gguf", "llama", HEADS, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf")
    compared = anamnesis.diff(source, tmp_path / "out")
    assert len(compared.rows) == 2
    assert all(row.identical for row in compared.rows)
    first, second = (
        {row.tensor: row.xxh3 for row in found}
        for found in (anamnesis.stats(source, names="hf"), anamnesis.stats(tmp_path / "out"))
    )
    assert first == second


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_rows_name_both_sides_or_say_that_there_is_none(family: Family) -> None:
    for row in family.rows:
        assert row.matcher.fullmatch(row.gguf.replace("{i}", "3").replace("{x}", "2"))
        assert ("{i}" in row.gguf) == ("{i}" in row.hf) or not row.hf


@pytest.mark.parametrize("name", GIVEN)
def test_converted_models_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    folder = CORPUS / name
    anamnesis.convert(folder / "model.gguf", tmp_path / "out", to="hf")
    original = anamnesis.open_model(folder / "hf")
    found = anamnesis.open_model(tmp_path / "out")
    stated = json.loads((folder / "inverse.json").read_text())["hf"]
    assert set(found) == {k for k, v in stated.items() if v["status"] != "not in gguf"}
    for key in found:
        expected = original[key].to_numpy()
        assert found[key].dtype == expected.dtype
        assert found[key].to_numpy().tobytes() == expected.tobytes(), key


def test_a_multiplied_falcon_h1_has_multipliers_of_one(tmp_path: Path) -> None:
    """The file has products only, and `FalconH1ForCausalLM`'s defaults are other sizes."""
    sizes = {"inner_size": 24, "state_size": 8, "time_step_rank": 3, "group_count": 1}
    keys = {**HEADS, **{f"ssm.{key}": size for key, size in sizes.items()}, "ssm.conv_kernel": 4}
    tensors = {"token_embd.weight": values(16, 32), "blk.0.ssm_in.weight": values(67, 32)}
    source = write(tmp_path / "m.gguf", "falcon-h1", keys, tensors)
    anamnesis.convert(source, tmp_path / "out", to="hf")
    assert "has 1 for each" in "".join(anamnesis.open_model(source, names="hf").model.notes)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "falcon_h1"
    multipliers = {key: value for key, value in config.items() if "multiplier" in key}
    assert len(multipliers) == 9
    assert multipliers.pop("mlp_multipliers") == [1.0] * 2
    assert multipliers.pop("ssm_multipliers") == [1.0] * 5
    assert set(multipliers.values()) == {1.0}
    found = [config[f"mamba_{key}"] for key in ("d_ssm", "d_state", "n_heads", "n_groups")]
    assert (found, config["mamba_d_conv"]) == ([24, 8, 3, 1], 4)
    assert not config["mamba_rms_norm"]


def test_a_file_that_does_not_say_its_heads_is_told_the_keys_and_they_help(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "configs" / "sample" / "smollm2-135m-layer0.gguf"
    with pytest.raises(FormatError, match="does not say: ") as error:
        anamnesis.open_model(sample, names="hf")
    said = str(error.value).partition("does not say: ")[2]
    keys, _, way_out = said.partition("; ")
    names = keys.split(", ")
    assert names == ["llama.attention.head_count_kv", "llama.attention.head_count"]
    assert way_out == "`amn convert FILE --to gguf --gguf-kv KEY=NUMBER -o OUT` adds them"
    mended = tmp_path / "mended.gguf"
    anamnesis.convert(sample, mended, to="gguf", key_values=dict(zip(names, (3, 9), strict=True)))
    key = "model.layers.0.self_attn.k_proj.weight"
    assert anamnesis.open_model(mended, names="hf")[key].shape == (192, 576)


def test_all_sizes_that_a_file_does_not_say_are_named_at_once(tmp_path: Path) -> None:
    """Two of one tensor, and one of each of two tensors."""
    states = {"blk.0.ssm_in.weight": values(20, 8)}
    source = write(tmp_path / "a.gguf", "falcon-h1", {"ssm.inner_size": 8}, states)
    expected = r"say: falcon-h1\.ssm\.group_count, falcon-h1\.ssm\.state_size, falcon-h1"
    with pytest.raises(FormatError, match=expected):
        anamnesis.open_model(source, names="hf")
    heads = {f"blk.0.attn_{kind}.weight": values(8, 8) for kind in "qk"}
    source = write(tmp_path / "b.gguf", "llama", {}, heads)
    expected = r"say: llama\.attention\.head_count, llama\.attention\.head_count_kv;"
    with pytest.raises(FormatError, match=expected):
        anamnesis.open_model(source, names="hf")


def test_a_count_of_heads_that_does_not_divide_is_named(tmp_path: Path) -> None:
    tensors = {"blk.0.attn_k.weight": values(192, 8)}
    source = write(tmp_path / "m.gguf", "llama", {"attention.head_count": 7}, tensors)
    with pytest.raises(FormatError, match=r"192, which is not 7 x \? x 2 \(.*; heads-kv 7\)"):
        anamnesis.open_model(source, names="hf")
