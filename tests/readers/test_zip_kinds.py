"""Archives told apart by what is in them, whatever they are called."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anamnesis.errors import AnamnesisError, FormatError, LimitError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers import open_container


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def write(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, array() if name.endswith(".npy") else b"x")
    return path


@pytest.mark.parametrize("name", ["m.npz", "M.NPZ", "m.bin", "sha256-abc", "m.zip"])
def test_arrays(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "w.npy", "folder/b.npy", "README")
    container = open_container(str(path), Limits())
    assert container.kind == "npz"
    assert list(container.stored) == ["w", "folder/b"]


@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf", "m.npy"])
def test_a_name_that_contradicts(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "w.npy")
    with pytest.raises(FormatError, match=r"is named \.\w+, but starts with b'PK.* named \.npz do"):
        open_container(str(path), Limits())


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        (("m/data.pkl", "m/constants.pkl", "m/code/a.py"), UnsupportedError, "TorchScript"),
        (("m/constants.pkl", "w.npy"), UnsupportedError, "TorchScript"),
        (("[Content_Types].xml", "word/document.xml"), UnsupportedError, "Office document"),
        (("m/data/weights/weight_0", "m/archive_format"), UnsupportedError, "torch.export"),
        (("MAR-INF/MANIFEST.json", "model.pt"), UnsupportedError, "TorchServe"),
        (("META-INF/MANIFEST.MF", "a.class"), UnsupportedError, "Java archive"),
        (("model.weights.h5", "config.json"), UnsupportedError, "Keras"),
        (("a.txt", "b.txt"), UnsupportedError, "2 member.s. that no reader knows"),
        ((), UnsupportedError, "empty ZIP"),
    ],
)
def test_other_archives(
    names: tuple[str, ...], error: type[AnamnesisError], text: str, tmp_path: Path
) -> None:
    for suffix in ("", *([".npz"] if names else []), ".bin", ".safetensors"):
        path = write(tmp_path / f"m{suffix}", *names)
        with pytest.raises(error, match=text) as caught:
            open_container(str(path), Limits())
        assert str(path) in str(caught.value)
        assert "readable are" in str(caught.value)


def test_the_callers_limits_hold_while_looking(tmp_path: Path) -> None:
    path = write(tmp_path / "m.npz", *(f"{i}.npy" for i in range(9)))
    with pytest.raises(LimitError, match="max_items"):
        open_container(str(path), Limits(max_items=8))


def test_a_safetensors_header_as_long_as_the_magic_of_zip(tmp_path: Path) -> None:
    """67,324,752 bytes begin as PK\\3\\4; the rest of the head and the name tell."""
    path = tmp_path / "m.safetensors"
    length = int.from_bytes(b"PK\3\4", "little")
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{}" + b" " * (length - 2))
    assert open_container(str(path), Limits()).kind == "safetensors"
