"""torchao's INT4 in tiles, in files and pickles of its own (tests/data/torchao/make_tiles.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import assert_bits, assert_other_outputs, read_ahead
from safetensors.numpy import load_file
from small_models import ledger_of

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes import resolve

DATA = Path(__file__).resolve().parents[1] / "data" / "torchao"
FILES = {
    "tiles.safetensors": "tiles-expected.safetensors",
    "tiles-amd.safetensors": "tiles-amd-expected.safetensors",
    "tiles.pt": "tiles-pickled-expected.safetensors",
}
QDATA, NUMBERS = "_weight_qdata", "_weight_scale_and_zero"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("rounding", "nbytes"), [("exact", 1 << 20), ("reference", 700)])
def test_golden(
    file: str, rounding: Any, nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ahead(monkeypatch, nbytes, 40_000)
    out = tmp_path / "out.safetensors"
    anamnesis.remember(DATA / file, out, rounding=rounding, threads=1)
    assert_bits(out, load_file(DATA / FILES[file]), set())


def test_other_outputs_and_slices(tmp_path: Path) -> None:
    bits = load_file(DATA / FILES["tiles.safetensors"])
    assert_other_outputs(DATA / "tiles.safetensors", tmp_path, bits)
    model = anamnesis.open_model(DATA / "tiles.safetensors")
    for name, index in (("filled.weight", np.s_[11:, 3:70]), ("experts.weight", np.s_[1, 7:9])):
        np.testing.assert_array_equal(model[name][index].view(np.uint16), bits[name][index])


def test_the_order_is_noted_where_it_is_amds() -> None:
    notes = anamnesis.open_model(DATA / "tiles-amd.safetensors").model.notes
    assert len(notes) == 1
    assert "order of AMD's GPUs" in notes[0]
    assert not anamnesis.open_model(DATA / "tiles.safetensors").model.notes


def place(name: str) -> tuple[int, int]:
    """Where a tensor of tiles.safetensors lies."""
    raw = (DATA / "tiles.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8 : 8 + length])[name]["data_offsets"]
    return 8 + length + begin, 8 + length + end


def test_codes_in_no_order_are_refused(tmp_path: Path) -> None:
    """A CPU's tiles are such: groups without codes 0 and 15 in any order."""
    data = bytearray((DATA / "tiles.safetensors").read_bytes())
    for layer in ("experts", "filled", "hqq", "plain", "wide"):
        begin, end = place(f"{layer}.{QDATA}")
        codes = np.random.default_rng(1).integers(4, 12, (2, end - begin), np.uint8)
        data[begin:end] = (codes[0] | codes[1] << 4).tobytes()
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(UnsupportedError, match="neither that of NVIDIA's GPUs nor AMD's"):
        anamnesis.open_model(path)


def test_statistics_show_scales_alone() -> None:
    begin, end = place(f"filled.{NUMBERS}")
    raw = (DATA / "tiles.safetensors").read_bytes()
    held = np.frombuffer(raw[begin:end], "<u2").astype(np.uint32)
    scales = (held << 16).view(np.float32).reshape(16, 16, 2)[:10, :13, 0]
    rows = {row.tensor: row for row in anamnesis.stats(DATA / "tiles.safetensors")}
    found = rows["filled.weight"]
    assert (found.scale_min, found.scale_max) == (scales.min(), scales.max())


PARTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "qdata": ("I32", (2, 8, 32, 4)),
    "scale_and_zero": ("BF16", (32, 16, 2)),
}


def only(parts: Any = None, **about: Any) -> Tensor:
    have = PARTS | (parts or {})
    about = {"block_size": [1, 32], "shape": [16, 1024]} | about
    kind = "Int4TilePackedTo4dTensor"
    text = json.dumps({"_type": kind, "_data": about, "_tensor_data_names": list(have)})
    named = {f"m._x_{role}": part for role, part in have.items()}
    ledger = ledger_of(named, metadata={"tensor_names": '["m.x"]', "m.x": text})
    resolve(ledger)
    (tensor,) = ledger.tensors.values()
    return tensor


def test_what_is_taken() -> None:
    tensor = only(shape=[15, 1000])
    assert (tensor.scheme, tensor.shape) == ("torchao-tinygemm", (15, 1000))
    assert tensor.units == 2


@pytest.mark.parametrize(
    ("parts", "about", "words"),
    [
        ({"qdata": ("I32", (2, 8, 16, 4))}, {}, r"allowed is I32 \[out / 8"),
        ({"qdata": ("I32", (2, 8, 32, 3))}, {}, r"allowed is I32 \[out / 8"),
        ({"qdata": ("I32", (2, 8, 128))}, {}, r"allowed is I32 \[out / 8"),
        ({"qdata": ("I8", (2, 8, 32, 4))}, {}, "allowed is I32"),
        ({"scale_and_zero": ("F16", (32, 16, 2))}, {}, "allowed is BF16"),
        ({"scale_and_zero": ("BF16", (16, 32, 2))}, {}, r"allowed is \[32, 16, 2\]"),
        ({}, {"block_size": [2, 32]}, "groups that divide 1024"),
        ({}, {"block_size": [1, 48]}, "groups that divide 1024"),
        ({}, {"block_size": [1, 1, 32]}, "a list of 2 numbers"),
        ({}, {"shape": [17, 1024]}, "its codes are of"),
        ({}, {"shape": [16, 1025]}, "its codes are of"),
        ({}, {"shape": [16, -1]}, "its codes are of"),
        ({}, {"shape": None}, "its codes are of"),
        ({}, {"shape": [16]}, "its codes are of"),
    ],
)
def test_misfits(parts: Any, about: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        only(parts, **about)


def test_stacks_of_matrices_that_were_filled_up() -> None:
    parts = {"qdata": ("I32", (3, 2, 8, 32, 4)), "scale_and_zero": ("BF16", (3, 32, 16, 2))}
    assert only(parts, block_size=[1, 1, 32], shape=[3, 16, 1024]).units == 6
    with pytest.raises(UnsupportedError, match="a stack of matrices of 15 outputs"):
        only(parts, block_size=[1, 1, 32], shape=[3, 15, 1024])
    with pytest.raises(UnsupportedError, match="transposed"):
        only(transposed=True)
