from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    IntegrityError,
    LimitError,
    SecurityError,
    UnsupportedError,
    UsageError,
)
from anamnesis.limits import Limits
from anamnesis.readers.ollama import MANIFEST_BYTES, MODEL_LAYER, blob_path

Layers = list[dict[str, Any]]


class Store:
    """Ollama's folder of models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, data: bytes) -> Path:
        path = self.root / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"
        path.write_bytes(data)
        return path

    def manifest(self, name: str, layers: Layers | bytes) -> Path:
        path = self.root / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schemaVersion": 2, "layers": layers}
        path.write_bytes(layers if isinstance(layers, bytes) else json.dumps(document).encode())
        return path


def layer(blob: Path, kind: str = MODEL_LAYER) -> dict[str, Any]:
    digest = blob.name.replace("-", ":")
    return {"mediaType": kind, "digest": digest, "size": blob.stat().st_size}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    root = tmp_path / "models"
    monkeypatch.setenv("OLLAMA_MODELS", str(root))
    return Store(root)


@pytest.fixture
def model(store: Store, sample: Path) -> Path:
    """`llama3:latest`, with a licence beside the model."""
    blob = store.blob(sample.read_bytes())
    licence = layer(store.blob(b"MIT"), "application/vnd.ollama.image.license")
    store.manifest("registry.ollama.ai/library/llama3/latest", [licence, layer(blob)])
    return blob


def refused(name: str, error: type[Exception], *texts: str) -> None:
    with pytest.raises(error) as caught:
        blob_path(name, Limits())
    if issubclass(error, AnamnesisError):
        assert type(caught.value) is error
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ollama:llama3", "ollama:llama3:latest"])
def test_the_blob_of_a_name(model: Path, name: str) -> None:
    assert blob_path(name, Limits()) == str(model)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("ollama:q:8b-q4_K_M", "registry.ollama.ai/library/q/8b-q4_K_M"),
        ("ollama:someone/q", "registry.ollama.ai/someone/q/latest"),
        ("ollama:hf.co/a/b-GGUF:Q4_0", "hf.co/a/b-GGUF/Q4_0"),
        ("ollama:localhost:5000/a/b:t", "localhost:5000/a/b/t"),
    ],
)
def test_names_of_all_forms(store: Store, sample: Path, name: str, place: str) -> None:
    blob = store.blob(sample.read_bytes())
    store.manifest(place, [layer(blob)])
    assert blob_path(name, Limits()) == str(blob)


def test_inspect_and_remember(model: Path, sample: Path, tmp_path: Path) -> None:
    found = anamnesis.inspect("ollama:llama3")
    assert (found.path, found.container, found.tensors) == ("ollama:llama3", "gguf", 11)
    anamnesis.remember("ollama:llama3", tmp_path / "there.safetensors")
    anamnesis.remember(sample, tmp_path / "here.safetensors")
    here, there = (tmp_path / f"{n}.safetensors" for n in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_a_job_names_its_output_after_the_model(model: Path, sample: Path, tmp_path: Path) -> None:
    from anamnesis.pipeline.config import job_from
    from anamnesis.pipeline.jobs import run_job

    inputs = ["ollama:llama3:latest", str(sample)]
    done = run_job(job_from(inputs=inputs, output={"path": str(tmp_path / "o")}))
    assert Path(done.outcomes[0].path).name == "llama3-latest"


def test_the_home_folder_is_the_usual_place(
    tmp_path: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store(tmp_path / ".ollama" / "models")
    blob = store.blob(sample.read_bytes())
    store.manifest("registry.ollama.ai/library/q/latest", [layer(blob)])
    assert blob_path("ollama:q", Limits()) == str(blob)


def test_a_missing_model_lists_what_is_there(store: Store, model: Path) -> None:
    store.manifest("registry.ollama.ai/someone/q/8b", [])
    store.manifest("hf.co/a/b/Q4", [])
    refused(
        "ollama:gone",
        FileNotFoundError,
        "no such model",
        "there are hf.co/a/b:Q4, llama3:latest, someone/q:8b",
        "ollama:gone",
    )
    refused("ollama:llama3:70b", FileNotFoundError, "llama3:latest")
    for number in range(40):
        store.manifest(f"registry.ollama.ai/library/m{number}/latest", [])
    refused("ollama:gone", FileNotFoundError, ", …")


def test_an_empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    refused("ollama:gone", FileNotFoundError, "there are none")


@pytest.mark.parametrize(
    "name",
    [
        "ollama:..",
        "ollama:../llama3",
        "ollama:../../../etc/passwd",
        "ollama:a/../llama3",
        "ollama:llama3:..",
        "ollama:.:.",
        "ollama:/etc/passwd",
        "ollama:a\\..\\b",
        "ollama:a\0b",
    ],
)
def test_names_that_would_leave_the_store(store: Store, name: str) -> None:
    refused(name, SecurityError, "would leave Ollama's store")


@pytest.mark.parametrize(
    "name", ["ollama:", "ollama::t", "ollama:a:", "ollama:a b", "ollama:a/b/c/d", "ollama:-x",
             "ollama:a//b", "ollama:" + "x" * 81, "ollama:a:b:c", "ollama:a\nb"]
)  # fmt: skip
def test_what_is_no_name(store: Store, name: str) -> None:
    refused(name, UsageError, "not of the form ollama:NAME[:TAG]")


PLACE = "registry.ollama.ai/library/m/latest"


@pytest.mark.parametrize(
    ("layers", "error", "text"),
    [
        (b"", FormatError, "not JSON"),
        (b"[]", FormatError, "layers"),
        (b'{"layers": {}}', FormatError, "layers"),
        (b'{"layers": [1]}', FormatError, "layers"),
        ([], UnsupportedError, "has 0 layers of type"),
        (
            [{"mediaType": "application/vnd.ollama.image.tensor", "digest": "x", "size": 1}],
            UnsupportedError,
            "its layers are application/vnd.ollama.image.tensor",
        ),
        ([{"mediaType": MODEL_LAYER, "size": 1}], SecurityError, "no SHA-256 digest"),
        (
            [{"mediaType": MODEL_LAYER, "digest": "sha256:../../x", "size": 1}],
            SecurityError,
            "no SHA-256 digest",
        ),
        (
            [{"mediaType": MODEL_LAYER, "digest": "sha256:" + "0" * 64, "size": "1"}],
            FormatError,
            "layers: size",
        ),
        (
            [{"mediaType": MODEL_LAYER, "digest": "sha256:" + "0" * 64, "size": 1}],
            FileNotFoundError,
            "`ollama pull m` fetches it",
        ),
        (b" " * (MANIFEST_BYTES + 1), LimitError, "max_single_alloc"),
    ],
)
def test_broken_manifests(
    store: Store, layers: Layers | bytes, error: type[Exception], text: str
) -> None:
    store.manifest(PLACE, layers)
    if error is LimitError:
        text = "fixed limit"
    refused("ollama:m", error, text)


def test_a_blob_that_is_not_whole(store: Store, model: Path) -> None:
    with model.open("ab") as file:
        file.write(b"x")
    refused("ollama:llama3", IntegrityError, "its manifest", "says")


def test_a_blob_that_is_a_link_out_of_the_store(store: Store, model: Path, tmp_path: Path) -> None:
    outside = model.rename(tmp_path / "outside")
    model.symlink_to(outside)
    refused("ollama:llama3", SecurityError, "out of the folder")


def test_a_file_of_that_name_comes_first(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ollama:x").write_bytes(sample.read_bytes())
    assert anamnesis.inspect("ollama:x").tensors == 11


def test_the_command_line_lists_them_in_one_line(
    amn: Callable[..., subprocess.CompletedProcess[str]], model: Path
) -> None:
    done = amn("inspect", "ollama:gone")
    assert done.returncode == 1
    assert done.stderr.startswith("error: FileNotFoundError: ollama:gone: no such model")
    assert done.stderr.count("\n") == 1
