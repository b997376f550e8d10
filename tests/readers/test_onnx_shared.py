"""ONNX graphs whose nodes share codes, each with scales of its own or an axis that says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError
from anamnesis.readers.model import load_model

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

CODES = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
ROWS = np.array([0.5, 1, 2, 0.25], np.float32)  # no product of codes of these is rounded


def graph(path: Path, arrays: dict[str, Any], *nodes: tuple[list[str], dict[str, int]]) -> str:
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    made = [
        helper.make_node("DequantizeLinear", inputs, [f"y{at}"], **said)
        for at, (inputs, said) in enumerate(nodes)
    ]
    whole = helper.make_model(helper.make_graph(made, "g", [], [], tensors))
    path.write_bytes(whole.SerializeToString())
    return str(path)


def test_copies_of_scales_and_zero_points(tmp_path: Path) -> None:
    zeros = np.array([1, 0, -3, 2], np.int8)
    arrays = {"w": CODES, "s": ROWS, "z": zeros, "s_1": ROWS, "z_1": zeros, "s_2": ROWS}
    axis = {"axis": 0}
    path = graph(
        tmp_path / "m.onnx",
        arrays,
        (["w", "s", "z"], axis),
        (["w", "s_1", "z_1"], axis),
        (["w", "s_2", "z"], axis),
    )
    model = anamnesis.open_model(path)
    assert list(model) == ["w"]
    want = (CODES - zeros[:, None]).astype(np.float32) * ROWS[:, None]
    assert np.array_equal(model["w"].to_numpy().astype(np.float32), want)
    assert {one.stored.name for one in load_model(path).dropped} == {"s_1", "s_2", "z_1"}


@pytest.mark.parametrize("other", [ROWS * 2, ROWS[:1], ROWS.astype(np.float16)])
def test_other_numbers_are_two_weights(tmp_path: Path, other: Any) -> None:
    arrays = {"w": CODES, "s": ROWS, "s_1": other}
    nodes = [(["w", name], {"axis": 0}) for name in ("s", "s_1")]
    with pytest.raises(FormatError, match="two nodes give it different"):
        load_model(graph(tmp_path / "m.onnx", arrays, *nodes))


def test_one_number_has_no_axis(tmp_path: Path) -> None:
    arrays = {"w": CODES, "s": np.float32(0.25)}
    nodes: list[tuple[list[str], dict[str, int]]] = [
        (["w", "s"], {"axis": 0}),
        (["w", "s"], {}),
        (["w", "s"], {"axis": -1}),
    ]
    model = anamnesis.open_model(graph(tmp_path / "m.onnx", arrays, *nodes))
    assert np.array_equal(model["w"].to_numpy().astype(np.float32), CODES * np.float32(0.25))


def test_several_numbers_have_one(tmp_path: Path) -> None:
    square = np.ones((4, 4), np.int8)
    nodes = [(["w", "s"], {"axis": axis}) for axis in (0, 1)]
    with pytest.raises(FormatError, match="two nodes give it different axis"):
        load_model(graph(tmp_path / "m.onnx", {"w": square, "s": ROWS}, *nodes))


@pytest.mark.parametrize("axes", [(-1, 1), (1, -1), (0, -2), (-1, None)])
def test_an_axis_is_one_from_either_end(tmp_path: Path, axes: tuple[int, int | None]) -> None:
    scales = np.float32([0.5, 1, 2, 0.25, 4, 8])[: 6 if axes[0] % 2 else 4]
    nodes = [(["w", "s"], {} if axis is None else {"axis": axis}) for axis in axes]
    model = anamnesis.open_model(graph(tmp_path / "m.onnx", {"w": CODES, "s": scales}, *nodes))
    want = CODES * (scales if axes[0] % 2 else scales[:, None])
    assert np.array_equal(model["w"].to_numpy().astype(np.float32), want)


@pytest.mark.parametrize("axis", [2, -3, -(1 << 40)])
def test_axes_that_the_codes_lack(tmp_path: Path, axis: int) -> None:
    nodes = [(["w", "s"], {"axis": axis})]
    with pytest.raises(FormatError, match="axis"):
        load_model(graph(tmp_path / "m.onnx", {"w": CODES, "s": ROWS}, *nodes))


def test_two_operators_of_the_same_codes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graph(path, {"w": CODES, "s": np.ones((4, 1), np.float32)}, (["w", "s"], {"block_size": 16}))
    whole = onnx.load(path)
    gather = helper.make_node("GatherBlockQuantized", ["w", "i", "s"], ["g"], block_size=16)
    whole.graph.node.append(gather)
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(FormatError, match="operators, 'DequantizeLinear' and 'GatherBlockQ"):
        load_model(str(path))
