"""What it takes to send an output to a store, decided with the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anamnesis.writers import WRITERS
from anamnesis.writers.base import OutFile
from anamnesis.writers.stores import store_of

PACK_BUFFERS = 2  # of a tensor's windows: those that go on, and those that are decoded again


@dataclass(frozen=True, slots=True)
class Sending:
    """Memory of a run besides its windows: `base` of the process, `each` of a task.

    With `packs`, a packed file is made by one task, which may hold windows `times` over.
    """

    packs: bool
    base: int
    each: int
    times: int


def sending(path: str, form: str, files: Sequence[OutFile], *, staged: bool) -> Sending:
    """For an output at `path`; where files are `staged` on a disk, one at a time is sent."""
    store, packing = store_of(path), WRITERS[form].memory_bytes
    parts = store.task_bytes(files)  # what waits to be sent
    if staged:
        return Sending(False, packing + parts, 0, 1)
    if store.packs and any(file.packer for file in files):
        return Sending(True, 0, packing + parts, PACK_BUFFERS)
    return Sending(False, packing + store.commit_bytes(files), parts, 1)


__all__ = ["PACK_BUFFERS", "Sending", "sending"]
