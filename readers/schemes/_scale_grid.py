"""How the numbers of a scale tensor lie over a weight: known by shapes, with the config as a hint.

A block's size is never computed from the quotient of two shapes: a grid is ceil-sized, and 200
rows under 2 scales are blocks of 128 and 72, not of 100. Sizes that the config declares are
tried first, then the ones that files use without saying so; the grid must fit one exactly. Only a
grid of declared blocks may have more of them than the weight needs, at its ends: they are unused
(https://github.com/ModelCloud/GPTQModel/pull/2889).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import where

Block = tuple[int, int]
SCALE_DTYPES = ("BF16", "F16", "F32", "F64", "F8_E8M0", "U8")
_EXPONENTS = ("F8_E8M0", "U8")  # U8 holds E8M0 exponents (compressed-tensors, ModelOpt)
_DEFAULT, _MX = (128, 128), (1, 32)


@dataclass(frozen=True, slots=True)
class ScaleGrid:
    """One scale for `block` `(rows, columns)`; `grid` `(matrices or 1, block rows, columns)`."""

    kind: str  # tensor, channel, block or mx
    block: Block
    grid: tuple[int, int, int]
    axis: int | None = None  # of the matrix, for kind channel: 0 a scale a row, 1 a column
    stored: tuple[int, int, int] | None = None  # the grid with its unused blocks, if there are any


def stack(stored: Stored) -> tuple[int, int, int]:
    """`(matrices, rows, columns)` of a tensor of any rank; the first of three or more stacks."""
    shape = stored.shape
    if len(shape) < 3:
        one, rows, columns = (1, 1, 1, *shape)[-3:]
        return one, rows, columns
    return shape[0], math.prod(shape[1:-1]), shape[-1]


def declared_blocks(quantization: Mapping[str, Any]) -> list[Block]:
    """Block sizes that a config's quantisation block names, over all its groups of layers.

    `weight_block_size` (DeepSeek, transformers), and compressed-tensors' `block_structure` and
    `group_size`. What is no pair of sizes is left out: shapes decide.
    """
    found = [_pair(quantization.get("weight_block_size"))]
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping):
            found.append(_pair(weights.get("block_structure")))
            found.append(_pair([1, weights.get("group_size")]))
    return list(dict.fromkeys(block for block in found if block))


def is_declared(weight: Stored, block: Block, declared: Sequence[Block]) -> bool:
    """Whether `block`, cut to the size of the weight, is one of those that a config names."""
    _, rows, columns = stack(weight)
    return any(block == _clamp(bm, bn, rows, columns) for bm, bn in declared)


def _pair(value: Any) -> Block | None:
    if isinstance(value, str):
        value = [int(v) if v.isdecimal() else 0 for v in value[:40].split("x")]
    if isinstance(value, list) and len(value) == 2:
        bm, bn = value
        if type(bm) is int and type(bn) is int and bm > 0 and bn > 0:
            return bm, bn
    return None


def scale_grid(
    weight: Stored, scale: Stored, declared: Sequence[Block], *, by_column: bool = False
) -> ScaleGrid:
    """What `scale` says about `weight`; `by_column`: a number for each column of stacked matrices.

    Raises FormatError when no reading fits, and UnsupportedError for the scales of a fused
    module's shards, whose sizes are not in the file.
    """
    if scale.dtype not in SCALE_DTYPES:
        raise _misfit(weight, scale, f"scales are {', '.join(SCALE_DTYPES)}")
    matrices, rows, columns = stack(weight)
    shape = scale.shape
    if len(shape) == 4 and shape[1] == shape[3] == 1:
        shape = (shape[0], shape[2])  # ModelOpt FP8_PB_WO keeps the blocks' own axes
    elif len(weight.shape) == 3 and matrices == 1 and len(shape) == 2 and shape[0] > 1:
        shape = (1, *shape)  # ModelOpt leaves the axis of a stack of one matrix out
    if by_column and len(weight.shape) == 3 and shape == (matrices, columns, 1):
        shape = (matrices, 1, columns)
    tried = []
    for bm, bn in _candidates(scale.dtype, declared) if len(weight.shape) in (2, 3) else ():
        blocks = -(-rows // bm), -(-columns // bn)
        tried.append(f"blocks of {bm}x{bn} in a grid {[*weight.shape[:-2], *blocks]}")
        if shape != (*weight.shape[:-2], *blocks):
            continue
        if blocks != (1, 1) or (bm, bn) in declared or scale.dtype == "U8":
            kind = "mx" if (bm, bn) == _MX and scale.dtype in _EXPONENTS else "block"
            return ScaleGrid(kind, _clamp(bm, bn, rows, columns), (matrices, *blocks))
    if scale.dtype == "U8":
        raise _misfit(weight, scale, ", ".join(["for U8 exponents", *tried]))
    whole = _clamp(rows, columns, rows, columns)
    if math.prod(shape) == 1:
        return ScaleGrid("tensor", whole, (1, 1, 1))
    bare = shape[:1] if math.prod(shape[1:]) == 1 else shape
    if len(weight.shape) > 2 and bare == (matrices,):
        if len(weight.shape) == 3:
            return ScaleGrid("tensor", whole, (matrices, 1, 1))
        return ScaleGrid("channel", whole, (matrices, 1, 1), 0)
    if len(weight.shape) in (2, 3):
        lead = weight.shape[:-2]
        if shape in ((*lead, rows), (*lead, rows, 1)):
            return ScaleGrid("channel", _clamp(1, columns, rows, columns), (matrices, rows, 1), 0)
        if shape == (*lead, 1, columns):
            return ScaleGrid("channel", _clamp(rows, 1, rows, columns), (matrices, 1, columns), 1)
        for bm, bn in declared:
            blocks = -(-rows // bm), -(-columns // bn)
            if shape[:-2] == lead and len(shape) == len(lead) + 2 and _covers(shape[-2:], blocks):
                block, stored = _clamp(bm, bn, rows, columns), (matrices, shape[-2], shape[-1])
                return ScaleGrid("block", block, (matrices, *blocks), stored=stored)
        if len(shape) == len(lead) + 1 and shape[:-1] == lead:
            raise UnsupportedError(
                f"{where(scale, weight)}: {shape[-1]} scales for {rows:,} rows: one for each "
                "shard of a fused module, whose sizes the file does not tell; implemented are "
                "one scale a tensor, a row, a column or a block"
            )
    raise _misfit(weight, scale, ", ".join(["one scale a tensor, a row or a column", *tried]))


def _candidates(dtype: str, declared: Sequence[Block]) -> Iterable[Block]:
    return dict.fromkeys([*declared, *([_MX] if dtype in _EXPONENTS else []), _DEFAULT])


def _covers(found: tuple[int, ...], blocks: tuple[int, int]) -> bool:
    return found[0] >= blocks[0] and found[1] >= blocks[1]


def _clamp(bm: int, bn: int, rows: int, columns: int) -> Block:
    return max(1, min(bm, rows)), max(1, min(bn, columns))


def _misfit(weight: Stored, scale: Stored, allowed: str) -> FormatError:
    return FormatError(f"{where(scale, weight)}: the scale does not fit; allowed: {allowed}")
