"""The Quanto kernels against optimum-quanto's `dequantize` (tests/data/quanto)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import BlockReader, Whole
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Options

DATA = Path(__file__).resolve().parents[1] / "data" / "quanto"
EXPECTED = dict(np.load(DATA / "expected.npz"))
NAMES = sorted({name.rpartition(".")[0] for name in EXPECTED})


def tensor(name: str, rounding: Any) -> Tensor:
    model = load_model(str(DATA / "cases.safetensors"), Options(rounding=rounding))
    return next(t for t in model.tensors if t.name == f"{name}.weight")


def prepared(item: Tensor, wholes: Any) -> dict[str, Any]:
    prepare = preparer(item.encoding)
    assert prepare is not None
    return {**item.params, **prepare(item.params, wholes)}


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, rounding: str) -> None:
    item = tensor(name, rounding)
    wanted = EXPECTED[f"{name}.{rounding}"]
    assert item.shape == wanted.shape
    wanted = wanted.reshape(-1)
    files, size = Files(), item.unit_elems
    reader = BlockReader(item, files, reuse=False)
    params = prepared(item, reader.wholes())
    whole = Window(0, item.units)
    blocks = reader.read(whole)

    def decode(window: Window, views: dict[str, Any], dtype: Any) -> Any:
        for view in views.values():
            view.setflags(write=False)
        out = np.empty((window.stop - window.start) * size, dtype)
        decoder(item.encoding)(views, params, window, out)
        return out

    assert decode(whole, blocks.views, np.float32).tobytes() == wanted.tobytes()
    # The last rounding of an output is no matter of the width; each pair compiles for seconds.
    if rounding == "exact" or name.startswith(("e4m3", "qint4")):
        wanted = bf16(wanted)
    assert decode(whole, blocks.views, wanted.dtype).tobytes() == wanted.tobytes()
    for step in {1, 3, max(1, item.units // 2 + 1)}:
        for start in range(0, item.units, step):
            window = Window(start, min(start + step, item.units))
            part = wanted[window.start * size : window.stop * size]
            for views in (reader.read(window).views, reader.within(blocks, whole, window)):
                got = decode(window, views, wanted.dtype)
                np.testing.assert_array_equal(got.view(np.uint8), part.view(np.uint8))
    files.close()


def test_the_roundings_differ() -> None:
    for name in ("qint8-f16", "e4m3-f16", "qint4-g32-bf16", "qint2-g128-f16"):
        exact, reference = (EXPECTED[f"{name}.{order}"] for order in ("exact", "reference"))
        assert (exact != reference).any(), name


@pytest.mark.parametrize("kind", ["I8", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ"])
@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_every_byte_and_extreme_scales(kind: str, rounding: str) -> None:
    scale = np.array([1, -0.0, np.inf, np.nan, 60000, -6e-8, 0.1], np.float16)
    codes = np.tile(np.arange(256, dtype=np.uint8), (len(scale), 1))[:, :250]
    codes = np.ascontiguousarray(np.roll(codes, 9, 1))
    types = {
        "I8": np.int8,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    }
    numbers = codes.view(types[kind]).astype(np.float32)
    with np.errstate(all="ignore"):
        wanted = scale.astype(np.float32)[:, None] * numbers
        if rounding == "reference":
            wanted = wanted.astype(np.float16).astype(np.float32)
    item = {"rows": 7, "columns": 250, "data_dtype": kind, "rounding": rounding}
    prepare = preparer("quanto-bytes")
    assert prepare is not None
    params = item | prepare(item, {"_scale": Whole("F16", scale)})
    out = np.empty(codes.size, np.uint16)
    decoder("quanto-bytes")({"payload": codes}, params, Window(0, 7), out)
    nan = np.isnan(wanted).reshape(-1)
    np.testing.assert_array_equal(out & 0x7FFF > 0x7F80, nan)
    np.testing.assert_array_equal(out[~nan], bf16(wanted).reshape(-1)[~nan])


@pytest.mark.parametrize("name", ["qint8-bf16", "e4m3-bf16", "qint4-g128-bf16"])
def test_shapes_are_checked_before_the_kernel(name: str) -> None:
    item = tensor(name, "exact")
    files = Files()
    reader = BlockReader(item, files, reuse=False)
    views, wholes = reader.read(Window(0, item.units)).views, reader.wholes()
    files.close()
    run, params = decoder(item.encoding), prepared(item, wholes)
    out, every = np.empty(item.elems, np.uint16), Window(0, item.units)
    for role, view in views.items():
        for short in (view[:-1], view[:0], np.ascontiguousarray(view[:, :-1])):
            with pytest.raises(ValueError, match=r"payload|_scale|lines|size|buffer|dtype"):
                run(views | {role: short}, params, every, out)
    for window in (Window(1, item.units + 1), Window(0, item.units + 1), Window(-1, 2)):
        with pytest.raises(ValueError, match=r"payload|_scale|lines|rows|groups|out"):
            run(views, params, window, out)
    with pytest.raises(ValueError, match="out"):
        run(views, params, every, out[:-1])
    if item.encoding == "quanto-bytes":
        with pytest.raises(ValueError, match="2 scales for 6 rows"):
            prepared(item, {"_scale": Whole("F32", np.ones(2, np.float32))})


def test_without_the_compiler(elsewhere: Callable[..., None]) -> None:
    """The numpy twins give the same bits."""
    chosen = "golden and (qint8 or e4m3-f16 or rows or zero) or every_byte and I8"
    elsewhere(chosen)
