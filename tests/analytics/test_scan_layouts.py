"""Scans of every layout: decoded rows are the oracles' values, and blocks cover tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from safetensors.numpy import load_file

import anamnesis
from anamnesis.errors import UnsupportedError
from anamnesis.kernels import ENCODINGS

ROOT = Path(__file__).resolve().parents[2]
BASES = (ROOT / "tests" / "data" / "layouts", ROOT.parent / "shared" / "corpus")
FOLDERS = sorted(p.parent for base in BASES for p in base.glob("*/*/expected.safetensors"))
SUFFIXES = (".safetensors", ".gguf", ".pt", ".bin")


def opened(folder: Path) -> Any:
    (weights,) = (
        p for p in folder.iterdir() if p.suffix in SUFFIXES and p.name != "expected.safetensors"
    )
    try:
        return anamnesis.open_model(weights, assume_unit_scale=folder.name == "raw-e4m3")
    except UnsupportedError:
        return None  # tests/conformance says which


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_layout(folder: Path) -> None:
    model = opened(folder)
    if model is None:
        return
    decoded = model.scan(decode="bf16").read_all()
    names = decoded["tensor"].cast(pa.utf8())
    for name, wanted in load_file(folder / "expected.safetensors").items():
        rows = decoded.filter(pc.equal(names, name))["values"]
        got = pc.list_flatten(rows).to_numpy()
        differ = got != wanted.view(np.uint16).reshape(-1)
        if folder.name == "fp4":  # the sign of zero: see test_layouts
            differ &= (got | wanted.view(np.uint16).reshape(-1)) & 0x7FFF != 0
        assert not differ.any(), name
    blocks = model.scan(columns=["tensor", "elems", "scale", "scales", "payload"]).read_all()
    assert np.isfinite(pc.drop_null(blocks["scale"]).to_numpy()).all()
    assert pc.list_flatten(blocks["scales"]).null_count == 0
    names = blocks["tensor"].cast(pa.utf8())
    for name, tensor in model.items():
        mine = blocks.filter(pc.equal(names, name))
        row = ENCODINGS.get(tensor.tensor.coding)
        bytes_only = row is not None and not row.sections
        covered = pc.sum(mine["elems"]).as_py()
        assert covered == tensor.size or (bytes_only and covered is None)
        stored = tensor.tensor.components[0].stored.nbytes
        read = pc.sum(pc.binary_length(mine["payload"])).as_py()
        filled_up = tensor.tensor.scheme == "fouroversix"  # rows that are no part of the tensor
        assert read == stored or (filled_up and read < stored)
        scaled = tensor.tensor.quantised and not bytes_only
        assert (mine["scale"].null_count < len(mine)) == scaled
