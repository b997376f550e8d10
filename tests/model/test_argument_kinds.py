"""Arguments of a kind that a function does not take: an error that names the keyword."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import ArgumentError, UsageError
from anamnesis.words import meant


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_file({"x": np.ones((2, 2), np.float32)}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("value", [5, {"a": 1}, b"x*", [5], [b"x"]], ids=repr)
def test_patterns(value: Any, model: Path) -> None:
    out = model.parent / "o.arrow"
    for name in ("include", "exclude"):
        given: dict[str, Any] = {name: value}
        for call in (
            lambda given=given: anamnesis.remember(model, out, **given),
            lambda given=given: anamnesis.stats(model, **given),
            lambda given=given: anamnesis.diff(model, model, **given),
        ):
            with pytest.raises(ArgumentError, match=f"^{name}: found .*; allowed: a pattern"):
                call()
    with pytest.raises(ArgumentError, match=r"^tensors: found"):
        anamnesis.scan(model, value)
    assert not out.exists()


def test_paths(model: Path) -> None:
    none: Any = None
    with pytest.raises(ArgumentError, match="remember: out: found None; allowed: a path"):
        anamnesis.remember(model, none)
    with pytest.raises(ArgumentError, match="stats: path: found None"):
        anamnesis.stats(path=none)
    with pytest.raises(ArgumentError, match="open_model: path: found 5"):
        anamnesis.open_model(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["3", True, 1.5, [1]], ids=repr)
def test_limits_are_whole_numbers(value: Any, model: Path) -> None:
    said = r"limits\.max_items: found .*; allowed: a whole number"
    with pytest.raises(UsageError, match=said):
        anamnesis.Limits(max_items=value)
    with pytest.raises(UsageError, match=said):
        anamnesis.inspect(model, limits={"max_items": value})


def test_limits_take_sizes_as_job_files_do(model: Path) -> None:
    sizes = {"max_single_alloc": "8GiB", "max_total_bytes": "5GB"}
    assert anamnesis.Limits.of(sizes) == anamnesis.Limits(8 << 30, 5_000_000_000)
    with pytest.raises(UsageError, match=r"limits\.max_total_bytes: found '4G'.*did you mean 4GiB"):
        anamnesis.inspect(model, limits={"max_total_bytes": "4G"})


def test_sizes_name_their_keyword(model: Path) -> None:
    with pytest.raises(UsageError, match=r"^memory: found 'tiny'; allowed"):
        anamnesis.scan(model, memory="tiny")
    with pytest.raises(UsageError, match=r"^memory: found '4G'; .*; did you mean 4GiB or 4GB\?"):
        anamnesis.verify(model, memory="4G")


def test_one_setting_is_no_list_of_letters(model: Path) -> None:
    """As a text is one pattern where several may be given."""
    job = {"inputs": [str(model)], "output": {"path": str(model.parent / "o.safetensors")}}
    anamnesis.run(job, set="output.dtype=f16")
    assert anamnesis.open_model(model.parent / "o.safetensors")["x"].dtype == np.float16
    with pytest.raises(UsageError, match=r"key_values: found a list; allowed: a mapping$"):
        anamnesis.run(job, set="output.key_values=[a]")


@pytest.mark.parametrize("path", ["s3:b/m", "s3:/b/m"])
def test_a_url_without_its_slashes(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="a URL has two slashes: s3://b/m"):
        anamnesis.inspect(path)


def test_words(model: Path) -> None:
    """One of few words: another is never taken for one of them, and is told the nearest."""
    with pytest.raises(UsageError, match=r"dtype: found 'float32'; .*; did you mean f32\?"):
        anamnesis.stats(model, dtype="float32")  # type: ignore[arg-type]
    likely = r"allowed: exact \| reference; did you mean 'exact'\?"
    with pytest.raises(ArgumentError, match=f"open_model: rounding: found 'exactly'; {likely}"):
        anamnesis.open_model(model, rounding="exactly")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="inspect: names: found 5; allowed"):
        anamnesis.inspect(model, names=5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"allowed: stored \| hf; did you mean 'hf'"):
        anamnesis.inspect(model, names="huggingface")  # type: ignore[arg-type]
    out = model.parent / "o"
    with pytest.raises(UsageError, match=r"output\.format: found .*; did you mean hf\?"):
        anamnesis.convert(model, out, to="hf_folder")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no keyword 'gguf_kv'; did you mean 'key_values'"):
        anamnesis.convert(model, out, to="gguf", gguf_kv={})  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"sort: .*; did you mean 'tensor'"):
        anamnesis.stats(model).sort("name")


@pytest.mark.parametrize(
    ("given", "allowed", "near"),
    [
        ("q4km", ["gguf-q4-k", "Q4_K_M"], ["Q4_K_M"]),
        ("HuggingFace", ["hf", "gguf"], ["hf"]),
        ("fp8", ["fp8-block", "mxfp8", "fp8-tensor"], ["fp8-block", "fp8-tensor"]),
        ("nf4", ["nvfp4", "bnb-nf4"], ["bnb-nf4"]),
        ("ggfu", ["hf", "gguf"], ["gguf"]),
        ("gguff", ["hf", "gguf"], ["gguf"]),
        ("?", ["hf", "gguf"], []),
        ("", ["hf", "gguf"], []),
        ("zzz", ["hf", "gguf"], []),
        ("x", ["x1", "x2", "x3", "x4", "x5", "x6"], ["x1", "x2", "x3", "x4", "x5"]),
    ],
)
def test_nearest_words(given: str, allowed: list[str], near: list[str]) -> None:
    assert meant(given, allowed) == near


def test_rows_of_tensors_by_place_and_by_name(model: Path) -> None:
    for found in (anamnesis.stats(model), anamnesis.diff(model, model)):
        assert len(found) == 1
        assert found[0] is found[-1] is found["x"] is next(iter(found))
        with pytest.raises(IndexError):
            found[1]
        with pytest.raises(KeyError, match="no tensor 'y'"):
            found["y"]
