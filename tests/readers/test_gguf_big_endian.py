"""Big-endian GGUF files, as gguf-py turns little-endian ones: the same model."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.gguf_types import BYTE_SWAPPED, type_named
from anamnesis.readers.imatrix_gguf import read_gguf

gguf = pytest.importorskip("gguf")
from gguf.scripts import gguf_convert_endian  # noqa: E402

PLAIN: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I32": np.int32}
ROWS, COLUMNS = 4, 512


def written(path: Path, big: bool = False, kinds: tuple[str, ...] = tuple(BYTE_SWAPPED)) -> Path:
    """A file with a tensor of each type, of random bytes."""
    rng = np.random.default_rng(5)
    order = gguf.GGUFEndian.BIG if big else gguf.GGUFEndian.LITTLE
    writer = gguf.GGUFWriter(path, "llama", endianess=order)
    writer.add_uint32("number", 70_000)
    writer.add_array("numbers", [1, 70_000, -3])
    writer.add_array("words", ["a", "bc"])
    writer.add_array("floats", [0.5] * 2000)
    for name, dtype in PLAIN.items() if not kinds else ():
        writer.add_tensor(name, (100 * rng.standard_normal((ROWS, COLUMNS))).astype(dtype))
    for name in kinds:
        found = type_named(name)
        assert found is not None
        nbytes = COLUMNS // found[1].block_elems * found[1].block_bytes
        data = rng.integers(0, 256, (ROWS, nbytes), np.uint8)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A little-endian file, and what gguf-py's script makes of it."""
    little, big = written(tmp_path / "little.gguf"), tmp_path / "big.gguf"
    shutil.copy(little, big)
    monkeypatch.setattr("builtins.input", lambda _: "YES")
    about = argparse.Namespace(order="big", dry_run=False)
    gguf_convert_endian.convert_byteorder(gguf.GGUFReader(big, "r+"), about)
    assert little.read_bytes() != big.read_bytes()
    return little, big


def test_blocks_that_the_script_swaps(swapped: tuple[Path, Path], tmp_path: Path) -> None:
    models = [anamnesis.open_model(path) for path in swapped]
    assert list(models[0]) == list(models[1]) == list(BYTE_SWAPPED)
    for name in BYTE_SWAPPED:
        bits = [model[name].to_numpy().view(np.uint16) for model in models]
        assert np.array_equal(*bits), name
        part = models[1][name][1:3].view(np.uint16)
        assert np.array_equal(part, bits[0][1:3]), name
    outs = []
    for path in swapped:
        outs.append(tmp_path / f"{path.stem}.safetensors")
        anamnesis.remember(path, outs[-1], threads=1)
    assert np.array_equal(
        *(anamnesis.open_model(out)["Q4_K"].to_numpy().view("u2") for out in outs)
    )


def test_raw_blocks_are_in_the_order_of_this_machine(swapped: tuple[Path, Path]) -> None:
    tables = [anamnesis.scan(path, tensors=["Q6_K"]).read_all() for path in swapped]
    assert tables[0].equals(tables[1])


def test_plain_numbers_and_key_values(tmp_path: Path) -> None:
    little = anamnesis.open_model(written(tmp_path / "little.gguf", kinds=()))
    big = anamnesis.open_model(written(tmp_path / "big.gguf", big=True, kinds=()))
    assert list(big) == list(PLAIN)
    for name in PLAIN:
        assert big[name].to_numpy().tobytes() == little[name].to_numpy().tobytes(), name
    metadata = anamnesis.inspect(tmp_path / "big.gguf").metadata
    assert metadata == anamnesis.inspect(tmp_path / "little.gguf").metadata
    assert (metadata["number"], metadata["numbers"]) == (70_000, [1, 70_000, -3])
    assert metadata["floats"] == {"type": "float32", "count": 2000}


def test_other_blocks_are_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path / "big.gguf", big=True, kinds=("Q5_K",))
    with pytest.raises(UnsupportedError, match="Q5_K in a big-endian file is not implemented"):
        anamnesis.open_model(path)


def test_importance_matrices_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "big.gguf", big=True, kinds=())
    with pytest.raises(UnsupportedError, match="big-endian importance matrix"):
        read_gguf(str(path), Limits())
