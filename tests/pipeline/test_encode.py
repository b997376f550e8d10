"""`output.encode`: one pass to a quantised layout, the policy, and what loaders need."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encode_cases as ours
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import UnsupportedError, UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.encode_setting import names_for, parse_target
from anamnesis.pipeline.explain import explain
from anamnesis.pipeline.jobs import plan_job

Amn = Callable[..., subprocess.CompletedProcess[str]]
Parts = dict[str, tuple[str, list[int], bytes]]
LINEAR = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with every kind of tensor that the usual policy knows, in BF16."""
    folder = tmp_path / "model"
    folder.mkdir()
    shapes = {
        LINEAR: (256, 512),
        "model.layers.0.self_attn.q_proj.weight": (512, 256),
        "model.layers.0.self_attn.q_proj.bias": (512,),
        "model.layers.0.mlp.gate.weight": (8, 256),
        "model.layers.0.input_layernorm.weight": (256,),
        "model.layers.0.narrow.weight": (64, 72),
        "model.embed_tokens.weight": (300, 256),
        "lm_head.weight": (300, 256),
    }
    tensors = {
        name: ours.matrix("plain", *shape, seed=i)
        if len(shape) == 2
        else np.ones(shape, np.float32)
        for i, (name, shape) in enumerate(shapes.items())
    }
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def parts_of(path: Path) -> Parts:
    """Every stored tensor of a folder: dtype, shape, bytes."""
    found: Parts = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                payload = data[8 + length + first : 8 + length + last]
                found[name] = (entry["dtype"], entry["shape"], payload)
    return found


def values_of(model: Path, name: str) -> np.ndarray:
    with safe_open(model / "model.safetensors", framework="numpy") as file:
        return np.asarray(file.get_tensor(name)).astype(np.float32)


# Settings that change what is stored; tests/kernels has all of them.
EXPERTS = ("mxfp4", {"style": "gpt-oss"})
CASES = [
    c
    for c in ours.cases()
    if c[1].get("bits", 8) in (3, 8) and c[1].get("block") != 32 and c != EXPERTS
]


@pytest.mark.parametrize("case", CASES, ids=ours.label)
def test_files_hold_what_the_encoder_makes(model: Path, tmp_path: Path, case: Any) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.convert(model, out, to="safetensors", encode=ours.label(case), include=[LINEAR])
    expected = ours.encoded(case, values_of(model, LINEAR), "BF16")
    found = parts_of(out)
    prefix = LINEAR.removesuffix("weight")
    assert found.keys() == {prefix + name for name in expected}
    for name, array in expected.items():
        assert found[prefix + name][1] == list(array.shape)
        assert found[prefix + name][2] == array.tobytes()
    assert anamnesis.verify(out)["tensors"] == len(expected)


@pytest.mark.parametrize("window", [5_000, 2 << 20])
def test_stacked_experts_of_gpt_oss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Each matrix transposed, with its blocks along the inputs; everything else is kept."""
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", window)
    matrices = [ours.matrix("plain", 40, 96, seed=n).astype(ml_dtypes.bfloat16) for n in range(3)]
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stack = np.stack([matrix.T for matrix in matrices])
    tensors = {name: stack, f"{name}_bias": stack[:, 0], "q_proj.weight": matrices[0]}
    source, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, source)
    done = anamnesis.convert(source, out, to="safetensors", encode="mxfp4:style=gpt-oss")
    assert [row.tensor for row in done.loss] == [name]
    found = parts_of(out)
    assert found.keys() == {f"{name}_blocks", f"{name}_scales", f"{name}_bias", "q_proj.weight"}
    each = [ours.encoded(EXPERTS, matrix.astype(np.float32), "BF16") for matrix in matrices]
    for end in ("blocks", "scales"):
        expected = np.concatenate([one[f"gate_up_proj_{end}"] for one in each])
        assert found[f"{name}_{end}"] == ("U8", list(expected.shape), expected.tobytes())
    assert anamnesis.open_model(out)[name].tensor.shape == stack.shape


@pytest.mark.parametrize("encode", ["fp8-tensor", "bnb-nf4:nested=true", "nvfp4", "fp8-block"])
def test_executors_shards_and_memory_do_not_show(model: Path, tmp_path: Path, encode: str) -> None:
    for number, executor in enumerate(("serial", "threads")):
        out = tmp_path / str(number)
        size = 90_000 if number else "5GB"
        anamnesis.convert(
            model, out, to="safetensors", encode=encode, executor=executor, max_shard_size=size
        )
        anamnesis.verify(out)
    first, second = parts_of(tmp_path / "0"), parts_of(tmp_path / "1")
    assert first == second
    assert len(list((tmp_path / "1").glob("*.safetensors"))) > 2
    index = json.loads((tmp_path / "1" / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == first.keys()
    together = {index[name] for name in first if name.startswith(LINEAR)}
    assert len(together) == 1


def test_policy_and_reasons(model: Path, tmp_path: Path) -> None:
    job = job_from(inputs=[model], output={"path": tmp_path / "o", "encode": "mxfp4"})
    ((_, plan),) = plan_job(job)
    assert not isinstance(plan, BaseException)
    choices = {name: str(choice) for name, choice in plan.choices}
    assert choices == {
        LINEAR: "mxfp4",
        "model.layers.0.self_attn.q_proj.weight": "mxfp4",
        "model.layers.0.self_attn.q_proj.bias": "kept, it is no matrix",
        "model.layers.0.mlp.gate.weight": "kept, norms, routers, biases and convolutions are kept",
        "model.layers.0.input_layernorm.weight": "kept, it is no matrix",
        "model.layers.0.narrow.weight": "kept, mxfp4 cannot hold it: its rows of 72 elements are "
        "no whole number of groups of 32",
        "model.embed_tokens.weight": "kept, embeddings are kept",
        "lm_head.weight": "kept, output heads are kept",
    }
    page = explain(plan)
    for name, choice in choices.items():
        assert f"encode   {name}: {choice}" in page


def test_a_run_that_encodes_nothing_says_so(model: Path, tmp_path: Path, amn: Amn) -> None:
    def note(number: int, *include: str) -> str:
        flags = [part for pattern in include for part in ("--include", pattern)]
        out = tmp_path / str(number)
        result = amn(
            "convert", model, "--to", "safetensors", "-o", out, "--encode", "mxfp4", *flags
        )
        assert result.returncode == 0, result.stderr
        return result.stderr

    said = note(0, "*norm.weight", "*narrow.weight")
    assert "nothing is encoded: model.layers.0.narrow.weight is kept, mxfp4 cannot hold it" in said
    said = note(1, "*norm.weight")
    assert "nothing is encoded: model.layers.0.input_layernorm.weight is kept, it is no" in said
    assert "nothing is encoded" not in note(2)


def test_rules_in_a_job_file(model: Path, tmp_path: Path, amn: Amn) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"inputs: [{model}]\noutput:\n  path: {tmp_path / 'out'}\n  encode:\n"
        "  - {tensors: '*.mlp.up*', as: nvfp4}\n  - {tensors: '*.self_attn.*', as: fp8-channel}\n"
    )
    assert amn("run", job).returncode == 0
    found = parts_of(tmp_path / "out")
    assert found[LINEAR + "_packed"][0] == "U8"
    assert found["model.layers.0.self_attn.q_proj.weight"][0] == "F8_E4M3"
    assert found["model.layers.0.self_attn.q_proj.bias"][0] == "BF16"
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["format"] == "mixed-precision"
    assert [g["format"] for g in config["config_groups"].values()] == [
        "nvfp4-pack-quantized",
        "float-quantized",
    ]
    again = amn("run", job)  # nothing is left to do
    assert again.returncode == 0
    assert parts_of(tmp_path / "out") == found


@pytest.mark.parametrize("name", names_for("safetensors"))
def test_what_is_written_is_read_back(model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    anamnesis.convert(model, out, to="safetensors", encode=name)
    opened = anamnesis.open_model(out)
    values = values_of(model, LINEAR)
    found = opened[LINEAR].to_numpy().astype(np.float32)
    error = np.abs(found - values).sum() / np.abs(values).sum()
    assert error < (0.05 if "8" in name and name != "fp8-tensor" else 0.25)
    for kept in ("model.layers.0.input_layernorm.weight", "model.layers.0.mlp.gate.weight"):
        assert (
            opened[kept].to_numpy().astype(np.float32).tolist() == values_of(model, kept).tolist()
        )


def test_targets_of_two_loaders_are_refused(model: Path, tmp_path: Path) -> None:
    rules = [{"tensors": "*.mlp.*", "as": "bnb-nf4"}, {"tensors": "*", "as": "nvfp4"}]
    with pytest.raises(UnsupportedError, match="no loader"):
        anamnesis.convert(model, tmp_path / "out", to="safetensors", encode=rules)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nvfp5", "did you mean 'nvfp4'"),
        ("fp8-channel:bits=4", "found 'bits'"),
        ("mlx-affine:bits=7", "allowed: 2, 3, 4, 5, 6, 8"),
        ("ct-pack-quantized:group=all", "a whole number"),
        ("bnb-nf4:nested=maybe", "true, false"),
        ("bnb-nf4:nested", "KEY=VALUE"),
        ("", "allowed: awq, bnb-fp4"),
        ("gguf-q4-k", "gguf-q4-k is for a GGUF .--to gguf.; .*allowed: awq, bnb-fp4"),
        ("Q4_K_M", "q4-k-m is for a GGUF"),
        ("q4km", "q4km is for a GGUF"),
        ("nf4", "did you mean 'bnb-nf4'"),
        ("int4", "did you mean 'awq' or 'gptq' or 'ct-pack-quantized'"),
        ("int8", "did you mean 'bnb-int8'"),
        ("w4a16", "did you mean 'ct-pack-quantized'"),
        ("NVFP4", "found 'NVFP4'; did you mean 'nvfp4'"),
        ("fp8", "did you mean 'fp8-block' or 'fp8-channel' or 'fp8-tensor'"),
        ("gptq:group=100", "group: found '100'; allowed: a multiple of 32"),
        ("awq:group=0", "group: found '0'; allowed: a multiple of 32"),
        ("fp8-block:block=0", "block: found '0'; allowed: a whole number above 0"),
        ("gptq:bits=4,bits=8", "gptq: bits is given twice"),
    ],
)
def test_wrong_targets(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_target(text)


RULE = {"tensors": "*", "as": "mxfp4"}


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (5, "output.encode: found 5; allowed: text | a list of mappings with the keys tensors, as"),
        (RULE, "output.encode: found a mapping; allowed: text"),
        (["mxfp4"], r"output.encode\[0\]: found 'mxfp4'; allowed: a mapping with the keys"),
        ([RULE, {}], r"output.encode\[1\].tensors: required, and missing"),
        ([{"tensor": "*", "as": "mxfp4"}], r"\[0\].tensor: unknown key; the keys here are tensors"),
        ([{**RULE, "as": 5}], r"output.encode\[0\].as: found 5; allowed: text"),
        ([{**RULE, "as": "mxfp"}], r"output.encode\[0\].as: found 'mxfp'; did you mean 'mxfp4'"),
    ],
    ids=str,
)
def test_wrong_rules(model: Path, tmp_path: Path, encode: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        anamnesis.convert(model, tmp_path / "out", to="safetensors", encode=encode)


def test_why_nothing_is_encoded(model: Path, tmp_path: Path) -> None:
    """Not that a head is kept, which it always is."""
    done = anamnesis.convert(model, tmp_path / "out", to="safetensors", encode="gptq:sym=false")
    assert "gptq cannot hold it: its first version has no zero point of 0" in done.notes[0]


@pytest.mark.parametrize("encode", ["bnb-nf4", [{"tensors": "h.*", "as": "fp8-channel"}]])
def test_layers_with_columns_as_rows_are_kept(tmp_path: Path, encode: Any) -> None:
    """GPT-2's, of which bitsandbytes quantises the transpose; a Llama's of that name is encoded."""
    for kind, kept in (("gpt2", True), ("llama", False)):
        source = tmp_path / kind
        source.mkdir()
        numbers = np.ones((64, 192), np.float32)
        save_file({"h.0.attn.c_attn.weight": numbers}, source / "model.safetensors")
        config = {"model_type": kind, "n_embd": 64, "hidden_size": 192}
        (source / "config.json").write_text(json.dumps(config))
        for to in ("safetensors", "hf"):
            out = tmp_path / f"{kind}-{to}"
            done = anamnesis.convert(source, out, to=to, encode=encode)
            with safe_open(out / "model.safetensors", "numpy") as file:
                assert ([*file.keys()] == ["h.0.attn.c_attn.weight"]) == kept
            assert any("is kept, its class keeps" in note for note in done.notes) == kept


def test_settings_that_some_follow_are_named(model: Path, tmp_path: Path) -> None:
    """What is quantised keeps its groups of 128, and the head would get the usual ones of 64."""
    anamnesis.convert(model, tmp_path / "gptq", to="safetensors", encode="gptq")
    with pytest.raises(UnsupportedError, match="mlx-affine:group=128, with the settings of what"):
        anamnesis.convert(
            tmp_path / "gptq", tmp_path / "out", to="safetensors", encode="mlx-affine"
        )


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    weight = np.ones((128, 128), ml_dtypes.bfloat16)
    save_file({"w": weight, "w_packed": weight[0]}, tmp_path / "in.safetensors")
    with pytest.raises(UsageError, match="stores a tensor 'w_packed'"):
        anamnesis.convert(
            tmp_path / "in.safetensors", tmp_path / "out.safetensors", to="safetensors",
            encode="nvfp4",
        )  # fmt: skip


def test_a_second_quantisation_is_said(model: Path, tmp_path: Path, amn: Amn) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    first = amn("convert", model, "--to", "safetensors", "--encode", "fp8-channel", "-o", once)
    assert first.returncode == 0
    assert "quantised before" not in first.stderr
    again = amn("convert", once, "--to", "safetensors", "--encode", "mxfp4", "-o", twice)
    assert again.returncode == 0
    said = again.stderr.replace("\n", " ")
    assert f"2 tensor(s), {LINEAR} first, were quantised before (fp8-channel and mxfp4" in said


TRANSPOSED = (
    ("gptq", "ct-pack-quantized"),
    ("gptq:bits=8,group=64", "ct-pack-quantized:bits=8,group=64"),
    ("gptq:bits=3,version=2", "ct-pack-quantized:bits=3"),
    ("gptq:bits=2,group=32,sym=false,version=2", "ct-pack-quantized:bits=2,group=32,sym=false"),
    ("awq", "ct-pack-quantized:sym=false"),
    ("awq:group=32,sym=true", "ct-pack-quantized:group=32"),
)


@pytest.mark.parametrize("window", [50_000, 2 << 20])
@pytest.mark.parametrize(("encode", "packed"), TRANSPOSED)
def test_gptq_and_awq_hold_the_numbers_of_packed_words(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encode: str,
    packed: str,
    window: int,
) -> None:
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", window)
    outs = {}
    for name in (encode, packed):
        out = tmp_path / name.replace(":", "-")
        lost = anamnesis.convert(model, out, to="safetensors", encode=name).loss
        outs[name] = anamnesis.open_model(out), {row.tensor: row for row in lost}
        anamnesis.verify(out)
    (first, loss), (second, other) = outs.values()
    assert len(loss) == 2
    for name, row in loss.items():
        assert first[name].tensor.scheme == encode.partition(":")[0]
        np.testing.assert_array_equal(
            first[name].to_numpy().view(np.uint16), second[name].to_numpy().view(np.uint16)
        )
        assert (row.clipped, row.compared.equal) == (
            other[name].clipped,
            other[name].compared.equal,
        )
        # Sums are float32 within a block, and the two targets cut their windows apart.
        assert row.sqnr_db == pytest.approx(other[name].sqnr_db, rel=1e-6)


def test_gptq_and_awq_tell_their_loaders(model: Path, tmp_path: Path) -> None:
    config = {}
    for encode in ("gptq:version=2", "awq"):
        anamnesis.convert(model, tmp_path / encode, to="safetensors", encode=encode)
        text = (tmp_path / encode / "config.json").read_text()
        config[encode[:3]] = json.loads(text)["quantization_config"]
    assert config["gpt"]["checkpoint_format"] == "gptq_v2"
    assert config["gpt"]["dynamic"] == {
        f"-:^{name}$": {}
        for name in (
            r"lm_head",
            r"model\.embed_tokens",
            r"model\.layers\.0\.mlp\.gate",
            r"model\.layers\.0\.narrow",
        )
    }
    assert config["awq"] == {
        "quant_method": "awq", "bits": 4, "version": "gemm", "group_size": 128, "zero_point": True,
        "modules_to_not_convert": [
            "lm_head", "model.embed_tokens", "model.layers.0.mlp.gate", "model.layers.0.narrow",
        ],
    }  # fmt: skip
