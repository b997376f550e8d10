"""What a run keeps on local disks besides its output, and the promise to stay within `run.disk`.

Four things take room there:

- spools: an array that is deflated and lies in another order than it is read in is inflated into a
  temporary file without a name (`readers.inflate`), one for each thread and such array of a tensor;
- what a URL says is to be cached (`simplecache::…`, `filecache::…`, `blockcache::…`), whole files;
- a folder that is replaced: the new one is whole before the old one goes (`pipeline.staging`);
- files on their way to a store, where `run.staging` says that they are made on a disk first.

Everything else goes from the input to the output through memory. The cache of compiled kernels,
some MB a version and shared by all runs, is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anamnesis.errors import LimitError
from anamnesis.names.derived import Derived
from anamnesis.pipeline.work import Work
from anamnesis.readers.base import FileId, Tensor
from anamnesis.readers.inflate import SPOOL_BYTES
from anamnesis.sizes import enough
from anamnesis.writers.base import OutFile

_CACHES = ("simplecache::", "filecache::", "blockcache::", "cached::")


def disk_bytes(pieces: Iterable[Work], files: Iterable[FileId], threads: int) -> int:
    """Bytes of spools and caches that a run of these pieces takes at a time."""
    spools = max((sum(map(_spool_bytes, piece.tensors)) for piece in pieces), default=0)
    cached = sum(f.size for f in files if any(name in f.path.lower() for name in _CACHES))
    return threads * spools + cached


def staged_bytes(files: Sequence[OutFile], threads: int, *, together: bool) -> int:
    """The most that files take at a time which are made on a disk before they are sent.

    As many as have tasks that run, one of which tasks are left, and one that is packed; all where
    none is sent before all are complete.
    """
    if together:
        return sum(file.nbytes + file.packed_bytes for file in files)
    largest = sorted((file.nbytes for file in files), reverse=True)[: threads + 1]
    return sum(largest) + max((file.packed_bytes for file in files), default=0)


def refuse_over_disk(path: str, spooled: int, have: int | None, replacing: int = 0) -> None:
    """LimitError when the run that makes `path` takes more than it may have (None: no limit).

    That is what is `spooled`, and the new folder of `replacing` bytes beside an old one.
    """
    need = spooled + replacing
    if have is None or need <= have:
        return
    why = "spools, caches and what is staged"
    if replacing:
        why = "a new folder beside the one that it replaces"
        why += f", and {spooled:,} of spools, caches and staging" if spooled else ""
    hint = "; or remove the old output first" if replacing and spooled <= have else ""
    raise LimitError(
        f"{path}: {why} take {need:,} bytes on local disks, run.disk is {have:,}: set it "
        f"to at least {enough(need)}{hint}",
        limit="run.disk",
        need=need,
        have=have,
    )


def _spool_bytes(tensor: Tensor) -> int:
    """Bytes of the temporary files that reading a tensor takes."""
    if isinstance(tensor, Derived):
        sources = sorted(map(_spool_bytes, tensor.sources))
        return sum(sources[-tensor.together :])
    total = 0
    for component in tensor.components:
        view = component.stored.view
        member = view.member if view is not None and view.strides is not None else None
        if member is not None and member.deflated and member.nbytes > SPOOL_BYTES:
            total += member.nbytes
    return total


__all__ = ["disk_bytes", "refuse_over_disk", "staged_bytes"]
