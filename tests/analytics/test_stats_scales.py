"""Statistics of every encoding: values as `open_model` has them, scales as they were stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

import anamnesis
from anamnesis.analytics.stats import plan as stats_plan
from anamnesis.kernels import ENCODINGS
from benchmarks.cases import CASES
from benchmarks.models import Entry, Layer, write_model

ROOT = Path(__file__).resolve().parents[2]


ROWS, COLUMNS = 96, 512
# Offset of `d`, binary16, in the blocks of ggml's formats (ggml-common.h), and their size.
HALVES = {
    "gguf-iq2-s": (0, 82),
    "gguf-iq4-nl": (0, 18),
    "gguf-q2-k": (80, 84),
    "gguf-q3-k": (108, 110),
    "gguf-q4-0": (0, 18),
    "gguf-q4-k": (0, 144),
    "gguf-q5-1": (0, 24),
    "gguf-q6-k": (208, 210),
    "gguf-q8-0": (0, 34),
    "gguf-tq1-0": (52, 54),
}
ENDINGS = ("scales", "absmax", "SCB", "weight_scale_inv", "weight_scale", "scale")


def stored_scales(encoding: str, layer: Layer) -> Any:
    """The scales as numpy reads them from the stored arrays; None where that takes more."""
    arrays = {entry.suffix: entry for entry in layer.entries}
    if encoding in HALVES:
        offset, size = HALVES[encoding]
        blocks = np.ascontiguousarray(arrays["weight"].array).reshape(-1, size)
        return np.ascontiguousarray(blocks[:, offset : offset + 2]).view("<f2")
    kinds = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}
    found = [
        e.array.view(kinds[e.dtype]).astype(np.float32) if e.dtype in kinds else e.array
        for s, e in arrays.items()
        if s.endswith(ENDINGS) and e.dtype[0] in "FB"
    ]
    if "weight.nested_absmax" in arrays or len(found) != 1 or encoding == "basis":
        return None
    if encoding.endswith("-tiles"):
        return in_rows(arrays["_weight_scale"])
    if encoding == "awq-gemv-fast":
        return found[0][: COLUMNS // 128]
    return found[0][:, :4] if encoding == "awq-gemv" else found[0]


def in_rows(scale: Entry) -> Any:
    """torchao's tiles of 32 x (4 x 4) bytes: 128 rows of 4 blocks (`to_blocked`)."""
    kind = ml_dtypes.float8_e4m3fn if scale.dtype == "F8_E4M3" else ml_dtypes.float8_e8m0fnu
    down, across = scale.shape[0] // 32, scale.shape[1] // 16
    tiles = scale.array.reshape(down, across, 32, 4, 4).transpose(0, 3, 2, 1, 4)
    rows = np.ascontiguousarray(tiles).reshape(128 * down, 4 * across)[:ROWS]
    return rows.view(kind).astype(np.float32)


@pytest.fixture(autouse=True)
def leaves_that_end_inside_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_plan, "LEAF_BYTES", 77_776)


@pytest.mark.parametrize("name", CASES)
def test_every_encoding(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    layer = case.make(ROWS, COLUMNS)
    path = write_model(tmp_path, layer)
    model = anamnesis.open_model(path)
    for row in anamnesis.stats(path):
        values = model[row.tensor].to_numpy().reshape(-1)
        wide = values.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        leaf = stats_plan.LEAF_BYTES // values.itemsize
        digests = [
            xxhash.xxh3_128_digest(values[at : at + leaf].tobytes())
            for at in range(0, len(values), leaf)
        ]
        whole = xxhash.xxh3_128_digest(b"".join(digests)) if len(digests) > 1 else digests[0]
        assert row.xxh3 == whole.hex()
        assert (row.min, row.max) == (finite.min(), finite.max())
        assert row.absmax is not None
        assert row.absmax == np.abs(finite).max()
        assert row.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-12 * row.absmax)
        assert row.std == pytest.approx(finite.std(), rel=1e-9)
        assert row.zeros == (wide == 0).sum()
        assert row.nans == np.isnan(wide).sum()
        assert row.infs == np.isinf(wide).sum()
        assert sum(count for _, count in row.exponents) == len(finite) - row.zeros
        expected = stored_scales(case.encoding, layer)
        if row.scheme == "passthrough":
            assert row.scale_min is None
        elif expected is not None:
            assert (row.scale_min, row.scale_max) == (expected.min(), expected.max())


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if "bf16" not in n])
def test_the_range_is_that_of_the_scans_column(name: str, tmp_path: Path) -> None:
    path = write_model(tmp_path, CASES[name].make(ROWS, COLUMNS))
    column = anamnesis.scan(path, columns=["scale"]).read_all()["scale"].drop_null().to_numpy()
    quantised = [row for row in anamnesis.stats(path) if row.scheme != "passthrough"]
    if quantised:
        found = (quantised[0].scale_min, quantised[0].scale_max)
        assert found[0] is not None
        if not len(column):  # a scan gives the bytes of these only
            assert not ENCODINGS[CASES[name].encoding].sections
            return
        assert found == (column.min(), column.max())


def test_scales_that_are_not_finite_are_left_out(tmp_path: Path, write_safetensors: Any) -> None:
    codes = np.ones((4, 8), np.uint8)
    scales = np.array([np.nan, 0.5, np.inf, -0.25], np.float32)
    entries = {
        "w": ("F8_E4M3", (4, 8), codes.tobytes()),
        "w_scale": ("F32", (4, 1), scales.tobytes()),
        "v": ("F8_E4M3", (4, 8), codes.tobytes()),
        "v_scale": ("F32", (4, 1), np.full(4, np.nan, np.float32).tobytes()),
    }
    found = anamnesis.stats(write_safetensors(tmp_path / "m.safetensors", entries))
    assert (found["w"].scale_min, found["w"].scale_max) == (-0.25, 0.5)
    assert (found["v"].scale_min, found["v"].nans, found["v"].mean) == (None, 32, None)
    assert (found["w"].nans, found["w"].infs) == (8, 8)


def test_every_encoding_with_blocks_or_scales_has_a_row() -> None:
    from anamnesis.analytics.scan.ggml_fields import FIELDS

    scaled = {name for name, row in ENCODINGS.items() if row.scales}
    inside = {"basis", "folded", "interleaved"}  # of another encoding
    assert set(ENCODINGS) - scaled - set(FIELDS) == {*inside, "bf16", "f16", "f32", "f64"}
