"""torchao's Int4PlainInt32Tensor: an XPU's layers are read, others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import Parts, ledger_of

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.schemes import resolve

DATA = Path(__file__).resolve().parents[1] / "data" / "torchao"
PARTS: Parts = {"qdata": ("I32", (4, 8)), "scale": ("BF16", (2, 4)), "zero_point": ("I8", (2, 4))}
ABOUT: dict[str, Any] = {"block_size": [1, 32], "shape": [4, 64]}


def opened(parts: Parts, **about: Any) -> Any:
    described = {
        "_type": "Int4PlainInt32Tensor",
        "_data": ABOUT | about,
        "_tensor_data_names": list(parts),
    }
    metadata = {"tensor_names": json.dumps(["m.weight"]), "m.weight": json.dumps(described)}
    ledger = ledger_of({f"m._weight_{k}": v for k, v in parts.items()}, metadata=metadata)
    resolve(ledger)
    return ledger.tensors["m.weight"]


@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_what_torchao_dequantises(rounding: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(DATA / "plain.safetensors", out, rounding=rounding, threads=1)
    model = anamnesis.open_model(out)
    expected = load_file(DATA / "plain-expected.safetensors")
    assert set(model) == set(expected)
    for name, bits in expected.items():
        assert np.array_equal(model[name].to_numpy().view(np.uint16), bits), name


@pytest.mark.parametrize(
    ("parts", "about", "error", "message"),
    [
        ({"zero_point": ("BF16", (2, 4))}, {}, UnsupportedError, "order of an NPU"),
        ({"zero_point": ("I8", (4, 2))}, {}, FormatError, "does not fit"),
        ({"zero_point": ("I32", (2, 4))}, {}, FormatError, "does not fit"),
        ({"scale": ("BF16", (4, 2))}, {}, FormatError, "does not fit"),
        ({"qdata": ("I8", (4, 32))}, {}, FormatError, "does not fit"),
        ({}, {"block_size": [1, 24]}, FormatError, "block_size"),
        ({}, {"block_size": [2, 32]}, FormatError, "block_size"),
        ({}, {"shape": [4, 60]}, FormatError, "shape"),
    ],
)
def test_what_does_not_fit(parts: Any, about: Any, error: Any, message: str) -> None:
    assert opened(PARTS).encoding == "torchao-int4-plain"
    with pytest.raises(error, match=message):
        opened(PARTS | parts, **about)
