"""The HQQ kernels against `Quantizer.dequantize` (tests/data/hqq)."""

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
from anamnesis.readers.batch import BlockReader
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Options

DATA = Path(__file__).resolve().parents[1] / "data" / "hqq"
EXPECTED = dict(np.load(DATA / "expected.npz"))
NAMES = sorted({name.rpartition(".")[0] for name in EXPECTED} - {"old"})
PICKLED = [name for name in NAMES if name.startswith("coded")]


def tensor(name: str, rounding: Any) -> Tensor:
    file = "qmodel.pt" if name in PICKLED else "cases.safetensors"
    model = load_model(str(DATA / file), Options(rounding=rounding))
    return next(t for t in model.tensors if t.name == f"{name}.weight")


def prepared(params: Any) -> dict[str, Any]:
    prepare = preparer("hqq-axis0")
    assert prepare is not None
    return {**params, **prepare(params, {})}


def decode(item: Tensor, window: Window, views: dict[str, Any], dtype: Any, wholes: Any) -> Any:
    for view in views.values():
        view.setflags(write=False)
    out = np.empty((window.stop - window.start) * item.unit_elems, dtype)
    prepare = preparer(item.encoding)
    assert prepare is not None
    decoder(item.encoding)(views, {**item.params, **prepare(item.params, wholes)}, window, out)
    return out


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, rounding: str) -> None:
    item = tensor(name, rounding)
    wanted = EXPECTED[f"{name}.{rounding}"].reshape(-1)
    files, size = Files(), item.unit_elems
    reader = BlockReader(item, files, reuse=False)
    whole = Window(0, item.units)
    blocks, wholes = reader.read(whole), reader.wholes()
    assert decode(item, whole, blocks.views, np.float32, wholes).tobytes() == wanted.tobytes()
    # The last rounding of an output is no matter of the width; each pair compiles for seconds.
    if rounding == "exact" or "w4" in name:
        wanted = bf16(wanted)
    assert decode(item, whole, blocks.views, wanted.dtype, wholes).tobytes() == wanted.tobytes()
    for step in {1, 3, max(1, item.units // 2 + 1)}:
        for start in range(0, item.units, step):
            window = Window(start, min(start + step, item.units))
            part = wanted[window.start * size : window.stop * size]
            for views in (reader.read(window).views, reader.within(blocks, whole, window)):
                got = decode(item, window, views, wanted.dtype, wholes)
                np.testing.assert_array_equal(got.view(np.uint8), part.view(np.uint8))
    files.close()


def test_the_roundings_differ() -> None:
    for name in ("w4-a1-g64-bfloat16", "w4-a0-g64-float16", "mixed-b"):
        assert (bf16(EXPECTED[f"{name}.exact"]) != bf16(EXPECTED[f"{name}.reference"])).any()


def packed(rng: Any, bits: int, rows: int, columns: int) -> tuple[Any, Any]:
    """Codes, and as HQQ packs them."""
    codes = rng.integers(0, 1 << bits, (rows, columns))
    fields = 10 if bits == 3 else 8 // bits
    lines = -(-rows // fields)
    filled = np.zeros((fields * lines, columns), np.int64)
    filled[:rows] = codes
    parts = filled.reshape(fields, lines, columns)
    found = sum(parts[k] << bits * (fields - 1 - k) for k in range(fields))
    return codes, found.astype("<u4" if bits == 3 else np.uint8)


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_beyond_a_tile(axis: int, bits: int, rounding: str) -> None:
    """More columns, and more groups, than the kernels take at a time; extreme scales and zeros."""
    rng = np.random.default_rng(bits)
    groups, size = (5003, 40) if axis == 0 else (4120, 25)
    rows, columns = (size, groups) if axis == 0 else (groups, size)
    codes, lines = packed(rng, bits, rows, columns)
    scale, zero = (rng.standard_normal(groups).astype(np.float32) for _ in range(2))
    scale[:8] = 0, -0.0, np.inf, -np.inf, np.nan, 3e38, -1e-40, 1
    zero[3:11] = 0, -0.0, np.inf, -np.inf, np.nan, 3e38, -1e-40, 1
    scale, zero = (
        (n.astype(ml_dtypes.bfloat16) if rounding == "reference" else n) for n in (scale, zero)
    )
    kind = "BF16" if rounding == "reference" else "F32"
    unit = size if axis == 1 else 1
    params: dict[str, Any] = {
        "bits": bits, "group_size": size, "unit": 1, "columns": groups, "rounding": rounding,
        "period": len(lines) * columns // unit, "scale_dtype": kind, "zero_dtype": kind,
        "compute_dtype": kind,
    }  # fmt: skip
    shape = (-1, 1) if axis == 1 else (1, -1)
    with np.errstate(all="ignore"):
        less = codes.astype(scale.dtype) - zero.reshape(shape)
        wanted = (less * scale.reshape(shape)).astype(np.float32).reshape(-1)
    out = np.empty(rows * columns, np.uint16)
    views = {
        "W_q": lines.reshape(-1).view(np.uint8).reshape(params["period"], -1),
        "scale": scale.view(np.uint8).reshape(groups, -1),
        "zero": zero.view(np.uint8).reshape(groups, -1),
    }
    decode_it = decoder(f"hqq-axis{axis}")
    decode_it(views, prepared(params), Window(0, rows * columns // unit), out)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(out & 0x7FFF > 0x7F80, nan)
    np.testing.assert_array_equal(out[~nan], bf16(wanted)[~nan])


@pytest.mark.parametrize("name", ["w4-a1-g24-float16", "w4-a0-g64-bfloat16", "w2-a0-g16-float16"])
def test_shapes_are_checked_before_the_kernel(name: str) -> None:
    item = tensor(name, "exact")
    files = Files()
    views = BlockReader(item, files, reuse=False).read(Window(0, item.units)).views
    files.close()
    out = np.empty(item.elems, np.uint16)
    run, params = decoder(item.encoding), prepared(item.params)
    for role, view in views.items():
        for short in (view[:-1], np.ascontiguousarray(view[:, :-1]), view[:0]):
            with pytest.raises(ValueError, match=r"W_q|scale|lines|size|buffer"):
                run(views | {role: short}, params, Window(0, item.units), out)
    for window in (Window(1, item.units + 1), Window(0, item.units + 1), Window(-1, 3)):
        with pytest.raises(ValueError, match=r"W_q|scale|lines|out"):
            run(views, params, window, out)
    with pytest.raises(ValueError, match="out"):
        run(views, params, Window(0, item.units), out[:-1])


def test_without_the_compiler(elsewhere: Callable[..., None]) -> None:
    """The numpy twins give the same bits."""
    chosen = "golden and (w8 or g24 or w3 or w2 or a0-g64) or beyond and (1-3-exact or 0-8)"
    elsewhere(chosen)
