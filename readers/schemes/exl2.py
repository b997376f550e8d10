"""EXL2: `X.q_weight` and what stands beside it, whose layout and formula are in `kernels/exl2.py`.

The number of inputs is that of the permutation. Widths of groups are in the payload, and held
against the words when they are read. Source: PyPI exllamav2 0.3.2 module.py (`load_weight`),
conversion/adaptivegptq.py (`pack`).
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Strided
from anamnesis.readers.schemes._errors import misfit, missing, need
from anamnesis.readers.schemes.base import Ledger

_FLOATS = ("BF16", "F16", "F32")
_NIBBLES = 8  # in a word of scales


def resolve(ledger: Ledger) -> None:
    """Claim layers by their codes; floats under that name are a model's own (PLaMo 2's norms).

    Raises FormatError for parts that are missing or do not fit one another.
    """
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".")
        own = stored.dtype in _FLOATS and ledger.get(f"{layer}{dot}q_groups") is None
        if part == "q_weight" and not own:
            ledger.claim(_tensor(ledger, f"{layer}{dot}", stored))


def _tensor(ledger: Ledger, layer: str, codes: Stored) -> Tensor:
    if codes.dtype != "I32" or len(codes.shape) != 2 or codes.shape[1] % _NIBBLES:
        raise misfit(codes, f"I32 [words, out], out a multiple of {_NIBBLES}")
    words, outputs = codes.shape
    groups = need(ledger, codes, f"{layer}q_groups")
    scale = need(ledger, codes, f"{layer}q_scale")
    most = need(ledger, codes, f"{layer}q_scale_max")
    count = groups.shape[0] // 2 if len(groups.shape) == 1 else 0
    if groups.dtype not in ("I16", "U16") or groups.shape != (2 * count,) or not count:
        raise misfit(groups, "I16 [2 * groups]")
    if scale.dtype != "I32" or scale.shape != (count, outputs // _NIBBLES):
        raise misfit(scale, f"I32 [{count}, {outputs // _NIBBLES}]")
    if most.dtype != "F16" or most.shape != (count,):
        raise misfit(most, f"F16 [{count}]")
    order = _order(ledger, layer, codes)
    inputs = order.shape[0] if len(order.shape) == 1 else 0
    if order.dtype not in ("I32", "I16") or not inputs or inputs * 2 > 32 * words:
        raise misfit(order, f"I32 [in], of codes of 2 bits and more in {words:,} words")
    return Tensor(
        name=f"{layer}weight",
        shape=(outputs, inputs),
        scheme="exl2",
        encoding="exl2",
        components=(
            Component("weight", codes, Strided(32, 4 * max(1, outputs))),
            Component("scale", scale, Strided(4, max(1, outputs // 2))),
            Component("scale_max", most),
            Component("groups", groups),
            Component(order.name.rpartition(".")[2].removeprefix("q_"), order),
        ),
        unit_elems=inputs,
        unit_multiple=_NIBBLES,
        params={"in_features": inputs, "words": words, "rounding": ledger.options.rounding},
        orientation="transposed",
    )


def _order(ledger: Ledger, layer: str, codes: Stored) -> Stored:
    """`q_invperm`, or `q_perm` where that alone is stored; of both, the first."""
    inverse, forward = ledger.get(f"{layer}q_invperm"), ledger.get(f"{layer}q_perm")
    found = inverse or forward
    if found is None:
        raise missing(ledger, codes, f"{layer}q_invperm")
    if inverse is not None and forward is not None:
        ledger.drop(forward, "the inverse of q_invperm")
    return found
