"""Scales that are no numbers, in every encoding: what they cover is none either, the rest stays.

The bits of a NaN are not compared. Where arithmetic makes one out of numbers (0 times infinity) its
sign is the processor's choice, negative on x86 and positive on Arm, and of two NaN operands either
may be the one that is kept (docs/testing.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError
from anamnesis.kernels import ENCODINGS
from benchmarks import layers
from benchmarks.cases import CASES
from benchmarks.models import Entry, Layer, write_model

ROWS, COLUMNS = 128, 512
# Quiet, with a payload that rounding would carry out of, signalling; infinity, which makes a NaN
# of a code that is zero.
NUMBERS = {
    "F16": (0x7E00, 0xFFFF, 0x7C01, 0x7C00),
    "BF16": (0x7FC0, 0xFFFF, 0x7F81, 0x7F80),
    "F32": (0x7FC00000, 0xFFFFFFFF, 0x7F800001, 0x7F800000),
    "F8_E8M0": (255,),
    "F8_E4M3": (0x7F, 0xFF),
}
# Scales that integers are made with, of which no NaN can be made.
REFUSED = {("qqq", "s_group")}
INFINITE = ("0x7c00", "0x7f80", "0x7f800000")
# By infinity is nothing, which is a number.
DIVISORS = ("input_scale", "smooth_factor", "weight_global_scale")
WIDTH = {"F16": "<u2", "BF16": "<u2", "F32": "<u4", "F8_E8M0": "u1", "F8_E4M3": "u1"}


def bits_of(layer: Layer, folder: Path) -> Any:
    """The BF16 bits of the layer's one tensor of two axes or more."""
    folder.mkdir()
    model = anamnesis.open_model(write_model(folder, layer))
    (name,) = (t.name for t in model.model.tensors if len(t.shape) > 1)
    found = model[name].to_numpy()
    kept = found.astype(np.float32).view(np.uint32) >> 16 if found.dtype.itemsize > 2 else found
    return kept.view(np.uint16) if found.dtype.itemsize == 2 else kept.astype(np.uint16)


def poisoned(encoding: str, layer: Layer) -> list[tuple[str, Layer]]:
    """The layer with one scale made none, for each of its kinds of scales and of such numbers."""
    found = []
    for at, entry in enumerate(layer.entries):
        for number, array in _arrays(encoding, entry, layer.container):
            entries = [*layer.entries]
            entries[at] = replace(entry, array=array)
            found.append((f"{entry.suffix} {number:#x}", replace(layer, entries=entries)))
    return found


def _arrays(encoding: str, entry: Entry, container: str) -> list[tuple[int, Any]]:
    found = []
    if container == "gguf" and entry.suffix == "weight":
        if encoding in layers._BYTES_AT or encoding == "gguf-iq1-m" or entry.dtype in WIDTH:
            return []  # their scales have no NaN that ggml reads as one
        behind = encoding == "i2-s"
        kind = "F32" if behind or ENCODINGS[encoding].row_meta == 4 else "F16"
        for offset in layers.F16_AT.get(encoding, (0,)):
            for number in NUMBERS[kind]:
                raw = np.array([number], WIDTH[kind]).view(np.uint8)
                blocks = entry.array.copy()
                blocks[-1 if behind else len(blocks) // 2, offset : offset + len(raw)] = raw
                found.append((number, blocks))
    elif entry.dtype in WIDTH and entry.suffix not in ("weight", "bias"):
        for number in NUMBERS[entry.dtype]:
            array = np.ascontiguousarray(entry.array).copy()
            flat = array.reshape(-1).view(WIDTH[entry.dtype])
            flat[0] = number
            found.append((number, array))
    return found


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_a_scale_that_is_no_number_covers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    layer = case.make(ROWS, COLUMNS)
    bits = bits_of(layer, tmp_path / "plain")
    for number, (what, changed) in enumerate(poisoned(case.encoding, layer)):
        if (case.encoding, what.partition(" ")[0]) in REFUSED:
            with pytest.raises(FormatError, match="no finite number"):
                bits_of(changed, tmp_path / str(number))
            continue
        found = bits_of(changed, tmp_path / str(number))
        differ = found != bits
        nan = found & 0x7FFF > 0x7F80
        assert differ.any(), what
        assert (found[nan] & 0x40).all(), what  # quiet
        suffix, _, bits_of_scale = what.partition(" ")
        if bits_of_scale not in INFINITE:
            assert (nan == differ).all(), what
        elif suffix not in DIVISORS and case.encoding != "fp8-divided":
            assert (found[differ] & 0x7F80 == 0x7F80).all(), what  # NaN or infinite
