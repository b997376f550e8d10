"""Golden files for ONNX: layers of `MatMulNBits`, and what onnxruntime multiplies by.

    pip install onnx==1.23.2 onnxruntime==1.32.0 && python make_onnx.py

Each layer is run on the unit matrix, which gives the transposed weight, as no product is rounded
and all others are zero (minus zero becomes zero). Layers `rtn-…` are made by onnxruntime's own
quantizer, the others of random codes. `cases.onnx` has its weights inside, `external.onnx` the same
beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

HERE = Path(__file__).parent
RNG = np.random.default_rng(20261129)
# (bits, block size, scales, zero points, N, K)
CASES = [
    (4, 32, "F32", True, 6, 96),
    (4, 16, "F32", True, 5, 48),
    (4, 32, "F32", False, 4, 70),
    (4, 128, "F16", True, 3, 256),
    (4, 64, "F32", True, 7, 100),
    (8, 32, "F32", True, 5, 64),
    (8, 32, "F32", False, 3, 40),
    (8, 128, "F16", True, 3, 128),
    (2, 32, "F32", True, 5, 160),
    (2, 16, "F32", False, 4, 48),
]


def random_layer(case: tuple[int, int, str, bool, int, int]) -> tuple[str, onnx.GraphProto]:
    bits, size, scale, zeros, rows, inputs = case
    name = f"int{bits}-b{size}-{scale.lower()}-{'zp' if zeros else 'sym'}-k{inputs}"
    blocks = -(-inputs // size)
    kind = np.float16 if scale == "F16" else np.float32
    codes = RNG.integers(0, 256, (rows, blocks, size * bits // 8), np.uint8)
    scales = (RNG.standard_normal((rows, blocks)) * 0.1).astype(kind)
    held = [
        numpy_helper.from_array(codes, f"{name}.weight_Q{bits}"),
        numpy_helper.from_array(scales, f"{name}.weight_scales"),
    ]
    names = ["x", held[0].name, held[1].name]
    if zeros:
        points = RNG.integers(0, 256, (rows, -(-blocks * bits // 8)), np.uint8)
        held.append(numpy_helper.from_array(points, f"{name}.weight_zero_points"))
        names.append(held[-1].name)
    numbers = {"K": inputs, "N": rows, "bits": bits, "block_size": size}
    node = helper.make_node("MatMulNBits", names, ["y"], domain="com.microsoft", **numbers)
    return name, graph_of(node, held, kind, inputs, rows)


def quantised_layer(bits: int, symmetric: bool) -> tuple[str, onnx.GraphProto]:
    name = f"rtn-int{bits}-{'sym' if symmetric else 'zp'}"
    weight = RNG.standard_normal((64, 6)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", f"{name}.weight"], ["y"], name=name)
    held = [numpy_helper.from_array(weight, f"{name}.weight")]
    model = model_of([graph_of(node, held, np.float32, 64, 6)])
    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=32, is_symmetric=symmetric)
    quantizer.process()
    return name, quantizer.model.model.graph


def graph_of(node, held, kind, inputs: int, rows: int) -> onnx.GraphProto:
    number = TensorProto.FLOAT16 if kind == np.float16 else TensorProto.FLOAT
    takes = helper.make_tensor_value_info("x", number, [inputs, inputs])
    gives = helper.make_tensor_value_info("y", number, [inputs, rows])
    return helper.make_graph([node], "layer", [takes], [gives], held)


def model_of(graphs: list[onnx.GraphProto]) -> onnx.ModelProto:
    """All layers in one graph; those of one model have their own inputs and outputs."""
    whole = helper.make_graph([], "layers", [], [])
    for number, graph in enumerate(graphs):
        alone = len(graphs) == 1
        for node in graph.node:
            whole.node.append(node)
            if not alone:
                whole.node[-1].input[0] = f"x{number}"
                whole.node[-1].output[0] = f"y{number}"
        for mine, theirs in ((whole.input, graph.input), (whole.output, graph.output)):
            mine.extend(theirs)
            if not alone:
                mine[-1].name = f"{mine[-1].name}{number}"
        whole.initializer.extend(graph.initializer)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=domains, ir_version=10)


def weight_of(graph: onnx.GraphProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model_of([graph]).SerializeToString())
    taken = session.get_inputs()[0]
    kind = np.float16 if "16" in taken.type else np.float32
    return np.ascontiguousarray(session.run(None, {"x": np.eye(taken.shape[0], dtype=kind)})[0].T)


def main() -> None:
    layers = [random_layer(case) for case in CASES]
    layers += [quantised_layer(bits, symmetric) for bits in (4, 8) for symmetric in (True, False)]
    expected = {name: weight_of(graph) for name, graph in layers}
    model = model_of([graph for _, graph in layers])
    dense = RNG.standard_normal((4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(dense, "norm.weight"))
    expected["norm.weight"] = dense
    (HERE / "cases.onnx").write_bytes(model.SerializeToString())
    onnx.save(
        model,
        HERE / "external.onnx",
        save_as_external_data=True,
        location="external.onnx.data",
        size_threshold=0,
    )
    np.savez(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
