"""What schemes say of stored tensors that they cannot take, in one form."""

from __future__ import annotations

from collections.abc import Sequence

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.schemes.base import Ledger
from anamnesis.words import and_more


def where(*stored: Stored) -> str:
    """The first one's file, and name, dtype and shape of each."""
    named = " of ".join(f"{s.name!r} ({s.dtype} {list(s.shape)})" for s in stored)
    return f"{stored[0].file.path}: tensor {named}"


def first_of(found: Sequence[Stored | Tensor]) -> str:
    """Where the first of several is, and how many more there are."""
    first = found[0]
    stored = first if isinstance(first, Stored) else first.components[0].stored
    return f"{where(stored)}{and_more(len(found))}"


def need(ledger: Ledger, beside: Stored, name: str, why: str = "") -> Stored:
    """The free tensor of that name; raises FormatError, with the reason, if there is none."""
    found = ledger.get(name)
    if found is None:
        raise missing(ledger, beside, name, why=why)
    return found


def missing(ledger: Ledger, beside: Stored, *names: str, why: str = "") -> FormatError:
    """For a tensor that lacks what has to stand beside it."""
    lacks = " and no ".join(map(repr, names))
    files = f"in any of {len(ledger.container.files)} file(s)"
    return FormatError(f"{where(beside)}: no {lacks} beside it, {files}{why and '; ' + why}")


def misfit(stored: Stored, allowed: str) -> FormatError:
    """For a tensor that does not fit the others."""
    return FormatError(f"{where(stored)}: does not fit; allowed: {allowed}")


def unsupported(stored: Stored, what: str, implemented: str) -> UnsupportedError:
    """For a layout that is known by name only."""
    return UnsupportedError(
        f"{where(stored)}: {what} is recognised and not implemented; implemented are {implemented}"
    )
