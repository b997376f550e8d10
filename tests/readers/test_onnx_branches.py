"""ONNX graphs inside of graphs: weights that branches and loops take, and those of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data" / "onnx"
CODES = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
SCALE = np.float32(0.5)


def inner(name: str, nodes: list[Any], **arrays: Any) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(a), key) for key, a in arrays.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [out], tensors)


def reading(codes: str = "w", scale: str = "s", out: str = "y") -> Any:
    return helper.make_node("DequantizeLinear", [codes, scale], [out])


def written(path: Path, nodes: list[Any], **arrays: Any) -> Path:
    model = helper.make_model(inner("whole", nodes, **arrays))
    path.write_bytes(model.SerializeToString())
    return path


def either(then: Any, other: Any) -> Any:
    return helper.make_node("If", ["c"], ["o"], then_branch=then, else_branch=other)


def numbers(path: Path) -> dict[str, Any]:
    model = anamnesis.open_model(path)
    return {name: model[name].to_numpy().astype(np.float32) for name in model}


def test_a_merged_decoder() -> None:
    """Codes of the outer graph and of a branch, as onnxruntime's quantiser leaves them."""
    model = anamnesis.open_model(DATA / "branches.onnx")
    expected = dict(np.load(DATA / "branches.npz"))
    assert set(model) == set(expected)
    for name, values in expected.items():
        found = model[name].to_numpy()
        assert np.array_equal(found, values.astype(found.dtype)), name


def test_both_ways_take_the_same_codes(tmp_path: Path) -> None:
    nodes = [either(inner("a", [reading()]), inner("b", [reading()]))]
    found = numbers(written(tmp_path / "m.onnx", nodes, w=CODES, s=SCALE))
    assert list(found) == ["w"]
    assert np.array_equal(found["w"], CODES * SCALE)


def test_each_way_has_codes_of_its_own_under_one_name(tmp_path: Path) -> None:
    """Values of a branch hide none of another: each scale belongs to the codes beside it."""
    ways = [
        inner(name, [reading()], w=CODES + shift, s=SCALE * scale)
        for name, shift, scale in (("a", 0, 1), ("b", 1, 2))
    ]
    found = numbers(written(tmp_path / "m.onnx", [either(*ways)]))
    values = sorted(tuple(array.ravel()) for array in found.values())
    wanted = [CODES * SCALE, (CODES + 1) * SCALE * 2]
    assert values == sorted(tuple(array.ravel()) for array in wanted)
    assert {name.rpartition("/")[2] for name in found} == {"w"}
    assert len(found) == 2


def test_branches_in_loops(tmp_path: Path) -> None:
    body = inner("body", [either(inner("a", [reading()]), inner("b", [reading("v")], v=CODES))])
    loop = helper.make_node("Loop", ["n", "c"], ["o"], body=body)
    found = numbers(written(tmp_path / "m.onnx", [loop], w=CODES + 1, s=SCALE))
    assert np.array_equal(found["w"], (CODES + 1) * SCALE)
    assert np.array_equal(found["v"], CODES * SCALE)


def test_a_branch_hides_what_is_around_it_nowhere_else(tmp_path: Path) -> None:
    """A value of the branch called as an initialiser outside is the branch's."""
    own = helper.make_node("Identity", ["w"], ["s"])
    nodes = [reading(), either(inner("a", [own]), inner("b", [own]))]
    found = numbers(written(tmp_path / "m.onnx", nodes, w=CODES, s=SCALE))
    assert np.array_equal(found["w"], CODES * SCALE)


def test_dense_weights_and_constants_of_branches(tmp_path: Path) -> None:
    constant = numpy_helper.from_array(np.full((2, 2), 3, np.float32), "ignored")
    held = helper.make_node("Constant", [], ["k"], value=constant)
    ways = [inner("a", [held], d=np.ones((2, 3), np.float32)), inner("b", [held])]
    found = numbers(written(tmp_path / "m.onnx", [either(*ways)]))
    assert sorted(name.rpartition("/")[2] for name in found) == ["d", "k", "k"]


def test_what_cannot_be_read_in_a_branch_refuses_the_model(tmp_path: Path) -> None:
    node = helper.make_node("QOrderedMatMul", ["x", "w", "s"], ["y"], domain="com.microsoft")
    path = written(tmp_path / "m.onnx", [either(inner("a", [node]), inner("b", []))], w=CODES)
    with pytest.raises(UnsupportedError, match="QOrderedMatMul"):
        load_model(str(path))


def test_names_in_branches_are_text(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [either(inner("a", [reading("word")]), inner("b", []))])
    path.write_bytes(path.read_bytes().replace(b"word", b"w\xff\xfed"))
    with pytest.raises(FormatError, match="UTF-8"):
        load_model(str(path))


def test_the_nearest_graph_has_the_value(tmp_path: Path) -> None:
    deep = inner("deep", [reading("w", "s", "y")], w=CODES + 1, s=SCALE * 8)
    way = inner("a", [reading("w", "s", "z"), either(deep, inner("b", []))], w=CODES, s=SCALE)
    found = numbers(written(tmp_path / "m.onnx", [either(way, inner("c", []))]))
    assert np.array_equal(found["w"], CODES * SCALE)
    assert np.array_equal(found["then_branch/w"], (CODES + 1) * SCALE * 8)
