"""Indexes and folders of sharded models that lie, leave, or never end (rows I01-I07)."""

from __future__ import annotations

import builtins
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, LimitError, SecurityError
from anamnesis.limits import INDEX_ITEMS, SHARDS, Limits
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job
from anamnesis.readers.model import load_model

INDEX = "model.safetensors.index.json"
Bounded = Callable[[], AbstractContextManager[None]]
Write = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Write) -> Path:
    """Two shards, a and b in the first, c in the second, and a true index."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name, tensors in (("s1.safetensors", "ab"), ("s2.safetensors", "c")):
        write_safetensors(folder / name, {t: ("F32", (1,), bytes(4)) for t in tensors})
    index(folder, {"a": "s1.safetensors", "b": "s1.safetensors", "c": "s2.safetensors"})
    return folder


def index(folder: Path, weight_map: Mapping[str, Any], **metadata: Any) -> None:
    document = {"metadata": metadata, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(document))


@pytest.fixture
def refused(model: Path, bounded: Bounded) -> Callable[..., str]:
    """Open the folder; that error, in time and in memory."""

    def check(error: type[AnamnesisError], *texts: str) -> str:
        with bounded(), pytest.raises(AnamnesisError) as caught:
            load_model(str(model))
        assert type(caught.value) is error, caught.value
        message = str(caught.value)
        for text in (str(model), *texts):
            assert text in message
        assert len(message) < 3_000
        assert "\n" not in message
        return message

    return check


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are opened from here on."""
    paths: list[str] = []
    real_os, real = os.open, builtins.open

    def spy_os(path: Any, *rest: Any, **more: Any) -> int:
        paths.append(os.fspath(path))
        return real_os(path, *rest, **more)

    def spy(path: Any, *rest: Any, **more: Any) -> Any:
        paths.append(str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", spy_os)
    monkeypatch.setattr(builtins, "open", spy)
    return paths


# --- I01: names that leave the folder


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/../../x", "sub//x.safetensors",
     "sub/../s1.safetensors", "x\0.safetensors", "",
     ".", "..", "../model/s1.safetensors", "a\0/../../x"],
)  # fmt: skip
def test_i01_names_that_leave(
    model: Path, refused: Callable[..., str], opened: list[str], name: str
) -> None:
    index(model, {"a": "s1.safetensors", "b": name})
    refused(SecurityError, "weight_map", INDEX)
    looked = {p for p in opened if p.startswith(str(model.parent))}
    assert looked <= {str(model / INDEX), str(model / "s1.safetensors")}


@pytest.mark.parametrize("name", [None, 1, 1.5, True, [], ["s1.safetensors"], {}])
def test_i01_names_that_are_no_text(model: Path, refused: Callable[..., str], name: Any) -> None:
    index(model, {"a": name})
    refused(FormatError, "weight_map: 'a': must be a file name")


@pytest.mark.parametrize(
    "document",
    [{}, {"weight_map": []}, {"weight_map": None}, {"weight_map": {}}, {"weight_map": "x"}, [], 1],
)
def test_i01_no_map(model: Path, refused: Callable[..., str], document: Any) -> None:
    (model / INDEX).write_text(json.dumps(document))
    refused(FormatError)


def test_i01_names_are_data_otherwise(model: Path, write_safetensors: Write) -> None:
    """`C:\\x`, `~` and `$HOME` are file names like others here, and taken literally."""
    for name in ("C:\\x", "~", "$HOME", "..."):
        write_safetensors(model / f"{name}.safetensors", {"a": ("F32", (1,), bytes(4))})
        index(model, {"a": f"{name}.safetensors"})
        assert len(load_model(str(model)).tensors) == 1


# --- I02: names of what is no file in the folder


def test_i02_a_link_out(model: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    (model / "s2.safetensors").rename(tmp_path / "x")
    for target in (tmp_path / "x", "../x", "/etc/passwd", "/dev/zero", "/proc/self/mem"):
        (model / "s2.safetensors").symlink_to(target)
        refused(SecurityError, "s2.safetensors", "is a link to")
        (model / "s2.safetensors").unlink()


def test_i02_a_link_to_a_link_out(model: Path, refused: Callable[..., str]) -> None:
    (model / "s2.safetensors").rename(model.parent / "x")
    (model / "away").symlink_to("..")
    (model / "s2.safetensors").symlink_to("away/x")
    refused(SecurityError, "s2.safetensors")


def test_i02_a_fifo_a_folder_a_socket(model: Path, refused: Callable[..., str]) -> None:
    shard = model / "s2.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    refused(FormatError, "s2.safetensors: not a regular file")
    shard.unlink()
    shard.mkdir()
    refused(FormatError, "s2.safetensors: is a directory")
    shard.rmdir()
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.getcwd()
        os.chdir(model)  # names of sockets are short
        try:
            unix.bind(shard.name)
        finally:
            os.chdir(here)
        with pytest.raises(OSError, match=r"s2\.safetensors"):
            load_model(str(model))


@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_i02_index_and_config_too(model: Path, refused: Callable[..., str], name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    refused(FormatError, f"{name}: not a regular file")


def test_i02_a_loop_of_links(model: Path, bounded: Bounded) -> None:
    (model / "s2.safetensors").unlink()
    (model / "s2.safetensors").symlink_to("s2.safetensors")
    with bounded(), pytest.raises(OSError, match="symbolic links"):
        load_model(str(model))
    (model / "loop").symlink_to("loop")
    for path in (model / "loop", model / "loop" / "x.gguf"):
        with pytest.raises(OSError, match="symbolic links"):
            load_model(str(path))
    (model / "around").symlink_to(".")
    (model / "s2.safetensors").unlink()
    index(model, {"a": "s1.safetensors", "b": "s1.safetensors"})
    assert len(load_model(str(model / "around" / "around" / "around")).tensors) == 2


# --- I03: index and shards that tell different things: the index selects, and what differs is said


def notes(model: Path, *texts: str) -> list[str]:
    """The names of the tensors; every text is in a remark."""
    loaded = load_model(str(model))
    for text in texts:
        assert any(text in note for note in loaded.notes), loaded.notes
    assert len(loaded.notes) == len(texts)
    return [f"{t.name} {Path(t.components[0].stored.file.path).stem}" for t in loaded.tensors]


def test_i03_a_tensor_that_no_shard_has(model: Path) -> None:
    one, two = "s1.safetensors", "s2.safetensors"
    index(model, {"a": one, "b": one, "c": two, "d": two})
    assert notes(model, "lists tensors that no file has: d") == ["a s1", "b s1", "c s2"]


def test_i03_a_tensor_that_is_in_another_shard(model: Path) -> None:
    one, two = "s1.safetensors", "s2.safetensors"
    index(model, {"a": one, "b": two, "c": two})
    assert notes(model, "says another file for b (s1") == ["a s1", "b s1", "c s2"]


def test_i03_a_tensor_that_the_index_lacks(model: Path) -> None:
    index(model, {"a": "s1.safetensors", "c": "s2.safetensors"})
    assert notes(model, "does not list these, which are left out: b") == ["a s1", "c s2"]


def test_i03_a_tensor_in_two_shards(
    model: Path, refused: Callable[..., str], write_safetensors: Write
) -> None:
    write_safetensors(model / "s2.safetensors", {t: ("F32", (1,), bytes(4)) for t in "bc"})
    assert notes(model) == ["a s1", "b s1", "c s2"]
    index(model, {"a": "s1.safetensors", "b": "s2.safetensors", "c": "s2.safetensors"})
    assert notes(model) == ["a s1", "b s2", "c s2"]
    (model / INDEX).unlink()
    refused(FormatError, "tensor 'b' is also in")


def test_i03_an_index_of_another_model(model: Path) -> None:
    index(model, {"x": "s1.safetensors", "y": "s1.safetensors", "c": "s2.safetensors"})
    text = "the index is of another model (x, y in no file); the files are taken whole"
    assert notes(model, text) == ["a s1", "b s1", "c s2"]


def test_i03_codes_bring_their_scales(model: Path, write_safetensors: Write) -> None:
    """An index from before quantisation knows no scales, without which codes mean nothing."""
    entries = {
        "l.weight": ("F8_E4M3", (1, 1), b"\x38"),
        "l.weight_scale": ("F32", (1,), struct.pack("<f", 2.0)),
        "m.weight": ("F32", (1,), bytes(4)),
        "m.other": ("F32", (1,), bytes(4)),
    }
    write_safetensors(model / "s1.safetensors", entries)
    index(model, dict.fromkeys(("l.weight", "m.weight"), "s1.safetensors"))
    texts = ("belong to codes and are taken: l.weight_scale", "left out: m.other", "s2.safetensors")
    assert notes(model, *texts) == ["l.weight s1", "m.weight s1"]


# --- I04: shards that cannot be read


@pytest.mark.parametrize("broken", ["missing", "empty", "cut"])
def test_i04_a_broken_shard(
    model: Path, refused: Callable[..., str], broken: str, tmp_path: Path
) -> None:
    shard = model / "s2.safetensors"
    if broken == "missing":
        shard.unlink()
    else:
        os.truncate(shard, 0 if broken == "empty" else shard.stat().st_size - 1)
    refused(FormatError, "s2.safetensors")
    with pytest.raises(FormatError, match=r"s2\.safetensors"):
        anamnesis.remember(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_i04_every_broken_shard_is_named(model: Path, refused: Callable[..., str]) -> None:
    (model / "s1.safetensors").write_bytes(b"")
    (model / "s2.safetensors").unlink()
    refused(
        FormatError,
        "2 of 2 files cannot be read",
        "s1.safetensors: the file is empty",
        f"s2.safetensors: is missing; {model / INDEX} names it",
    )
    names = {f"t{i}": f"s{i}.safetensors" for i in range(1, SHARDS)}
    index(model, names)
    assert "and 9,994 more" in refused(FormatError, "9999 of 9999 files cannot be read")


def test_i04_the_rest_of_a_job_goes_on(model: Path, tmp_path: Path) -> None:
    (model / "s2.safetensors").unlink()
    job = job_from(
        inputs=[str(model), str(model / "s1.safetensors")], output={"path": str(tmp_path / "out")}
    )
    summary = run_job(job)
    assert [o.tensors for o in summary.outcomes] == [2]
    assert [type(error) for _, error in summary.failures] == [FormatError]
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["s1"]


# --- I05: more than a model has


def test_i05_too_many_shards(model: Path, refused: Callable[..., str], opened: list[str]) -> None:
    index(model, {f"t{i}": f"s{i}" for i in range(SHARDS + 1)})
    refused(LimitError, "shards: needs 10,001", "10,000")
    assert {p for p in opened if p.startswith(str(model))} == {str(model / INDEX)}


def test_i05_too_many_entries(model: Path, refused: Callable[..., str]) -> None:
    names = ",".join(f'"model.layers.{i}":"s1"' for i in range(1_000_000))
    (model / INDEX).write_text(f'{{"weight_map":{{{names}}}}}')
    refused(LimitError, "weight_map")
    index(model, {"a": "s1.safetensors", "b": "s1.safetensors", "c": "s2.safetensors"})
    with pytest.raises(LimitError) as caught:
        load_model(str(model), limits=Limits(max_items=2))
    assert (caught.value.limit, caught.value.need, caught.value.have) == ("max_items", 3, 2)
    assert INDEX_ITEMS < 1_000_000


# --- I06: total_size


@pytest.mark.parametrize("size", [0, -1, 2**63, 10**30, "12", 1.5, [], {}, True, "x" * 10_000])
def test_i06_a_total_size_that_cannot_be(model: Path, bounded: Bounded, size: Any) -> None:
    index(
        model,
        {"a": "s1.safetensors", "b": "s1.safetensors", "c": "s2.safetensors"},
        total_size=size,
    )
    with bounded():
        (note,) = load_model(str(model)).notes
    assert "metadata.total_size: says" in note
    assert len(note) < 1_000


@pytest.mark.parametrize("metadata", [{"total_size": 12}, {}, {"total_size": None}, None, 7, []])
def test_i06_nothing_to_remark_on(model: Path, metadata: Any) -> None:
    document = json.loads((model / INDEX).read_text()) | {"metadata": metadata}
    (model / INDEX).write_text(json.dumps(document))
    assert load_model(str(model)).notes == ()


# --- I07: JSON that is none, or too much of it


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b'{"weight_map":{"a":"s1.safetensors","a":"s1.safetensors"}}', FormatError),
        (b'{"weight_map":{},"weight_map":{"a":"s1.safetensors"}}', FormatError),
        (b'\xef\xbb\xbf{"weight_map":{"a":"s1.safetensors"}}', FormatError),
        (b'{"weight_map":{"a":"s1.safetensors"}}{}', FormatError),
        (b'{"weight_map":{"a":"s1.safetensors"', FormatError),
        (b'{"weight_map":{"\\ud800":"s1.safetensors"}}', FormatError),
        ('{"weight_map":{"a":"s1.safetensors"}}'.encode("utf-16"), FormatError),
        (b"[" * 100_000, FormatError),
        (b'{"a":' * 100_000, FormatError),
        (b"", FormatError),
        (b"version https://git-lfs.github.com/spec/v1\n", FormatError),
    ],
)
@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_i07_bad_json(
    model: Path, refused: Callable[..., str], text: bytes, error: type[AnamnesisError], name: str
) -> None:
    (model / name).write_bytes(text)
    refused(error, name)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_i07_no_numbers_in_an_index(model: Path, refused: Callable[..., str], value: str) -> None:
    """A configuration may have them, as Python writes them: tests/readers/test_choice.py."""
    text = f'{{"weight_map":{{"a":"s1.safetensors"}},"metadata":{{"total_size":{value}}}}}'
    (model / INDEX).write_text(text)
    refused(FormatError, INDEX)
    (model / "config.json").write_text(f'{{"a":{value}, "a":1}}')
    (model / INDEX).unlink()
    refused(FormatError, "config.json: 'a' is given twice")


def test_i07_a_number_of_5000_digits(model: Path, refused: Callable[..., str]) -> None:
    (model / INDEX).write_bytes(b'{"x":' + b"9" * 5_000 + b"}")
    refused(FormatError, INDEX)


def test_i07_an_index_of_100_mb(model: Path, refused: Callable[..., str]) -> None:
    with (model / INDEX).open("wb") as file:
        file.write(b'{"weight_map":')
        file.truncate((100 << 20) + 1)
    refused(LimitError, INDEX, "104,857,600")


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**300, 1e300])
def test_i07_large_numbers_in_a_config(model: Path, value: float) -> None:
    (model / "config.json").write_text(json.dumps({"hidden_size": value}))
    assert len(load_model(str(model)).tensors) == 3


def test_i07_names_of_tensors_are_data(model: Path, write_safetensors: Write) -> None:
    names = ["../../x", "a\nb", "%s%n", "\x1b[31m", "__metadata", "x" * 60_000]
    entries = {name: ("F32", (1,), struct.pack("<f", 1.0)) for name in names}
    write_safetensors(model / "s1.safetensors", entries)
    index(model, dict.fromkeys(names, "s1.safetensors"))
    assert sorted(t.name for t in load_model(str(model)).tensors) == sorted(names)
