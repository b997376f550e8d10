"""`MatMulNBits` against what onnxruntime multiplies by (tests/data/onnx)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import BlockReader
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model

pytest.importorskip("onnx")
DATA = Path(__file__).resolve().parents[1] / "data" / "onnx"
EXPECTED = dict(np.load(DATA / "expected.npz"))
LAYERS = sorted(set(EXPECTED) - {"norm.weight"})


def tensor(file: str, name: str) -> Tensor:
    return next(t for t in load_model(str(DATA / file)).tensors if t.name == f"{name}.weight")


@pytest.mark.parametrize("file", ["cases.onnx", "external.onnx"])
@pytest.mark.parametrize("name", LAYERS)
def test_golden(file: str, name: str) -> None:
    item, wanted = tensor(file, name), EXPECTED[name]
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
        out = np.empty((window.stop - window.start) * item.unit_elems, dtype)
        decoder(item.encoding)(views, params, window, out)
        return out

    found = decode(whole, blocks.views, np.float32)
    # The unit matrix loses the sign of a zero; products of binary16 are rounded to it.
    plain = (found + np.float32(0)).astype(wanted.dtype)
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
