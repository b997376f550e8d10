"""The BitNet kernel against transformers' unpacking (tests/data/bitnet)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.readers.batch import Whole

GOLDEN = dict(np.load(Path(__file__).resolve().parents[1] / "data" / "bitnet" / "bitnet.npz"))
NAMES = sorted({name.partition(".")[0] for name in GOLDEN})
KINDS = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


def prepared(packed: Any, kind: str, scale: Any, divides: bool, rounding: str) -> dict[str, Any]:
    scalars = {
        "in_features": packed.shape[1],
        "period": packed.shape[0],
        "divides": divides,
        "scale_dtype": kind,
        "rounding": rounding,
    }
    prepare = preparer("bitnet")
    assert prepare is not None
    return scalars | prepare(scalars, {"weight_scale": Whole(kind, scale.view(KINDS[kind]))})


def decode(packed: Any, params: dict[str, Any], window: Window, dtype: Any) -> Any:
    """A window as the reader gives it: its own lines, or all of them where it is longer."""
    rows, lines = window.stop - window.start, len(packed)
    view = packed if rows >= lines else packed[np.arange(window.start, window.stop) % lines]
    view.setflags(write=False)
    out = np.empty(rows * packed.shape[1], dtype)
    decoder("bitnet")({"payload": view}, params, window, out)
    return out.reshape(rows, -1)


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("direction", ["multiplied", "divided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, kind: str, direction: str, rounding: str) -> None:
    packed, wanted = GOLDEN[f"{name}.packed"], GOLDEN[f"{name}.{kind}.{rounding}.{direction}"]
    scale = GOLDEN[f"{name}.{kind}.scale"]
    params = prepared(packed, kind, scale, direction == "divided", rounding)
    rows = len(wanted)
    bits = bf16(wanted)
    whole = Window(0, rows)
    np.testing.assert_array_equal(decode(packed, params, whole, np.uint16), bits)
    if kind != "BF16" or rounding == "exact":  # BF16 of float32 is rounded in the end alone
        singles = decode(packed, params, whole, np.float32)
        np.testing.assert_array_equal(singles.view(np.uint32), wanted.view(np.uint32))
    for step in (1, len(packed) - 1, len(packed) + 1):
        for start in range(0, rows, max(1, step)):
            window = Window(start, min(start + max(1, step), rows))
            part = decode(packed, params, window, np.uint16)
            np.testing.assert_array_equal(part, bits[window.start : window.stop])
    # All lines were read, and a window among them is wanted.
    some = Window(rows // 3, rows // 3 + 1)
    out = np.empty(packed.shape[1], np.uint16)
    decoder("bitnet")({"payload": packed}, params, some, out)
    np.testing.assert_array_equal(out, bits[some.start])


def test_the_roundings_differ_where_binary16_is_divided_by() -> None:
    exact, reference = (GOLDEN[f"tall.F16.{order}.divided"] for order in ("exact", "reference"))
    assert (exact != reference).any()


@pytest.mark.parametrize("scale", [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -3e38])
@pytest.mark.parametrize("divides", [False, True])
def test_scales_that_no_tool_writes(scale: float, divides: bool) -> None:
    packed = np.arange(256, dtype=np.uint8).reshape(4, 64)
    stored = np.array([scale], np.float32)
    params = prepared(packed, "F32", stored, divides, "exact")
    found = decode(packed, params, Window(0, 16), np.uint16)
    codes = np.concatenate([packed >> 2 * k & 3 for k in range(4)]).astype(np.float32) - 1
    with np.errstate(all="ignore"):
        wanted = codes / stored if divides else codes * stored
    nan = np.isnan(wanted)
    assert np.array_equal(found & 0x7FFF > 0x7F80, nan)
    np.testing.assert_array_equal(found[~nan], bf16(wanted)[~nan])


def test_shapes_are_checked_before_the_kernel() -> None:
    packed = np.zeros((6, 40), np.uint8)
    params = prepared(packed, "F32", np.ones(1, np.float32), False, "exact")
    run = decoder("bitnet")
    for view, window, elems in (
        (packed[:5], Window(0, 24), 960),
        (packed[:, :39], Window(0, 24), 960),
        (packed, Window(0, 24), 959),
        (packed, Window(1, 25), 960),
        (packed[:2], Window(3, 4), 40),
        (packed, Window(5, 4), 0),
    ):
        with pytest.raises(ValueError, match=r"payload|lines|rows"):
            run({"payload": np.ascontiguousarray(view)}, params, window, np.empty(elems, np.uint16))
    prepare = preparer("bitnet")
    assert prepare is not None
    with pytest.raises(ValueError, match="2 numbers"):
        prepare(params, {"weight_scale": Whole("F32", np.ones(2, np.float32))})


def test_without_the_compiler(elsewhere: Callable[..., None]) -> None:
    """The numpy twins give the same bits."""
    elsewhere("golden")
