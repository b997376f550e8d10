"""The table of benchmark cases covers the table of encodings, and every case runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from anamnesis.kernels import ENCODINGS, Window

ROOT = Path(__file__).resolve().parents[1]


def _load_benchmarks() -> None:
    """`benchmarks` is no part of the distribution: import it from the checkout."""
    if "benchmarks" not in sys.modules:
        folder = ROOT / "benchmarks"
        spec = importlib.util.spec_from_file_location(
            "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["benchmarks"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


_load_benchmarks()

from benchmarks.cases import CASES, TARGETS  # noqa: E402
from benchmarks.experiments import EXPERIMENTS  # noqa: E402
from benchmarks.opened import opened  # noqa: E402

ROWS, COLUMNS = 96, 512


def test_every_encoding_has_a_case() -> None:
    assert {case.encoding for case in CASES.values()} == set(ENCODINGS)


def test_every_target_is_one_of_a_case() -> None:
    known = {name for name in TARGETS if name.split(" ")[0].rstrip("0123456789") in _families()}
    assert known <= set(CASES)


def _families() -> set[str]:
    return {name.split(" ")[0].rstrip("0123456789") for name in CASES}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_windows_and_the_whole_give_the_same_numbers(case: object, tmp_path: Path) -> None:
    with opened(case, tmp_path, ROWS, COLUMNS) as found:
        tensor = found.step.tensor
        assert tensor.shape == (ROWS, COLUMNS)
        whole = np.zeros(tensor.elems, found.kind)
        everything = Window(0, tensor.units)
        found.decode(found.views(everything), found.params, everything, whole)
        units = -(-tensor.units // 3 // tensor.unit_multiple) * tensor.unit_multiple
        parts = np.zeros_like(whole)
        for start in range(0, tensor.units, units):
            window = Window(start, min(start + units, tensor.units))
            out = parts[start * tensor.unit_elems : window.stop * tensor.unit_elems]
            found.decode(found.views(window), found.params, window, out)
    bits = np.uint16 if found.kind == np.uint16 else np.uint32
    assert np.array_equal(whole.view(bits), parts.view(bits))
    numbers = whole if found.kind == np.float32 else (whole.astype(np.uint32) << 16).view("<f4")
    assert np.isfinite(numbers).all()
    assert len(np.unique(numbers)) > 8


def test_experiments_are_files() -> None:
    folder = ROOT / "benchmarks" / "experiments"
    assert {p.stem for p in folder.glob("[a-z]*.py")} == set(EXPERIMENTS)
    assert list(EXPERIMENTS) == sorted(EXPERIMENTS)
