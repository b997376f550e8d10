"""Whole layouts, as tools write them, against the bits that the canonical library recovers.

A layout is a folder: the model as stored, and `expected.safetensors`, the BF16 bits (U16) of
every recovered tensor. The set inside the repository is small, made by
`tests/data/layouts/make.py`; the corpus beside the checkout is used whole when it is there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import bf16

import anamnesis
from anamnesis.errors import UnsupportedError

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "data" / "layouts"
SHARED = [ROOT.parent / "shared" / name for name in ("corpus", "layouts")]

# Recognised and not implemented yet: these must say so, and leave nothing behind.
UNSUPPORTED: set[str] = {
    "transformers/eetq-int8",
}
# The caller has to say that these need no scale.
UNIT_SCALE = {"fp8/raw-e4m3"}
# bitsandbytes gives -0 for FP4 code 8 and its oracle on other paths +0: zeros compare as equal.
SIGN_OF_ZERO_FREE = {"bitsandbytes/fp4"}


def layouts() -> list[str]:
    found = {
        p.parent.relative_to(base).as_posix()
        for base in (OWN, *SHARED)
        for p in base.glob("*/*/expected.safetensors")
    }
    return sorted(found)


def folder_of(layout: str) -> Path:
    """The shared one, where there are two of a name."""
    return next(base / layout for base in (*SHARED, OWN) if (base / layout).is_dir())


def weights(folder: Path) -> Path:
    names = sorted(
        p
        for p in folder.iterdir()
        if p.suffix in (".safetensors", ".gguf", ".pt", ".bin") and p.name != "expected.safetensors"
    )
    assert len(names) == 1, names
    return names[0]


def bits_of(array: np.ndarray) -> np.ndarray:
    """Bits of an output tensor as BF16; dense tensors may have kept a wider dtype."""
    stored = array.dtype == np.uint16 or array.dtype.name == "bfloat16"
    return array.view(np.uint16) if stored else bf16(array)


@pytest.mark.parametrize("layout", layouts())
def test_layout(layout: str, tmp_path: Path) -> None:
    source = weights(folder_of(layout))
    out = tmp_path / "out.safetensors"
    if layout in UNSUPPORTED:
        with pytest.raises(UnsupportedError):
            anamnesis.remember(source, out)
        assert not list(tmp_path.iterdir())
        return
    anamnesis.remember(source, out, assume_unit_scale=layout in UNIT_SCALE, threads=1)
    expected = load_file(folder_of(layout) / "expected.safetensors")
    model = anamnesis.open_model(out)
    for name, bits in expected.items():
        got = bits_of(model[name].to_numpy())
        assert got.shape == bits.shape, name
        differ = got != bits
        if layout in SIGN_OF_ZERO_FREE:
            differ &= (got | bits) & 0x7FFF != 0
        worst = np.flatnonzero(differ)[:4]
        assert not differ.any(), (
            f"{name}: {differ.sum()} of {bits.size} differ, first at {worst.tolist()}: "
            f"got {[hex(x) for x in got.ravel()[worst]]}, "
            f"expected {[hex(x) for x in bits.ravel()[worst]]}"
        )
    assert anamnesis.verify(out)["tensors"] == len(model)


def test_the_list_of_unsupported_layouts_names_real_ones() -> None:
    if all(base.is_dir() for base in SHARED):
        assert set(layouts()) >= UNSUPPORTED
    assert [p for p in layouts() if (OWN / p).is_dir()]
