"""Which JSON files beside the weights are asked for a method, and what the others may hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layer_parts import DENSE
from small_models import resolved

import anamnesis
from anamnesis.errors import UnsupportedError
from anamnesis.limits import MiB
from anamnesis.readers.configs import _OTHERS
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes._stated import _WHOLE_MODELS, FILES, may_state, speaks, stated
from anamnesis.readers.schemes._stated_words import ABOUT, ENDINGS, KEYS, PARTS, WORDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"

UNKNOWN = json.dumps({"quantization_config": {"quant_method": "foo-bits"}})
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write_safetensors: Callable[[Path, Any], Path]) -> Folder:
    """Write a model of one FP8 layer without a configuration, with other files beside it."""

    def write(**others: str) -> Path:
        scale = ("F32", (), np.float32(2).tobytes())
        parts = {"m.weight": ("F8_E4M3", (2, 2), bytes(4)), "m.weight_scale": scale}
        write_safetensors(tmp_path / "model.safetensors", parts)
        for name, text in others.items():
            (tmp_path / f"{name}.json").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("name", ["generation_config", "args"])
def test_any_small_file_of_json_is_asked(folder: Folder, name: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{name}.json.*foo-bits"):
        load_model(str(folder(**{name: UNKNOWN})))


def test_files_that_need_not_be_read_refuse_nothing(folder: Folder) -> None:
    path = folder(
        broken_config="{",
        list_config="[1]",
        results="{",
        large=UNKNOWN + " " * MiB,
        tokenizer=UNKNOWN,
    )
    os.mkfifo(path / "pipe.json")
    (path / "link.json").symlink_to("/etc/hostname")
    model = load_model(str(path))
    assert [t.scheme for t in model.tensors] == ["fp8-tensor"]
    assert [note.count("it is not used") for note in model.notes] == [1, 1]
    assert "broken_config.json" in model.notes[0]
    assert "list_config.json" in model.notes[1]


def test_more_files_than_are_asked_are_told(folder: Folder) -> None:
    path = folder(z_config=UNKNOWN)
    for number in range(_OTHERS + 1):
        (path / f"{number}.json").write_text("{}")
    with pytest.raises(UnsupportedError, match=r"z_config\.json"):  # settings come first
        load_model(str(path))
    (path / "z_config.json").unlink()
    assert "257 JSON files" in load_model(str(path)).notes[-1]


def test_what_states_a_method_is_cleaned_wherever_it_stands(folder: Folder) -> None:
    """In files of any name; all others keep their very bytes."""
    block = {"quantization_config": {"quant_method": "fp8"}, "dtype": "fp8"}
    same = {"results": '{"quantization": "Q4_K_M",  "x": 1}', "list": "[1,  2]"}
    path = folder(config="{}", args=json.dumps({"model": block}), **same)
    out = path.parent / "out"
    anamnesis.remember(str(path), str(out))
    assert json.loads((out / "args.json").read_text()) == {"model": {"dtype": "fp8"}}
    for name, text in same.items():
        assert (out / f"{name}.json").read_text() == text


METADATA = (
    "metadata of safetensors, GGUF and ONNX, texts of an NPZ, and texts, dicts and lists beside "
    "the state dict of a `.pth`"
)


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def table() -> str:
    """The rows of docs/inputs.md on where a method is looked for, from the code's own tables."""
    made = f"one of {listed(WORDS)}, alone, after {listed(PARTS)}, before {listed(ABOUT)}"
    keys = f"{listed(KEYS)}; {made}; {listed('*' + e for e in ENDINGS)}"
    files = {name: method for name, method in FILES.items() if name not in _WHOLE_MODELS}
    rows = [
        (listed(_WHOLE_MODELS), "at any depth, under the keys below"),
        *((f"`{n}`", f"as a whole{m and f': {m}'}") for n, m in files.items()),
        ("`*quant*.json`", "as a whole, when a method is named in it"),
        ("`*config*.json`, `generation_config.json` too", "at any depth, when a method is named"),
        (
            "`*quant*.yaml`, `*quant*.yml`, `*quant*.toml`",
            "as a whole, when a method is named in it",
        ),
        (
            "any other `*.json`, `*.yaml`, `*.yml`",
            "at any depth, when there is a block that names a method",
        ),
        ("metadata of an index", "at any depth"),
        (METADATA, "the same keys, and in any value that is a JSON object"),
        ("keys, in any case, with `_`, `-` or nothing between the words", keys),
    ]  # fmt: skip
    return "\n".join(("| where | what |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)))


def test_the_page_names_every_place_of_a_method() -> None:
    text = PAGE.read_text()
    assert table() == text.partition("<!-- stated -->\n")[2].partition("\n<!-- end -->")[0]
    assert speaks("a-quant.json")
    assert may_state("any.json")


if __name__ == "__main__":
    head, mark, rest = PAGE.read_text().partition("<!-- stated -->\n")
    PAGE.write_text(head + mark + table() + rest[rest.index("\n<!-- end -->") :])


YAML = "quant_method: foo-bits\nbits: 8\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("quant_config.yaml", YAML),
        ("my-quantize_config.YML", YAML),
        ("settings.yaml", YAML),
        ("args.yml", "a:\n- quantization_config: {quant_method: foo-bits}\n"),
        ("quant_config.toml", 'quant_method = "foo-bits"\n'),
        ("quantization.toml", '[quantization]\nmethod = "foo-bits"\n'),
        ("QUANT_CONFIG.JSON", '{"quant_method": "foo-bits"}'),
    ],
)
def test_a_method_counts_in_any_spelling_of_settings(folder: Folder, name: str, text: str) -> None:
    path = folder()
    (path / name).write_text(text)
    with pytest.raises(UnsupportedError, match=rf"{name}.*foo-bits\): no such method"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe.yaml", "s:\n  quant_modifiers:\n    GPTQModifier: {scheme: W4A16}\n"),
        ("train.yml", "load_in_4bit: true\nquantization: null\nmerge_method: slerp\n"),
        ("model_config.yaml", "quantization: {algorithm: fp8, decoder_type: llama}\n"),
        ("pyproject.toml", 'quant_method = "foo-bits"\n'),
        ("quantize.py", "method = 'foo-bits'"),
    ],
)
def test_recipes_and_settings_of_trainers_state_no_method(
    folder: Folder, name: str, text: str
) -> None:
    path = folder()
    (path / name).write_text(text)
    assert load_model(str(path)).notes == ()


@pytest.mark.parametrize("name", ["quant_config.ini", "quantization_settings.txt"])
def test_a_spelling_that_is_not_read_is_told(folder: Folder, name: str) -> None:
    path = folder()
    (path / name).write_text("method=foo-bits")
    (note,) = load_model(str(path)).notes
    assert f"{name}: by its name about quantisation" in note


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("quant_config.yaml", "{"),
        ("quant_config.yml", "a: &x foo\nquant_method: *x\n"),
        ("quant_config.toml", "["),
        ("quantization.toml", "a = " + "[" * 5000),
    ],
)
def test_what_cannot_be_read_of_such_a_file_is_told(folder: Folder, name: str, text: str) -> None:
    path = folder()
    (path / name).write_text(text)
    (note,) = load_model(str(path)).notes
    assert name in note
    assert "it is not used" in note


KEYS_OF_NAMES = ("quantMethod", "QUANT-METHOD", "quantAlgo", "qmethod", "name", "type", "format")


@pytest.mark.parametrize("key", KEYS_OF_NAMES)
def test_a_block_names_its_method_under_any_key(key: str) -> None:
    (one,) = stated({"config.json": {"quantization_config": {"bits": 4, key: "foo-bits"}}}, {})
    assert str(one) == f"config.json: quantization_config.{key} (foo-bits)"


@pytest.mark.parametrize(
    "block",
    [
        {"bits": 4, "group_size": 128, "format": "gptq_v2"},
        {"type": "int", "strategy": "group", "name": "per_channel", "format": "pack-quantized"},
        {"quant_type": "int4", "kind": "symmetric", "library": "transformers"},
        {"type": "rvq", "num_quantizers": 8},
    ],
)
def test_words_of_every_method_are_no_method(block: dict[str, Any]) -> None:
    (one,) = stated({"config.json": {"quantization_config": block}}, {})
    assert one.method == ""


ORT = {"is_static": False, "format": "QOperator", "mode": "IntegerOps", "weights_dtype": "QInt8"}


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("ort_config.json", {"quantization": ORT}),  # optimum's, beside what ONNX Runtime runs
        ("ort_config.json", {"quantization": {**ORT, "format": "QDQ", "mode": "QLinearOps"}}),
        ("quantize_config.json", {"modes": ["q8", "q4f16", "bnb4"], "quant_type": 1}),
        ("quantize_config.json", {"per_model_config": {"model": {"weight_type": "QInt8"}}}),
        ("openvino_config.json", {"quantization_config": {"bits": 8, "quant_method": "default"}}),
        # ModelOpt's recipes
        ("recipe.yaml", {"quantize": {"algorithm": "max", "quant_cfg": []}}),
        ("recipe.yaml", {"quant_cfg": [{"quantizer_name": "*weight_quantizer", "enable": True}]}),
    ],
)
def test_settings_of_graphs_and_runs_state_no_method(file: str, config: Any) -> None:
    assert stated({file: config}, {}) == ()


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"vq_model": {"codebook_size": 64, "quantize_mode": "vq"}}},  # TiTok
        {"quantize_mode": "softvq"},
        {"quantize_type": "LFQ"},
        {"quant_type": "bsq"},
        {"quantization_mode": "affine"},  # MLX's word
    ],
)
def test_kinds_that_name_no_method_are_not_refused(config: Any) -> None:
    """Codebooks of images and sounds among them: integers are still no dense weights."""
    configs = {"config.json": config}
    assert "m.weight" in resolved(DENSE, configs=configs).tensors
    with pytest.raises(UnsupportedError):
        resolved({"m.table": ("I32", (8, 8))}, configs=configs)


@pytest.mark.parametrize("said", ["int4", "4bit", "Q4_K_M", {"quant_method": "w4a16"}])
def test_a_width_of_a_model_of_floats_is_no_method(said: Any) -> None:
    configs = {"config.json": {"quantization": said}}
    (note,) = resolved(DENSE, configs=configs).notes
    assert "taken for a width, which is no method" in note
    codes: dict[str, Any] = {**DENSE, "n.weight": ("U8", (8, 8))}
    with pytest.raises(UnsupportedError, match="no such method is known"):
        resolved(codes, configs=configs)


@pytest.mark.parametrize("name", ["results.json", "server.json", "lighteval_1.json", "bench.yaml"])
def test_a_record_of_a_run_may_call_it_by_any_label(name: str) -> None:
    said = {"quantization": {"method": "foo-bits"}, "quant_method": "qlora"}
    first, second = resolved(DENSE, configs={name: said}).notes
    assert "(foo-bits): taken for a label" in first + second
    for others in ("train_config.json", "about.json"):
        with pytest.raises(UnsupportedError, match="no such method"):
            resolved(DENSE, configs={others: said})
