"""Tools that fill rows or columns up to whole blocks, and leave it to the model how many count."""

from __future__ import annotations

from anamnesis.readers.schemes.base import Ledger

_SIZES = ("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size")


def note_padding(ledger: Ledger, title: str, multiple: int) -> None:
    """Say which sizes of `config.json` are no multiples: such matrices come out as stored."""
    config = ledger.configs.get("config.json", {})
    sizes = {name: config.get(name) for name in _SIZES}
    padded = {n: s for n, s in sizes.items() if isinstance(s, int) and s > 0 and s % multiple}
    if padded:
        named = ", ".join(f"{name} {size:,}" for name, size in padded.items())
        ledger.note(
            f"{title} stores matrices in multiples of {multiple}: those of {named} have more rows "
            "or columns than the model, and come out as they are stored"
        )
