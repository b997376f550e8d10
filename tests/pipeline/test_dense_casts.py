"""Dense tensors: what is not cast keeps its bytes, and every cast rounds as its page says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import anamnesis
from anamnesis.pipeline import plan as planning

Write = Callable[[Path, Mapping[str, tuple[str, tuple[int, ...], bytes]]], Path]
KINDS = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


def near(values: Any, kind: Any) -> Any:
    """Numbers of a wider kind, the neighbours below and above each, and their negatives."""
    wide = values.astype(kind)
    bits = wide.view(np.int64 if kind == np.float64 else np.int32)
    around = np.concatenate([bits - 1, bits, bits + 1]).view(kind)
    return np.concatenate([around, -around])


def ties(kind: Any, wide: Any) -> Any:
    """The numbers of `kind`, half way between neighbours, and just beside."""
    bits = np.arange(1, 0x7F80 if kind == ml_dtypes.bfloat16 else 0x7C00, 7, dtype=np.uint16)
    low = bits.view(kind).astype(wide)
    high = (bits + 1).astype(np.uint16).view(kind).astype(wide)
    finite = np.isfinite(high)
    return near(np.concatenate([low, low[finite] / 2 + high[finite] / 2]), wide)


def sources() -> dict[str, Any]:
    every = np.arange(65536, dtype=np.uint16)
    tops = np.array([65519.99, 65520, 3.3961776e38, 3.4028235e38, np.inf, 1e-45, 0.0, np.nan])
    narrow = np.concatenate([ties(k, np.float32) for k in (ml_dtypes.bfloat16, np.float16)])
    wide = np.concatenate([ties(k, np.float64) for k in (ml_dtypes.bfloat16, np.float16)])
    halves = ties(ml_dtypes.bfloat16, np.float64)
    # So little beside a tie that a stop at float32 would lose it.
    beside = np.concatenate([halves * (1 + 2.0**-40), halves * (1 - 2.0**-40)])
    nans = np.array([0x7F800001, 0xFF800001, 0x7FC12345, 0x7FFFFFFF], np.uint32).view(np.float32)
    return {
        "BF16": every.view(ml_dtypes.bfloat16),
        "F16": every.view(np.float16),
        "F32": np.concatenate([narrow, tops.astype(np.float32), nans]),
        "F64": np.concatenate([wide, beside, tops, [1e-320, 1e39, 1 + 2.0**-8 + 2.0**-40]]),
    }


def recast(values: Any, kind: str, out: str | None, tmp_path: Path, write: Write) -> Any:
    """`values` through a whole run, read back as raw numbers of the output's dtype."""
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    source = write(tmp_path / "in.safetensors", {"w": (kind, values.shape, data)})
    anamnesis.remember(source, tmp_path / "out.safetensors", dtype=out, threads=1)
    return anamnesis.open_model(tmp_path / "out.safetensors")["w"].to_numpy()


def same(found: Any, wanted: Any) -> None:
    """Bit for bit; of NaNs that they are NaNs, and quiet where they were rounded."""
    bits = f"u{found.dtype.itemsize}"
    assert found.dtype == wanted.dtype
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])


@pytest.fixture(autouse=True)
def several_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "WINDOW_BYTES", 40_000)


@pytest.mark.parametrize("out", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("kind", KINDS)
def test_casts(kind: str, out: str, tmp_path: Path, write_safetensors: Write) -> None:
    values = sources()[kind]
    found = recast(values, kind, out, tmp_path, write_safetensors)
    if kind == out.upper():
        assert found.tobytes() == values.tobytes()
        return
    with np.errstate(all="ignore"):
        single = values.astype(np.float32)
        wanted = single.astype(KINDS[out.upper()])
    if (kind, out) == ("F64", "bf16"):  # not by way of the nearest float32
        wanted = np.array([bf16_of(v) for v in values], np.uint16).view(ml_dtypes.bfloat16)
        assert (wanted != single.astype(ml_dtypes.bfloat16))[np.isfinite(values)].any()
    if (kind, out) == ("F64", "f16"):  # numpy narrows binary64 in one step
        with np.errstate(all="ignore"):
            wanted = values.astype(np.float16)
            assert (wanted != single.astype(np.float16))[np.isfinite(values)].any()
    same(found, wanted)
    nan = np.isnan(found)
    if out == "bf16":
        assert np.all(found[nan].view(np.uint16) & 0x40)


def bf16_of(value: float) -> int:
    """The nearest BF16, ties to even, by rational arithmetic."""
    sign = 0x8000 if math.copysign(1, value) < 0 else 0
    if math.isnan(value):
        return sign | 0x7FC0
    if math.isinf(value):
        return sign | 0x7F80
    exact = Fraction(abs(value))
    if not exact:
        return sign
    exponent = max(math.frexp(abs(value))[1] - 8, -133)  # of the last place
    steps = round(exact / Fraction(2) ** exponent)  # Python rounds halves to even
    return sign | min(0x7F80, steps + (exponent + 133 << 7))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_asked_for_nothing_changed(
    kind: str, tmp_path: Path, write_safetensors: Write
) -> None:
    values = sources()[kind]
    assert recast(values, kind, None, tmp_path, write_safetensors).tobytes() == values.tobytes()


def test_nans_keep_sign_and_payload(tmp_path: Path, write_safetensors: Write) -> None:
    bits = np.array([0x7F800001, 0xFF800001, 0x7FA10000, 0xFFFFFFFF], np.uint32)
    found = recast(bits.view(np.float32), "F32", "bf16", tmp_path, write_safetensors)
    assert found.view(np.uint16).tolist() == [0x7FC0, 0xFFC0, 0x7FE1, 0xFFFF]


def test_integers_and_complex_numbers_are_no_weights(
    tmp_path: Path, write_safetensors: Write
) -> None:
    raw = np.arange(48, dtype=np.uint8).tobytes()
    sizes = {"I8": 48, "U8": 48, "I16": 24, "U32": 12, "I64": 6, "BOOL": 48, "C64": 6, "C128": 3}
    entries = {kind: (kind, (size,), raw) for kind, size in sizes.items()}
    source = write_safetensors(tmp_path / "in.safetensors", entries)
    anamnesis.remember(source, tmp_path / "out.safetensors", dtype="f16")
    model = anamnesis.open_model(tmp_path / "out.safetensors")
    for kind, size in sizes.items():
        assert model[kind].tensor.out_dtype == kind
        assert model[kind].shape == (size,)
        assert model[kind].to_numpy().tobytes() == raw
