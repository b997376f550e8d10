"""Make the values of an output again from an input, and compare with what was recorded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import PurePath

import xxhash

from anamnesis.errors import IntegrityError, UnsupportedError, UsageError
from anamnesis.limits import Limits
from anamnesis.names.open import open_named
from anamnesis.pipeline.ahead import reading_ahead
from anamnesis.pipeline.encoded_again import EncodedTensors, Found
from anamnesis.pipeline.fit import fit_tasks
from anamnesis.pipeline.journal import load_manifest
from anamnesis.pipeline.plan import TASK_BYTES, step_for, with_dtype
from anamnesis.pipeline.records import Manifest, Piece
from anamnesis.pipeline.windows import Windows, files_of
from anamnesis.pipeline.work import Piece as Made
from anamnesis.pipeline.work import Task, Work, load, pack
from anamnesis.readers.base import Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.imatrix import open_imatrix
from anamnesis.readers.model import Model

Digests = Callable[[Files], Found]
Check = tuple[Work, Digests]  # what is made again, and how


def decode_again(
    out: PurePath,
    source: str,
    sample: float,
    imatrix: str | None = None,
    *,
    memory_bytes: int,
) -> dict[str, int]:
    """Make a share of the recorded pieces again from `source`; the output alone says which.

    What was encoded is encoded again, as the manifest says; the parts of a tensor that come of one
    range of it are taken together, with the `imatrix` that was there then. `memory_bytes` are what
    the process may hold, with what is fetched ahead of an input behind a URL.
    Returns counts (`pieces`, `pieces_decoded`). Raises
    IntegrityError for the first that differs, UsageError when `source` has not the tensors of the
    output, UnsupportedError for a manifest that does not say how tensors were encoded, LimitError
    when a tensor does not fit in the memory.
    """
    manifest = load_manifest(out, strangers=True)
    if manifest.loss and not manifest.encoded:
        raise UnsupportedError(
            f"{out}: is encoded as {manifest.encode}, by a version that did not record how; what "
            "this one encodes can be compared (verify without --against holds the checksums)"
        )
    tensors = {t.name: t for t in _model(manifest, source).tensors}
    weights = open_imatrix(imatrix, Limits()) if imatrix is not None else None
    encoded = EncodedTensors(manifest, out, source, weights)
    remade = encoded.plan(tensors)
    parts = {piece[0] for again in remade for piece in again.recorded.values()}
    dtypes = {item.name: item.dtype for item in manifest.layout_items()}
    checks: list[Check] = [(again.piece, partial(encoded.digests, again)) for again in remade]
    for piece in manifest.pieces:
        if piece[0] not in parts:
            tensor = tensors.get(piece[0])
            if tensor is None:
                raise UsageError(f"{source}: has no tensor {piece[0]!r}, which {out} has")
            checks.append(_check_of(with_dtype(tensor, dtypes[piece[0]]), piece))
    chosen = _sample(checks, sample, out)
    groups = enumerate(pack((made for made, _ in chosen), TASK_BYTES))
    tasks = [Task(f"verify-{number:06d}", group, *load(group)) for number, group in groups]
    fitted, _, _ = fit_tasks(tasks, memory_bytes, 1)
    encoded.look(fitted)
    decoded = _compare(fitted, [digests for _, digests in chosen], out, source)
    return {"pieces": len(manifest.pieces), "pieces_decoded": decoded}


def _check_of(tensor: Tensor, piece: Piece) -> Check:
    """The check of a piece of recovered values."""
    first, last = piece[1] // tensor.unit_elems, -(-piece[2] // tensor.unit_elems)
    made = Made(step_for(tensor), first, last)
    return made, partial(_decoded, made, piece)


def _sample(checks: Sequence[Check], sample: float, out: PurePath) -> list[Check]:
    """A share of the checks, in their order; of one output always the same."""
    count = min(len(checks), max(1, round(sample * len(checks))))
    return [checks[n] for n in sorted(random.Random(out.name).sample(range(len(checks)), count))]


def _compare(tasks: Sequence[Task], checks: Sequence[Digests], out: PurePath, source: str) -> int:
    """Check every piece of the tasks; how many recorded ones that were, or IntegrityError."""
    left, done = iter(checks), 0
    with reading_ahead(tasks, 1):
        for task in tasks:
            with files_of(task) as files:
                for digests in islice(left, len(task.pieces)):
                    for piece, found in digests(files):
                        _hold(piece, found, out, source)
                        done += 1
    return done


def _hold(piece: Piece, found: str, out: PurePath, source: str) -> None:
    name, start, stop, expected = piece
    if found != expected:
        raise IntegrityError(
            f"{out}: tensor {name!r}: elements {start:,} to {stop:,} differ from {source} "
            f"(xxh3-128 {expected} was recorded, {found} is decoded now)"
        )


def _model(manifest: Manifest, source: str) -> Model:
    """The input under the names that the output was made of: its own, or those of a GGUF."""
    model = open_named(source, manifest.options)
    if manifest.format != "gguf" or model.container == "gguf":
        return model
    made_of = {row.tensor for row in manifest.encoded} or {item.name for item in manifest.items}
    if any(tensor.name in made_of for tensor in model.tensors):  # --names stored
        return model
    from anamnesis.names.folder_config import folder_config
    from anamnesis.names.gguf_view import gguf_view
    from anamnesis.names.small_files import small_files

    with small_files(model, Limits()) as folder:
        return gguf_view(model, folder_config(folder, Limits())).model


def _decoded(made: Made, piece: Piece, files: Files) -> Found:
    """The digest of a piece of recovered values."""
    digest = xxhash.xxh3_128()
    for _, _, values in Windows(made.step, files).over(made.start, made.stop):
        digest.update(values)
    return [(piece, digest.hexdigest())]
