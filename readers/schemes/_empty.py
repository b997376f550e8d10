"""Weights without elements: kept, and said, since they are most likely not what was meant.

`save_pretrained` under DeepSpeed's ZeRO-3 writes the placeholders of parameters that it did not
gather, of shape `[0]`; what they stand for is in the
`*_optim_states.pt` of the run.
"""

from __future__ import annotations

from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes.base import Ledger

_PARTS = ("bias", "weight")


def note_empty(ledger: Ledger) -> None:
    """Add a note on weights and biases of shape `[0]`, which no layer has."""
    found = [
        tensor
        for tensor in ledger.tensors.values()
        if tensor.shape == (0,) and tensor.name.rpartition(".")[2] in _PARTS
    ]
    if found:
        ledger.note(
            f"{first_of(found)}: without any element, as DeepSpeed's "
            "ZeRO-3 leaves parameters that were not gathered before they were saved: the weights "
            "are not here"
        )


__all__ = ["note_empty"]
