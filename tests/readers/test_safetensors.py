from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clock import within
from safetensors import safe_open
from safetensors.numpy import save_file

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import Limits
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.safetensors import open_safetensors

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
FILES = sorted(CORPUS.rglob("*.safetensors")) if CORPUS.exists() else []


def write(path: Path, header: dict[str, Any], nbytes: int = 0) -> Path:
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + nbytes)
    return path


def test_spans_hold_what_the_reference_wrote(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "b.weight": rng.standard_normal((3, 5), np.float32),
        "a.weight": rng.integers(0, 255, (7,), np.uint8),
        "half": rng.standard_normal((2, 2, 2)).astype(np.float16),
        "scalar": np.array(1.5, np.float64),
        "empty": np.zeros((0, 4), np.int64),
        "flags": np.array([True, False]),
    }
    path = tmp_path / "model.safetensors"
    save_file(arrays, path, metadata={"format": "pt", "ключ": "значение 😀"})
    container = open_safetensors(str(path), Limits())
    assert container.kind == "safetensors"
    assert container.metadata == {"format": "pt", "ключ": "значение 😀"}
    assert container.stored.keys() == arrays.keys()
    content = path.read_bytes()
    for name, stored in container.stored.items():
        assert stored.shape == arrays[name].shape
        span = content[stored.offset : stored.offset + stored.nbytes]
        assert span == arrays[name].tobytes()
        assert np.dtype(DTYPES[stored.dtype].numpy).itemsize == arrays[name].dtype.itemsize
        assert stored.file == container.files[0]


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    header = {
        "z": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "a": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]},
        "m": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
    }
    path = write(tmp_path / "x.safetensors", header, 10)
    stored = open_safetensors(str(path), Limits()).stored
    assert list(stored) == ["z", "m", "a"]
    assert type(stored["a"].offset) is int


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_is_read_with_its_width(dtype: str, tmp_path: Path) -> None:
    nbytes = 2 * 24 * DTYPES[dtype].bits // 8
    header = {"w": {"dtype": dtype, "shape": [2, 24], "data_offsets": [0, nbytes]}}
    path = write(tmp_path / "x.safetensors", header, nbytes)
    stored = open_safetensors(str(path), Limits()).stored["w"]
    # Types under a byte keep the shape in elements, as the header has it.
    assert (stored.dtype, stored.shape, stored.nbytes) == (dtype, (2, 24), nbytes)
    if dtype != "C128":  # the reference has no such type yet
        with safe_open(path, "np") as reference:
            assert reference.keys() == ["w"]


@pytest.mark.parametrize("shape", [[], [0], [3, 0, 2], [1, 1, 1]])
def test_shapes_without_or_with_one_element(shape: list[int], tmp_path: Path) -> None:
    nbytes = 0 if 0 in shape else 4
    header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, nbytes]}}
    path = write(tmp_path / "x.safetensors", header, nbytes)
    assert open_safetensors(str(path), Limits()).stored["w"].shape == tuple(shape)


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"__metadata__": {"a": "b"}})
    container = open_safetensors(str(path), Limits())
    assert not container.stored
    assert container.metadata == {"a": "b"}


def test_the_callers_item_limit_holds(tmp_path: Path) -> None:
    header = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(11)}
    path = write(tmp_path / "x.safetensors", header)
    assert len(open_safetensors(str(path), Limits(max_items=11)).stored) == 11
    with pytest.raises(LimitError, match="tensors: needs 11"):
        open_safetensors(str(path), Limits(max_items=10))


def test_errors_show_what_was_found(tmp_path: Path) -> None:
    header = {"layer.weight": {"dtype": "F16", "shape": [2, "x"], "data_offsets": [0, 8]}}
    path = write(tmp_path / "x.safetensors", header, 8)
    with pytest.raises(FormatError) as caught:
        open_safetensors(str(path), Limits())
    assert str(caught.value) == f"{path}: tensor 'layer.weight': shape: 'x' is no dimension"


def test_only_the_header_is_read(tmp_path: Path, reads: list[int]) -> None:
    size = 11 * 10**9
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    path = write(tmp_path / "sparse.safetensors", header, size)
    reads.clear()
    assert open_safetensors(str(path), Limits()).stored["w"].nbytes == size
    assert 0 < sum(reads) < 4096


def test_a_thousand_tensors_open_at_once(tmp_path: Path) -> None:
    header = {
        f"model.layers.{i}.mlp.down_proj.weight": {
            "dtype": "BF16",
            "shape": [8, 8],
            "data_offsets": [128 * i, 128 * (i + 1)],
        }
        for i in range(1000)
    }
    path = write(tmp_path / "x.safetensors", header, 128_000)
    open_safetensors(str(path), Limits())
    with within(0.01):
        open_safetensors(str(path), Limits())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CORPUS)))
def test_corpus_reads_as_in_the_reference(path: Path) -> None:
    container = open_safetensors(str(path), Limits())
    with safe_open(path, "np") as reference:
        assert set(reference.keys()) == container.stored.keys()
        assert container.metadata == (reference.metadata() or {})
        for name, stored in container.stored.items():
            part = reference.get_slice(name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (stored.dtype, stored.shape)
