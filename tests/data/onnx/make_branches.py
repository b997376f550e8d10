"""Golden file of a decoder merged into one model: products in the branches of an `If`.

    pip install onnx==1.23.2 onnxruntime==1.32.0 && python make_branches.py

Both ways multiply by one weight of the outer graph, and one of them by a weight that is its own, as
optimum merges decoders and Transformers.js quantises them (`quantize_dynamic`, `EnableSubgraph`).
Expected is what onnxruntime's `DequantizeLinear` makes of the codes that its quantiser left, which
are near the floats that they were made of.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

onnxruntime.set_default_logger_severity(3)
HERE = Path(__file__).parent
RNG = np.random.default_rng(20261130)
T, DOMAINS = TensorProto, [helper.make_opsetid("", 17)]
SHAPES = {"shared.weight": (32, 24), "own.weight": (24, 16), "first.weight": (32, 32)}


def normal(name: str) -> Any:
    return numpy_helper.from_array(RNG.standard_normal(SHAPES[name]).astype(np.float32), name)


def branch(name: str, tensors: list[Any], *steps: tuple[str, str, str]) -> Any:
    """A graph of products, each of a value and a weight; both branches call their values alike."""
    nodes = [helper.make_node("MatMul", [a, b], [c], name=f"{name}/{c}") for a, b, c in steps]
    out = helper.make_tensor_value_info(steps[-1][2], T.FLOAT, None)
    return helper.make_graph(nodes, name, [], [out], tensors)


def merged() -> Any:
    first = helper.make_node("MatMul", ["x", "first.weight"], ["h"], name="first")
    ways = {
        "then_branch": branch("a", [], ("h", "shared.weight", "y")),
        "else_branch": branch(
            "b", [normal("own.weight")], ("h", "shared.weight", "m"), ("m", "own.weight", "y")
        ),
    }
    choice = helper.make_node("If", ["cached"], ["out"], name="choice", **ways)
    inputs = [("x", T.FLOAT, [4, 32]), ("cached", T.BOOL, [])]
    graph = helper.make_graph(
        [first, choice],
        "merged",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("out", T.FLOAT, None)],
        [normal("first.weight"), normal("shared.weight")],
    )
    return helper.make_model(graph, opset_imports=DOMAINS, ir_version=10)


def tensors(graph: Any) -> dict[str, Any]:
    """Initialisers of a graph and of those inside of it."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= tensors(attribute.g)
    return found


def dequantised(held: dict[str, Any], name: str) -> Any:
    """What onnxruntime makes of the codes of a weight."""
    parts = [held[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point")]
    node = helper.make_node("DequantizeLinear", [part.name for part in parts], ["y"])
    out = [helper.make_tensor_value_info("y", T.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph([node], "one", [], out, parts), opset_imports=DOMAINS, ir_version=10
    )
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        plain, out = merged(), HERE / "branches.onnx"
        floats = {name: numpy_helper.to_array(t) for name, t in tensors(plain.graph).items()}
        onnx.save(plain, Path(place, "f.onnx"))
        quantize_dynamic(Path(place, "f.onnx"), out, extra_options={"EnableSubgraph": True})
    held = tensors(onnx.load(out).graph)
    found = {name: dequantised(held, name) for name in SHAPES}
    for name, values in found.items():
        assert np.abs(values - floats[name]).max() < np.ptp(floats[name]) / 255, name
    np.savez_compressed(HERE / "branches.npz", **found)


if __name__ == "__main__":
    main()
