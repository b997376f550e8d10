"""Models of a hub: pinned to a commit, opened with a request or two a shard, tokens kept secret.

The hub is `builders/hub.py`, on this machine: the routes, redirects and headers of huggingface.co.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hub import MODEL, Hub, Request, served

import anamnesis
from anamnesis.errors import IntegrityError, without_secrets
from anamnesis.readers import retry
from anamnesis.readers.hub import Place, parse
from anamnesis.readers.model import load_model
from anamnesis.readers.source import open_source

pytest.importorskip("huggingface_hub")
pytest.importorskip("aiohttp")
MIB = 1 << 20
TOKEN = "hf_" + "s3cr3t" * 6


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.0)
    with served(monkeypatch) as hub:
        yield hub


@pytest.fixture
def model(hub: Hub, fp8_model: Path) -> str:
    """The URL of a model of one file, which the hub redirects."""
    hub.files = {"model.safetensors": fp8_model.read_bytes(), "config.json": b"{}"}
    return f"hf://{MODEL}"


def shards(hub: Hub, write: Callable[..., Path], folder: Path, count: int, tensors: int) -> None:
    """A model of `count` shards, its index and its configuration."""
    weight_map = {}
    for number in range(1, count + 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        rows = {
            f"layers.{number}.{k:04d}.weight": ("BF16", (128,), bytes(256)) for k in range(tensors)
        }
        hub.files[name] = write(folder / name, rows).read_bytes()
        weight_map.update(dict.fromkeys(rows, name))
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    hub.files["config.json"] = b'{"model_type": "llama"}'


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://a/b", Place("model", "a/b", "", "")),
        ("hf://a/b/c/d.gguf", Place("model", "a/b", "", "c/d.gguf")),
        ("hf://models/a/b@v1/d", Place("model", "a/b", "v1", "d")),
        ("hf://datasets/a/b@refs/pr/3/d", Place("dataset", "a/b", "refs/pr/3", "d")),
        ("hf://a/b@refs%2Fpr%2F3", Place("model", "a/b", "refs/pr/3", "")),
        ("hf://buckets/a/b/c", None),
        ("https://a/b", None),
    ],
)
def test_what_a_url_says(url: str, place: Place | None) -> None:
    assert parse(url) == place


def test_200_shards_open_in_a_few_round_trips(
    hub: Hub, write_safetensors: Callable[..., Path], tmp_path: Path
) -> None:
    """One request a shard, and one for where it is, up to 32 at a time."""
    shards(hub, write_safetensors, tmp_path, 200, 40)
    hub.latency = 0.05
    found = load_model(f"hf://{MODEL}")
    assert len(found.tensors) == 200 * 40
    assert len(hub.asked("api/models")) == 1
    assert len(hub.asked("resolve")) == 202
    assert len(hub.asked("cdn/")) == 201
    assert 16 < hub.most <= 32


def test_everything_is_read_at_the_commit_of_the_beginning(model: str, hub: Hub) -> None:
    first, second = hub.commit, "dead" * 10
    found = load_model(model)
    assert [f.path for f in found.files] == [f"hf://{MODEL}@{first}/model.safetensors"]
    hub.commit, hub.branches = second, {first: first}
    with open_source(found.files[0].path, expected=found.files[0]) as file:
        assert file.read(0, 8) == hub.files["model.safetensors"][:8]
    assert all(first in r.path or r.path.startswith(("cdn", "api")) for r in hub.requests)
    assert second in load_model(model).files[0].path
    assert second in load_model(f"{model}@main").files[0].path


def test_the_bytes_of_a_local_run(model: str, hub: Hub, fp8_model: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    anamnesis.remember(fp8_model, here)
    anamnesis.remember(model, there)
    assert here.read_bytes() == there.read_bytes()
    manifest = json.loads(there.with_name("there.safetensors.anamnesis.json").read_text())
    assert manifest["inputs"][0][0] == f"hf://{MODEL}@{hub.commit}/model.safetensors"


def test_redirects_are_remembered_until_they_expire(model: str, hub: Hub) -> None:
    with open_source(f"{model}/model.safetensors") as file:
        for at in range(0, 6 * MIB, 3 * MIB):
            file.read(at, 100)
        assert len(hub.asked("resolve")) == 1
        hub.epoch += 1
        assert file.read(8 * MIB, 9) == hub.files["model.safetensors"][8 * MIB :][:9]
    assert len(hub.asked("resolve")) == 2


def test_another_object_under_the_same_commit(model: str, hub: Hub) -> None:
    found = load_model(model)
    hub.versions["model.safetensors"] = "f" * 64
    hub.epoch += 1
    with (
        open_source(found.files[0].path, expected=found.files[0]) as file,
        pytest.raises(IntegrityError, match="changed while it was read"),
    ):
        file.read(0, 8)


@pytest.mark.parametrize("fault", ["503", "429", "reset", "cut", "short"])
def test_faults_that_pass(model: str, hub: Hub, fp8_model: Path, fault: str) -> None:
    """Each request for a part fails the first time; what came of a body is not asked for again."""
    seen = set()

    def first_time(request: Request) -> str | None:
        key = request.path
        if request.path.startswith("api") or key in seen:
            return None
        seen.add(key)
        return fault if fault != "short" or request.path.startswith("cdn") else None

    hub.fault = first_time
    if fault == "short":
        with pytest.raises(IntegrityError, match="Content-Range"):
            load_model(model)
        return
    with open_source(f"{model}/model.safetensors") as file:
        assert file.read(0, 3 * MIB) == fp8_model.read_bytes()[: 3 * MIB]


def test_a_pause_that_the_server_asks_for(model: str, hub: Hub) -> None:
    begin = time.monotonic()
    hub.retry_after = "1"
    hub.fault = lambda request: "429" if len(hub.asked("resolve")) == 1 else None
    with open_source(f"{model}/model.safetensors") as file:
        file.read(0, 8)
    assert time.monotonic() - begin >= 1
    hub.retry_after = "3600"
    hub.fault = lambda request: "503"
    hub.epoch += 1
    hub.requests.clear()
    with (
        open_source(f"hf://{MODEL}@{hub.commit}/config.json") as file,
        pytest.raises(OSError, match="503"),
    ):
        file.read(0, 2)
    assert len(hub.requests) == 1  # nobody waits for an hour


def test_tokens_go_to_the_hub_alone(model: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens = (TOKEN,)
    with pytest.raises(PermissionError, match="permission denied"):
        load_model(model)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load_model(model)
    assert hub.asked("cdn/")
    assert not any("authorization" in r.headers for r in hub.asked("cdn/"))
    found = load_model(model)
    hub.tokens = ("another",)
    hub.epoch += 1
    with (
        open_source(found.files[0].path, expected=found.files[0]) as file,
        pytest.raises(PermissionError) as caught,
    ):
        file.read(0, 8)
    assert TOKEN not in str(caught.value)
    assert "s3cr3t" not in repr(caught.value)


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_gated_repository_says_where_to_ask(
    model: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str
) -> None:
    """Its list of files is public; who may not read them is told the page, and nothing is made."""
    hub.gated, hub.tokens = True, ("another",)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PermissionError, match=f"gated: ask .* at {hub.url}/{MODEL}, .*HF_TOKEN"):
        anamnesis.remember(model, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    hub.gated = False
    with pytest.raises(PermissionError, match=r"no such repository, or a private one.*HF_TOKEN"):
        load_model(model)


def test_what_is_secret_stays_out_of_errors() -> None:
    url = "https://me:pass@host/x.gguf?X-Amz-Signature=abc"
    assert without_secrets(f"{url}: is cut") == "https://host/x.gguf?…: is cut"
    assert TOKEN not in without_secrets(f"with Bearer {TOKEN} or {TOKEN}.")
    kept = "hf_quant_config.json of hf://a/b@main, a?b and x:y"
    assert without_secrets(kept) == kept
    error = anamnesis.errors.FormatError(f"{url}: wrong")
    assert "pass" not in str(error)
    assert "abc" not in str(error)


def test_plain_urls_take_one_request_a_shard(
    hub: Hub, write_safetensors: Callable[..., Path], tmp_path: Path
) -> None:
    shards(hub, write_safetensors, tmp_path, 20, 3)
    found = load_model(f"{hub.url}/")
    assert len(found.tensors) == 60
    assert len(hub.asked("-of-00020.safetensors")) == 20


def test_a_missing_file_and_a_missing_revision(model: str, hub: Hub) -> None:
    with pytest.raises(FileNotFoundError):
        load_model(f"{model}/none.gguf")
    with pytest.raises(FileNotFoundError):
        load_model(f"{model}@nothing")
    assert np.array_equal(hub.asked("none.gguf"), [])
