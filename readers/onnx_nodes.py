"""What the operators of an ONNX graph say of the initialisers that they dequantise.

Settings of a tensor (`Container.values`), under `NAME.KEY`: `op` for every initialiser that may
hold codes, and for the codes of

| operator | keys |
|---|---|
| `MatMulNBits` | `K`, `N`, `bits`, `block_size`; names: `scales`, `zero_points`, `g_idx` |
| `DequantizeLinear` | `axis`, `block_size`; names: `scales`, `zero_points` |
| `GatherBlockQuantized` | `quantize_axis`, `gather_axis`, `bits`, `block_size`; the same names |

`type` and `dims` (numbers with commas) are those of codes of fewer than eight bits, which are
stored as bytes; `numbers` are zero points that are stored one by one. The `axis` of one number is
None. `copies` are names that a second node of the same codes takes, by the first node's: their
numbers must be the same. `beside` marks scales and zero points of activations, which nodes of
quantisers take while the model runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.base import Stored
from anamnesis.readers.dtypes import DTYPES

Values = dict[str, Any]
# TensorProto.DataType of numbers of fewer than eight bits, packed, low bits first.
PACKED = {21: "U4", 22: "I4", 23: "F4", 25: "U2", 26: "I2"}
# Operators whose integers, or numbers under 16 bits, mean something else than themselves.
_QUANTISED = frozenset(
    "ConvInteger DequantizeLinear DynamicQuantizeLSTM DynamicQuantizeMatMul GatherBlockQuantized "
    "MatMulBnb4 MatMulFpQ4 MatMulInteger MatMulIntegerToFloat MatMulNBits MoE QAttention QGemm "
    "QLinearAdd QLinearConv QLinearMatMul QMoE QOrderedMatMul".split()
)
_NBITS = ("scales", "zero_points", "g_idx")  # those of MatMulNBits behind A and B
# Of an operator: which input holds codes, those behind it, and its attributes with their defaults.
_LINEAR: dict[str, tuple[int, tuple[tuple[str, int], ...], dict[str, int]]] = {
    "DequantizeLinear": (0, (("scales", 1), ("zero_points", 2)), {"axis": 1, "block_size": 0}),
    "GatherBlockQuantized": (
        0,
        (("scales", 2), ("zero_points", 3)),
        {"gather_axis": 0, "quantize_axis": 1, "block_size": 128, "bits": 4},
    ),
}
_OF_ACTIVATIONS = ("DequantizeLinear", "QuantizeLinear")


def quantised(graph: Any) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Names of codes, of zero points and of scales that the operators of the table take."""
    names: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for node in graph.node:
        if node.op_type in _LINEAR:
            at, others, _ = _LINEAR[node.op_type]
            places = dict(others)
            for found, place in zip(
                names, (at, places["zero_points"], places["scales"]), strict=True
            ):
                found.update(node.input[place : place + 1])
    codes, zeros, scales = (frozenset(found - {""}) for found in names)
    return codes, zeros, scales


def values_of(
    path: str, graph: Any, stored: Mapping[str, Stored], unread: tuple[str, ...]
) -> Values:
    """What the operators say; raises FormatError where two of them contradict one another."""
    values: Values = {}
    ranks = {one.name: len(one.dims) for one in graph.initializer}
    for node in graph.node:
        for name in node.input:
            if (name in stored or name in unread) and _means_codes(node, stored.get(name)):
                values.setdefault(f"{name}.op", node.op_type)
        if node.op_type == "MatMulNBits" and len(node.input) > 2 and node.input[1] in stored:
            said: Values = dict.fromkeys(("K", "N", "bits", "block_size"), 0)
            inputs = (*node.input[2:5], "", "", "")
            said |= zip(_NBITS, inputs, strict=False)
            _enter(path, node, node.input[1], _attributes(node, said), values)
        if node.op_type in _LINEAR:
            at, others, attributes = _LINEAR[node.op_type]
            if len(node.input) > at and node.input[at] in stored:
                inputs = (*node.input, "", "", "", "")
                names = {key: inputs[place] for key, place in others}
                said = _attributes(node, {**attributes, **names}, ranks.get(node.input[at], 0))
                said |= _axis_of_one(node, stored, names["scales"])
                _enter(path, node, node.input[at], said, values)
        if node.op_type in _OF_ACTIVATIONS:
            for name in _of_activations(node, stored):
                values.setdefault(f"{name}.beside", node.op_type)
    return values


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


def _enter(path: str, node: Any, codes: str, said: Values, values: Values) -> None:
    """Enter what one node says of its codes; raises FormatError where another one contradicts."""
    for key, value in {"by": node.op_type, **said}.items():
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


def _axis_of_one(node: Any, stored: Mapping[str, Stored], scale: str) -> Values:
    """No axis for one number, which needs none whatever nodes say."""
    found = stored.get(scale)
    one = found is not None and found.shape in ((), (1,))
    return {"axis": None} if one and node.op_type == "DequantizeLinear" else {}
