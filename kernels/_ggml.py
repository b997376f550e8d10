"""What ggml's encoders share: its roundings, in float32 and in ggml's own order, and block glue.

Sums run from the first element to the last, as C compiled without `-ffast-math` has it; a product
and a sum are two roundings, as in a build without fused multiply-add (libggml-python's). Source:
https://github.com/ggml-org/ggml, src/ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels._iq_tables import tables
from anamnesis.kernels._native import Kernel
from anamnesis.kernels._native import kernel as body_of
from anamnesis.kernels._native import variants as bodies
from anamnesis.kernels.encoders import Encode, Form, Part, Settings, Shape, matrix_of
from anamnesis.kernels.readback import Blocks, Facts, Parts
from anamnesis.kernels.types import Array, Outputs, Params

Search = Callable[[Any, Any, Any], None]
_weigh = body_of("_ggml_weights:weigh")
_weigh_alone = body_of("_ggml_weights:weigh_alone")
_points = bodies("encode_gguf_iq:points")


def form_ggml(encoding: str, name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """One part: the rows as blocks of a ggml type, as bytes."""
    row = ENCODINGS[encoding]
    _, columns = matrix_of(shape, row.block_elems)
    kind = encoding.removeprefix("gguf-").replace("-", "_").upper()
    part = Part("blocks", name, kind, shape, 1, columns, row.block_elems, row.block_bytes)
    return Form(columns, (part,))


def blocks_ggml(encoding: str, parts: Parts, facts: Facts) -> Blocks:
    """The bytes as rows of a block each."""
    data = parts["blocks"].reshape(-1, ENCODINGS[encoding].block_bytes)
    return Blocks({"payload": data}, {}, {}, len(data))


def run_blocks(kernel: Callable[..., None], values: Array, encoding: str, out: Array) -> None:
    """Call `kernel(values, out)` on flat float32 values and the bytes of their blocks."""
    row = ENCODINGS[encoding]
    if len(values) // row.block_elems * row.block_bytes != len(out):
        raise ValueError(f"{len(values)} values do not fill {len(out)} bytes of {encoding}")
    kernel(values, out)


def weighted_rows(
    values: Array, params: Params, encoding: str, out: Array
) -> Iterator[tuple[Any, Any, Any]]:
    """The rows of one matrix of a stack after another: numbers, weights of columns, bytes."""
    row = ENCODINGS[encoding]
    columns, rows = params["columns"], params["shape"][-2]
    nbytes = columns // row.block_elems * row.block_bytes
    count, done = len(values) // columns, 0
    if count * nbytes != len(out):
        raise ValueError(f"{len(values)} values do not fill {len(out)} bytes of {encoding}")
    while done < count:
        matrix, first = divmod(params["first"] + done, rows)
        last = min(count, done + rows - first)
        some = values[done * columns : last * columns]
        yield some, params["weights"](matrix), out[done * nbytes : last * nbytes]
        done = last


def run_weighed(
    kernel: Kernel,
    values: Array,
    params: Params,
    how: tuple[int, int, int],
    encoding: str,
    out: Array,
) -> None:
    """Call `kernel(values, groups, weights, out)` with the weights of elements, in groups too.

    `how` are the elements of a group, those that have a variance (0: a row), and how often it
    counts: below 0, their number is divided by that, not their sum multiplied, which may overflow.
    """
    group, span, factor = how
    for some, columns, blocks in weighted_rows(values, params, encoding, out):
        weights, every = np.empty_like(some), span or len(columns)
        divisor = every if factor > 0 else every // -factor
        _weigh(some, columns, every, max(factor, 1), divisor, weights)
        kernel(some, some.reshape(-1, group), weights.reshape(-1, group), blocks)


def weighed_blocks(
    values: Array, params: Params, how: tuple[int, float], encoding: str, out: Array
) -> Iterator[tuple[Any, Any, Any]]:
    """Numbers, the weights of their errors in blocks of 256, and bytes.

    `how` are how often a block's mean of squares counts for its variance, and, where there are no
    weights of columns, what part of the variance the square of a number gets.
    """
    factor, share = how
    if not params.get("weights"):
        weights = np.empty_like(values)
        _weigh_alone(values, factor, share, weights)
        yield values, weights, out
        return
    for some, columns, blocks in weighted_rows(values, params, encoding, out):
        weights = np.empty_like(some)
        _weigh(some, columns, 256, factor, 256, weights)
        yield some, weights, blocks


def of_blocks(encoding: str, alone: Kernel) -> Encode:
    """The encode function of a type: `alone(values, blocks)`."""

    def encode(values: Array, params: Params, out: Outputs) -> None:
        run_blocks(alone, values, encoding, out["blocks"])

    return encode


def of_groups(encoding: str, alone: Search, how: tuple[int, int, int], weighted: Kernel) -> Encode:
    """The encode function of a type whose scales are searched for: `alone(values, groups, blocks)`.

    `groups` are the values, a group a row. With weights of columns it is `run_weighed`, as `how`.
    """

    def encode(values: Array, params: Params, out: Outputs) -> None:
        if params.get("weights"):
            run_weighed(weighted, values, params, how, encoding, out["blocks"])
        else:
            groups = values.reshape(-1, how[0])
            run_blocks(lambda flat, out: alone(flat, groups, out), values, encoding, out["blocks"])

    return encode


def of_points(encoding: str, grid: str, factor: int, share: float = 0.0, body: str = "") -> Encode:
    """The encode function of points of a grid, with weights of columns or, if it can, without.

    `factor` and `share` are those of `weighed_blocks`. `body` is by default the one of all types
    whose points are bytes.
    """
    found = body_of(body) if body else _points(encoding.removeprefix("gguf-").replace("-", "_"))

    def encode(values: Array, params: Params, out: Outputs) -> None:
        every = weighed_blocks(values, params, (factor, share), encoding, out["blocks"])
        for some, weights, blocks in every:
            found(some, weights, *tables(grid), blocks)

    return encode
