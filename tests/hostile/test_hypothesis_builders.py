"""Files that other people's writers make of any names, shapes and bits: all of it comes back.

And with one thing in them changed: the rest comes back as it was, or a documented error is raised.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import finish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import anamnesis
from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container

FEW = settings(
    max_examples=50,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DTYPES = ("?", *(kind + size for kind in "iu" for size in "1248"), "f2", "f4", "f8", "c8")
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
TEXT = st.characters(codec="utf-8", exclude_characters="\0")
# Hypothesis draws the strings of the program's own sources too, which name methods and parts of
# layers: a text without two letters in a row says nothing.
WORD = re.compile("[A-Za-z_]{2}")


def wordless(text: str) -> bool:
    return not WORD.search(text)


# Without digits it names no format (Q8, int4), under which integers are refused.
SILENT = st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Nd",))
NAMES = st.text(TEXT, min_size=1, max_size=12).filter(wordless)
# Names without what archives, file systems and shells have rules for.
PLAIN = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8).filter(wordless)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 1 << 65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(TEXT, max_size=4),
    st.lists(st.integers(-1, 1 << 40), max_size=3),
    st.dictionaries(st.text(TEXT, max_size=3), st.integers(), max_size=2),
)


@st.composite
def arrays(draw: st.DrawFn, orders: str = "<") -> Any:
    """An array of any bits, NaNs with payloads among them; booleans are 0 or 1."""
    dtype = np.dtype(draw(st.sampled_from(orders)) + draw(st.sampled_from(DTYPES)))
    shape = draw(SHAPES)
    random = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    raw = random.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    if dtype.kind == "b":
        raw &= 1
    return raw.view(dtype).reshape(shape)


def same(found: Any, array: Any) -> bool:
    """The same shape and the same bits, in this machine's order."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "fc" and not array.dtype.isnative:
        native = array.byteswap().view(array.dtype.newbyteorder("="))
    return bool(
        found.shape == array.shape
        and found.dtype == native.dtype
        and found.tobytes() == native.tobytes()
    )


def check(path: Path, expected: Mapping[str, Any]) -> None:
    model = anamnesis.open_model(path)
    assert set(model) == set(expected)
    for name, array in expected.items():
        assert same(model[name].to_numpy(), array), name


@given(
    st.dictionaries(NAMES, arrays(), min_size=1, max_size=4),
    st.dictionaries(SILENT, st.text(SILENT).filter(wordless)),
)
@FEW
def test_safetensors(tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(save(tensors, metadata))
    check(path, tensors)


@given(st.dictionaries(NAMES, arrays(), min_size=1, max_size=3), st.data())
@FEW
def test_safetensors_with_one_value_changed(
    tmp_path: Path, tensors: dict[str, Any], data: st.DataObject
) -> None:
    file = save(tensors)
    (nbytes,) = struct.unpack_from("<Q", file)
    header = json.loads(file[8 : 8 + nbytes])
    name = data.draw(st.sampled_from(sorted(tensors)))
    field = data.draw(st.sampled_from(("dtype", "shape", "data_offsets", "more")))
    header[name][field] = data.draw(ODD)
    text = json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + file[8 + nbytes :])
    try:
        model = anamnesis.open_model(path)
    except AnamnesisError:
        return
    # Another shape of as many elements is as good.
    assert field == "shape"
    for key, array in tensors.items():
        assert model[key].to_numpy().tobytes() == array.tobytes()


@given(arrays("<>"), st.booleans(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
@FEW
def test_npy(tmp_path: Path, array: Any, fortran: bool, version: tuple[int, int]) -> None:
    path = tmp_path / "w.npy"
    with path.open("wb") as file:
        laid = np.array(array, order="F" if fortran else "C")
        np.lib.format.write_array(file, laid, version, allow_pickle=False)
    check(path, {"w": array})


@given(st.dictionaries(PLAIN, arrays("<>"), min_size=1, max_size=3), st.data())
@FEW
def test_npz(tmp_path: Path, tensors: dict[str, Any], data: st.DataObject) -> None:
    """Archives by Python's writer: any method, ZIP64 or not, sizes before or behind the data."""
    path = tmp_path / "m.npz"
    buffer = io.BytesIO()
    target: Any = Stream(buffer) if data.draw(st.booleans(), label="streamed") else buffer
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in tensors.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = data.draw(st.sampled_from((0, 8)))
            with archive.open(info, "w", force_zip64=data.draw(st.booleans())) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        archive.comment = data.draw(st.binary(max_size=8))
    path.write_bytes(buffer.getvalue())
    check(path, tensors)


class Stream(io.RawIOBase):
    """A file that cannot be sought in, so that a writer puts sizes behind the data."""

    def __init__(self, buffer: io.BytesIO) -> None:
        self._buffer = buffer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._buffer.write(data)


@given(st.dictionaries(PLAIN, arrays(), min_size=1, max_size=3), st.data())
@FEW
def test_npz_with_one_byte_changed(
    tmp_path: Path, tensors: dict[str, Any], data: st.DataObject
) -> None:
    path = tmp_path / "m.npz"
    buffer = io.BytesIO()
    write = data.draw(st.sampled_from((np.savez, np.savez_compressed)))
    write(buffer, **{f"k{name}": array for name, array in tensors.items()})
    file = bytearray(buffer.getvalue())
    file[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(file)
    try:
        model = anamnesis.open_model(path)
        found = {name: model[name].to_numpy() for name in model}
    except AnamnesisError:
        return
    # Dates, versions and attributes may change; no number, and no name of an array.
    assert set(found) == {f"k{name}" for name in tensors}
    assert all(same(found[f"k{name}"], array) for name, array in tensors.items())


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.text(TEXT, min_size=1, max_size=12),  # gguf-py leaves empty text out
    st.lists(st.integers(0, 1 << 20), min_size=1, max_size=5),
    st.lists(st.text(TEXT, max_size=5), min_size=1, max_size=4),
)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), VALUES, max_size=5),
    st.dictionaries(NAMES, arrays().filter(lambda a: a.dtype.kind in "if" and a.size), max_size=4),
    st.sampled_from((32, 64, 256)),
)
@FEW
def test_gguf(
    tmp_path: Path, values: dict[str, Any], tensors: dict[str, Any], alignment: int
) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for key, value in values.items():
        add = {bool: writer.add_bool, int: writer.add_int32, str: writer.add_string}
        add.get(type(value), writer.add_array)(f"k.{key}", value)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    finish(writer)
    found = open_container(str(path), Limits()).metadata
    assert {key: found[f"k.{key}"] for key in values} == values
    check(path, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_sees_a_bit(dtype: str) -> None:
    array = np.zeros(3, dtype)
    other = array.copy()
    other.view(np.uint8)[-1] = 1
    assert same(array, array)
    assert not same(other, array)
