"""What a path means: folders, indexes, patterns, links."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import anamnesis
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    SecurityError,
    UnsupportedError,
    UsageError,
)
from anamnesis.limits import Limits
from anamnesis.readers.find import find_files
from anamnesis.readers.model import load_model

INDEX = "model.safetensors.index.json"
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Make:
    """A folder of shards from `file name -> tensor names`, each of 4 bytes, and an index."""

    def write(
        shards: Mapping[str, str], folder: Path = tmp_path / "model", index: str | None = INDEX
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in shards.items():
            entries = {t: ("F32", (1,), struct.pack("<f", ord(t))) for t in tensors}
            write_safetensors(folder / name, entries)
        weight_map = {t: name for name, tensors in shards.items() for t in tensors}
        total = {"total_size": 4 * len(weight_map)}
        if index:
            (folder / index).write_text(json.dumps({"metadata": total, "weight_map": weight_map}))
        return folder

    return write


def found(path: Path | str) -> list[str]:
    return [os.path.basename(p) for p in find_files(str(path), Limits()).paths]


def refused(path: Path | str, error: type[AnamnesisError], *texts: str) -> None:
    with pytest.raises(AnamnesisError) as caught:
        load_model(str(path))
    assert type(caught.value) is error, caught.value
    for text in texts:
        assert text in str(caught.value)


# --- folders and patterns


def test_shards_by_their_index(make: Make) -> None:
    folder = make({"b.safetensors": "xy", "a.safetensors": "z"})
    (folder / "c.safetensors").write_bytes(b"not of the model")
    assert found(folder) == ["b.safetensors", "a.safetensors"]
    assert found(folder / INDEX) == ["b.safetensors", "a.safetensors"]
    model = load_model(str(folder))
    assert [t.name for t in model.tensors] == ["x", "y", "z"]
    assert model.notes == (f"{folder}: left out c.safetensors: the index does not name it",)
    assert load_model(str(folder / INDEX)).notes == ()


@pytest.mark.parametrize("index", ["diffusion_pytorch_model.safetensors.index.json"])
def test_an_index_of_another_name(make: Make, index: str) -> None:
    folder = make({"a.safetensors": "x", "model.safetensors": "y"}, index=index)
    assert found(folder) == ["a.safetensors", "model.safetensors"]


def test_several_indexes(make: Make) -> None:
    make({"a.safetensors": "x"}, index="a.safetensors.index.json")
    folder = make({"b.safetensors": "x"}, index="b.safetensors.index.json")
    refused(folder, UsageError, "holds 2 indexes; name one of them")
    assert found(folder / "b.safetensors.index.json") == ["b.safetensors"]
    make({"c.safetensors": "x"})
    assert found(folder) == ["c.safetensors"]


def test_a_folder_without_index(make: Make) -> None:
    folder = make({"consolidated.safetensors": "x", "model-1.safetensors": "y"}, index=None)
    (folder / ".model-0.safetensors").write_bytes(b"hidden")
    assert found(folder) == ["model-1.safetensors"]
    (folder / "model-1.safetensors").unlink()
    assert found(f"{folder}/") == ["consolidated.safetensors"]
    (folder / "consolidated.safetensors").unlink()
    refused(folder, FormatError, "no weights found")


def test_patterns(make: Make, tmp_path: Path) -> None:
    make({"a.safetensors": "x", "b.safetensors": "y"}, index=None)
    assert found(tmp_path / "m*" / "[ab].safetensors") == ["a.safetensors", "b.safetensors"]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        find_files(str(tmp_path / "*.gguf"), Limits())


def test_a_name_that_looks_like_a_pattern(make: Make, tmp_path: Path) -> None:
    make({"a[1].safetensors": "x"}, index=None)
    assert found(tmp_path / "model" / "a[1].safetensors") == ["a[1].safetensors"]


def split(sample: Path, folder: Path, count: int = 2) -> list[Path]:
    """A GGUF model in parts with one F32 tensor each."""
    paths = []
    for number in range(count):
        key_values = b""
        for key, type_id, value in (
            ("split.no", 2, struct.pack("<H", number)),
            ("split.count", 2, struct.pack("<H", count)),
            ("split.tensors.count", 5, struct.pack("<i", count)),
        ):
            key_values += struct.pack("<Q", len(key)) + key.encode()
            key_values += struct.pack("<I", type_id) + value
        name = f"t{number}".encode()
        info = struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 8, 0, 0)
        head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 3) + key_values + info
        path = folder / f"m-{number + 1:05}-of-{count:05}.gguf"
        path.write_bytes(head + bytes(-len(head) % 32) + bytes(32))
        paths.append(path)
    return paths


def test_parts_of_one_gguf_model_open_it_once(sample: Path, tmp_path: Path) -> None:
    split(sample, tmp_path, 3)
    for path in (tmp_path, tmp_path / "*.gguf", tmp_path / "m-0000[23]*", tmp_path / "m-00003*"):
        model = load_model(str(path))
        assert [t.name for t in model.tensors] == ["t0", "t1", "t2"]
        assert len(model.files) == 3
    shutil.copy(sample, tmp_path / "other.gguf")
    refused(tmp_path, UsageError, "holds 2 GGUF models; name one of them")
    assert len(load_model(str(tmp_path / "*.gguf")).tensors) == 14


def test_a_part_that_is_a_link_out(sample: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    first, second = split(sample, folder)
    second.rename(tmp_path / "outside")
    second.symlink_to(tmp_path / "outside")
    refused(first, SecurityError, "m-00002-of-00002.gguf", "out of the folder")
    refused(folder, SecurityError, "out of the folder")


# --- links


def test_links_within_the_folder(make: Make) -> None:
    folder = make({"real": "x"}, index=None)
    (folder / "sub").mkdir()
    (folder / "real").rename(folder / "sub" / "real")
    (folder / "model.safetensors").symlink_to("sub/real")
    assert found(folder) == ["model.safetensors"]
    assert [t.name for t in load_model(str(folder)).tensors] == ["x"]


def test_links_out_of_the_folder(make: Make, tmp_path: Path) -> None:
    folder = make({"model-1.safetensors": "x", "model-2.safetensors": "y"})
    outside = (folder / "model-2.safetensors").rename(tmp_path / "outside")
    (folder / "model-2.safetensors").symlink_to(outside)
    refused(folder, SecurityError, "model-2.safetensors: is a link to", "name that file itself")
    (folder / INDEX).unlink()
    refused(folder, SecurityError, "model-2.safetensors")
    refused(folder / "*.safetensors", SecurityError, "model-2.safetensors")
    # Who names the link means it, and the folder may be a link itself.
    assert [t.name for t in load_model(str(folder / "model-2.safetensors")).tensors] == ["y"]
    (folder / "model-2.safetensors").unlink()
    (tmp_path / "link").symlink_to(folder)
    assert [t.name for t in load_model(str(tmp_path / "link")).tensors] == ["x"]


def test_a_config_that_is_a_link_out(make: Make, tmp_path: Path) -> None:
    folder = make({"model.safetensors": "x"}, index=None)
    (tmp_path / "secret.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    refused(folder, SecurityError, "config.json: is a link to")
    refused(folder / "model.safetensors", SecurityError, "config.json")


def test_an_index_that_is_a_link_out(make: Make, tmp_path: Path) -> None:
    folder = make({"model.safetensors": "x"})
    (folder / INDEX).rename(tmp_path / "index")
    (folder / INDEX).symlink_to(tmp_path / "index")
    refused(folder, SecurityError, INDEX)


def test_a_companion_that_is_a_link_out_is_not_copied(make: Make, tmp_path: Path) -> None:
    folder = make({"model.safetensors": "x"}, index=None)
    (tmp_path / "id_rsa").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "id_rsa")
    (folder / "dangling.txt").symlink_to(tmp_path / "none")
    with pytest.raises(SecurityError, match=r"README\.md"):
        anamnesis.remember(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (folder / "README.md").unlink()
    anamnesis.remember(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "dangling.txt").exists()


def hub(make: Make, cache: Path) -> Path:
    """A snapshot in the hub's cache: links to blobs, as huggingface_hub makes them."""
    repository = cache / "models--owner--name"
    snapshot = make({"model-1.safetensors": "x", "model-2.safetensors": "y"},
                    repository / "snapshots" / "c0ffee")  # fmt: skip
    (snapshot / "config.json").write_text("{}")
    (repository / "blobs").mkdir()
    for path in sorted(snapshot.iterdir()):
        blob = path.rename(repository / "blobs" / f"blob-of-{path.name}")
        path.symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_the_cache_of_the_hub(make: Make, tmp_path: Path) -> None:
    snapshot = hub(make, tmp_path / "hub")
    (tmp_path / "alias").symlink_to(snapshot)
    for path in (snapshot, snapshot / "*.safetensors", snapshot / INDEX, tmp_path / "alias"):
        assert [t.name for t in load_model(str(path)).tensors] == ["x", "y"]
    anamnesis.remember(snapshot, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_cache_of_the_hub_is_no_way_out(make: Make, tmp_path: Path) -> None:
    snapshot = hub(make, tmp_path / "hub")
    link = snapshot / "model-2.safetensors"
    other = hub(make, tmp_path / "other")
    for target in (
        other / "model-2.safetensors",
        snapshot.parents[1] / "blobs" / ".." / "outside",
        tmp_path / "hub" / "outside",
    ):
        shutil.copy(other / "model-2.safetensors", target) if not target.exists() else None
        link.unlink()
        link.symlink_to(target)
        refused(snapshot, SecurityError, "model-2.safetensors")


# --- remarks


def test_a_wrong_total_size_is_remarked_on(
    make: Make, amn: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder = make({"model.safetensors": "x"})
    document = json.loads((folder / INDEX).read_text())
    document["metadata"]["total_size"] = 5
    (folder / INDEX).write_text(json.dumps(document))
    text = "metadata.total_size: says 5, the shards hold 4 bytes; it is not used"
    assert [text in note for note in load_model(str(folder)).notes] == [True]
    for arguments in (("inspect", folder, "--json"), ("remember", folder, "-o", tmp_path / "o")):
        done = amn(*arguments)
        assert done.returncode == 0
        assert [text in line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert json.loads(amn("inspect", folder, "--json").stdout)["tensors"] == 1
    assert "note" not in amn("remember", folder, "-o", tmp_path / "p", "--quiet").stderr


def test_a_model_is_of_one_container(sample: Path, make: Make) -> None:
    folder = make({"model-1.safetensors": "x"}, index=None)
    shutil.copy(sample, folder / "a.gguf")
    refused(folder / "*", FormatError, "is safetensors, the files before are gguf")


@pytest.mark.parametrize(
    "said",
    [{"quantization": "nf9"}, {"quantization_config": {"quant_method": "invented"}}],
)
def test_a_method_that_only_an_index_states(make: Make, said: Mapping[str, object]) -> None:
    folder = make({"a.safetensors": "x", "b.safetensors": "y"})
    index = json.loads((folder / INDEX).read_text())
    index["metadata"] |= said
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, UnsupportedError, INDEX, "nf9" if "quantization" in said else "invented")


def test_other_metadata_of_an_index_states_nothing(make: Make) -> None:
    folder = make({"a.safetensors": "x"})
    index = json.loads((folder / INDEX).read_text())
    index["metadata"] |= {"total_parameters": 3, "format": "pt", "note": {"a": [1]}}
    (folder / INDEX).write_text(json.dumps(index))
    assert load_model(str(folder)).notes == ()
