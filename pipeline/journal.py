"""What is recorded of an output: a journal while it is made, a manifest when it is complete.

The journal gets a line for every file before the file gets its final name, so that a run which was
killed can go on. The manifest lists the tensors in the order they were laid out, from which the
layout is computed again, and for every piece the xxh3-128 of its value bytes; `verify` needs
nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import PurePath
from typing import Any, TypeVar

import msgspec
import xxhash

from anamnesis.errors import AnamnesisError, FormatError, IntegrityError, UsageError
from anamnesis.limits import INDEX_BYTES, OWNED_BYTES, Limits
from anamnesis.pipeline.encoded_rows import encoded_rows
from anamnesis.pipeline.fit import BASE_BYTES
from anamnesis.pipeline.loss import Losses
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.reading import reading
from anamnesis.pipeline.records import (
    VERSION,
    Entry,
    Manifest,
    Piece,
    Pieces,
    check_cover,
    check_files,
    lay_out,
    read_entry,
    read_manifest,
)
from anamnesis.pipeline.written import open_written
from anamnesis.readers.gc_pause import gc_paused
from anamnesis.readers.source import public_name
from anamnesis.readers.strict_json import loads
from anamnesis.words import some
from anamnesis.writers import writer
from anamnesis.writers.base import PLAIN, Item, Layout
from anamnesis.writers.stores import located, store_of

P = TypeVar("P", bound=PurePath)
MANIFEST_NAME = "_anamnesis.json"  # inside of a folder
_BESIDE = ".anamnesis.json"  # behind an output's name


@dataclass(frozen=True, slots=True)
class Recipe:
    """Digests of what goes in and of what is done with it: equal recipes give equal bytes."""

    inputs: str
    settings: str

    @property
    def digest(self) -> str:
        """Both in one."""
        return _digest([self.inputs, self.settings])

    @classmethod
    @gc_paused()
    def of(cls, plan: Plan) -> Recipe:
        """The recipe of a plan."""
        files = [[public_name(f.path), f.size, f.mtime_ns] for f in plan.model.files]
        tensors = [
            [t.name, t.encoding, sorted(t.params.items()), [c.stored.name for c in t.components]]
            for t in plan.model.tensors
        ]
        items = [[i.name, i.shape, i.dtype] for i in plan.items]
        names = [[recorded_name(f.path), f.nbytes] for f in plan.layout.files]
        kind: list[Any] = [VERSION, plan.spec.format]
        if plan.spec.storage != PLAIN:
            kind.append(asdict(plan.spec.storage))
        if plan.spec.encode is not None:
            kind.append(msgspec.to_builtins(encoded_rows(plan.tasks)))
            if plan.spec.encode.skip_loss:  # a report is of all tensors, or not made
                kind.append("skip_loss")
        return cls(_digest([files]), _digest([*kind, tensors, items, names]))


class Journal:
    """The record of a run in the making; every line carries its own digest."""

    def __init__(
        self, out: PurePath, recipe: Recipe, contents: Mapping[str, str] | None = None
    ) -> None:
        """The journal of the output at `out`; `contents` are kept with the files of those names."""
        self.path = out.with_name(f".{out.name}.anamnesis.journal")
        self._recipe = recipe
        self._contents = contents or {}
        self._store = store_of(out)

    def add(self, found: Mapping[str, Pieces], loss: Mapping[str, Losses] | None = None) -> None:
        """Record files that are about to get their final names; durable when this returns.

        `loss` is what the tensors of some of them lost.
        """
        lines = b"\n"  # begins a line after one that was cut
        for file, pieces in found.items():
            name = recorded_name(file)
            entry = [self._recipe.inputs, self._recipe.settings, name, pieces]
            lost = (loss or {}).get(file, ())
            if name in self._contents or lost:
                entry.append(self._contents.get(name, ""))
            if lost:
                entry.append(msgspec.to_builtins(list(lost)))
            text = _canonical(entry)
            lines += b'["%b",%b]\n' % (xxhash.xxh3_128(text).hexdigest().encode(), text)
        self._store.append(self.path, lines, OWNED_BYTES)

    def finished(self, *, start_again: bool = False) -> dict[str, Pieces]:
        """Recorded files by name. Lines that are cut or damaged count as absent.

        The journal of another job, or of inputs that changed since, is forgotten with
        `start_again`; else it raises UsageError or IntegrityError.
        """
        found: dict[str, Pieces] = {}
        if start_again and not self._is_known():
            self.remove()
            return {}
        for entry in self.entries():
            if entry.settings != self._recipe.settings:
                raise UsageError(f"{self.path}: is of another job; --overwrite starts again")
            if entry.inputs != self._recipe.inputs:
                raise IntegrityError(
                    f"{self.path}: the inputs changed since the run that this would resume; "
                    "output.overwrite starts again"
                )
            found[entry.name] = entry.pieces
        return found

    def losses(self) -> dict[str, Losses]:
        """What the tensors of recorded files lost, by the names of the files."""
        return {entry.name: entry.loss for entry in self.entries() if self.knows(entry)}

    def entries(self) -> Iterator[Entry]:
        """All lines that are whole, whatever job they are of.

        Raises FormatError for one that is whole and says what no line can.
        """
        for number, line in enumerate(self._store.lines(self.path, INDEX_BYTES, OWNED_BYTES), 1):
            try:
                value = loads(line, str(self.path), Limits())
            except AnamnesisError:
                continue
            if isinstance(value, list) and len(value) == 2 and value[0] == _digest(value[1]):
                yield read_entry(value[1], f"{self.path}: line {number}")

    def _is_known(self) -> bool:
        try:
            return all(map(self.knows, self.entries()))
        except FormatError:
            return False

    def knows(self, entry: Entry) -> bool:
        """Whether a line is of this very recipe."""
        return (entry.inputs, entry.settings) == (self._recipe.inputs, self._recipe.settings)

    def remove(self) -> None:
        """Forget the run."""
        self._store.remove(self.path)


def recorded_name(path: str | PurePath) -> str:
    """The name of an output file in journals and manifests."""
    return public_name(PurePath(path).name)


def manifest_path(out: P, *, inside: bool = False) -> P:
    """Where the manifest of an output file or folder lies: beside it, or `inside` the folder.

    Engines that read a folder as a dataset of all the files in it leave out a name that begins
    with an underscore, or a dot.
    """
    return out / MANIFEST_NAME if inside else out.with_name(out.name + _BESIDE)


def find_manifest(out: P) -> P:
    """The manifest that counts: the one inside of a folder, if there is one."""
    inside = manifest_path(out, inside=True)
    return inside if store_of(out).exists(inside) else manifest_path(out)


@gc_paused()
def write_manifest(
    plan: Plan,
    recipe: Recipe,
    pieces: Mapping[int, Pieces],
    others: Sequence[str],
    loss: Losses = (),
) -> None:
    """Record a complete output; `pieces` by file number, `others` the names of its other files.

    `loss` is what the tensors lost that were encoded.
    """
    out = located(plan.spec.path)
    store = store_of(out)
    document = {
        "anamnesis": VERSION,
        "format": plan.spec.format,
        "max_shard_bytes": plan.spec.max_shard_bytes,
        "storage": asdict(plan.spec.storage),
        "inputs": [[public_name(f.path), f.size, f.mtime_ns] for f in plan.model.files],
        "options": asdict(plan.model.options),
        "recipe": [recipe.inputs, recipe.settings],
        "files": [[recorded_name(f.path), store.size(located(f.path))] for f in plan.layout.files],
        "others": list(others),
        "items": [_row(item) for item in plan.items],
        "pieces": sorted(list(piece) for some in pieces.values() for piece in some),
    }
    if plan.spec.encode is not None:
        document["encode"] = str(plan.spec.encode)
        document["encoded"] = msgspec.to_builtins(encoded_rows(plan.tasks))
        document["loss"] = msgspec.to_builtins(list(loss))
    if plan.model.notes:
        path = plan.model.path
        document["notes"] = [note.replace(path, public_name(path)) for note in plan.model.notes]
    document["xxh3"] = _digest(document)
    data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    inside = plan.spec.manifest == "inside"
    store.write(manifest_path(out, inside=inside), [data])
    if is_folder(plan):  # the other one would be of an earlier output
        store.remove(manifest_path(out, inside=not inside))


def is_folder(plan: Plan) -> bool:
    """Whether the output is a folder, and not one file."""
    return plan.layout.files[0].path != str(located(plan.spec.path))


def recorded_loss(plan: Plan, recipe: Recipe) -> Losses:
    """What the tensors of a complete output lost, if its manifest is of this very recipe."""
    try:
        document = load_manifest(located(plan.spec.path))
    except (UsageError, FormatError, IntegrityError):
        return ()
    return document.loss if document.recipe == (recipe.inputs, recipe.settings) else ()


def recorded(plan: Plan, recipe: Recipe) -> dict[int, Pieces]:
    """The pieces of a complete output by file number, if its manifest is of this very recipe.

    Raises what `load_manifest` does for one that cannot be trusted.
    """
    try:
        document = load_manifest(located(plan.spec.path))
    except UsageError:
        return {}
    except (FormatError, IntegrityError) as error:
        raise type(error)(f"{error}; --overwrite makes the output again") from error
    if document.recipe != (recipe.inputs, recipe.settings):
        return {}
    numbers = {i.name: place[0] for i, place in zip(plan.items, plan.layout.places, strict=True)}
    found: dict[int, list[Piece]] = {number: [] for number in range(len(plan.layout.files))}
    for piece in document.pieces:
        if piece[0] in numbers:
            found[numbers[piece[0]]].append(piece)
    return dict(found)


def intact(plan: Plan, number: int, pieces: Pieces) -> bool:
    """Whether an output file is there and holds what was recorded of it.

    Raises FormatError for a record that leaves out a part of it.
    """
    file = plan.layout.files[number]
    places = zip(plan.items, plan.layout.places, strict=True)
    elems = {item.name: item.elems for item, place in places if place[0] == number}
    check_cover(elems, pieces, f"{file.path}: what was recorded of it")
    try:
        store_of(file.path).check(writer(plan.spec.format), located(file.path), file)
        compare(plan.layout, _places(plan.items, plan.layout), pieces, plan.memory_bytes)
    except (OSError, AnamnesisError):
        return False
    return True


def verify_output(out: PurePath, memory_bytes: int) -> dict[str, int]:
    """Read an output again, in a process of at most so much memory; compare it with its manifest.

    Returns counts (`files`, `tensors`, `bytes`). Raises IntegrityError naming the file and the
    tensor that differ, UsageError when there is no manifest.
    """
    manifest, path = load_manifest(out, strangers=True), str(find_manifest(out))
    items, layout = manifest.layout_items(), lay_out(manifest, out, path)
    check_files(manifest, layout, path)
    for file in layout.files:
        store_of(out).check(writer(manifest.format), located(file.path), file)
    total = compare(layout, _places(items, layout), manifest.pieces, memory_bytes)
    return {"files": len(layout.files), "tensors": len(items), "bytes": total}


def compare(layout: Layout, places: Mapping[str, Any], pieces: Pieces, memory_bytes: int) -> int:
    """Read recorded pieces again; the bytes read, or IntegrityError for the first that differs.

    `memory_bytes` are those of the process, with what is fetched ahead from behind a URL.
    """
    total = 0
    read = reading(file.path for file in layout.files)
    ahead = read.ahead_bytes(memory_bytes - BASE_BYTES - read.base)
    for number, group in groupby(pieces, key=lambda piece: places[piece[0]][0]):
        out = layout.files[number]
        with closing(open_written(out, ahead)) as file:
            for name, start, stop, expected in group:
                digest = xxhash.xxh3_128()
                for view in file.values(name, places[name][1], start, stop):
                    digest.update(view)
                    total += len(view)
                if digest.hexdigest() != expected:
                    raise IntegrityError(
                        f"{out.path}: tensor {name!r}: elements {start:,} to {stop:,} are not what "
                        f"was written (xxh3-128 {digest.hexdigest()}, recorded {expected})"
                    )
    return total


def _outputs_in(folder: PurePath) -> list[str]:
    """Names of the outputs that a run of several inputs left in a folder."""
    store = store_of(folder)
    names = store.names(folder)
    beside = [name.removesuffix(_BESIDE) for name in names if name.endswith(_BESIDE)]
    if not store.moves:  # a request each
        return beside
    return beside + [n for n in names if store.exists(manifest_path(folder / n, inside=True))]


@gc_paused()
def load_manifest(out: PurePath, *, strangers: bool = False) -> Manifest:
    """The manifest of the output at `out`; with `strangers`, also another user's.

    Raises SecurityError or LimitError when it is no file of this program's, UsageError when there
    is none, FormatError or IntegrityError when it cannot be trusted.
    """
    path = find_manifest(out)
    try:
        data = store_of(path).read(path, OWNED_BYTES, strangers=strangers)
    except FileNotFoundError:
        several = _outputs_in(out) if strangers else []
        if several:
            raise UsageError(
                f"{out}: is no output but holds some, {some(several)}; name one of them, such as "
                f"{out / several[0]}"
            ) from None
        gone = store_of(out).moves and not store_of(out).exists(out)
        what = f", and {out} is not there" if gone else ""
        raise UsageError(
            f"{path}: no manifest{what}; only outputs of this program can be verified"
        ) from None
    document = loads(data, str(path), Limits())
    if not isinstance(document, dict) or document.get("anamnesis") != VERSION:
        raise FormatError(f"{path}: not a manifest of version {VERSION}")
    if document.pop("xxh3", None) != _digest(document):
        raise IntegrityError(f"{path}: damaged: it is not what its own checksum says")
    return read_manifest(document, str(path))


def _row(item: Item) -> list[Any]:
    row: list[Any] = [item.name, list(item.shape), item.dtype, item.elems, item.scheme]
    return [*row, True] if item.joined else row


def _places(items: Sequence[Item], layout: Layout) -> dict[str, Any]:
    return {item.name: place for item, place in zip(items, layout.places, strict=True)}


def _digest(document: Any) -> str:
    return xxhash.xxh3_128(_canonical(document)).hexdigest()


def _canonical(document: Any) -> bytes:
    """The one text of a document that its digest is of."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True, default=str).encode()
