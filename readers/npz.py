"""NumPy's .npz: a ZIP archive of .npy files, stored (savez) or deflated (savez_compressed).

Member `X.npy` is the tensor `X`. As in numpy.load, a member of another name that begins with the
magic of .npy is an array too, under its full name. What is no array is left out with a note,
but for pickles, which have no business in an archive that is safe to load.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from anamnesis.errors import AnamnesisError, FormatError, SecurityError, UnsupportedError
from anamnesis.limits import KiB, Limits, MiB
from anamnesis.readers.base import Container, Member, Stored
from anamnesis.readers.npy import MAGIC, START_BYTES, NotNumbersError, objects_at, read_array
from anamnesis.readers.pickle_globals import Findings, collect_globals
from anamnesis.readers.pickle_vm import PICKLE_BYTES
from anamnesis.readers.source import SourceFile, open_source
from anamnesis.readers.zip import check_crc32, checksum, read_members, read_start

SUFFIX = ".npy"
_PICKLES = (".pickle", ".pkl")
_CHECK_BYTES = 64 * MiB
_TEXT_BYTES = 64 * KiB


def open_npz(path: str, limits: Limits) -> Container:
    """Parse the directory of an archive and the headers of its arrays; no other data is read.

    Arrays that are no numbers (text, dates, structures) are left out with a note, and with
    `Allow.leave_out_unknown`, or where patterns leave them out, pickles are, and numbers that are
    not read. Raises what
    `read_members` and `open_npy` raise; SecurityError for a pickle; IntegrityError when a header
    is broken because the member is damaged.
    """
    stored: dict[str, Stored] = {}
    notes: list[str] = []
    unread: list[str] = []
    texts: dict[str, str] = {}
    with open_source(path) as file:
        members = read_members(file, limits)
        for member in members:
            try:
                array = _array(file, member, limits)
            except NotNumbersError as error:
                name = member.name.removesuffix(SUFFIX)
                notes.append(f"{error}; it was left out")
                unread.append(name)
                if (text := _text(file, member)) is not None:
                    texts[name] = text
                continue
            except (SecurityError, UnsupportedError) as error:
                name = member.name.removesuffix(SUFFIX)
                if not (limits.allow.leave_out_unknown or limits.allow.leaves_out(name)):
                    hint = "; --exclude, or --leave-out-unknown, leaves it out, unread"
                    raise type(error)(f"{error}{hint}") from None
                notes.append(f"{error}; it was left out, unread")
                unread.append(name)
                continue
            except AnamnesisError:
                _check_intact(file, member)
                raise
            if array is None:
                notes.append(f"{path}: member {member.name!r:.200} is no array and was left out")
            elif array.name in stored:
                raise FormatError(f"{path}: array {array.name!r:.200} is in the archive twice")
            else:
                stored[array.name] = array
        return Container(
            "npz", (file.id,), stored, texts, tuple(members), tuple(notes), unread=tuple(unread)
        )


def _text(file: SourceFile, member: Member) -> str | None:
    """The text of a small array of one, which may state how the others are quantised."""
    if member.nbytes > _TEXT_BYTES:
        return None
    import numpy as np  # noqa: PLC0415 - where there are such arrays

    data = io.BytesIO(read_start(file, member, member.nbytes))
    try:
        array = np.load(data, allow_pickle=False)
    except ValueError:
        return None  # cut short, or damaged: not read, as it says nothing that is needed
    value = array.item() if array.size == 1 else None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def list_objects(path: str, limits: Limits) -> Findings:
    """The globals of the pickles in an archive: object arrays, and members that are pickles."""
    with open_source(path) as file:
        found = [
            _findings(
                f"{path}: {member.name}", member.name, partial(read_start, file, member), limits
            )
            for member in read_members(file, limits)
        ]
    return Findings(
        tuple(name for findings in found for name in findings.globals),
        tuple(problem for findings in found for problem in findings.problems),
    )


def list_object(path: str, limits: Limits) -> Findings:
    """The globals of the pickle that a .npy file of objects is."""
    with open_source(path) as file:
        return _findings(path, path, lambda n: file.read(0, min(n, file.size)), limits)


def _findings(where: str, name: str, start: Callable[[int], bytes], limits: Limits) -> Findings:
    head = start(START_BYTES)
    if head.startswith(MAGIC):
        at = objects_at(where, start, limits)
        if at is None:
            return Findings((), ())
        data = start(at + PICKLE_BYTES)[at:]
        found = collect_globals(data, f"{where}: array of objects", limits)
        problem = f"{where}: is an array of Python objects, stored as a pickle"
        return Findings(found.globals, (problem, *found.problems))
    if name.endswith(_PICKLES) or (head[:1] == b"\x80" and head[1:2] <= b"\5"):
        return collect_globals(start(PICKLE_BYTES), where, limits)
    return Findings((), ())


def _array(file: SourceFile, member: Member, limits: Limits) -> Stored | None:
    where = f"{file.path}: member {member.name!r:.200}"
    named = member.name.endswith(SUFFIX)
    head = read_start(file, member, START_BYTES)
    if not head.startswith(MAGIC):
        # Protocols 2 and up begin with their number; older ones with nothing to tell them by.
        if (head[:1] == b"\x80" and head[1:2] <= b"\5") or member.name.endswith(_PICKLES):
            raise SecurityError(f"{where}: is a pickle, which runs code when it is loaded")
        if not named:
            return None
    return read_array(
        where,
        member.name.removesuffix(SUFFIX),
        file.id,
        member.nbytes,
        member,
        lambda nbytes: head if nbytes <= START_BYTES else read_start(file, member, nbytes),
        limits,
    )


def _check_intact(file: SourceFile, member: Member) -> None:
    """IntegrityError when a small member is not what was put into the archive."""
    if member.nbytes > _CHECK_BYTES:
        return
    try:
        found = checksum(file, member)
    except FormatError:
        return  # the error at hand says as much
    check_crc32(member, found)
