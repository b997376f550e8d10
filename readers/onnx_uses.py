"""Which initialisers of an ONNX graph are codes, and what they are scaled with.

Operators on integers name a scale and a zero point beside what they take, or stand in a chain that
multiplies by the scale at its end, as ONNX Runtime's dynamic quantiser writes it:

    y = Cast(MatMulInteger(x_quantized, CODES, x_zero, ZERO)) * (x_scale * SCALE)

Rows of an embedding are looked up as codes, and dequantised behind the `Gather`. Sources:
https://github.com/onnx/onnx docs/Operators.md; https://github.com/microsoft/onnxruntime
docs/ContribOperators.md, onnxruntime/python/tools/quantization/operators.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Number = int | None


class Place(NamedTuple):
    """The inputs of an operator that hold codes, their scale and zero points.

    `axis` is that of several scales; None: there is one for all. `first` is the input whose scale
    multiplies that of a bias, which has no scale of its own.
    """

    codes: int
    scale: int
    zero: Number
    axis: Number = None
    first: Number = None


_ONE = (Place(0, 1, 2),)
_TWO = (Place(0, 1, 2), Place(3, 4, 5))
_GEMM = Place(3, 4, 5, -1)  # unless its second matrix is transposed
# Inputs that hold codes, or what is quantised while the model runs.
PLACES: dict[str, tuple[Place, ...]] = {
    "DynamicQuantizeLSTM": (Place(1, 8, 9, 0), Place(2, 10, 11, 0)),  # a scale a matrix, or column
    "DynamicQuantizeMatMul": (Place(1, 2, 3, -1),),
    "MatMulIntegerToFloat": (Place(0, 2, 4), Place(1, 3, 5, -1)),
    "QAttention": (Place(0, 3, 6), Place(1, 4, 7, -1)),
    "QGemm": (Place(0, 1, 2), _GEMM, Place(6, 4, None, -1, first=1)),
    "QLinearAdd": _TWO,
    "QLinearAveragePool": _ONE,
    "QLinearConv": (Place(0, 1, 2), Place(3, 4, 5, 0), Place(8, 4, None, -1, first=1)),
    "QLinearGlobalAveragePool": _ONE,
    "QLinearLeakyRelu": _ONE,
    "QLinearMatMul": (Place(0, 1, 2), Place(3, 4, 5, -1)),
    "QLinearMul": _TWO,
    "QLinearReduceMean": _ONE,
    "QLinearSigmoid": _ONE,
    "QLinearSoftmax": _ONE,
}
# Those whose scale is behind them: the axis of several.
_CHAINED = {"ConvInteger": 0, "MatMulInteger": -1}
INTEGERS = (*PLACES, *_CHAINED)
# Operators that move the numbers of their first input and change none.
_MOVES = frozenset(
    "Expand Flatten Gather GatherElements GatherND Identity Reshape Slice Squeeze Tile Transpose "
    "Unsqueeze".split()
)
_BETWEEN = frozenset(("Add", "Cast", "Identity", "Mul", "Reshape"))  # from codes to their scale
_STEPS = 32  # nodes that are followed, at most
_BYTES = (2, 3)  # TensorProto.DataType of UINT8 and INT8


class Use(NamedTuple):
    """What one node says of codes: names of the initialisers that go with them, and an axis.

    `behind` is the operator that moves the codes first, `by` the one that takes them.
    """

    by: str
    codes: str
    scales: str
    zero_points: str = ""
    axis: Number = None
    behind: str = ""
    times: str = ""  # of a bias: the scale that the other one is multiplied by


@dataclass(slots=True)
class Flow:
    """Who makes and who takes each value of a graph, and its initialisers by name."""

    held: Mapping[str, Any]
    makers: dict[str, Any] = field(default_factory=dict)
    takers: dict[str, list[Any]] = field(default_factory=dict)

    def source(self, name: str) -> tuple[str, str]:
        """The initialiser of bytes that `name` is, or a part of; the first operator that moves it.

        Empty where there is none.
        """
        behind = ""
        for _ in range(_STEPS):
            if name in self.held:
                moved = bool(behind) and self.held[name].data_type not in _BYTES
                return ("", "") if moved else (name, behind)
            node = self.makers.get(name)
            if node is None or node.op_type not in _MOVES or not len(node.input):
                break
            behind, name = node.op_type, node.input[0]
        return "", ""

    def factors(self, name: str) -> Iterator[str]:
        """What is multiplied to make `name`: of products, their factors."""
        todo, seen = [name], 0
        while todo and seen < _STEPS:
            seen += 1
            one = todo.pop()
            node = self.makers.get(one)
            if node is not None and node.op_type == "Mul" and one not in self.held:
                todo.extend(node.input)
            else:
                yield one

    def multiplied(self, operators: Collection[str]) -> Iterator[str]:
        """Initialisers of several numbers that the first input of an operator is multiplied by.

        And those by which weights are, once their codes are numbers.
        """
        for name, takers in self.takers.items():
            node = self.makers.get(name)
            if node is None or node.op_type not in ("Div", "Mul"):
                continue
            taken = any(taker.op_type in operators and taker.input[0] == name for taker in takers)
            if taken or any(map(self._is_weight, node.input)):
                several = (one for one in node.input if math.prod(self._dims(one)) > 1)
                yield from several

    def _is_weight(self, name: str) -> bool:
        """Whether a value is what was made of an initialiser's codes."""
        node = self.makers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        return node.input[0] in self.held

    def _dims(self, name: str) -> tuple[int, ...]:
        return tuple(self.held[name].dims) if name in self.held else ()

    def scale_of_inputs(self, name: str) -> str:
        """The scale of what a quantiser made of the inputs."""
        for _ in range(_STEPS):
            node = self.makers.get(name)
            if node is None:
                break
            if node.op_type == "DynamicQuantizeLinear" and len(node.output) > 1:
                return str(node.output[1])
            if node.op_type == "QuantizeLinear" and len(node.input) > 1:
                return str(node.input[1])
            if node.op_type not in _MOVES or not len(node.input):
                break
            name = node.input[0]
        return ""

    def scales_behind(self, node: Any) -> tuple[str, str]:
        """What a node's two inputs are scaled with, by what its output is multiplied by.

        Of the first it is the initialiser, where that input is one, and else empty. Both are empty
        where the graph does not say which is which.
        """
        first = self.source(node.input[0])[0]
        inputs = self.scale_of_inputs(node.input[0])
        name, found, seen = (node.output[0] if len(node.output) else ""), list[str](), False
        for _ in range(_STEPS):
            takers = self.takers.get(name, ())
            if len(takers) != 1 or takers[0].op_type not in _BETWEEN:
                break
            (taker,) = takers
            if taker.op_type == "Mul":
                others = [other for other in taker.input if other != name]
                factors = [factor for other in others for factor in self.factors(other)]
                seen = seen or inputs in factors
                found += [one for one in factors if one in self.held and one != inputs]
            if found and (seen or len(found) > 1):
                break
            name = taker.output[0] if len(taker.output) else ""
        if first and len(found) == 2:
            # As the quantiser calls them; the graph has a product of two numbers.
            stems = [one.removesuffix("_quantized") for one in (first, node.input[1])]
            names = [f"{stem}_scale" for stem in stems]
            return (names[0], names[1]) if sorted(names) == sorted(found) else ("", "")
        return ("", found[0]) if seen and len(found) == 1 else ("", "")


def flow_of(nodes: Sequence[Any], held: Mapping[str, Any]) -> Flow:
    """The flow between nodes, whose initialisers and constants are `held`, as TensorProto."""
    flow = Flow(held)
    for node in nodes:
        for name in node.output:
            flow.makers.setdefault(name, node)
        for name in dict.fromkeys(node.input):
            flow.takers.setdefault(name, []).append(node)
    return flow


def uses_of(nodes: Sequence[Any], flow: Flow) -> Iterator[Use]:
    """What the nodes say of codes; those of `DequantizeLinear`, where they were moved before."""
    for node in nodes:
        inputs = tuple(node.input)
        if node.op_type == "DequantizeLinear":
            name, behind = flow.source(inputs[0]) if inputs else ("", "")
            if behind:
                scale, zero = (_input(inputs, at) for at in (1, 2))
                yield Use(node.op_type, name, scale, zero, None, behind)
        for place in PLACES.get(node.op_type, ()):
            name, behind = flow.source(_input(inputs, place.codes))
            if name:
                axis = 0 if place == _GEMM and _transposed(node) else place.axis
                scale, zero = (_input(inputs, at) for at in (place.scale, place.zero))
                times = _input(inputs, place.first)
                yield Use(node.op_type, name, scale, zero, axis, behind, times)
        if node.op_type in _CHAINED and len(inputs) > 1 and inputs[1] in flow.held:
            scales = flow.scales_behind(node)
            if scales[0]:
                name, behind = flow.source(inputs[0])
                yield Use(node.op_type, name, scales[0], _input(inputs, 2), None, behind)
            if scales[1]:
                axis = _CHAINED[node.op_type]
                yield Use(node.op_type, inputs[1], scales[1], _input(inputs, 3), axis)


def of_activations(nodes: Sequence[Any], flow: Flow) -> Iterator[str]:
    """Initialisers that are the scale or the zero point of what is quantised on the way."""
    for node in nodes:
        inputs = tuple(node.input)
        if node.op_type.startswith("QLinear") or node.op_type == "QGemm":
            yield from (name for name in inputs if _is_small(flow.held.get(name)))
            continue
        places = PLACES.get(node.op_type, ())
        if node.op_type in _CHAINED:
            places = (Place(0, 2, None),)  # a zero point alone
        for place in places:
            if not flow.source(_input(inputs, place.codes))[0]:
                names = (_input(inputs, at) for at in (place.scale, place.zero))
                yield from (name for name in names if _is_small(flow.held.get(name)))


def _is_small(tensor: Any) -> bool:
    """Whether an initialiser is one number."""
    return tensor is not None and math.prod(tensor.dims) == 1


def _transposed(node: Any) -> bool:
    """Whether a product takes its second matrix transposed (`QGemm`)."""
    return any(one.name == "transB" and one.i for one in node.attribute)


def _input(inputs: tuple[str, ...], at: Number) -> str:
    return inputs[at] if at is not None and at < len(inputs) else ""
