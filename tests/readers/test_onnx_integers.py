"""ONNX files: operators on integers and ONNX Runtime's own, and what of them is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model

pytest.importorskip("onnx")
from onnx import helper
from onnx_parts import CODES, ONE, array, model, nbits, parts


def test_codes_in_the_order_of_a_kernel(tmp_path: Path) -> None:
    nodes = [nbits("m", weight_prepacked=1)]
    with pytest.raises(UnsupportedError, match="weight_prepacked"):
        load_model(model(*parts("m"), nodes=nodes, path=tmp_path / "m.onnx"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"quant_type": 2}, "quant_type 2"),
        ({"block_size": 16}, "block_size 16"),
        ({"transB": 0}, "transB 0"),
        ({"K": 65}, "does not fit"),
        ({"block_size": 64}, "'s'.*does not fit"),
    ],
)
def test_bitsandbytes_codes_that_do_not_fit(
    tmp_path: Path, change: dict[str, int], told: str
) -> None:
    about = {"K": 64, "N": 2, "block_size": 32, "quant_type": 1} | change
    node = helper.make_node("MatMulBnb4", ["x", "w", "s"], ["y"], **about)
    held = array("w", np.ones(64, np.uint8)), array("s", np.ones(4, np.float32))
    with pytest.raises((FormatError, UnsupportedError), match=told):
        load_model(model(*held, nodes=[node], path=tmp_path / "m.onnx"))


def experts(tmp_path: Path, *shapes: Any, **about: Any) -> dict[str, Any]:
    """The layers of a node of experts; `shapes` are of codes and scales of its two matrices."""
    held = [
        array(name, np.ones(shape, np.uint8 if name[0] == "w" else np.float32))
        for name, shape in zip(("w1", "s1", "w2", "s2"), shapes, strict=True)
    ]
    names = ["x", "r", "w1", "s1", "", "w2", "s2"]
    about = {"block_size": 16} | about
    node = helper.make_node("QMoE", names, ["y"], domain="com.microsoft", **about)
    path = model(*held, nodes=[node], path=tmp_path / "m.onnx")
    return {tensor.name: tensor for tensor in load_model(path).tensors}


ROWS = (3, 96, 16), (3, 96, 2), (3, 32, 48), (3, 32, 6)  # of 96 x 32 and 32 x 96 numbers
KERNEL = (3, 32, 48), (3, 96, 2), (3, 96, 16), (3, 32, 6)
SQUARE = (3, 32, 16), (3, 32, 2)


def test_experts_in_rows_are_told_by_their_shapes(tmp_path: Path) -> None:
    """One matrix that is no square is enough."""
    found = experts(tmp_path, *ROWS)
    assert {name: item.shape for name, item in found.items()} == {
        "w1": (3, 96, 32),
        "w2": (3, 32, 96),
    }
    assert experts(tmp_path, *ROWS[:2], *SQUARE)["w2"].shape == (3, 32, 32)
    assert experts(tmp_path, *SQUARE, *SQUARE, weights_prepacked=0)["w1"].shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("shapes", "about", "told"),
    [
        (KERNEL, {}, "order of a CUDA kernel"),
        ((*SQUARE, *SQUARE), {}, "order of a CUDA kernel"),
        (ROWS, {"weights_prepacked": 1}, "order of a CUDA kernel"),
        (KERNEL, {"weights_prepacked": 0}, "does not fit"),
        (ROWS, {"quant_type": "fp4"}, "quant_type 'fp4'"),
        (ROWS, {"expert_weight_bits": 2}, "QMoE of 2 bits"),
        (ROWS, {"block_size": -1}, "block_size -1"),
    ],
)
def test_experts_that_are_refused(
    tmp_path: Path, shapes: Any, about: dict[str, Any], told: str
) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=told):
        experts(tmp_path, *shapes, **about)


def product(*, scale: str = "x_s", factors: tuple[str, ...] = ("x_s", "s")) -> list[Any]:
    """Nodes as the dynamic quantiser writes them; what is called `scale` is made of the inputs."""
    return [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", scale, "x_z"]),
        helper.make_node("MatMulInteger", ["xq", "c", "x_z", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", list(factors), ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
        helper.make_node("Mul", ["y", "other"], ["out"]),
    ]


def test_scales_stand_behind_a_product_of_integers(tmp_path: Path) -> None:
    """The inputs' own is one of them; without it nothing says what a number scales."""
    zero, other = array("z", np.uint8(1)), array("other", np.float32(8))
    held = CODES, array("s", np.float32(0.5)), zero, other
    found = anamnesis.open_model(model(*held, nodes=product(), path=tmp_path / "a.onnx"))
    assert list(found) == ["c", "other"]
    assert (found["c"].to_numpy().astype(np.float32) == 0).all()
    for nodes in (
        product(scale="elsewhere"),
        product(scale="elsewhere")[:-1],
        product(factors=("s", "other")),
        [node for node in product() if node.op_type != "DynamicQuantizeLinear"],
        [*product(), helper.make_node("Neg", ["i"], ["again"])],
    ):
        with pytest.raises(UnsupportedError, match="MatMulInteger"):
            load_model(model(*held, nodes=nodes, path=tmp_path / "b.onnx"))


def test_rows_that_are_looked_up_have_one_scale(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["c", "ids"], ["g"]),
        helper.make_node("DequantizeLinear", ["g", "s"], ["y"], axis=1),
    ]
    assert load_model(model(CODES, ONE, nodes=nodes, path=tmp_path / "a.onnx")).tensors
    several = array("s", np.ones(8, np.float32))
    with pytest.raises(UnsupportedError, match="DequantizeLinear behind Gather, with several"):
        load_model(model(CODES, several, nodes=nodes, path=tmp_path / "b.onnx"))


@pytest.mark.parametrize("taken", [True, False])
def test_what_inputs_are_multiplied_by_is_noted(tmp_path: Path, taken: bool) -> None:
    """A factor for each input; one that only the graph's other nodes take is no part of a layer."""
    held = [*parts("m"), array("odd", np.ones(32, np.float32))]
    nodes = [helper.make_node("Mul", ["y0", "odd"], ["x" if taken else "z"]), nbits("m")]
    notes = load_model(model(*held, nodes=nodes, path=tmp_path / "m.onnx")).notes
    assert len(notes) == taken
    assert all("'odd'" in note and "multiplies" in note for note in notes)


def test_what_is_left_out_is_noted_at_once(tmp_path: Path) -> None:
    shapes = [helper.make_tensor(f"shape{at}", 7, [2], [1, -1]) for at in range(3)]
    (note,) = load_model(model(*shapes, ONE, path=tmp_path / "m.onnx")).notes
    assert "'shape0' and 2 more: numbers that are stored one by one" in note
