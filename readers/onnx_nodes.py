"""What the operators of an ONNX graph say of the initialisers that they dequantise.

Settings of a tensor (`Container.values`), under `NAME.KEY`: `op` for every initialiser that may
hold codes, and for the codes of

| operator | keys |
|---|---|
| `MatMulNBits` | `K`, `N`, `bits`, `block_size`, `weight_prepacked`; names: `scales`, |
| | `zero_points`, `g_idx` |
| `DequantizeLinear` | `axis`, `block_size`; names: `scales`, `zero_points` |
| `GatherBlockQuantized` | `quantize_axis`, `gather_axis`, `bits`, `block_size`; the same names |
| `MatMulBnb4` | `K`, `N`, `block_size`, `quant_type`, `transB`; names: `scales` |
| `QMoE` | `expert_weight_bits`, `block_size`, `weights_prepacked`, `quant_type`; names: `scales`, |
| | `zero_points`, and of `experts`, the codes and the scales of the node |
| those of `onnx_uses.py` | as `DequantizeLinear`, `stacked` where each matrix of a stack has a |
| | row of scales for its columns; name: `times`, of a bias |

`by` is the operator whose keys these are. `type` and `dims` (numbers with commas) are those of
codes of fewer than eight bits, which are stored as bytes; `numbers` are zero points that are stored
one by one. The `axis` of one number is None. `copies` are names that a second node of the same
codes takes, by the first node's: their numbers must be the same. `beside` marks scales and zero
points of activations, which nodes of quantisers take while the model runs; `moves` marks numbers
that the inputs of such operators are multiplied by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.base import Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.onnx_graph import Flat
from anamnesis.readers.onnx_uses import INTEGERS, Use, flow_of, of_activations, uses_of

Values = dict[str, Any]
# TensorProto.DataType of numbers of fewer than eight bits, packed, low bits first.
PACKED = {21: "U4", 22: "I4", 23: "F4", 25: "U2", 26: "I2"}
# Operators whose integers, or numbers under 16 bits, mean something else than themselves.
_QUANTISED = frozenset(
    "ConvInteger DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul GatherBlockQuantized "
    "MatMulBnb4 MatMulFpQ4 MatMulInteger MatMulIntegerToFloat MatMulNBits MoE QAttention QGemm "
    "QLinearAdd QLinearConv QLinearMatMul QMoE QOrderedMatMul".split()
)
# Of an operator: which input holds codes, the names behind it, and its attributes with defaults.
_DIRECT: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "DequantizeLinear": (0, {"scales": 1, "zero_points": 2}, {"axis": 1, "block_size": 0}),
    "GatherBlockQuantized": (
        0,
        {"scales": 2, "zero_points": 3},
        {"gather_axis": 0, "quantize_axis": 1, "block_size": 128, "bits": 4},
    ),
    "MatMulBnb4": (
        1,
        {"scales": 2},
        {"K": 0, "N": 0, "block_size": 0, "quant_type": -1, "transB": 1},
    ),
    "MatMulNBits": (
        1,
        {"scales": 2, "zero_points": 3, "g_idx": 4},
        {"K": 0, "N": 0, "bits": 4, "block_size": 0, "weight_prepacked": 0},
    ),
}
# Of QMoE's three matrices: inputs that hold codes, scales and zero points; and its attributes.
_EXPERTS = ((2, 3, 11), (5, 6, 12), (8, 9, 13))
_OF_EXPERTS = {"expert_weight_bits": 4, "block_size": 0, "weights_prepacked": -1}
_QUANTISERS = ("DynamicQuantizeLinear", "QuantizeLinear")
_OF_ACTIVATIONS = ("DequantizeLinear", "QuantizeLinear")


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph, its initialisers and constants by name, and what its nodes say of codes."""

    nodes: Any
    held: Mapping[str, Any]
    uses: tuple[Use, ...]
    activations: frozenset[str]
    moving: frozenset[str]

    def quantised(self) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """Names of codes, of zero points and of scales that are dequantised one by one.

        The zero points of activations are among the second.
        """
        names: tuple[set[str], set[str], set[str]] = (set(), set(self.activations), set())
        for node in self.nodes:
            if node.op_type in ("DequantizeLinear", "GatherBlockQuantized"):
                at, others, _ = _DIRECT[node.op_type]
                places = (at, others["zero_points"], others["scales"])
                for found, place in zip(names, places, strict=True):
                    found.update(node.input[place : place + 1])
        for use in self.uses:
            for found, name in zip(names, (use.codes, use.zero_points, use.scales), strict=True):
                found.add(name)
        codes, zeros, scales = (frozenset(found - {""}) for found in names)
        return codes, zeros, scales


def graph_of(flat: Flat) -> Graph:
    """What there is to know of a graph before its initialisers are stored tensors."""
    flow = flow_of(flat.node, flat.held)
    activations = frozenset(of_activations(flat.node, flow))
    moving = frozenset(flow.multiplied(_QUANTISED.union(INTEGERS, _QUANTISERS)))
    return Graph(flat.node, flat.held, tuple(uses_of(flat.node, flow)), activations, moving)


def values_of(
    path: str, graph: Graph, stored: Mapping[str, Stored], unread: tuple[str, ...]
) -> Values:
    """What the operators say; raises FormatError where two of them contradict one another."""
    values: Values = {}
    for node in graph.nodes:
        for name in node.input:
            if (name in stored or name in unread) and _means_codes(node, stored.get(name)):
                values.setdefault(f"{name}.op", node.op_type)
        if node.op_type in _DIRECT:
            at, others, attributes = _DIRECT[node.op_type]
            if len(node.input) > at and node.input[at] in stored:
                codes = node.input[at]
                names = {
                    key: node.input[place] if place < len(node.input) else ""
                    for key, place in others.items()
                }
                said = _attributes(node, {**attributes, **names}, _rank(graph, codes))
                if node.op_type == "DequantizeLinear" and _is_one(graph, names["scales"]):
                    said["axis"] = None  # one number needs none, whatever nodes say
                _enter(path, node.op_type, codes, said, values)
        for codes, said in _experts(node) if node.op_type == "QMoE" else ():
            if codes in stored:
                _enter(path, node.op_type, codes, said, values)
        if node.op_type in _OF_ACTIVATIONS:
            for name in _of_activations(node, stored):
                values.setdefault(f"{name}.beside", node.op_type)
    for use in graph.uses:
        if use.codes not in stored:
            continue
        one = _is_one(graph, use.scales)
        if not one and (use.axis is None or use.behind):
            words = f"{use.by} behind {use.behind}" if use.behind else use.by
            values[f"{use.codes}.op"] = f"{words}, with several scales"
            continue
        axis = use.axis or 0
        axis += _rank(graph, use.codes) if axis < 0 else 0
        said = {"axis": None if one else axis, "block_size": 0, "times": use.times}
        if use.by == "DynamicQuantizeLSTM" and _rank(graph, use.scales) == 2:
            said |= {"axis": 1, "stacked": 1}
        said |= {"scales": use.scales, "zero_points": use.zero_points}
        _enter(path, "DequantizeLinear", use.codes, said, values)
    for name in graph.activations:
        values.setdefault(f"{name}.beside", "quantised activations")
    values |= {f"{name}.moves": True for name in graph.moving}
    return values


def _experts(node: Any) -> Iterator[tuple[str, Values]]:
    """The codes of a node of experts, and what it says of them."""
    inputs = (*node.input, *[""] * (_EXPERTS[-1][-1] + 1))
    words = [one.s.decode("utf-8", "replace") for one in node.attribute if one.name == "quant_type"]
    said = _attributes(node, {**_OF_EXPERTS, "quant_type": "", "experts": ()})
    said["quant_type"] = words[0] if words else "int"
    said["experts"] = tuple((inputs[at], inputs[scale]) for at, scale, _ in _EXPERTS if inputs[at])
    for at, scale, zero in _EXPERTS:
        if inputs[at]:
            yield inputs[at], {**said, "scales": inputs[scale], "zero_points": inputs[zero]}


def _rank(graph: Graph, name: str) -> int:
    return len(graph.held[name].dims) if name in graph.held else 0


def _is_one(graph: Graph, name: str) -> bool:
    """Whether a scale is one number for all codes."""
    held = graph.held.get(name)
    return held is not None and len(held.dims) < 2 and math.prod(held.dims) == 1


def _of_activations(node: Any, stored: Mapping[str, Stored]) -> Iterator[str]:
    """Scales and zero points of what is no initialiser, or is one that is rounded on the way."""
    if node.op_type == "QuantizeLinear" or (node.input and node.input[0] not in stored):
        yield from (name for name in node.input[1:3] if name)


def _means_codes(node: Any, stored: Stored | None) -> bool:
    """Whether what an operator takes may be codes: of those that quantise, and of unknown ones.

    Operators outside of ONNX's own are taken for such where they take numbers of 8 bits or fewer.
    """
    if node.op_type in _QUANTISED:
        return True
    if node.domain in ("", "ai.onnx"):
        return False
    row = None if stored is None else DTYPES[stored.dtype]
    return row is None or (row.bits <= 8 and row.kind != "bool")


def _attributes(node: Any, said: Values, rank: int = 0) -> Values:
    """A node's attributes over their defaults in `said`, axes counted from the first of `rank`."""
    found = {one.name: one.i for one in node.attribute if type(said.get(one.name)) is int}
    for key, value in found.items():
        if key.endswith("axis") and -rank <= value < 0:
            found[key] = value + rank
    return {**said, **found}


def _enter(path: str, by: str, codes: str, said: Values, values: Values) -> None:
    """Enter what one node says of its codes; raises FormatError where another one contradicts."""
    for key, value in {"by": by, **said}.items():
        first = values.setdefault(f"{codes}.{key}", value)
        if first == value:
            continue
        if not (key in ("scales", "zero_points") and first and value):
            raise FormatError(
                f"{path}: initialiser {codes!r:.200}: two nodes give it different "
                f"{'operators' if key == 'by' else key}, {first!r:.80} and {value!r:.80}; allowed "
                "are nodes that make the same weight of it"
            )
        copies = values.setdefault(f"{codes}.copies", {})
        copies[value] = first
