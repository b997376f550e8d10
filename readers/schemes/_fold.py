"""Tensors whose codes are a weight in another basis: what has to be undone goes with them."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, need
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger


class LowRank(NamedTuple):
    """`a` `[rank, columns]` and `b` `[rows, rank]`, each transposed where they are `across`."""

    a: Stored
    b: Stored
    across: bool = False


def folded(
    tensor: Tensor,
    *,
    factor: Stored | None = None,
    divide: bool = False,
    low_rank: LowRank | None = None,
    rotation: int = 0,
    sylvester: bool = False,
    givens: tuple[Stored, Stored] | None = None,
    group: int = 0,
) -> Tensor:
    """The same tensor, its codes' values changed as `kernels/folded.py` says.

    `factor` has a number a column; `low_rank` is of a tensor whose unit is a row; `rotation` is the
    columns of a group, by a matrix of Sylvester's kind or else ComfyUI's; `givens` are `theta`
    `[rotations, columns / 2]` and `pairs` `[rotations, columns]` in a `group` of columns. Raises
    FormatError for parts that do not fit.
    """
    rows, columns = tensor.shape[-2], tensor.shape[-1]
    params = {**tensor.params, "inner": tensor.encoding, "columns": columns}
    components = list(tensor.components)
    if factor is not None:
        shapes = ((columns,), (1, columns), (1, 1, columns))
        if factor.dtype not in SCALE_BITS or factor.shape not in shapes:
            raise misfit(factor, f"{', '.join(SCALE_BITS)} [{columns}], for {tensor.name!r}")
        params["fold"] = "divide" if divide else "multiply"
        components.append(Component("factor", factor))
    if low_rank is not None:
        a, b, across = low_rank
        rank = a.shape[1 if across else 0] if len(a.shape) == 2 else 0
        for part, wide in ((a, (rank, columns)), (b, (rows, rank))):
            shape = wide[::-1] if across else wide
            if part.dtype not in SCALE_BITS or part.shape != shape or not rank:
                allowed = f"{', '.join(SCALE_BITS)} {list(shape)}, of the same rank in both"
                raise misfit(part, f"{allowed}, for {tensor.name!r}")
        bits = SCALE_BITS[b.dtype]
        params |= {"low_rank_dtype": b.dtype, "across": across}
        components.append(Component("low_rank_a", a))
        access = Strided(bits, max(1, rows * bits // 8)) if across else Contiguous(rank * bits)
        components.append(Component("low_rank_b", b, access))
    if rotation:
        step = 2 if sylvester else 4
        if columns % rotation or rotation not in (step**n for n in range(1, 32)):
            allowed = f"{columns:,} columns in groups of {rotation}, rotated together"
            raise misfit(components[0].stored, f"whole groups of powers of {step}, not {allowed}")
        params |= {"rotation": rotation, "sylvester": sylvester}
    if givens is not None:
        theta, pairs = givens
        count = theta.shape[0] if theta.shape else 0
        if theta.dtype not in SCALE_BITS or theta.shape != (count, columns // 2):
            raise misfit(theta, f"{', '.join(SCALE_BITS)} [rotations, {columns // 2}]")
        if pairs.dtype != "I16" or pairs.shape != (count, columns) or group % 2 or columns % group:
            raise misfit(pairs, f"I16 [{count}, {columns}], of groups of an even number of columns")
        params["pair_group"] = group
        components += [Component("theta", theta), Component("pairs", pairs)]
    return replace(tensor, encoding="folded", components=tuple(components), params=params)


def smoothed(ledger: Ledger, module: str, tensor: Tensor) -> Tensor:
    """ModelOpt's weights, with what of AWQ, SmoothQuant and SVDQuant stands beside them.

    `MODULE.pre_quant_scale` is what the input was multiplied by before it was quantised, so the
    weight's columns are; `svdquant_lora_b @ svdquant_lora_a` is what the codes leave out, or the
    same of `weight_quantizer._svdquant_lora_…`, as exports of transformers' models call them.
    `module` is the beginning of these names. Raises FormatError for parts that do not fit.
    """
    factor = ledger.get(f"{module}pre_quant_scale")
    stem = f"{module}svdquant_lora_"
    inner = f"{module}weight_quantizer._svdquant_lora_"
    if any(ledger.get(inner + side) is not None for side in "ab"):
        stem = inner
    a, b = (ledger.get(stem + side) for side in "ab")
    if factor is None and a is None and b is None:
        return tensor
    parts = None
    if a is not None or b is not None:
        codes = tensor.components[0].stored
        parts = LowRank(need(ledger, codes, f"{stem}a"), need(ledger, codes, f"{stem}b"))
    return folded(tensor, factor=factor, low_rank=parts)
