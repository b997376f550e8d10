"""Golden files of operators on integers: models of onnxruntime's quantisers, and their weights.

    pip install onnx==1.23.2 onnxruntime==1.32.0 && python make_integers.py

Small models go through `quantize_dynamic` (an LSTM; codes that `MatMulInteger` and `ConvInteger`
take, an embedding whose rows are looked up as codes), `quantize_static` (`QLinearMatMul`,
`QLinearConv`, `QGemm`), and through onnxruntime's own fusions. Expected are, of a product, what the
model's own nodes give for a unit matrix of codes of scale 1, or else what `DequantizeLinear` makes
of the same initialisers. `MatMulBnb4` and `QMoE` are run on unit matrices.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

onnxruntime.set_default_logger_severity(3)
os.environ["ORT_QMOE_CPU_QNBIT_GEMM"] = "0"  # weights are dequantised, inputs stay floats
HERE = Path(__file__).parent
RNG = np.random.default_rng(20261201)
T = TensorProto
MICROSOFT = "com.microsoft"
DOMAINS = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]


def held(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values), name)


def normal(name: str, *shape: int) -> Any:
    return held(name, RNG.standard_normal(shape).astype(np.float32))


def model_of(graph: Any) -> Any:
    return helper.make_model(graph, opset_imports=DOMAINS, ir_version=10)


def floats(direct: bool = True) -> Any:
    """Two embeddings (with `direct`, one is multiplied as it is), a product, Conv, Gemm."""
    tensors = [
        normal("emb.weight", 50, 16), normal("pos.weight", 9, 16), normal("fc.weight", 16, 24),
        normal("conv.weight", 8, 24, 3), normal("conv.bias", 8), normal("gemm.weight", 12, 8),
        normal("gemm.bias", 12), held("half", np.float32(0.5)),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["emb.weight", "ids"], ["e"], name="g"),
        helper.make_node("Gather", ["pos.weight", "at"], ["p"], name="gp"),
        helper.make_node("Add", ["e", "p"], ["a"], name="a"),
        helper.make_node("MatMul", ["a", "fc.weight"], ["h0"], name="m"),
        helper.make_node("Mul", ["h0", "half"], ["h"], name="scaled"),
        helper.make_node("Transpose", ["h"], ["ht"], name="t", perm=[0, 2, 1]),
        helper.make_node(
            "Conv", ["ht", "conv.weight", "conv.bias"], ["c"], name="c", kernel_shape=[3],
            pads=[1, 1],
        ),
        helper.make_node("ReduceMean", ["c"], ["r"], axes=[2], keepdims=0, name="rm"),
        helper.make_node("Gemm", ["r", "gemm.weight", "gemm.bias"], ["y"], transB=1, name="gm"),
    ]  # fmt: skip
    takes = [helper.make_tensor_value_info(n, T.INT64, [1, 7]) for n in ("ids", "at")]
    gives = [helper.make_tensor_value_info("y", T.FLOAT, [1, 12])]
    if direct:
        tensors.append(normal("direct.weight", 16, 6))
        nodes.append(helper.make_node("MatMul", ["p", "direct.weight"], ["d"], name="md"))
        gives.append(helper.make_tensor_value_info("d", T.FLOAT, [1, 7, 6]))
    return model_of(helper.make_graph(nodes, "g", takes, gives, tensors))


def attention() -> Any:
    tensors = [normal("att.weight", 16, 48), normal("att.bias", 48)]
    node = helper.make_node(
        "Attention", ["x", "att.weight", "att.bias"], ["y"], domain=MICROSOFT, num_heads=2, name="a"
    )
    takes = [helper.make_tensor_value_info("x", T.FLOAT, [1, 5, 16])]
    gives = [helper.make_tensor_value_info("y", T.FLOAT, [1, 5, 16])]
    return model_of(helper.make_graph([node], "g", takes, gives, tensors))


def recurrent() -> Any:
    """An LSTM of both directions."""
    tensors = [normal("lstm.W", 2, 32, 16), normal("lstm.R", 2, 32, 8), normal("lstm.B", 2, 64)]
    names = ["x", *(tensor.name for tensor in tensors)]
    node = helper.make_node(
        "LSTM", names, ["y"], hidden_size=8, direction="bidirectional", name="l"
    )
    takes = [helper.make_tensor_value_info("x", T.FLOAT, [5, 1, 16])]
    gives = [helper.make_tensor_value_info("y", T.FLOAT, [5, 2, 1, 8])]
    return model_of(helper.make_graph([node], "g", takes, gives, tensors))


class Ids(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = 4

    def get_next(self) -> Any:
        self.left -= 1
        if self.left < 0:
            return None
        return {"ids": RNG.integers(0, 50, (1, 7)), "at": RNG.integers(0, 9, (1, 7))}


def run(model: Any, **inputs: Any) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, inputs)


def dequantised(model: Any, codes: str, scale: Any, zero: str, axis: int) -> Any:
    """What `DequantizeLinear` makes of initialisers of a model."""
    by_name = {one.name: one for one in model.graph.initializer}
    parts = [by_name[codes], scale if not isinstance(scale, str) else by_name[scale]]
    if zero:
        parts.append(by_name[zero])
    node = helper.make_node("DequantizeLinear", [p.name for p in parts], ["y"], axis=axis)
    gives = helper.make_tensor_value_info("y", T.FLOAT, None)
    return run(model_of(helper.make_graph([node], "d", [], [gives], parts)))[0]


def by_its_nodes(model: Any, node: Any) -> Any:
    """A chain's weight: its own nodes on codes 1 and 0 of scale 1, up to the product by scales."""
    chain = [node]
    while chain[-1].op_type != "Mul":
        chain.append(next(one for one in model.graph.node if chain[-1].output[0] in one.input))
    product = next(one for one in model.graph.node if one.output[0] == chain[-1].input[1])
    last = chain[-1].output[0]
    inputs, zero = node.input[0], node.input[2]
    scale = zero.replace("_zero_point", "_scale")
    shape = next(one for one in model.graph.initializer if one.name == node.input[1]).dims
    if node.op_type == "MatMulInteger":
        codes = np.eye(shape[0], dtype=np.uint8)
    else:  # a one in the middle of each channel
        codes = np.zeros((shape[1], shape[1], 3), np.uint8)
        codes[np.arange(shape[1]), np.arange(shape[1]), 1] = 1
    takes = [
        helper.make_tensor_value_info(inputs, T.UINT8, codes.shape),
        helper.make_tensor_value_info(scale, T.FLOAT, []),
        helper.make_tensor_value_info(zero, T.UINT8, []),
    ]
    gives = [helper.make_tensor_value_info(last, T.FLOAT, None)]
    nodes = [product, *chain]
    part = model_of(helper.make_graph(nodes, "part", takes, gives, model.graph.initializer))
    one = {scale: np.array(1, np.float32), zero: np.array(0, np.uint8)}
    found = run(part, **{inputs: codes}, **one)[0]
    return found if node.op_type == "MatMulInteger" else found.transpose(1, 0, 2)[:, :, ::-1]


def near(plain: Any, name: str, found: Any) -> None:
    """Hold what is expected against the weight before it was quantised, coarsely."""
    by_name = {one.name: numpy_helper.to_array(one) for one in plain.graph.initializer}
    weight = by_name.get(name)
    if weight is None:
        weight = by_name[name.removesuffix("_Transposed")].T
    assert np.abs(weight - found).max() < 0.06, name


def by_matrices(plain: Any, model: Any) -> dict[str, Any]:
    """The weights of an LSTM, each direction's by itself, in the order of `DynamicQuantizeLSTM`."""
    by_name = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    before = {one.name: numpy_helper.to_array(one) for one in plain.graph.initializer}
    expected = {}
    for name in ("lstm.W", "lstm.R"):
        parts = [by_name[f"{name}_{part}"] for part in ("quantized", "scale", "zero_point")]
        found = []
        for matrix in zip(*parts, strict=True):
            held_parts = [held(key, part) for key, part in zip("csz", matrix, strict=True)]
            one = model_of(helper.make_graph([], "m", [], [], held_parts))
            found.append(dequantised(one, "c", "s", "z", 1))
        expected[name] = np.stack(found)
        assert np.abs(before[name].transpose(0, 2, 1) - expected[name]).max() < 0.06
    return expected


def dynamic(plain: Any, folder: Path, **about: Any) -> tuple[Any, dict[str, Any]]:
    quantize_dynamic(folder / "f.onnx", folder / "q.onnx", **about)
    model = onnx.load(folder / "q.onnx")
    expected = {}
    for node in model.graph.node:
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            name = node.input[1].removesuffix("_quantized")
            if node.input[0] == "p_quantized":  # of an embedding, whose scale is no variable
                axis = 1 if about["per_channel"] else 0
                found = dequantised(model, node.input[1], f"{name}_scale", node.input[3], axis)
            else:
                found = by_its_nodes(model, node)
            expected[name] = np.ascontiguousarray(found)
    for name in ("emb.weight", "pos.weight"):
        parts = (f"{name}_quantized", f"{name}_scale", f"{name}_zero_point")
        expected[name] = dequantised(model, *parts, 0)
    for name, found in expected.items():
        near(plain, name, found)
    return model, expected


def static(plain: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    quantize_static(
        folder / "f.onnx", folder / "s.onnx", Ids(), quant_format=QuantFormat.QOperator,
        per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip
    model = onnx.load(folder / "s.onnx")
    by_name = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    axes = {"emb.weight": 0, "pos.weight": 0, "fc.weight": 1, "direct.weight": 1}
    axes |= {"conv.weight": 0, "gemm.weight": 0}
    expected = {}
    for name, axis in axes.items():
        parts = (f"{name}_quantized", f"{name}_scale", f"{name}_zero_point")
        expected[name] = dequantised(model, *parts, axis)
        near(plain, name, expected[name])
    for node in model.graph.node:
        if node.op_type in ("QLinearConv", "QGemm"):
            bias = node.input[8 if node.op_type == "QLinearConv" else 6]
            scale = held("product", by_name[node.input[1]] * by_name[node.input[4]])
            name = bias.removesuffix("_quantized")
            expected[name] = dequantised(model, bias, scale, "", 0)
            near(plain, name, expected[name])
    return model, expected


def fused(folder: Path) -> Any:
    """The dynamic model as onnxruntime saves it after its own fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "o.onnx")
    onnxruntime.InferenceSession(str(folder / "q.onnx"), options)
    return onnx.load(folder / "o.onnx")


def bnb4(name: str, kind: int, size: int, rows: int, inputs: int) -> tuple[Any, Any]:
    """A layer of onnxruntime's own quantiser, and what it multiplies a unit matrix to."""
    weight = normal(name, inputs, rows)
    node = helper.make_node("MatMul", ["x", name], ["y"], name="m")
    takes = [helper.make_tensor_value_info("x", T.FLOAT, [inputs, inputs])]
    gives = [helper.make_tensor_value_info("y", T.FLOAT, [inputs, rows])]
    graph = helper.make_graph([node], "g", takes, gives, [weight])
    quantizer = MatMulBnb4Quantizer(model_of(graph), quant_type=kind, block_size=size)
    quantizer.process()
    model = quantizer.model.model
    if not any(one.domain == MICROSOFT for one in model.opset_import):
        model.opset_import.append(DOMAINS[1])
    found = run(model, x=np.eye(inputs, dtype=np.float32))[0].T
    assert np.abs(found - numpy_helper.to_array(weight).T).max() < 0.7
    return model.graph, np.ascontiguousarray(found)


def integer_to_float() -> tuple[Any, list[Any], Any]:
    """A node of `MatMulIntegerToFloat`, and what it makes of unit codes of scale 1."""
    tensors = [
        held("fused_quantized", RNG.integers(-128, 128, (16, 5), np.int8)),
        held("fused_scale", (RNG.random(5) + 0.1).astype(np.float32)),
        held("fused_zero_point", RNG.integers(-128, 128, 5, np.int8)),
    ]
    codes, scale, zero = (tensor.name for tensor in tensors)
    names = ["u", codes, "u_scale", scale, "u_zero_point", zero]
    node = helper.make_node("MatMulIntegerToFloat", names, ["fused.y"], domain=MICROSOFT)
    takes = [
        helper.make_tensor_value_info("u", T.UINT8, [16, 16]),
        helper.make_tensor_value_info("u_scale", T.FLOAT, []),
        helper.make_tensor_value_info("u_zero_point", T.UINT8, []),
    ]
    gives = helper.make_tensor_value_info("fused.y", T.FLOAT, [16, 5])
    graph = helper.make_graph([node], "g", takes, [gives], tensors)
    one = {"u_scale": np.array(1, np.float32), "u_zero_point": np.array(0, np.uint8)}
    return node, tensors, run(model_of(graph), u=np.eye(16, dtype=np.uint8), **one)[0]


def experts(
    name: str, bits: int, block: int, kind: Any, zeros: bool, shape: tuple[int, int]
) -> tuple[Any, list[Any], dict[str, Any]]:
    """A node of `QMoE` with two matrices, and each of them by way of the other being a unit."""
    (count, n), k, pack = shape, shape[1], 8 // bits
    parts = {}
    for which in ("fc1", "fc2"):
        blocks = -(-k // block) if block else 1
        grid = (count, n, blocks) if block else (count, n)
        parts[f"{which}_scales"] = (RNG.random(grid) * 0.1 + 0.01).astype(kind)
        parts[f"{which}_w"] = RNG.integers(0, 256, (count, n, k // pack), np.uint8)
        if zeros:
            points = (count, n, -(-blocks // pack)) if block else (count, -(-n // pack))
            parts[f"{which}_zp"] = RNG.integers(0, 256, points, np.uint8)
    node, expected = _moe(name, bits, block, zeros), {}
    for which, other in (("fc1", "fc2"), ("fc2", "fc1")):
        # The other one is the unit matrix: codes of one more than no zero point.
        given = parts | _unit(other, count, n, bits, block, kind, zeros)
        tensors = [held(f"{name}.{key}", value) for key, value in given.items()]
        for expert in range(count):
            x, router = np.eye(k, dtype=kind), np.full((k, count), -50, kind)
            router[:, expert] = 50
            number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
            takes = [
                helper.make_tensor_value_info("x", number, x.shape),
                helper.make_tensor_value_info("router", number, router.shape),
            ]
            gives = helper.make_tensor_value_info(f"{name}.y", number, None)
            graph = helper.make_graph([node], "g", takes, [gives], tensors)
            found = run(model_of(graph), x=x, router=router)[0].T
            expected.setdefault(f"{name}.{which}_w", []).append(found)
    tensors = [held(f"{name}.{key}", value) for key, value in parts.items()]
    stacked = {key: np.ascontiguousarray(np.stack(found)) for key, found in expected.items()}
    return node, tensors, stacked


def _unit(
    which: str, count: int, n: int, bits: int, block: int, kind: Any, zeros: bool
) -> dict[str, Any]:
    half, pack, k = 1 << (bits - 1), 8 // bits, n
    codes = np.full((count, n, k), half, np.uint8) + np.eye(n, k, dtype=np.uint8)
    packed = (codes.reshape(count, n, -1, pack) << np.arange(0, 8, bits, dtype=np.uint8)).sum(-1)
    blocks = -(-k // block) if block else 1
    grid = (count, n, blocks) if block else (count, n)
    unit = {f"{which}_w": packed.astype(np.uint8), f"{which}_scales": np.ones(grid, kind)}
    if zeros:
        points = (count, n, -(-blocks // pack)) if block else (count, -(-n // pack))
        unit[f"{which}_zp"] = np.full(points, 0x88 if bits == 4 else 0x80, np.uint8)
    return unit


def _moe(name: str, bits: int, block: int, zeros: bool) -> Any:
    first = [f"{name}.fc1_w", f"{name}.fc1_scales", "", f"{name}.fc2_w", f"{name}.fc2_scales"]
    names = ["x", "router", *first, "", "", "", ""]
    if zeros:
        names += [f"{name}.fc1_zp", f"{name}.fc2_zp"]
    else:
        names = names[:7]
    about: dict[str, Any] = {"k": 1, "activation_type": "identity", "expert_weight_bits": bits}
    about |= {"block_size": block} if block else {}
    about["normalize_routing_weights"] = 1
    about["weights_prepacked"] = 0
    return helper.make_node("QMoE", names, [f"{name}.y"], domain=MICROSOFT, **about)


def main() -> None:
    plain, expected, models = floats(), {}, {}
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        onnx.save(plain, folder / "f.onnx")
        models["qlinear"], expected["qlinear"] = static(plain, folder)
        about = {"per_channel": False, "weight_type": QuantType.QUInt8}
        models["dynamic"], expected["dynamic"] = dynamic(plain, folder, **about)
        plain = floats(direct=False)
        onnx.save(plain, folder / "f.onnx")
        about = {"per_channel": True, "weight_type": QuantType.QInt8}
        models["dynamic-channels"], expected["dynamic-channels"] = dynamic(plain, folder, **about)
        models["fused"], expected["fused"] = fused(folder), expected["dynamic-channels"]
        onnx.save(attention(), folder / "a.onnx")
        quantize_dynamic(folder / "a.onnx", folder / "qa.onnx", per_channel=True)
        models["attention"] = onnx.load(folder / "qa.onnx")
        parts = ("att.weight_quantized", "att.weight_scale", "att.weight_zero_point", 1)
        expected["attention"] = {"att.weight": dequantised(models["attention"], *parts)}
        near(onnx.load(folder / "a.onnx"), "att.weight", expected["attention"]["att.weight"])
        onnx.save(recurrent(), folder / "r.onnx")
        for name, channels in (("lstm", False), ("lstm-channels", True)):
            quantize_dynamic(folder / "r.onnx", folder / "l.onnx", per_channel=channels)
            models[name] = onnx.load(folder / "l.onnx")
            expected[name] = by_matrices(onnx.load(folder / "r.onnx"), models[name])
    whole, found = helper.make_graph([], "layers", [], []), {}
    for number, (kind, size, rows, inputs) in enumerate(
        [(1, 64, 6, 64), (0, 64, 5, 48), (1, 32, 3, 33), (0, 256, 4, 100), (1, 128, 7, 128)]
    ):
        name = f"bnb{number}"
        graph, found[name] = bnb4(name, kind, size, rows, inputs)
        graph.node[0].input[0], graph.node[0].output[0] = f"{name}.x", f"{name}.y"
        whole.node.extend(graph.node)
        whole.initializer.extend(graph.initializer)
    for name, bits, block, kind, zeros in [
        ("moe4", 4, 16, np.float32, False), ("moe4-zp", 4, 16, np.float32, True),
        ("moe4-rows", 4, 0, np.float32, False), ("moe4-rows-zp", 4, 0, np.float32, True),
        ("moe8", 8, 32, np.float32, False), ("moe8-zp", 8, 16, np.float32, True),
        ("moe4-half", 4, 16, np.float16, False),
    ]:  # fmt: skip
        node, tensors, weights = experts(name, bits, block, kind, zeros, (2, 32))
        whole.node.append(node)
        whole.initializer.extend(tensors)
        found |= weights
    node, tensors, found["fused"] = integer_to_float()
    whole.node.append(node)
    whole.initializer.extend(tensors)
    models["contrib"], expected["contrib"] = model_of(whole), found
    for name, model in models.items():
        ops = sorted({node.op_type for node in model.graph.node})
        print(name, ops, {key: value.shape for key, value in expected[name].items()})
        (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())
    keys = {f"{name}/{key}": value for name in expected for key, value in expected[name].items()}
    np.savez_compressed(HERE / "integers.npz", **keys)


if __name__ == "__main__":
    main()
