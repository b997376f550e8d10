"""Checkpoints that PyTorch wrote (tests/data/pth/make.py), against what it had in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pth_opened import contents as opened

import anamnesis
from anamnesis.limits import Limits
from anamnesis.readers import open_container

DATA = Path(__file__).resolve().parents[1] / "data" / "pth"
Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def safetensors(path: Path) -> Tensors:
    """Dtype, shape and bytes by name; safetensors' numpy side knows no BF16 and no FP8."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    data = content[8 + size :]
    return {
        name: (e["dtype"], tuple(e["shape"]), data[slice(*e["data_offsets"])])
        for name, e in header.items()
    }


def expected(part: str) -> Tensors:
    found = safetensors(DATA / "expected.safetensors")
    return {k.removeprefix(f"{part}."): v for k, v in found.items() if k.startswith(f"{part}.")}


def test_every_dtype_and_view() -> None:
    found = opened(DATA / "tensors.pth")
    assert found == expected("tensors")
    assert len({dtype for dtype, _, _ in found.values()}) == 18


def test_legacy_dtypes_and_views() -> None:
    wanted = {
        name: value
        for name, value in expected("tensors").items()
        if not name.startswith(("uint", "float8"))
    }
    assert opened(DATA / "tensors-legacy.pth") == wanted


@pytest.mark.parametrize("name", ["training.pth", "training-legacy.pth"])
def test_training_checkpoints(name: str) -> None:
    wanted = expected("training")
    del wanted["rng"]
    assert opened(DATA / name) == wanted
    notes = open_container(str(DATA / name), Limits()).notes
    assert notes == (
        "the names inside of 'state_dict' come without it",
        "left out optimizer: an optimiser's state, 3 tensors",
        "left out rng: the state of a training run, 1 tensor",
        "left out 2 values that are no tensors: epoch (int), args (dict of 2)",
    )


def test_parameters() -> None:
    assert opened(DATA / "parameters.pth") == expected("parameters")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tensors-legacy.pth", "tensors"),
        ("training.pth", "training"),
        ("training-legacy.pth", "training"),
        ("parameters.pth", "parameters"),
    ],
)
def test_remember_keeps_bits(name: str, part: str, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(DATA / name, out)
    found = safetensors(out)
    assert found == opened(DATA / name)
    assert found.items() <= expected(part).items()
    anamnesis.verify(out)


def test_views_of_a_model(tmp_path: Path) -> None:
    with_values = anamnesis.open_model(DATA / "tensors-legacy.pth")
    transposed = with_values["transposed"].to_numpy()
    assert np.array_equal(transposed, with_values["contiguous"].to_numpy().T)


def test_an_index_of_two_checkpoints(tmp_path: Path) -> None:
    """`pytorch_model.bin.index.json` and its shards, one of each format."""
    shards = {"tensors-legacy.pth": "pytorch_model-00001-of-00002.bin"}
    shards["parameters.pth"] = "pytorch_model-00002-of-00002.bin"
    names: dict[str, str] = {}
    for source, shard in shards.items():
        (tmp_path / shard).write_bytes((DATA / source).read_bytes())
        names |= dict.fromkeys(open_container(str(tmp_path / shard), Limits()).stored, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    out = tmp_path / "out" / "out.safetensors"
    anamnesis.remember(tmp_path, out)
    found = safetensors(out)
    wanted = expected("tensors") | expected("parameters")
    assert found == {name: wanted[name] for name in names}
    (tmp_path / "pytorch_model.bin.index.json").unlink()
    assert set(anamnesis.open_model(tmp_path)) == set(names)
