"""llamafiles: the GGUF in a program's archive is the model, wherever in the file it lies."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import finish

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError

PROGRAM = b"MZqFpD='\n" + bytes(range(256)) * 20


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rng = np.random.default_rng(2)
    blocks = gguf.quantize(rng.standard_normal((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("a.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("b.weight", rng.standard_normal((3, 5), np.float32))
    finish(writer)
    return path.read_bytes()


def llamafile(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """A program with these members behind it, and a gap before each."""
    path.write_bytes(PROGRAM)
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in members.items():
            archive.fp.seek(37, 1)  # zipalign pads so
            archive.start_dir = archive.fp.tell()
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def test_the_model_of_a_llamafile_is_that_of_its_gguf(model: bytes, tmp_path: Path) -> None:
    members = {".args": b"-m\nmodel.gguf", "model.gguf": model, "x-mmproj-f16.gguf": b"GGUF"}
    path = llamafile(tmp_path / "m.llamafile", members)
    for source, out in ((path, "a"), (tmp_path / "model.gguf", "b")):
        anamnesis.remember(source, tmp_path / f"{out}.safetensors", threads=1)
    found, wanted = (anamnesis.open_model(tmp_path / f"{n}.safetensors") for n in "ab")
    assert set(found) == set(wanted) == {"a.weight", "b.weight"}
    for name in wanted:
        assert found[name].to_numpy().tobytes() == wanted[name].to_numpy().tobytes()
    anamnesis.remember(path, tmp_path / "out.gguf", threads=1)
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["general.architecture"].contents() == "llama"
    plain = path.rename(tmp_path / "without-a-suffix")
    assert list(anamnesis.open_model(plain)) == ["a.weight", "b.weight"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ((), UnsupportedError, "0 GGUF files"),
        (("a.gguf", "b.gguf"), UnsupportedError, r"2 GGUF files \('a.gguf', 'b.gguf'\)"),
    ],
)
def test_one_model_is_read(
    names: tuple[str, ...], error: type[AnamnesisError], message: str, model: bytes, tmp_path: Path
) -> None:
    path = llamafile(tmp_path / "m.llamafile", {".args": b"", **dict.fromkeys(names, model)})
    with pytest.raises(error, match=message):
        anamnesis.open_model(path)


def test_what_does_not_fit_is_an_error(model: bytes, tmp_path: Path) -> None:
    path = llamafile(tmp_path / "m.llamafile", {"m.gguf": model}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedError, match="compressed"):
        anamnesis.open_model(path)
    good = llamafile(path, {"m.gguf": model}).read_bytes()
    at = good.index(b"PK\3\4")
    for damaged, message in (
        (good[:at] + b"XX" + good[at + 2 :], "signature"),
        (good.replace(b"m.gguf", b"n.gguf", 1), "another name"),
        (good[:-30], "end of central directory"),
        (good.replace(model[:64], b"GGUX" + model[4:64]), "magic"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=message):
            anamnesis.open_model(path)
