"""Archives of arrays, with numpy as the writer, to safetensors and back."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import anamnesis
from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    IntegrityError,
    LimitError,
    SecurityError,
    UnsupportedError,
)
from anamnesis.limits import Allow, Limits
from anamnesis.pipeline.members import check_members
from anamnesis.readers import open_container
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.npz import open_npz

Save = Callable[..., None]
RNG = np.random.default_rng(29)
SAVES = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])


def arrays() -> dict[str, Any]:
    normal = RNG.standard_normal
    return {
        "f32": normal((300, 50)).astype("<f4"),
        "f16.weight": normal((7, 3)).astype("<f2"),
        "f64": normal(11),
        "fortran": np.asfortranarray(normal((70, 900)).astype("<f4")),
        "fortran3": np.asfortranarray(normal((7, 5, 9)).astype(">f4")),
        "big": normal((20, 30)).astype(">f8"),
        "bf16": normal((6, 5)).astype(ml_dtypes.bfloat16),
        "bool": normal(33) > 0,
        "complex": (normal(9) + 1j).astype(">c8"),
        **{f"i{n}": RNG.integers(0, 100, (3, n)).astype(f">i{n}") for n in (1, 2, 4, 8)},
        **{f"u{n}": RNG.integers(0, 100, (3, n)).astype(f"<u{n}") for n in (1, 2, 4, 8)},
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), "<f4"),
        "folder/name": np.ones(2, "<f4"),
        "größe": np.ones(3, "<f4"),
    }


@SAVES
@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_round_trip(save: Save, executor: str, tmp_path: Path) -> None:
    path, out = tmp_path / "m.npz", tmp_path / "out.safetensors"
    given = arrays()
    save(path, **given)
    anamnesis.remember(path, out, executor=executor)
    got = load_file(out)
    assert got.keys() == given.keys()
    model = anamnesis.open_model(path)
    for name, array in given.items():
        array = np.asarray(array)
        assert got[name].dtype == array.dtype.newbyteorder("<"), name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == plain(array), name
        assert model[name].to_numpy().tobytes() == plain(array), name
    assert anamnesis.verify(out)


def plain(array: Any) -> bytes:
    return bytes(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())


@SAVES
def test_over_many_tasks(save: Save, tmp_path: Path) -> None:
    path, out = tmp_path / "m.npz", tmp_path / "out.safetensors"
    rows = 37_000 if save is np.savez else 4_000
    large = np.arange(rows * 500, dtype="<i4").reshape(rows, 500)
    given = {"large": large, "fortran": np.asfortranarray(large[: rows // 6])}
    save(path, **given)
    anamnesis.remember(path, out, threads=2)
    got = load_file(out)
    for name, array in given.items():
        assert got[name].tobytes() == array.tobytes()


def test_headers_alone_are_read(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "m.npz"
    np.savez_compressed(path, a=RNG.integers(0, 9, 3_000_000))
    reads.clear()
    container = open_container(str(path), Limits())
    assert container.kind == "npz"
    assert container.stored["a"].shape == (3_000_000,)
    assert [m.name for m in container.members] == ["a.npy"]
    assert sum(reads) < 300_000


def test_notes_and_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, a=np.ones(2, "<f4"))
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3, dtype="<i2"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "hello")
        archive.writestr("empty", "")
        archive.writestr("no suffix", buffer.getvalue())
    container = open_npz(str(path), Limits())
    assert list(container.stored) == ["a", "no suffix"]  # as numpy.load
    assert np.load(path)["no suffix"].tolist() == [0, 1, 2]
    assert len(container.members) == 4
    assert ["README.txt" in note for note in container.notes] == [True, False]
    assert load_model(str(path)).notes == container.notes


def test_one_array_under_two_names(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    buffer = io.BytesIO()
    np.save(buffer, np.arange(3, dtype="<i2"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", buffer.getvalue())
        archive.writestr("a.npy", buffer.getvalue())
    with pytest.raises(FormatError, match="array 'a' is in the archive twice"):
        open_npz(str(path), Limits())


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.array([b"a"]), np.zeros(2, "c16"), np.zeros(2, "M8[s]"),
     np.zeros(2, "i4,f4")],
    ids=["text", "bytes", "complex128", "dates", "structures"],
)  # fmt: skip
def test_what_is_no_number_is_left_out(array: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, good=np.ones(2), bad=array)
    container = open_npz(str(path), Limits())
    assert list(container.stored) == ["good"]
    assert container.unread == ("bad",)
    (note,) = container.notes
    assert "member 'bad.npy': header: descr" in note
    # A pattern that fits it fits something.
    model = load_model(str(path))
    assert [t.name for t in model.select(("*",), ("bad",)).tensors] == ["good"]
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UnsupportedError):  # alone it is the whole file
        open_container(str(tmp_path / "a.npy"), Limits())


def test_objects_are_left_out_on_request(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, good=np.ones(2), bad=np.array([{}]))
    with pytest.raises(SecurityError, match="--leave-out-unknown"):
        open_npz(str(path), Limits())
    container = open_npz(str(path), Limits(allow=Allow(leave_out_unknown=True)))
    assert list(container.stored) == ["good"]
    assert ["bad.npy" in note for note in container.notes] == [True]


@pytest.mark.parametrize("chosen", [{"exclude": ["b*"]}, {"include": ["good"]}])
def test_objects_are_left_out_by_patterns(chosen: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, good=np.ones(2), bad=np.array([{}]))
    with pytest.raises(SecurityError, match="--exclude"):
        anamnesis.remember(path, tmp_path / "no.safetensors")
    with pytest.raises(SecurityError):
        anamnesis.remember(path, tmp_path / "no.safetensors", exclude=["good"])
    anamnesis.remember(path, tmp_path / "out.safetensors", **chosen)
    assert list(load_file(tmp_path / "out.safetensors")) == ["good"]
    assert len(list(anamnesis.stats(path, **chosen))) == 1


def test_an_empty_archive(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path)
    assert np.load(path).files == []
    assert dict(open_container(str(path), Limits()).stored) == {}
    assert load_model(str(path)).tensors == ()


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.array([{}]), SecurityError),
        (np.zeros(2, "V1"), UnsupportedError),
        (np.zeros(2, np.longdouble), UnsupportedError),
    ],
    ids=["object", "float8", "long double"],
)
def test_the_member_is_named(array: Any, error: type[AnamnesisError], tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, good=np.ones(2), bad=array)
    with pytest.raises(error, match=r"member 'bad\.npy': header: descr.*--leave-out-unknown"):
        open_npz(str(path), Limits())
    found = open_npz(str(path), Limits(allow=Allow(leave_out_unknown=True)))
    assert list(found.stored) == ["good"]
    assert found.unread == ("bad",)
    assert "'bad.npy'" in found.notes[0]


@SAVES
def test_limits(save: Save, tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    save(path, a=np.zeros(1_000_000), b=np.zeros(3))
    for limits, name in ((Limits(max_items=1), "max_items"), (Limits(), "max_expansion_ratio")):
        if save is np.savez and name == "max_expansion_ratio":
            continue
        with pytest.raises(LimitError) as caught:
            open_container(str(path), limits)
        assert caught.value.limit == name
    # A caller may allow more: nothing but zeros packs better than 1,000 to 1.
    assert len(open_container(str(path), Limits(max_expansion_ratio=1100)).stored) == 2


def damaged(path: Path, at: int, mask: int = 0xFF) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    path.write_bytes(data)


def checked(path: Path) -> dict[str, bytes]:
    """Values and checks of a run, without the run."""
    model = anamnesis.open_model(path)
    files = Files()
    try:
        check_members(model.model.members, (), files)
        return {name: tensor.to_numpy().tobytes() for name, tensor in model.items()}
    finally:
        files.close()


@SAVES
def test_every_flipped_byte_is_reported(save: Save, tmp_path: Path) -> None:
    """Those of the data as damage to the member; others but for what says nothing about it."""
    path = tmp_path / "m.npz"
    save(path, first=np.arange(5, dtype="<f4"), last=np.asfortranarray(np.ones((2, 3), ">i2")))
    whole = path.read_bytes()
    values = checked(path)
    inside = {
        m.offset + i: m
        for m in open_npz(str(path), Limits()).members
        for i in range(m.packed_bytes)
    }
    idle = set(idle_bytes(whole))
    for at in range(len(whole)):
        member = inside.get(at)
        for mask in (0x01, 0xFF):
            path.write_bytes(whole[:at] + bytes((whole[at] ^ mask,)) + whole[at + 1 :])
            try:
                after = checked(path)
            except AnamnesisError as error:
                found = error
            else:
                # Deflate has several ways to write the same.
                assert after == values
                assert at in idle if member is None else member.deflated
                continue
            if member is not None:
                assert f"member '{member.name}'" in str(found)
                # A stream that cannot be inflated at all breaks its format.
                assert isinstance(found, IntegrityError) or member.deflated


def idle_bytes(archive: bytes) -> Iterator[int]:
    """Versions, dates and attributes, of local headers and in the directory."""
    for signature, fields in ((b"PK\3\4", "4-5 10-13"), (b"PK\1\2", "4-7 12-15 36-41")):
        at = archive.find(signature)
        while at >= 0:
            for field in fields.split():
                first, last = map(int, field.split("-"))
                yield from range(at + first, at + last + 1)
            at = archive.find(signature, at + 1)


@SAVES
@pytest.mark.parametrize("where", ["header", "data", "dropped"])
def test_a_run_leaves_nothing_of_a_damaged_archive(save: Save, where: str, tmp_path: Path) -> None:
    path, out = tmp_path / "m.npz", tmp_path / "new" / "out.safetensors"
    save(path, a=RNG.standard_normal(1000), b=RNG.standard_normal((30, 40)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes", RNG.bytes(300))
    members = {m.name: m for m in open_npz(str(path), Limits()).members}
    member, at = {"header": ("a.npy", 20), "data": ("b.npy", -9), "dropped": ("notes", 7)}[where]
    found = members[member]
    damaged(path, found.offset + at % found.packed_bytes, 0x10)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((IntegrityError, FormatError), match=f"member '{member}'"):
        anamnesis.remember(path, out)
    assert sorted(tmp_path.rglob("*")) == before


def test_tensors_that_were_not_selected_are_not_read(tmp_path: Path) -> None:
    path, out = tmp_path / "m.npz", tmp_path / "out.safetensors"
    np.savez(path, a=np.ones(1000), b=np.zeros(1000))
    members = {m.name: m for m in open_npz(str(path), Limits()).members}
    damaged(path, members["b.npy"].offset + 500)
    anamnesis.remember(path, out, include=["a"])
    assert list(load_file(out)) == ["a"]
    with pytest.raises(IntegrityError, match=r"b\.npy"):
        anamnesis.remember(path, out, include=["b"], overwrite=True)


def test_values_outside_of_a_run_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, a=RNG.standard_normal(1000))
    damaged(path, 1000)
    model = anamnesis.open_model(path)
    with pytest.raises(IntegrityError, match=r"member 'a\.npy': CRC-32"):
        model["a"].to_numpy()
    with pytest.raises(IntegrityError, match=r"member 'a\.npy': CRC-32"):
        list(model["a"].batches())
    with pytest.raises(Exception, match=r"member 'a\.npy': CRC-32"):
        anamnesis.scan(path).read_all()
