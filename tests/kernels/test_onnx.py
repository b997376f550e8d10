"""Codes of ONNX's operators against what onnxruntime makes of them (tests/data/onnx)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import BlockReader
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Options

pytest.importorskip("onnx")
DATA = Path(__file__).resolve().parents[1] / "data" / "onnx"
EXPECTED = dict(np.load(DATA / "expected.npz"))
LAYERS = sorted(set(EXPECTED) - {"norm.weight"})
LINEAR = dict(np.load(DATA / "linear.npz"))
INTEGERS = dict(np.load(DATA / "integers.npz"))


@cache
def tensors(file: str, rounding: Literal["exact", "reference"] = "exact") -> dict[str, Tensor]:
    """Those of a golden file, by name."""
    opened = load_model(str(DATA / file), Options(rounding=rounding))
    return {tensor.name: tensor for tensor in opened.tensors}


def tensor(file: str, name: str) -> Tensor:
    return tensors(file)[f"{name}.weight"]


@pytest.mark.parametrize("file", ["cases.onnx", "external.onnx"])
@pytest.mark.parametrize("name", LAYERS)
def test_golden(file: str, name: str) -> None:
    hold(tensor(file, name), EXPECTED[name])


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_linear(name: str) -> None:
    hold(tensors("linear.onnx")[name], LINEAR[name])
    if LINEAR[name].dtype == np.float16:
        item = tensors("linear.onnx", "reference")[name]
        assert item.params["rounding"] == "reference"
        hold(item, LINEAR[name].astype(np.float32))


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_operators_on_integers(name: str) -> None:
    """Those of onnxruntime's quantisers, and its own."""
    file, _, weight = name.partition("/")
    hold(tensors(f"{file}.onnx")[weight], INTEGERS[name])


def hold(item: Tensor, wanted: Any) -> None:
    """Hold a whole tensor, and windows of it, against its numbers."""
    assert item.shape == wanted.shape
    files = Files()
    reader = BlockReader(item, files, reuse=False)
    prepare = preparer(item.encoding)
    assert prepare is not None
    params = {**item.params, **prepare(item.params, reader.wholes())}
    whole = Window(0, item.units)
    blocks = reader.read(whole)

    def decode(window: Window, views: dict[str, Any], dtype: Any) -> Any:
        for view in views.values():
            view.setflags(write=False)
        rest = item.elems - window.start * item.unit_elems  # the last unit may be short
        out = np.empty(min(rest, (window.stop - window.start) * item.unit_elems), dtype)
        decoder(item.encoding)(views, params, window, out)
        return out

    found = decode(whole, blocks.views, np.float32)
    # The unit matrix loses the sign of a zero; products of binary16 are rounded to it.
    unit = ("nbits", "bnb", "moe")
    lost = np.float32(0 if any(part in item.encoding + item.name for part in unit) else -0.0)
    plain = (found + lost).astype(wanted.dtype)
    assert plain.tobytes() == wanted.reshape(-1).tobytes()
    rounded = bf16(found)
    for step in {1, 3, item.units}:
        for start in range(0, item.units, step):
            window = Window(start, min(start + step, item.units))
            part = rounded[window.start * item.unit_elems : window.stop * item.unit_elems]
            for views in (reader.read(window).views, reader.within(blocks, whole, window)):
                np.testing.assert_array_equal(decode(window, views, np.uint16), part)
    files.close()


def test_a_zero_point_matters() -> None:
    """Were it left out, other numbers would come out."""
    names = [name for name in LAYERS if "zp" in name]
    assert len(names) == 9
    for name in names:
        item = tensor("cases.onnx", name)
        assert item.params["zero"] == "plain"
