"""Encode an input again, as the manifest of an output says it was, for `verify`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import xxhash

from anamnesis.errors import FormatError, UsageError
from anamnesis.kernels.encoders import Unfit
from anamnesis.pipeline.ahead import reading_ahead
from anamnesis.pipeline.encoded_rows import EncodedRow
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.journal import find_manifest
from anamnesis.pipeline.plan import step_for, with_dtype
from anamnesis.pipeline.records import Manifest
from anamnesis.pipeline.records import Piece as Recorded
from anamnesis.pipeline.statistics import found_in, run_statistics_task, statistics_tasks
from anamnesis.pipeline.window_parts import made_of, make_parts
from anamnesis.pipeline.windows import Windows
from anamnesis.pipeline.work import Task, load
from anamnesis.readers.base import Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.imatrix_entry import Imatrix

Found = list[tuple[Recorded, str]]  # pieces with the digests of what is made now


@dataclass(frozen=True, slots=True)
class Again:
    """A piece of a tensor to encode, and what was recorded of each of its parts, by role."""

    piece: EncodedPiece
    recorded: Mapping[str, Recorded]


class EncodedTensors:
    """The encoded tensors of an output, planned as they were."""

    def __init__(
        self, manifest: Manifest, out: PurePath, source: str, imatrix: Imatrix | None = None
    ) -> None:
        """The tensors of `out` as they were encoded of `source`, with an importance matrix or none.

        Raises UsageError where that is not the one that was there then.
        """
        self._rows, self._imatrix = manifest.encoded, imatrix
        _check_imatrix({row.imatrix for row in self._rows} - {""}, imatrix, out)
        self._items = {item.name: item for item in manifest.layout_items()}
        self._pieces: dict[str, list[Recorded]] = {}
        for piece in manifest.pieces:
            self._pieces.setdefault(piece[0], []).append(piece)
        self._out, self._source = out, source
        self._whole: list[Task] = []
        self._found: Mapping[str, Mapping[str, float]] = {}

    def plan(self, tensors: Mapping[str, Tensor]) -> list[Again]:
        """The pieces of all of them, out of the tensors of the input.

        Raises UsageError where the input has no such tensors, FormatError where the record is of
        no run.
        """
        rows = self._rows
        return [again for row in rows for again in self._plan_one(row, tensors.get(row.tensor))]

    def _plan_one(self, row: EncodedRow, tensor: Tensor | None) -> list[Again]:
        if tensor is None:
            raise UsageError(
                f"{self._source}: has no tensor {row.tensor!r}, of which {self._out} was made"
            )
        tensor = with_dtype(tensor, row.dtype)
        try:
            choice = row.choice(tensor, self._imatrix)
        except Unfit as error:
            raise UsageError(
                f"{self._source}: tensor {row.tensor!r}: {row.target} cannot hold it: {error}; "
                f"{self._out} is not made of it"
            ) from None
        for item in choice.items(tensor):
            kept = self._items.get(item.name)
            if kept is None or (kept.shape, kept.dtype) != (item.shape, item.dtype):
                raise UsageError(
                    f"{self._source}: tensor {row.tensor!r} makes a tensor {item.name!r} of "
                    f"{item.dtype} {list(item.shape)}, which {self._out} does not have"
                )
        whole = choice.piece(step_for(choice.aligned(tensor)), ())
        if not isinstance(whole, EncodedPiece):
            raise TypeError(f"{row.tensor}: {row.target} makes no parts")
        self._whole.append(Task(row.tensor, (whole,), *load((whole,))))
        return self._cut(whole)

    def _cut(self, whole: EncodedPiece) -> list[Again]:
        """The pieces that were recorded: one for each of the payload, with those of other parts."""
        parts = whole.encoded.form.parts
        kept = {part.role: {p[1:3]: p for p in self._pieces.get(part.name, ())} for part in parts}
        found: list[Again] = []
        for span in list(kept[parts[0].role]):
            piece = _piece(whole, *span)
            units = piece.units(piece.start, piece.stop) if piece else (0, 0)
            spans = {part.role: part.span(*units) for part in parts}
            spans = {role: each for role, each in spans.items() if each[1] > each[0]}
            own = {role: kept[role].pop(each, None) for role, each in spans.items()}
            recorded = {role: each for role, each in own.items() if each}
            if piece is None or len(recorded) < len(own) or spans.get(parts[0].role) != span:
                raise self._no_run(whole, span)
            found.append(Again(piece, recorded))
        left = [span for role in kept for span in kept[role]]
        if left:
            raise self._no_run(whole, left[0])
        return found

    def _no_run(self, whole: EncodedPiece, span: tuple[int, int]) -> FormatError:
        return FormatError(
            f"{find_manifest(self._out)}: pieces: tensor {whole.step.tensor.name!r:.200}: elements "
            f"{span[0]:,} to {span[1]:,} are no piece of a run"
        )

    def look(self, tasks: Sequence[Task]) -> None:
        """The first pass, as the run had one: what has to be known of whole tensors of `tasks`."""
        first = statistics_tasks(tasks, self._whole)
        with reading_ahead(first, 1):
            self._found = found_in([run_statistics_task(task) for task in first])

    def digests(self, again: Again, files: Files) -> Found:
        """What was recorded of each part of a piece, with the digest of what is encoded now."""
        piece = again.piece
        form, found = piece.encoded.form, self._found.get(piece.step.tensor.name)
        if found is not None:
            piece = replace(piece, encoded=replace(piece.encoded, statistics=found))
        windows = Windows(piece.step, files)
        maker = make_parts(piece.step, piece.encoded, windows)
        digests = {role: xxhash.xxh3_128() for role in again.recorded}
        for start, stop, made in made_of(piece, windows, maker):
            for part in form.parts:
                first, last = part.span(start, stop)
                if last > first:
                    digests[part.role].update(made[part.role])
        return [(kept, digests[role].hexdigest()) for role, kept in again.recorded.items()]


def _check_imatrix(digests: Collection[str], imatrix: Imatrix | None, out: PurePath) -> None:
    """UsageError where an output was made with another importance matrix, or one is missing."""
    for digest in digests:
        if imatrix is None:
            raise UsageError(
                f"{out}: was encoded with an importance matrix (xxh3-128 {digest}): give it with "
                "--imatrix FILE"
            )
        if digest != imatrix.digest:
            raise UsageError(
                f"{imatrix.path}: is not the importance matrix that {out} was encoded with "
                f"(xxh3-128 {imatrix.digest}, recorded {digest:.100})"
            )


def _piece(whole: EncodedPiece, first: int, last: int) -> EncodedPiece | None:
    """The piece whose payload has elements `[first, last)`; None where no window starts so."""
    tensor, form = whole.step.tensor, whole.encoded.form
    payload = form.parts[0]
    elems = form.unit_elems * payload.units  # of the tensor, that make `payload.elems`
    start = first // payload.elems * elems
    stop = min(-(-last // payload.elems) * elems, tensor.elems)
    if start % (tensor.unit_elems * tensor.unit_multiple):
        return None
    return replace(whole, start=start // tensor.unit_elems, stop=-(-stop // tensor.unit_elems))
