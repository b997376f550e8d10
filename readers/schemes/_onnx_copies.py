"""Scales and zero points that two nodes of the same codes take each from an initialiser of its own.

Exporters write a constant anew for each node that uses it. The weight is one where their numbers
are the same; where they are not, the graph has two weights of the same codes, and is refused.
"""

from __future__ import annotations

from anamnesis.errors import FormatError
from anamnesis.limits import MiB
from anamnesis.readers.base import Stored
from anamnesis.readers.files import Files
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes.base import Ledger


def hold_copies(ledger: Ledger, codes: Stored) -> None:
    """Hold copies against what they are of, and drop them; raises FormatError where they differ."""
    copies = ledger.container.values.get(f"{codes.name}.copies") or {}
    files = Files()
    try:
        for name, first in copies.items():
            if not _same(ledger, name, first, files):
                raise FormatError(
                    f"{where(codes)}: two nodes give it different scales or zero points, "
                    f"{first!r:.200} and {name!r:.200}; allowed are two of the same numbers"
                )
            copy = ledger.get(name)
            if copy is not None:
                ledger.drop(copy, f"the same numbers as {first!r:.200}")
        files.check_unchanged()
    finally:
        files.close()


def _same(ledger: Ledger, name: str, first: str, files: Files) -> bool:
    """Whether two initialisers are of one dtype and shape, and of the same bytes."""
    container = ledger.container
    said = [
        [container.values.get(f"{one}.{key}") for key in ("type", "dims", "numbers")]
        for one in (name, first)
    ]
    a, b = (container.stored.get(one) for one in (name, first))
    if said[0] != said[1] or (a is None) != (b is None):
        return False
    if a is None or b is None:
        return said[0][2] is not None
    if (a.dtype, a.shape, a.nbytes) != (b.dtype, b.shape, b.nbytes):
        return False
    return all(
        files(a.file).read(a.offset + at, min(MiB, a.nbytes - at))
        == files(b.file).read(b.offset + at, min(MiB, a.nbytes - at))
        for at in range(0, a.nbytes, MiB)
    )
