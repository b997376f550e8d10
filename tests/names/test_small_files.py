"""Model folders behind a URL: their GGUF is that of the same folder here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_files import finish
from hub import MODEL, served
from llama_folder import llama_folder

import anamnesis
from anamnesis.errors import LimitError, UsageError

gguf = pytest.importorskip("gguf")
pytest.importorskip("aiohttp")


@pytest.mark.parametrize("place", ["hub", "web"])
def test_the_gguf_is_that_of_a_local_folder(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "hub":
        pytest.importorskip("huggingface_hub")
    here, there = tmp_path / "here.gguf", tmp_path / "there.gguf"
    source = llama_folder(tmp_path / "model", "fp8")
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    anamnesis.convert(source, here, to="gguf")
    with served(monkeypatch) as hub:
        above = "" if place == "hub" else "model/"
        hub.files = {f"{above}{path.name}": path.read_bytes() for path in source.iterdir()}
        url = f"hf://{MODEL}" if place == "hub" else f"{hub.url}/{above}"
        anamnesis.convert(url, there, to="gguf")
        assert there.read_bytes() == here.read_bytes()
        assert anamnesis.verify(there, against=url)["tensors"]
        read = hub.asked("tokenizer.json")
        assert read
        assert place == "web" or all(hub.commit in request.path for request in read)


def test_the_files_of_a_folder_stand_for_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = llama_folder(tmp_path / "model", "fp8")
    anamnesis.convert(source, tmp_path / "folder.gguf", to="gguf")
    anamnesis.convert(source / "*.safetensors", tmp_path / "file.gguf", to="gguf")
    monkeypatch.chdir(source)
    anamnesis.convert("*.safetensors", tmp_path / "here.gguf", to="gguf")
    expected = (tmp_path / "folder.gguf").read_bytes()
    assert (tmp_path / "file.gguf").read_bytes() == expected
    assert (tmp_path / "here.gguf").read_bytes() == expected


def test_what_lacks_or_is_too_large_is_named_by_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    source = llama_folder(tmp_path / "model", "fp8")
    with served(monkeypatch) as hub:
        hub.files = {path.name: path.read_bytes() for path in source.iterdir()}
        hub.files["README.md"] = bytes(1 << 20)
        allowed = {"max_single_alloc": (1 << 20) - 1}
        with pytest.raises(LimitError, match=f"hf://{MODEL}@{hub.commit}/README.md"):
            anamnesis.convert(f"hf://{MODEL}", tmp_path / "m.gguf", to="gguf", limits=allowed)
        del hub.files["README.md"], hub.files["config.json"]
        with pytest.raises(UsageError, match=f"^hf://{MODEL}@{hub.commit}: a GGUF for llama.cpp"):
            anamnesis.convert(f"hf://{MODEL}", tmp_path / "m.gguf", to="gguf")


def test_the_tower_beside_a_gguf_on_the_hub_comes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    with served(monkeypatch) as hub:
        for name, arch in (("m.gguf", "qwen2vl"), ("mmproj-m.gguf", "clip")):
            writer = gguf.GGUFWriter(str(tmp_path / name), arch)
            writer.add_string("clip.projector_type", "qwen2vl_merger")
            writer.add_uint32("clip.vision.block_count", 1)
            key = "output_norm.weight" if arch == "qwen2vl" else "v.post_ln.weight"
            writer.add_tensor(key, np.ones(16, np.float32))
            finish(writer)
            hub.files[name] = (tmp_path / name).read_bytes()
        here = anamnesis.open_model(tmp_path / "m.gguf", names="hf")
        for url in (f"hf://{MODEL}/m.gguf", f"hf://{MODEL}"):
            there = anamnesis.open_model(url, names="hf")
            assert sorted(t.name for t in there.model.tensors) == sorted(
                t.name for t in here.model.tensors
            )
            assert len(there.model.tensors) == 2
            assert not any("not chosen" in note for note in there.model.notes)
