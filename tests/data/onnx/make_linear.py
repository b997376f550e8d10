"""Golden files of ONNX's own quantised constants: `linear.onnx`, and what onnxruntime makes of it.

    pip install onnx==1.23.2 onnxruntime==1.32.0 && python make_linear.py

Each layer is a node of `DequantizeLinear`, `GatherBlockQuantized` (which looks all rows up) or
`MatMulNBits` with float zero points (on the unit matrix); what it gives is expected. `fp4` and
`int2` are onnx's own reference, which this onnxruntime has no kernel for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).parent
RNG = np.random.default_rng(20261130)
T = TensorProto
_RANGES = {
    T.INT8: (-128, 128), T.UINT8: (0, 256), T.INT16: (-(2**15), 2**15), T.UINT16: (0, 2**16),
    T.INT32: (-(2**31), 2**31), T.INT4: (-8, 8), T.UINT4: (0, 16), T.INT2: (-2, 2), T.UINT2: (0, 4),
}  # fmt: skip


def held(name: str, kind: int, shape: tuple[int, ...], typed: bool = False) -> Any:
    """Random numbers of a type; `typed` stores them one by one, as onnxruntime's quantiser does."""
    count = int(np.prod(shape))
    if kind in (T.FLOAT, T.FLOAT16, T.BFLOAT16):
        values = (RNG.random(count) * 0.1 + 0.01) * np.where(RNG.random(count) < 0.2, -1, 1)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        return numpy_helper.from_array(values.astype(dtype).reshape(shape), name)
    if kind not in _RANGES:
        raw = RNG.integers(0, 256, -(-count // 2) if kind == T.FLOAT4E2M1 else count, np.uint8)
        if kind in (T.FLOAT8E4M3FN, T.FLOAT8E5M2):
            raw &= 0xBB if kind == T.FLOAT8E5M2 else 0xF7  # no number that is none
        return T(name=name, data_type=kind, dims=shape, raw_data=raw.tobytes())
    values = RNG.integers(*_RANGES[kind], count)
    made = helper.make_tensor(name, kind, shape, values)
    if typed:
        return made
    bits = {T.INT4: 4, T.UINT4: 4, T.INT2: 2, T.UINT2: 2}.get(kind, 0)
    if not bits:
        array = values.astype(helper.tensor_dtype_to_np_dtype(kind)).reshape(shape)
        return numpy_helper.from_array(array, name)
    per = 8 // bits
    padded = np.zeros(-(-count // per) * per, np.int64)
    padded[:count] = values & ((1 << bits) - 1)
    raw = (padded.reshape(-1, per) << np.arange(0, 8, bits)).sum(1).astype(np.uint8)
    return T(name=name, data_type=kind, dims=shape, raw_data=raw.tobytes())


# name: codes, shape, scale's type and shape, zero points (None, "raw", "typed"), attributes
LINEAR: dict[str, tuple[int, tuple[int, ...], int, tuple[int, ...], Any, dict[str, int]]] = {
    "int8": (T.INT8, (6, 10), T.FLOAT, (), "typed", {}),
    "int8-one": (T.INT8, (7,), T.FLOAT, (1,), None, {"axis": 0}),
    "uint8": (T.UINT8, (6, 10), T.FLOAT, (), None, {}),
    "uint8-columns": (T.UINT8, (8, 6), T.FLOAT, (6,), "typed", {"axis": 1}),
    "int8-columns": (T.INT8, (8, 6), T.FLOAT, (6,), "raw", {"axis": -1}),
    "int8-conv": (T.INT8, (4, 3, 2, 2), T.FLOAT, (4,), "raw", {"axis": 0}),
    "uint8-deconv": (T.UINT8, (3, 5, 2, 2), T.FLOAT, (5,), "raw", {"axis": 1}),
    "int8-half": (T.INT8, (6, 10), T.FLOAT16, (10,), "raw", {"axis": 1}),
    "int32": (T.INT32, (33,), T.FLOAT, (), None, {}),
    "int32-rows": (T.INT32, (9,), T.FLOAT, (9,), None, {"axis": 0}),
    "int16": (T.INT16, (5, 6), T.FLOAT, (5,), "raw", {"axis": 0}),
    "uint16": (T.UINT16, (5, 6), T.FLOAT, (), "typed", {}),
    "e4m3": (T.FLOAT8E4M3FN, (6, 10), T.FLOAT, (), None, {}),
    "e5m2": (T.FLOAT8E5M2, (6, 10), T.FLOAT, (6,), None, {"axis": 0}),
    "int4": (T.INT4, (3, 5), T.FLOAT, (), "raw", {}),
    "uint4-rows": (T.UINT4, (6, 7), T.FLOAT, (6,), "raw", {"axis": 0}),
    "int4-columns": (T.INT4, (6, 10), T.FLOAT, (10,), None, {"axis": 1}),
    "int8-blocks": (T.INT8, (6, 64), T.FLOAT, (6, 4), "raw", {"axis": 1, "block_size": 16}),
    "int8-blocks-down": (T.INT8, (64, 6), T.FLOAT, (2, 6), "raw", {"axis": 0, "block_size": 32}),
    "uint4-blocks": (T.UINT4, (6, 64), T.FLOAT, (6, 4), "raw", {"axis": 1, "block_size": 16}),
    "uint4-blocks-down": (T.UINT4, (64, 6), T.FLOAT, (4, 6), "raw", {"axis": 0, "block_size": 16}),
    "int4-blocks-short": (T.INT4, (5, 40), T.FLOAT16, (5, 3), None, {"axis": 1, "block_size": 16}),
    "int4-blocks-odd": (T.INT4, (32, 5), T.FLOAT, (2, 5), "raw", {"axis": 0, "block_size": 16}),
    "uint8-blocks-mid": (
        T.UINT8, (3, 8, 5), T.FLOAT, (3, 2, 5), "raw", {"axis": 1, "block_size": 4},
    ),
    "fp4": (T.FLOAT4E2M1, (6, 10), T.FLOAT, (6,), None, {"axis": 0}),
    "int2": (T.INT2, (5, 12), T.FLOAT, (5,), "raw", {"axis": 0}),
    "uint2-blocks": (T.UINT2, (4, 32), T.FLOAT, (4, 2), "raw", {"axis": 1, "block_size": 16}),
}  # fmt: skip
# name: data's type and shape, scale's type and blocks, zero points, attributes
GATHER: dict[str, tuple[int, tuple[int, ...], int, int, bool, dict[str, int]]] = {
    "gather4": (T.UINT8, (7, 48), T.FLOAT, 6, True, {"bits": 4, "block_size": 16}),
    "gather4-odd": (T.UINT8, (5, 24), T.FLOAT16, 3, True, {"bits": 4, "block_size": 16}),
    "gather4-sym": (T.UINT8, (7, 48), T.FLOAT, 3, False, {"bits": 4, "block_size": 32}),
    "gather8": (T.UINT8, (5, 64), T.FLOAT, 2, True, {"bits": 8, "block_size": 32}),
    "gather8-sym": (T.UINT8, (5, 64), T.FLOAT, 4, False, {"bits": 8, "block_size": 16}),
    "gather-int4": (T.INT4, (6, 64), T.FLOAT, 4, True, {"block_size": 16}),
    "gather-uint4": (T.UINT4, (6, 64), T.FLOAT, 2, False, {"block_size": 32}),
}


def linear(name: str) -> tuple[Any, list[Any]]:
    kind, shape, scale, scales, zeros, about = LINEAR[name]
    parts = [held(f"{name}_quantized", kind, shape), held(f"{name}_scale", scale, scales)]
    if zeros:
        parts.append(held(f"{name}_zero_point", kind, scales, typed=zeros == "typed"))
    return helper.make_node("DequantizeLinear", [p.name for p in parts], [name], **about), parts


def gather(name: str) -> tuple[Any, list[Any]]:
    kind, shape, scale, blocks, zeros, about = GATHER[name]
    rows = shape[0]
    parts = [held(f"{name}_quant", kind, shape), held(f"{name}_scales", scale, (rows, blocks))]
    rows_of = numpy_helper.from_array(np.arange(rows), f"{name}_rows")
    names = [parts[0].name, rows_of.name, parts[1].name]
    if zeros:
        packed = -(-blocks * about["bits"] // 8) if kind == T.UINT8 else blocks
        parts.append(held(f"{name}_zero_points", kind, (rows, packed)))
        names.append(parts[-1].name)
    node = helper.make_node(
        "GatherBlockQuantized", names, [name], domain="com.microsoft", gather_axis=0,
        quantize_axis=1, **about,
    )  # fmt: skip
    return node, [*parts, rows_of]


def nbits(bits: int, rows: int, inputs: int, size: int) -> tuple[Any, list[Any]]:
    name, blocks = f"nbits{bits}-float", -(-inputs // size)
    codes = RNG.integers(0, 256, (rows, blocks, size * bits // 8), np.uint8)
    points = (RNG.random((rows, blocks)) * (1 << bits)).astype(np.float32)
    parts = [
        numpy_helper.from_array(codes, f"{name}_Q{bits}"),
        held(f"{name}_scales", T.FLOAT, (rows, blocks)),
        numpy_helper.from_array(points, f"{name}_zp"),
    ]
    unit = numpy_helper.from_array(np.eye(inputs, dtype=np.float32), f"{name}_x")
    numbers = {"K": inputs, "N": rows, "bits": bits, "block_size": size}
    names = [unit.name, *(part.name for part in parts)]
    node = helper.make_node("MatMulNBits", names, [name], domain="com.microsoft", **numbers)
    return node, [*parts, unit]


def run(node: Any, parts: list[Any]) -> np.ndarray:
    out = helper.make_tensor_value_info(node.output[0], _gives(parts), None)
    graph = helper.make_graph([node], "one", [], [out], parts)
    domains = [helper.make_opsetid("", 25), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=11)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString())
        found = session.run(None, {})[0]
    except Exception as error:
        print(f"{node.output[0]}: by onnx's reference ({str(error)[:120]})")
        found = ReferenceEvaluator(model).run(None, {})[0]
    return np.asarray(found)


def _gives(parts: list[Any]) -> int:
    return next(p.data_type for p in parts if p.data_type in (T.FLOAT, T.FLOAT16))


def main() -> None:
    layers = [linear(name) for name in LINEAR] + [gather(name) for name in GATHER]
    layers += [nbits(4, 5, 80, 32), nbits(2, 3, 64, 32)]
    expected = {}
    for node, parts in layers:
        found = run(node, parts)
        expected[node.output[0]] = found.T if node.op_type == "MatMulNBits" else found
    activation = [
        helper.make_tensor("x_scale", T.FLOAT, [], [0.5]),
        helper.make_tensor("x_zero_point", T.UINT8, [], [3]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero_point"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero_point"], ["x_dq"]),
        *(node for node, _ in layers),
    ]
    names = {f"{node.output[0]}_rows" for node, _ in layers}
    names |= {f"{node.output[0]}_x" for node, _ in layers}
    tensors = [part for _, parts in layers for part in parts if part.name not in names]
    graph = helper.make_graph(nodes, "layers", [], [], [*tensors, *activation])
    domains = [helper.make_opsetid("", 25), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=11)
    (HERE / "linear.onnx").write_bytes(model.SerializeToString())
    np.savez(HERE / "linear.npz", **expected)


if __name__ == "__main__":
    main()
