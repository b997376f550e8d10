"""Marlin of 2:4 sparse weights: compressed-tensors' `marlin-24`, and sparse-marlin's own names.

| tool | codes | which are kept | scales |
|---|---|---|---|
| compressed-tensors to 0.12 | `X.weight_packed` I32 | `X.meta` I16 | `X.scale_packed` F16 |
| sparse-marlin, vLLM's `gptq_marlin_24` | `X.B_24` I32 | `X.B_meta` I16 | `X.s` F16 |

Codes are symmetric and of 4 or 8 bits; layouts are at the head of `kernels/marlin_24.py`.
compressed-tensors puts scales into the order of groups only where a group is smaller than a half of
the inputs, which it takes for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.schemes import _tiles
from anamnesis.readers.schemes._errors import misfit, need
from anamnesis.readers.schemes.base import Ledger

_INPUTS = 32  # of a line


class _Names(NamedTuple):
    codes: str
    meta: str
    scales: str
    most: int  # groups, of one a row and half of the inputs, that keep their order


_NAMES = (_Names("weight_packed", "meta", "scale_packed", 2), _Names("B_24", "B_meta", "s", 1))


def resolve(ledger: Ledger) -> None:
    """Claim layers by codes and `meta`; raises FormatError for parts that do not fit."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        for names in _NAMES:
            meta = ledger.get(f"{prefix}{dot}{names.meta}")
            if part == names.codes and meta is not None:
                scale = need(ledger, stored, f"{prefix}{dot}{names.scales}")
                about = _tensor(ledger, f"{prefix}{dot}weight", (stored, meta, scale), names.most)
                ledger.claim(about)
                why = "shape of a packed weight, or memory of its kernel"
                _tiles.leave_out(ledger, prefix + dot, ("workspace", "weight_shape"), why)


def _tensor(
    ledger: Ledger, name: str, parts: tuple[Stored, Stored, Stored], in_order: int
) -> Tensor:
    codes, meta, scale = parts
    lines, width = codes.shape if len(codes.shape) == 2 else (0, 0)
    outputs = scale.shape[1] if len(scale.shape) == 2 else 0
    bits = next((bits for bits in (4, 8) if outputs and width * 2 == outputs * bits), 0)
    if codes.dtype not in ("I32", "U32") or not lines or not bits or outputs % _tiles.OUTPUTS:
        raise misfit(
            codes,
            "I32 [in / 32, out * bits / 2] of 4 or 8 bits, out a multiple of 64, beside "
            f"{scale.name!r} {scale.dtype} {list(scale.shape)}",
        )
    if meta.dtype not in ("I16", "U16") or meta.shape != (lines, 2 * outputs):
        raise misfit(meta, f"I16 {[lines, 2 * outputs]}, for {codes.name!r}")
    inputs = lines * _INPUTS
    groups = _tiles.groups_of(scale, "F16", outputs, inputs, _INPUTS)
    about = _tiles.params(ledger, outputs, inputs, groups, scale)
    components = (
        _tiles.lines("codes", codes, outputs, 16 * bits),
        _tiles.lines("meta", meta, outputs, 32),
        _tiles.lines("scales", scale, outputs, 16),
    )
    own = {"bits": bits, "padded": False, "row_bytes": inputs * bits // 8}
    permuted = groups > in_order
    return _tiles.tensor(name, "marlin-24", components, about, **own, permuted=permuted)
