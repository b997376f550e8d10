"""The nodes of an ONNX graph and of the graphs inside of it, branches and bodies of loops, as one.

`If`, `Loop` and `Scan` hold graphs as attributes, whose nodes may take any value of the graphs
around them: decoders that are merged into one model have both of their ways in an `If`, and most
of their weights outside. Values of an inner graph have names of their own, which another one may
have too: those get the name of the attribute in front, as `else_branch/NAME`. Source:
https://github.com/onnx/onnx docs/IR.md, "Names Within a Graph".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from anamnesis.errors import FormatError


class Node(NamedTuple):
    """A node of an inner graph: what `NodeProto` says of it, under names that are no one else's."""

    op_type: str
    domain: str
    input: tuple[str, ...]
    output: tuple[str, ...]
    attribute: Any


class Inside(NamedTuple):
    """A tensor that is no initialiser of the outermost graph, in the order of the message."""

    name: str
    tensor: Any
    constant: bool


@dataclass(slots=True)
class Flat:
    """All nodes, the tensors inside of them, and all tensors by name."""

    path: str
    node: list[Any] = field(default_factory=list)
    inside: list[Inside] = field(default_factory=list)
    sparse: list[str] = field(default_factory=list)  # names of sparse initialisers
    held: dict[str, Any] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def name(self, name: str, attribute: str) -> str:
        """A name that is taken from now on, for a value of the graph that an attribute holds."""
        found, number = name, 1
        while found in self.taken:
            mark = attribute if number == 1 else f"{attribute}.{number}"
            found, number = f"{mark}/{name}", number + 1
        self.taken.add(found)
        return found


def flatten(path: str, graph: Any) -> Flat:
    """The nodes of a parsed graph, those of inner graphs behind the node that holds them.

    Raises FormatError for names that are no text, which protobuf gives as bytes.
    """
    flat = Flat(path)
    flat.taken.update(_own(graph))
    flat.held.update((tensor.name, tensor) for tensor in graph.initializer)
    flat.sparse += [str(one.values.name) for one in graph.sparse_initializer]
    _walk(flat, graph.node, ())
    return flat


def _own(graph: Any) -> Iterator[str]:
    """Names of the values that a graph makes or is given."""
    for one in (*graph.initializer, *graph.input):
        yield one.name
    for node in graph.node:
        yield from node.output


def _walk(flat: Flat, nodes: Any, scopes: tuple[Mapping[str, str], ...]) -> None:
    """Enter the nodes of a graph; `scopes` say how names are written, those inside first."""

    def written(name: str) -> str:
        return next((scope[name] for scope in scopes if name in scope), name)

    for node in nodes:
        words = (node.op_type, node.domain, *node.input, *node.output)
        wrong = next((word for word in words if not isinstance(word, str)), None)
        if wrong is not None:
            raise FormatError(f"{flat.path}: a node's operator or value {wrong!r:.200} is no UTF-8")
        one = node
        if scopes:
            taken, made = (tuple(map(written, side)) for side in (node.input, node.output))
            one = Node(node.op_type, node.domain, taken, made, node.attribute)
        flat.node.append(one)
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                name = one.output[0] if one.output else str(attribute.t.name)
                flat.inside.append(Inside(name, attribute.t, constant=True))
                flat.held.setdefault(name, attribute.t)
            for graph in (attribute.g, *attribute.graphs) if _holds_graphs(attribute) else ():
                _enter(flat, graph, str(attribute.name), scopes)


def _holds_graphs(attribute: Any) -> bool:
    return bool(attribute.HasField("g") or len(attribute.graphs))


def _enter(flat: Flat, graph: Any, name: str, scopes: tuple[Mapping[str, str], ...]) -> None:
    """Enter an inner graph: its nodes, then its initialisers, as the message has them."""
    own = {value: flat.name(value, name) for value in dict.fromkeys(_own(graph)) if value}
    tensors = [Inside(own.get(t.name, t.name), t, constant=False) for t in graph.initializer]
    flat.held.update((one.name, one.tensor) for one in tensors)
    flat.sparse += [str(one.values.name) for one in graph.sparse_initializer]
    _walk(flat, graph.node, (own, *scopes))
    flat.inside += tensors
