"""What goes along with the weights: streamed, counted, and each file written once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import files_in_memory, local
from hub import MODEL, Hub, served

import anamnesis
from anamnesis.cli.main import main
from anamnesis.errors import LimitError
from anamnesis.limits import Limits
from anamnesis.pipeline.companions import copy_companions
from anamnesis.readers import READERS
from anamnesis.writers import disk

MIB = 1 << 20


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    values = np.arange(64, dtype=np.float32).tobytes()
    write_safetensors(folder / "model.safetensors", {"w": ("F32", (8, 8), values)})
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("aiohttp")
    with served(monkeypatch) as hub:
        yield hub


def big(path: Path, nbytes: int) -> bytes:
    data = np.random.default_rng(1).bytes(nbytes)
    path.write_bytes(data)
    return data


def test_a_large_file_is_streamed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = big(model / "tokenizer.model", 5 * MIB + 3)
    pieces: list[int] = []
    write = disk.write_stream

    def counted(path: Path, chunks: object) -> None:
        def each():  # type: ignore[no-untyped-def]
            for chunk in chunks:  # type: ignore[attr-defined]
                if path.name == "tokenizer.model":
                    pieces.append(len(chunk))
                yield chunk

        write(path, each())

    monkeypatch.setattr(disk, "write_stream", counted)
    anamnesis.remember(model, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == data
    assert pieces == [MIB] * 5 + [3]


def test_a_file_with_many_names_is_written_once(model: Path, tmp_path: Path) -> None:
    """As a hub's cache has it, where equal files are links to one blob; or a bomb."""
    data = big(model / "a.model", MIB)
    for number in range(20):
        (model / f"{number}.txt").symlink_to("a.model")
    os.link(model / "a.model", model / "hard.txt")
    anamnesis.remember(model, tmp_path / "out", limits=Limits(max_total_bytes=MIB + 10_000))
    made = [tmp_path / "out" / name for name in ("a.model", "0.txt", "19.txt", "hard.txt")]
    assert all(path.read_bytes() == data and not path.is_symlink() for path in made)
    assert len({path.stat().st_ino for path in made}) == 1
    assert anamnesis.verify(tmp_path / "out")["tensors"] == 1


def test_without_hard_links_each_is_a_copy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = big(model / "a.model", 1000)
    (model / "b.txt").symlink_to("a.model")

    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    anamnesis.remember(model, tmp_path / "out")
    assert (tmp_path / "out" / "b.txt").read_bytes() == data
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


def test_the_limits_count_them_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    big(model / "a.model", MIB)
    with pytest.raises(LimitError, match="files beside the weights, and the output") as caught:
        anamnesis.remember(model, tmp_path / "out", limits=Limits(max_total_bytes=MIB))
    assert caught.value.limit == "max_total_bytes"
    assert not (tmp_path / "out").exists()


def test_all_of_them_have_a_fixed_limit(model: Path, tmp_path: Path) -> None:
    for number in range(5):
        with (model / f"{number}.dat").open("wb") as file:
            file.truncate(250 * MIB)
    with pytest.raises(LimitError, match="go along; the fixed limit is 1,073,741,824"):
        anamnesis.remember(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_configuration_is_charged_to_the_memory_budget(
    name: str, model: Path, tmp_path: Path
) -> None:
    (model / name).write_text(json.dumps({"x": [[]] * 4_000_000}))
    with pytest.raises(LimitError, match=r"run\.memory leaves") as caught:
        anamnesis.remember(model, tmp_path / "out", memory="220MiB")
    assert caught.value.limit == "run.memory"
    assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "MODEL.SAFETENSORS",
        "Model.Safetensors.Index.json",
        "custom_checkpoint_0.pkl",
        "m.gguf.aria2",
        "model.onnx.data",
        "model.onnx_data",
        "model.safetensors.incomplete",
        "model.safetensors.tmp",
        "trainer_state.json",
    ],
)
def test_weights_training_and_downloads_that_did_not_end_are_no_companions(
    model: Path, tmp_path: Path, name: str
) -> None:
    (model / name).write_bytes(b"part of a model")
    (model / "README.md").write_text("of the model")
    anamnesis.remember(model, tmp_path / "out")
    assert not (tmp_path / "out" / name).exists()
    assert (tmp_path / "out" / "README.md").exists()


def test_what_any_reader_takes_is_no_companion(model: Path, tmp_path: Path) -> None:
    others = {f"other{end}" for row in READERS.values() for end in row.extensions}
    for name in others:
        (model / name).write_bytes(b"part of a model")
    anamnesis.remember(model, tmp_path / "out")
    assert not others & {path.name for path in (tmp_path / "out").iterdir()}


def test_what_cannot_be_copied_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (model / "tokenizer.model").open("wb") as file:
        file.truncate((256 << 20) + 1)
    os.mkfifo(model / "tokenizer.json")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["remember", str(model), "-o", str(tmp_path / "out")])
    said = capsys.readouterr().err
    for name in ("tokenizer.model", "tokenizer.json"):
        assert f"{name}: was not copied" in said
        assert not (tmp_path / "out" / name).exists()


@pytest.fixture
def behind_urls(
    model: Path, hub: Hub, memory: Any, request: pytest.FixtureRequest
) -> tuple[str, Path]:
    """The URL of a model, and the same in a folder, with files that are left out."""
    more = {
        "config.json": b'{"torch_dtype": "fp8", "quantization_config": {"quant_method": "fp8"}}',
        "tokenizer.json": np.random.default_rng(1).bytes(3 * MIB + 5),
        "chat_template.jinja": b"{{ messages }}",
        "quantize_config.json": b"{}",
        "optimizer.pt": b"part of a training run",
        ".gitattributes": b"* text",
    }
    for name, data in more.items():
        (model / name).write_bytes(data)
    (model / "below").mkdir()
    (model / "below" / "notes.txt").write_text("of nobody")
    for path in (p for p in model.rglob("*") if p.is_file()):
        name = str(path.relative_to(model))
        hub.files[name] = path.read_bytes()
        memory.pipe(f"/b/model/{name}", path.read_bytes())
    return {"hub": f"hf://{MODEL}@main", "bucket": "memory://b/model"}[request.param], model


@pytest.mark.parametrize("behind_urls", ["hub", "bucket"], indirect=True)
@pytest.mark.parametrize("encode", [None, "fp8-channel"])
def test_they_come_from_behind_a_url_as_from_a_folder(
    behind_urls: tuple[str, Path], tmp_path: Path, memory: Any, encode: str | None
) -> None:
    """And go into a store; the limits count them."""
    url, folder = behind_urls
    settings = {"to": "hf", "dtype": "bf16", "encode": encode}
    anamnesis.convert(folder, tmp_path / "here", **settings)
    anamnesis.convert(url, tmp_path / "there", **settings)
    anamnesis.convert(url, "memory://b/out", **settings)
    here = local(tmp_path / "here")
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} < set(here)
    assert local(tmp_path / "there") == here == files_in_memory("/b/out/")
    assert (
        anamnesis.verify("memory://b/out")["tensors"]
        == anamnesis.verify(tmp_path / "here")["tensors"]
    )
    with pytest.raises(LimitError, match="files beside the weights, and the output"):
        anamnesis.convert(url, tmp_path / "no", **settings, limits=Limits(max_total_bytes=MIB))


def test_several_are_fetched_at_a_time(
    model: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are written at one time, and both wait for that; what is said of them has an order."""
    meeting = threading.Barrier(2, timeout=60)
    write = disk.write_stream

    def meets(path: Path, chunks: Any) -> None:
        if path.name.startswith("part-"):
            meeting.wait()
        write(path, chunks)

    monkeypatch.setattr(disk, "write_stream", meets)
    names = [f"part-{number}.txt" for number in range(4)]
    broken = [f"a_{number}_config.json" for number in range(3)]
    hub.files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.files |= {name: name.encode() for name in names} | dict.fromkeys(broken, b"{")
    notes: list[str] = []
    copied = copy_companions(f"hf://{MODEL}@main", tmp_path, "bf16", notes.append)
    assert copied == ["config.json", *names]
    assert [name for note in notes for name in broken if name in note] == broken


def test_over_http_a_note_says_that_nothing_lists_them(
    model: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files = {f"m/{path.name}": path.read_bytes() for path in model.iterdir()}
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["remember", f"{hub.url}/m/", "-o", str(tmp_path / "out")])
    assert (
        "nothing lists it, so that no file beside the weights was copied" in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "config.json").exists()
