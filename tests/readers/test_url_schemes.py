"""Inputs by URL without a server: in memory, files, and drivers that are missing."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError, UsageError
from anamnesis.readers.source import LocalFile, open_source


def test_a_file_in_memory_and_its_config(memory: Any, fp8_model: Path, tmp_path: Path) -> None:
    memory.pipe("/bucket/m.safetensors", fp8_model.read_bytes())
    anamnesis.remember("memory://bucket/m.safetensors", tmp_path / "there.safetensors")
    anamnesis.remember(fp8_model, tmp_path / "here.safetensors")
    here, there = (tmp_path / f"{n}.safetensors" for n in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
    memory.pipe("/bucket/config.json", b"{")
    with pytest.raises(FormatError, match=r"memory://bucket/config.json"):
        anamnesis.inspect("memory://bucket/m.safetensors")


def test_folders_and_patterns_in_memory(
    memory: Any, tmp_path: Path, shards: dict[str, bytes]
) -> None:
    for name, data in shards.items():
        memory.pipe(f"/b/model/{name}", data)
    schemes = anamnesis.inspect(tmp_path).schemes
    assert anamnesis.inspect("memory://b/model").schemes == schemes
    assert anamnesis.inspect("memory://b/model/").schemes == schemes
    assert anamnesis.inspect("memory://b/model/*.safetensors").schemes == schemes
    memory.rm("/b/model/model.safetensors.index.json")
    assert anamnesis.inspect("memory://b/model").schemes == schemes
    with pytest.raises(FileNotFoundError, match="no file matches"):
        anamnesis.inspect("memory://b/model/*.gguf")
    with pytest.raises(FileNotFoundError):
        anamnesis.inspect("memory://b/nothing")


def test_a_chain_of_protocols(memory: Any, fp8_model: Path) -> None:
    memory.pipe("/m.safetensors", fp8_model.read_bytes())
    assert anamnesis.inspect("simplecache::memory://m.safetensors").tensors == 6


def test_parts_of_a_split_gguf(memory: Any, sample: Path) -> None:
    memory.pipe("/m-00001-of-00002.gguf", sample.read_bytes())
    with pytest.raises(AnamnesisError, match=r"split\.count"):
        anamnesis.inspect("memory://m-00001-of-00002.gguf")


def test_file_urls_are_local_files(fp8_model: Path, tmp_path: Path) -> None:
    with open_source(f"file://{fp8_model}") as file:
        assert isinstance(file, LocalFile)
    assert anamnesis.inspect(f"file://{fp8_model.parent}").tensors == 6
    out = tmp_path / "out.safetensors"
    assert anamnesis.remember(f"file://{fp8_model}", out).tensors == 6
    with pytest.raises(FormatError, match="not a regular file"):
        anamnesis.inspect("file:///dev/zero")


def test_jobs_name_outputs_after_urls(memory: Any, fp8_model: Path, tmp_path: Path) -> None:
    from anamnesis.pipeline.config import job_from
    from anamnesis.pipeline.jobs import run_job

    for name in ("x", "y"):
        memory.pipe(f"/{name}/{name}.safetensors", fp8_model.read_bytes())
    inputs = ["memory://x/x.safetensors", "memory://y/y.safetensors", "memory://gone/g.gguf"]
    done = run_job(job_from(inputs=inputs, output={"path": str(tmp_path / "o")}))
    assert [Path(o.path).name for o in done.outcomes] == ["x", "y"]
    assert [source for source, _ in done.failures] == ["memory://gone/g.gguf"]


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("s3://bucket/m.gguf", "s3fs", "s3"),
        ("gs://bucket/m.gguf", "gcsfs", "gs"),
        ("hf://owner/model/m.gguf", "huggingface_hub", "hf"),
        ("https://host/m.gguf", "aiohttp", "http"),
    ],
)
def test_a_missing_driver_says_what_to_install(
    url: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.registry import _registry

    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ImportError(f"no {module}")
        return original(name, *rest)

    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for protocol in ("s3", "gs", "hf", "http", "https"):
        if protocol in _registry:
            monkeypatch.delitem(_registry, protocol)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError) as caught:
        anamnesis.inspect(url)
    assert f'pip install "anamnesis-arrow[{extra}]"' in str(caught.value)
    assert url in str(caught.value)


def test_an_unknown_protocol() -> None:
    with pytest.raises(UsageError, match="Protocol not known: nothing"):
        anamnesis.inspect("nothing://x/m.gguf")


def test_fsspec_is_for_urls_alone(sample: Path) -> None:
    code = "import sys, anamnesis; anamnesis.inspect(sys.argv[1]); print('fsspec' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(sample)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
