"""Manifests and journals whose checksum is right, and what they say is odd."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, IntegrityError
from anamnesis.pipeline import journal as journals
from anamnesis.pipeline import small_copies
from anamnesis.pipeline import task as tasks
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job

ZERO = "0" * 32
Document = dict[str, Any]


@pytest.fixture
def source(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    values = np.arange(64, dtype=np.float32).tobytes()
    entries = {"a": ("F32", (8, 8), values), "b": ("F32", (64,), values), "e": ("F32", (0, 3), b"")}
    return write_safetensors(tmp_path / "in.safetensors", entries)


@pytest.fixture(params=["out.safetensors", "out", "out.arrow", "packed.arrow"])
def out(request: pytest.FixtureRequest, source: Path, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    to = "arrow" if path.suffix == ".arrow" else "safetensors"
    packed = "zstd" if path.stem == "packed" else "none"
    anamnesis.convert(source, path, to=to, compression=packed, max_shard_size=300)
    return path


def manifest_of(out: Path) -> Document:
    document: Document = json.loads(journals.manifest_path(out).read_text())
    document.pop("xxh3")
    return document


def write(out: Path, document: Any) -> None:
    """With the checksum that belongs to it."""
    if isinstance(document, dict):
        document = {**document, "xxh3": journals._digest(document)}
    journals.manifest_path(out).write_text(json.dumps(document))


ODD: list[Any] = [None, True, -1, 1 << 64, 1.5, "", "x", "../x", [], {}, [[]], [None], {"x": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value within a value is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def changed(document: Document, path: tuple[Any, ...], value: Any) -> Document:
    found = copy.deepcopy(document)
    at: Any = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


def test_no_value_in_a_manifest_ends_otherwise_than_documented(out: Path, source: Path) -> None:
    """Every field, and every item of every list, is each of ODD once; or is not there."""
    document = manifest_of(out)
    accepted, messages = 0, []
    for path in places(document):
        kept = [changed(document, path, value) for value in ODD]
        less = copy.deepcopy(document)
        at: Any = less
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]
        for odd in (*kept, less):
            write(out, odd)
            try:
                anamnesis.verify(out, against=source)
                accepted += 1
            except (FormatError, IntegrityError, FileNotFoundError) as error:
                messages.append(str(error))
    assert all(str(out) in text and text.isprintable() for text in messages)
    assert len(messages) > 20 * len(document)
    # What `verify` does not need: names, sizes and times of inputs, the names of schemes, metadata.
    assert accepted < len(messages) / 4


ROWS: dict[str, tuple[Callable[[Document], Any], str]] = {
    "no object": (lambda d: [d], "not a manifest"),
    "another version": (lambda d: {**d, "anamnesis": 2}, "not a manifest of version 1"),
    "a version that equals": (lambda d: {**d, "anamnesis": True}, "anamnesis"),
    "an unknown field": (lambda d: {**d, "more": 1}, "more"),
    "a format": (lambda d: {**d, "format": "exe"}, "format: found 'exe'"),
    "a field that is missing": (lambda d: {k: d[k] for k in d if k != "pieces"}, "pieces"),
    "a stem that leaves": (lambda d: {**d, "storage": {"stem": "../x"}}, "storage.stem"),
    "a stem that hides": (lambda d: {**d, "storage": {"stem": ".x"}}, "storage.stem"),
    "a compression": (lambda d: {**d, "storage": {"compression": "x"}}, "storage.compression"),
    "an option": (lambda d: {**d, "options": {"rounding": "up"}}, "options.rounding"),
    "a tensor twice": (lambda d: {**d, "items": [*d["items"], d["items"][0]]}, "is there twice"),
    "elements": (lambda d: changed(d, ("items", 0, 3), 65), r"items\[0\]: tensor 'a': 65 elem"),
    "a size": (lambda d: changed(d, ("items", 0, 1, 0), -8), r"items\[0\]\[1\]\[0\]"),
    "a dtype": (lambda d: changed(d, ("items", 0, 2), "F33"), "dtype: found 'F33'"),
    "another's dtype": (lambda d: changed(d, ("items", 0, 2), "Q4_K"), "dtype: found 'Q4_K'"),
    "a digest": (lambda d: changed(d, ("pieces", 0, 3), "x" * 32), r"pieces\[0\]\[3\]"),
    "no pieces": (lambda d: {**d, "pieces": []}, "'a': elements from 0 on of 64 are in none"),
    "a piece less": (lambda d: {**d, "pieces": d["pieces"][:1]}, "'b'.* are in none"),
    "a short piece": (lambda d: changed(d, ("pieces", 0, 2), 63), "elements from 63 on of 64"),
    "a late piece": (lambda d: changed(d, ("pieces", 0, 1), 1), "1 to 64 where those from 0 on"),
    "a long piece": (lambda d: changed(d, ("pieces", 0, 2), 65), "0 to 65 where those from 0 on"),
    "a piece twice": (lambda d: {**d, "pieces": [*d["pieces"], d["pieces"][0]]}, "from 64 on"),
    "a piece backwards": (
        lambda d: {**d, "pieces": [["a", 64, 0, ZERO], *d["pieces"]]},
        "elements 64 to 0",
    ),
    "a piece of nothing": (
        lambda d: {**d, "pieces": [*d["pieces"], ["x", 0, 1, ZERO]]},
        "'x': elements 0 to 1: there is no such tensor",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_manifest_with_a_right_checksum_is_not_believed(
    row: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(source, out)
    odd, field = ROWS[row]
    write(out, odd(manifest_of(out)))
    with pytest.raises(FormatError, match=field):
        anamnesis.verify(out)
    with pytest.raises(FormatError, match=field):
        anamnesis.verify(out, against=source, sample=0.1)
    job = job_from(inputs=[str(source)], output={"path": str(out)})
    with pytest.raises(FormatError, match="--overwrite makes the output again"):
        run_job(job, resume=True)
    anamnesis.remember(source, out, overwrite=True)
    anamnesis.verify(out)


def test_another_number_of_files(out: Path) -> None:
    document = manifest_of(out)
    write(out, {**document, "files": [*document["files"], ["x", 1]]})
    with pytest.raises(FormatError, match=r"files: [23] are recorded; the tensors make [12]"):
        anamnesis.verify(out)


def test_a_size_that_is_not_that_of_the_file(out: Path) -> None:
    document = manifest_of(out)
    write(out, changed(document, ("files", 0, 1), document["files"][0][1] + 1))
    with pytest.raises(IntegrityError, match="recorded are"):
        anamnesis.verify(out)


# ---- journals


@pytest.fixture
def journal(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run whose last shard failed."""
    run_piece = tasks._run_piece

    def poisoned(piece: Any, *rest: Any) -> Any:
        if piece.step.tensor.name == "b":
            raise FormatError("stopped")
        return run_piece(piece, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "_run_piece", poisoned)
        patch.setattr(small_copies, "SMALL_BYTES", 0)  # each tensor is a piece by itself
        with pytest.raises(FormatError, match="stopped"):
            run_job(job_of(source, tmp_path), resume=True)
    return tmp_path / ".out.anamnesis.journal"


def job_of(source: Path, tmp_path: Path) -> Any:
    output = {"path": str(tmp_path / "out"), "max_shard_size": 300}
    return job_from(inputs=[str(source)], output=output, run={"executor": "serial"})


def entries(journal: Path) -> list[Any]:
    return [json.loads(line)[1] for line in journal.read_text().splitlines() if line]


def write_lines(journal: Path, lines: list[Any]) -> None:
    text = [json.dumps([journals._digest(entry), entry]) for entry in lines]
    journal.write_text("\n".join(text) + "\n")


def test_no_value_in_a_journal_ends_otherwise_than_documented(
    journal: Path, source: Path, tmp_path: Path
) -> None:
    seed, messages = entries(journal), []
    for path in places(seed):
        for value in ODD:
            write_lines(journal, changed(seed, path, value))  # type: ignore[arg-type]
            found = journals.Journal(tmp_path / "out", journals.Recipe(ZERO, ZERO))
            try:
                list(found.entries())
            except FormatError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert all(f"{journal}: line " in text for text in messages)


JOURNAL_ROWS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "pieces": ((0, 3), {}, "pieces"),
    "a piece": ((0, 3, 0), ["a", 0], r"pieces\[0\]: "),
    "an element less": ((0, 3, 0, 2), 63, "elements from 63 on of 64 are in none"),
    "of another tensor": ((0, 3, 0, 0), "b", "there is no such tensor"),
}


@pytest.mark.parametrize("row", JOURNAL_ROWS)
def test_a_resume_does_not_believe_a_journal(
    row: str, journal: Path, source: Path, tmp_path: Path
) -> None:
    path, value, field = JOURNAL_ROWS[row]
    write_lines(journal, changed(entries(journal), path, value))  # type: ignore[arg-type]
    with pytest.raises(FormatError, match=field):
        run_job(job_of(source, tmp_path), resume=True)
    anamnesis.remember(source, tmp_path / "out", max_shard_size=300, overwrite=True)
    anamnesis.verify(tmp_path / "out")
