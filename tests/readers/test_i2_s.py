"""bitnet.cpp's I2_S: blocks that go on from row to row, and a scale behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.kernels import Window
from anamnesis.kernels.i2_s import decode
from tests.builders.golden import assert_other_outputs, assert_same_in_windows, expected_bits

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "layouts" / "gguf" / "bitnet-i2-s"
MODEL = GOLDEN / "model.gguf"


def test_windows_and_other_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = expected_bits(GOLDEN / "expected.safetensors", "reference", others=False)
    assert_other_outputs(MODEL, tmp_path, wanted)
    assert_same_in_windows(MODEL, tmp_path, monkeypatch)


def test_a_note_says_that_there_are_other_orders() -> None:
    model = anamnesis.open_model(MODEL)
    assert "built for ARM" in str(model.model.notes)
    assert {tensor.scheme for tensor in model.model.tensors} == {"gguf-i2-s"}


def test_more_room_than_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(MODEL.read_bytes() + bytes(160))
    with pytest.raises(UnsupportedError, match="IQ4_NL_4_4"):
        anamnesis.open_model(path)


def test_a_tail_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(MODEL.read_bytes()[:-16])
    with pytest.raises(FormatError, match="past the end"):
        anamnesis.open_model(path)


def test_arrays_that_do_not_fit() -> None:
    blocks = {"payload": np.zeros((1, 32), np.uint8)}
    with pytest.raises(ValueError, match="2 blocks"):
        decode(blocks, {}, Window(0, 2), np.zeros(256, np.uint16))
