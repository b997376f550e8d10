"""Two decoded tensors in one module: a weight, and what may be the rest of it.

A tool that quantises what the first codes left over puts a second weight beside the first
(`weight_residual`, with scales of its own). Each is decoded by itself, and the layer's weight is
their sum, or whatever that tool makes of both: no scheme knows.
"""

from __future__ import annotations

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes.base import Ledger


def check_twofold(ledger: Ledger) -> None:
    """Raise UnsupportedError for codes beside a decoded weight that are called after it.

    Others in its module (the weight of another operation, say) are noted, but for a bias.
    """
    if ledger.container.kind == "gguf":
        return
    noted = False
    for name, tensor in ledger.tensors.items():
        module, dot, part = name.rpartition(".")
        if part in ("bias", "weight") or not tensor.quantised:  # a bias may be turned as well
            continue
        first = ledger.tensors.get(f"{module}{dot}weight")
        if first is None or not first.quantised:
            continue
        found = (
            f"{where(tensor.components[0].stored)}: decoded by itself, and stands beside "
            f"{first.name!r}, which is decoded as well"
        )
        if part.startswith("weight"):
            raise UnsupportedError(f"{found}: no scheme knows what the tool makes of both")
        if not noted:
            ledger.note(f"{found}: if its tool makes one of both, neither is the whole weight")
        noted = True


__all__ = ["check_twofold"]
