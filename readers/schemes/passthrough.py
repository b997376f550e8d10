"""What no scheme claimed: dense tensors stay as they are, quantised leftovers are errors.

A leftover is never copied as if it were dense: a scale that nobody multiplied by, or codes that
nobody decoded, would make a wrong model. What speaks against a tensor is in `_leftovers`. Names
decide only together with evidence, since routers and norms own tensors called `scale` too.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cache
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous, Placement
from anamnesis.readers.schemes._leftovers import Rule, Suspect
from anamnesis.readers.schemes._refusal import leftover
from anamnesis.readers.schemes._siblings import ACTIVATION_SCALES
from anamnesis.readers.schemes.base import Ledger

_NONE: dict[str, Any] = {}  # shared by all, of whom there may be a million


def resolve(ledger: Ledger, implemented: str, methods: Collection[str]) -> None:
    """Claim what is dense; raise for what is quantised and was consumed by no scheme.

    `implemented` lists the schemes, for the error; `methods` are all that are known by name.
    """
    rule = Rule(ledger, methods)
    suspects: list[Suspect] = []
    found: list[Tensor] = []
    for stored in ledger.free():
        verdict = rule.judge(stored)
        if verdict is None:
            found.append(dense(stored))
        elif isinstance(verdict, Suspect):
            suspects.append(verdict)
        else:
            ledger.drop(stored, verdict.reason)
    ledger.claim_rest(found)
    rule.note_parts()
    if suspects:
        raise leftover(ledger, suspects, implemented)


def dense(stored: Stored) -> Tensor:
    """A tensor that was never quantised: its numbers are its own.

    A strided view is read in whole slices along its first dimension.
    """
    unit = 1
    if stored.view is not None and stored.view.strides is not None:
        unit = max(1, math.prod(stored.shape[1:]))
    payload = Component("payload", stored, _rows_of(unit * DTYPES[stored.dtype].bits))
    # By position, which takes a third of the time.
    name, dtype = stored.name, stored.dtype
    return Tensor(name, stored.shape, "passthrough", "copy", (payload,), unit, 1, dtype, _NONE)


@cache
def _rows_of(unit_bits: int) -> Placement:
    return Contiguous(unit_bits)


__all__ = ["ACTIVATION_SCALES", "dense", "resolve"]
