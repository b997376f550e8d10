from __future__ import annotations

import shutil
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import finish

from anamnesis.errors import AnamnesisError, FormatError, LimitError
from anamnesis.limits import Limits
from anamnesis.readers.gguf import open_gguf

UINT16, INT32, STRING = 2, 5, 8
Keys = dict[str, tuple[int, int | bytes]]


def part(path: Path, keys: Keys, names: list[str]) -> None:
    """One part: `keys` as type and value, and an F32 tensor of 8 elements for each name."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(names), len(keys))
    for key, (type_id, value) in keys.items():
        head += struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", type_id)
        if isinstance(value, bytes):
            head += struct.pack("<Q", len(value)) + value
        else:
            head += struct.pack({UINT16: "<H", INT32: "<i"}[type_id], value)
    for i, name in enumerate(names):
        head += struct.pack("<Q", len(name)) + name.encode()
        head += struct.pack("<IQIQ", 1, 8, 0, 32 * i)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(32 * len(names)))


def keys(no: int, count: int, total: int | None = 3) -> Keys:
    found: Keys = {"split.no": (UINT16, no), "split.count": (UINT16, count)}
    if total is not None:
        found["split.tensors.count"] = (INT32, total)
    return found


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three parts of a model, the first with the model's own keys."""
    paths = [tmp_path / f"m-0000{i + 1}-of-00003.gguf" for i in range(3)]
    for i, path in enumerate(paths):
        own: Keys = {"general.name": (STRING, b"model")} if i == 0 else {}
        part(path, own | keys(i, 3), [f"t{i}"])
    return paths


def opened(path: Path) -> list[str]:
    return list(open_gguf(str(path), Limits()).stored)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_opens_the_whole_model_in_order(given: int, parts: list[Path]) -> None:
    container = open_gguf(str(parts[given]), Limits())
    assert list(container.stored) == ["t0", "t1", "t2"]
    assert [file.path for file in container.files] == [str(p) for p in parts]
    assert [s.file.path for s in container.stored.values()] == [str(p) for p in parts]
    assert container.metadata["general.name"] == "model"


def test_what_gguf_py_splits_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=3)
    arrays = {f"blk.{i}.w": np.full((2, 8), i, np.float32) for i in range(8)}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    finish(writer)
    container = open_gguf(str(tmp_path / "m-00002-of-00003.gguf"), Limits())
    assert list(container.stored) == list(arrays)
    assert container.metadata["general.architecture"] == "llama"
    for name, stored in container.stored.items():
        content = Path(stored.file.path).read_bytes()
        assert content[stored.offset : stored.offset + stored.nbytes] == arrays[name].tobytes()


def test_a_first_part_without_tensors(tmp_path: Path) -> None:
    part(tmp_path / "m-00001-of-00002.gguf", keys(0, 2, 1), [])
    part(tmp_path / "m-00002-of-00002.gguf", keys(1, 2, 1), ["t"])
    assert opened(tmp_path / "m-00002-of-00002.gguf") == ["t"]


def test_one_part_of_one_needs_no_keys(tmp_path: Path) -> None:
    part(tmp_path / "m-00001-of-00001.gguf", {}, ["t"])
    assert opened(tmp_path / "m-00001-of-00001.gguf") == ["t"]


def test_relative_names_and_links_within_a_folder(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache keeps blobs elsewhere; the names in the snapshot's folder count."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    for i, path in enumerate(parts):
        blob = tmp_path / "models--a--b" / "blobs" / f"blob{i}"
        path.rename(blob)
        (snapshot / path.name).symlink_to(blob)
    assert opened(snapshot / parts[1].name) == ["t0", "t1", "t2"]
    monkeypatch.chdir(snapshot)
    assert opened(Path(parts[2].name)) == ["t0", "t1", "t2"]


def refused(path: Path, error: type[AnamnesisError], *texts: str) -> None:
    with pytest.raises(error) as caught:
        opened(path)
    for text in texts:
        assert text in str(caught.value)


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    refused(parts[0], FormatError, "'m-00002-of-00003.gguf' of 3 is missing")
    parts[2].unlink()
    refused(parts[0], FormatError, "'m-00002-of-00003.gguf' and 1 more of 3")


def test_the_same_tensor_in_two_parts(parts: list[Path]) -> None:
    part(parts[2], keys(2, 3), ["t0"])
    refused(parts[1], FormatError, str(parts[2]), "tensor 't0' is also in", str(parts[0]))


def test_a_part_under_another_parts_name(parts: list[Path]) -> None:
    shutil.copy(parts[0], parts[1])
    refused(parts[0], FormatError, str(parts[1]), "split.no: 0")


def test_a_part_of_another_count(parts: list[Path]) -> None:
    part(parts[2], keys(2, 4), ["t2"])
    refused(parts[0], FormatError, str(parts[2]), "split.count: 4")
    refused(parts[2], FormatError, str(parts[2]), "split.count: 4")


@pytest.mark.parametrize("key", ["split.no", "split.count"])
def test_a_part_without_its_keys(key: str, parts: list[Path]) -> None:
    part(parts[1], {k: v for k, v in keys(1, 3).items() if k != key}, ["t1"])
    refused(parts[0], FormatError, str(parts[1]), f"{key}: missing")


def test_the_count_of_tensors_is_checked(parts: list[Path]) -> None:
    part(parts[0], keys(0, 3, 4), ["t0"])
    refused(parts[1], FormatError, "split.tensors.count: 4", "3 tensors")
    part(parts[0], keys(0, 3, None), ["t0"])
    assert len(opened(parts[1])) == 3


def test_keys_of_the_wrong_type(parts: list[Path]) -> None:
    part(parts[1], keys(1, 3) | {"split.no": (STRING, b"1")}, ["t1"])
    refused(parts[0], FormatError, "split.no: must be an integer")


def test_a_part_under_a_name_of_its_own(parts: list[Path], tmp_path: Path) -> None:
    parts[1].rename(tmp_path / "second.gguf")
    refused(tmp_path / "second.gguf", FormatError, "split.count: 3", "-00001-of-00003.gguf")


@pytest.mark.parametrize("number", ["00000", "00004"])
def test_a_number_outside_the_count(number: str, parts: list[Path], tmp_path: Path) -> None:
    path = tmp_path / f"m-{number}-of-00003.gguf"
    parts[0].rename(path)
    refused(path, FormatError, "there is no part")


def test_too_many_parts(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-10001.gguf"
    part(path, keys(0, 10_001), ["t0"])
    refused(path, LimitError, "parts")


def test_a_broken_part_is_named(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-1])
    refused(parts[0], FormatError, str(parts[2]), "tensor 't2'")


def test_items_are_counted_over_all_parts(parts: list[Path]) -> None:
    for i, path in enumerate(parts):
        part(path, keys(i, 3, 12), [f"t{i}.{n}" for n in range(4)])
    assert len(open_gguf(str(parts[0]), Limits(max_items=12)).stored) == 12
    with pytest.raises(LimitError, match="all parts"):
        open_gguf(str(parts[0]), Limits(max_items=11))
