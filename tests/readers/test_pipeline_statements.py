"""What a diffusers pipeline says of quantisation beside its components counts for these."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anamnesis.errors import UnsupportedError
from anamnesis.readers.model import load_model

INDEX = {"_class_name": "P", "transformer": ["d", "T"], "vae": ["d", "V"], "scheduler": ["d", "S"]}
FOO = {"quant_method": "foo-bits"}
STATEMENTS: list[tuple[str, Any]] = [
    ("model_index.json", {"quantization_config": FOO}),
    ("model_index.json", {"quantization_config": {"transformer": FOO}}),
    ("model_index.json", {"quantization_config": {"quant_mapping": {"transformer": FOO}}}),
    ("quantization_config.json", FOO),
    ("quantization_config.json", {"transformer": FOO, "vae": {"quant_method": "other"}}),
    ("quantization_config.json", {"components_to_quantize": ["transformer"], **FOO}),
    ("quant_config.json", {"transformer": {"quantization_config": FOO}}),
]


@pytest.fixture
def pipeline(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    for component in ("transformer", "vae"):
        folder = tmp_path / component
        folder.mkdir()
        path = folder / "diffusion_pytorch_model.safetensors"
        write_safetensors(path, {"a.weight": ("F32", (2, 2), bytes(16))})
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    return tmp_path


def state(pipeline: Path, name: str, document: Any) -> None:
    document = {**INDEX, **document} if name == "model_index.json" else document
    (pipeline / name).write_text(json.dumps(document))


@pytest.mark.parametrize(("name", "document"), STATEMENTS, ids=str)
def test_a_component_is_refused_by_what_the_pipeline_says(
    pipeline: Path, name: str, document: Any
) -> None:
    assert load_model(str(pipeline / "transformer")).notes == ()
    state(pipeline, name, document)
    with pytest.raises(UnsupportedError, match=rf"{name}.*\(foo-bits\)"):
        load_model(str(pipeline / "transformer"))


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("model_index.json", {"quantization_config": {"transformer": FOO}}),
        ("quantization_config.json", {"components_to_quantize": ["transformer"], **FOO}),
        ("quantization_config.json", {"quant_mapping": {"transformer": FOO}}),
    ],
)
def test_what_is_said_of_one_component_is_not_of_others(
    pipeline: Path, name: str, document: Any
) -> None:
    state(pipeline, name, document)
    assert load_model(str(pipeline / "vae")).notes == ()


def test_only_components_are_asked_about(pipeline: Path) -> None:
    """Another folder beside an index is no part of the pipeline; broken files are remarked on."""
    state(pipeline, "quantization_config.json", FOO)
    other = pipeline / "other"
    (pipeline / "vae").rename(other)
    assert load_model(str(other)).notes == ()
    (pipeline / "quantization_config.json").write_text("{")
    (note,) = load_model(str(pipeline / "transformer")).notes
    assert "quantization_config.json" in note
    assert "it is not used" in note
