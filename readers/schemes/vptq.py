"""VPTQ: `X.indices` beside `X.centroids.weight`, whose layout and formula are in `kernels/vptq.py`.

How long vectors are, how many there are and how columns are grouped is in the configuration alone:
`config_for_layers[X]` (vptq), `shared_layer_config` (transformers), or the quantisation block
itself (GPTQModel). Sources: PyPI vptq 0.0.5.post1 vptq/layers/vqlinear.py; transformers 5.23
integrations/vptq.py; GPTQModel 7.7.0 utils/vptq.py (`vptq_group_setting`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, missing, need, unsupported
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

_FIELDS = "vector_lens, num_centroids and num_res_centroids"
_ORDERS = ("I16", "I32", "I64")
_INDICES = {"I16": 16, "I32": 32}


def resolve(ledger: Ledger) -> None:
    """Claim layers by their codebooks and indices.

    Raises UnsupportedError for a layer that the configuration says nothing of and for indices that
    are not packed, FormatError for parts that are missing or do not fit.
    """
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".centroids.")
        if dot and part == "weight" and ledger.get(f"{layer}.indices"):
            ledger.claim(_tensor(ledger, layer, stored))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What the configuration says of a layer: outliers first, then the others; -1 is none."""

    vectors: tuple[int, int]
    centroids: tuple[int, int]
    residual: int
    inputs: int
    outputs: int
    group: int
    by_rows: bool

    @property
    def bits(self) -> int:
        return (self.centroids[1] - 1).bit_length()

    @property
    def residual_bits(self) -> int:
        return (self.residual - 1).bit_length() if self.residual > 1 else 0


def _sizes(ledger: Ledger, layer: str, indices: Stored) -> _Sizes:
    block = ledger.quantization()
    stated: Any = _mapping(block.get("config_for_layers")).get(layer)
    if stated is None:
        shared = _mapping(block.get("shared_layer_config"))
        stated = next((shared[part] for part in layer.split(".") if part in shared), block)
    own = _mapping(stated)
    vectors, centroids, rest = (
        _pair(own.get(key)) for key in ("vector_lens", "num_centroids", "num_res_centroids")
    )
    if vectors is None or centroids is None or rest is None:
        what = f"a layer of VPTQ without {_FIELDS} in the configuration"
        raise unsupported(indices, what, "layers that it describes")
    if vectors[1] < 1 or centroids[1] < 2 or rest[0] > 0:
        raise misfit(indices, f"{_FIELDS} of lengths, of two vectors or more, and no more outliers")
    if own.get("norm_dim") not in (None, 0, 1):
        what = f"VPTQ with norm_dim {own['norm_dim']!r:.20}"
        raise unsupported(indices, what, "0, of inputs, and 1, of outputs")
    inputs, outputs, group = (own.get(k) for k in ("in_features", "out_features", "group_size"))
    return _Sizes(
        vectors,
        centroids,
        rest[1],
        _whole(inputs),
        _whole(outputs),
        _whole(group),
        own.get("norm_dim") == 1,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int:
    return value if type(value) is int and 0 < value < 1 << 32 else 0


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, list | tuple) and len(value) == 2:
        first, second = value
        if type(first) is int and type(second) is int and max(first, second) <= 1 << 24:
            return first, second
    return None


def _tensor(ledger: Ledger, layer: str, centroids: Stored) -> Tensor:
    indices = need(ledger, centroids, f"{layer}.indices")
    sizes = _sizes(ledger, layer, indices)
    if indices.dtype != "I32" or len(indices.shape) != 3 or 0 in indices.shape:
        what = "VPTQ's indices that are not packed"
        raise unsupported(indices, what, "I32 [groups, vectors, words]")
    groups, count, words = indices.shape
    length = sizes.vectors[1]
    books = [_book(centroids, groups, sizes.centroids[1] * length)]
    if sizes.residual > 1:
        rest = need(ledger, indices, f"{layer}.res_centroids.weight")
        books.append(_book(rest, groups, sizes.residual * length))
    found = _outliers(ledger, layer, sizes)
    outliers = found[0].stored if found else None
    wide = sizes.vectors[0] if outliers else 1
    beside = _beside(ledger, layer)
    inputs, group = _columns(sizes, indices, outliers, beside)
    outputs = _outputs(sizes, indices, outliers)
    _check_beside(beside, sizes, inputs, outputs)
    rows = math.lcm(length, wide)
    windows = [
        Component("indices", indices, Strided(rows // length * words * 32, count * words * 4))
    ]
    if outliers:
        bits = _INDICES[outliers.dtype] * outliers.shape[2]
        windows.append(Component("outlier_indices", outliers, Contiguous(rows // wide * bits)))
    return Tensor(
        name=f"{layer}.weight",
        shape=(outputs, inputs),
        scheme="vptq",
        encoding="vptq",
        components=(*windows, *books, *found[1:], *beside),
        unit_elems=rows * inputs,
        params={
            "bits": sizes.bits,
            "residual_bits": sizes.residual_bits,
            "vector": length,
            "outlier_vector": wide,
            "outliers": outliers.shape[2] if outliers else 0,
            "group_size": group,
            "unit_rows": rows,
            "in_features": inputs,
            "index_bytes": _INDICES[outliers.dtype] // 8 if outliers else 4,
            "by_rows": sizes.by_rows,
            "scale_dtype": beside[-2].stored.dtype if len(beside) > 1 else "",
            "vectors": (sizes.centroids[1], max(1, sizes.residual)),
        },
    )


def _columns(
    sizes: _Sizes, indices: Stored, outliers: Stored | None, beside: list[Component]
) -> tuple[int, int]:
    """How many columns there are, and in a group; the last group may have fewer."""
    groups, _, words = indices.shape
    total, taken = sizes.bits + sizes.residual_bits, outliers.shape[2] if outliers else 0
    known = [c.stored.shape[0] for c in beside if c.role == "perm" or not sizes.by_rows]
    inputs = sizes.inputs or next(iter(known), 0)
    group = sizes.group or -(-(inputs - taken) // groups) if inputs else sizes.group
    group = group or words * 32 // total
    inputs = inputs or taken + groups * group
    if words != -(-group * total // 32) or not 0 <= taken + groups * group - inputs < group:
        stated = f"{inputs:,} columns, {taken:,} of them apart, in {groups} groups of {group:,}"
        raise misfit(indices, f"{-(-group * total // 32):,} words a vector for {stated}")
    return inputs, group


def _outputs(sizes: _Sizes, indices: Stored, outliers: Stored | None) -> int:
    """How many rows there are; the last vector may be longer than what is left."""
    outputs = sizes.outputs or indices.shape[1] * sizes.vectors[1]
    for stored, length in ((indices, sizes.vectors[1]), (outliers, sizes.vectors[0])):
        if stored is not None and stored.shape[1] != -(-outputs // length):
            raise misfit(stored, f"{-(-outputs // length):,} vectors for {outputs:,} outputs")
    return outputs


def _beside(ledger: Ledger, layer: str) -> list[Component]:
    """The order of the columns, and what is multiplied and added at the end."""
    found = [ledger.get(f"{layer}.{name}") for name in ("perm", "weight_scale", "weight_bias")]
    order, scale, bias = found
    if scale is not None and bias is None:
        raise missing(ledger, scale, f"{layer}.weight_bias")
    there = (order, scale, bias if scale is not None else None)
    return [Component(s.name.rpartition(".")[2], s) for s in there if s is not None]


def _check_beside(beside: list[Component], sizes: _Sizes, inputs: int, outputs: int) -> None:
    for part in beside:
        order = part.role == "perm"
        dtypes = _ORDERS if order else tuple(SCALE_BITS)
        count = outputs if sizes.by_rows and not order else inputs
        if part.stored.dtype not in dtypes or part.stored.shape != (count,):
            raise misfit(part.stored, f"{', '.join(dtypes)} [{count:,}]")


def _book(stored: Stored, groups: int, width: int) -> Component:
    if stored.dtype not in SCALE_BITS or stored.shape != (groups, width):
        raise misfit(stored, f"{', '.join(SCALE_BITS)} [{groups}, {width:,}]")
    role = stored.name.removesuffix(".weight").rpartition(".")[2]
    return Component(role, stored)


def _outliers(ledger: Ledger, layer: str, sizes: _Sizes) -> list[Component]:
    """Indices and codebook of the columns that stand first; none where there are no such."""
    indices = ledger.get(f"{layer}.outlier_indices")
    if indices is None:
        return []
    (wide, _), (vectors, _) = sizes.vectors, sizes.centroids
    shape = indices.shape
    if wide < 1 or vectors < 1 or len(shape) != 3 or shape[0] != 1 or indices.dtype not in _INDICES:
        raise misfit(indices, "I16 or I32 [1, vectors, columns], whose lengths the config states")
    book = need(ledger, indices, f"{layer}.outlier_centroids.weight")
    return [Component("outlier_indices", indices), _book(book, 1, vectors * wide)]
