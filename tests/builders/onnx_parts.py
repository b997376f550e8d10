"""Small ONNX files: initialisers, and nodes that take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper, numpy_helper


def model(*tensors: Any, nodes: Any = (), path: Path) -> str:
    graph = helper.make_graph(list(nodes), "g", [], [], list(tensors))
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return str(path)


def array(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values), name)


def nbits(name: str, *more: str, **changed: int) -> Any:
    numbers = {"K": 32, "N": 2, "bits": 4, "block_size": 32} | changed
    inputs = ["x", f"{name}_Q4", f"{name}_scales", *more]
    return helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **numbers)


def parts(name: str) -> list[Any]:
    codes = np.arange(32, dtype=np.uint8).reshape(2, 1, 16)
    return [array(f"{name}_Q4", codes), array(f"{name}_scales", np.ones((2, 1), np.float32))]


CODES = array("c", np.ones((4, 8), np.uint8))
ONE = array("s", np.float32(1))
