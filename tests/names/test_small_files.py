"""Model folders behind a URL: their GGUF is that of the same folder here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub import MODEL, served
from llama_folder import llama_folder

import anamnesis
from anamnesis.errors import LimitError, UsageError

pytest.importorskip("gguf")
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
