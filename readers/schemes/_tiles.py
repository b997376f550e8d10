"""What layers in tiles of 64 outputs (Marlin, Marlin 2:4, QQQ) have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Strided
from anamnesis.readers.schemes._errors import misfit
from anamnesis.readers.schemes.base import Ledger

OUTPUTS = 64
Params = dict[str, Any]


def lines(role: str, stored: Stored, outputs: int, bits: int) -> Component:
    """A component whose every line has `bits` for each of the outputs, in tiles."""
    return Component(role, stored, Strided(bits * OUTPUTS, max(1, bits * outputs // 8)))


def groups_of(scale: Stored, dtype: str, outputs: int, inputs: int, least: int) -> int:
    """Groups of a scale `[groups, outputs]`; raises FormatError for others.

    A group is of a multiple of `least` inputs.
    """
    groups = scale.shape[0] if len(scale.shape) == 2 else 0
    fits = groups and inputs % groups == 0 and (inputs // groups) % least == 0
    if scale.dtype != dtype or not fits or scale.shape != (groups, outputs):
        raise misfit(scale, f"{dtype} [groups, {outputs}], of {inputs:,} inputs")
    return groups


def tensor(
    name: str, scheme: str, components: Sequence[Component], params: Params, **own: object
) -> Tensor:
    """The weight, stored transposed: `params` of this module, with the scheme's `own`."""
    outputs, inputs = int(params["rows"]), int(params["in_features"])
    return Tensor(
        name=name,
        shape=(outputs, inputs),
        scheme=scheme,
        encoding=scheme,
        components=tuple(components),
        unit_elems=OUTPUTS * inputs,
        params={**params, **own},
        orientation="transposed",
    )


def leave_out(ledger: Ledger, module: str, beside: Sequence[str], why: str) -> None:
    """Drop those tensors of a module, `X.` with its dot, that are there."""
    for name in beside:
        found = ledger.get(module + name)
        if found is not None:
            ledger.drop(found, why)


def params(ledger: Ledger, outputs: int, inputs: int, groups: int, scale: Stored) -> Params:
    """What `ct.prepare` takes for the rows that tiles are brought into, but for their bits."""
    return {
        "zero": "",
        "group_size": inputs // groups,
        "groups": groups,
        "lines": outputs,
        "block_rows": 1,
        "rows": outputs,
        "matrices": 1,
        "unit_rows": OUTPUTS,
        "in_features": inputs,
        "act_order": False,
        "scale_dtype": scale.dtype,
        "rounding": ledger.options.rounding,
    }
