"""A checkpoint of one storage whose pickle is what a case says."""

from __future__ import annotations

from typing import Any

import pth_bytes

from anamnesis.errors import AnamnesisError

B = pth_bytes
Case = tuple[bytes, type[AnamnesisError], str]
T = B.tensor(B.storage())
V, G = B.value, B.global_


def pth(top: bytes, **settings: Any) -> bytes:
    """A checkpoint of one storage, whatever its pickle is."""
    settings = {"storages": {"0": B.DATA}, **settings}
    return bytes(B.pth(B.pickled(top), **settings))


def beside(evil: bytes) -> bytes:
    """A good state dict with one entry more."""
    return pth(B.dict_({"w": T, "x": evil}))


ORDERED = G("collections", "OrderedDict")
