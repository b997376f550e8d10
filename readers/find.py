"""What a path means: one file, a folder's shards, what a pattern matches, a URL, an Ollama name."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from anamnesis.errors import FormatError, UnsupportedError, UsageError
from anamnesis.limits import Limits
from anamnesis.readers import READERS
from anamnesis.readers.choice import INDEX_NAME, UNFINISHED, choose, holds_weights
from anamnesis.readers.folder import (
    Folder,
    LocalFolder,
    RemoteFolder,
    folder_of,
    follow,
    follow_text,
)
from anamnesis.readers.index import INDEXES, Index, read_index
from anamnesis.readers.ollama import OLLAMA as OLLAMA
from anamnesis.readers.pipelines import PIPELINE, components
from anamnesis.readers.source import URL_WITHOUT_SLASHES, base_name, is_url, open_source
from anamnesis.words import did_you_mean, nearest, some

_PART = re.compile(r"(?s)(.*)-\d{5}-of-(\d{5})\.gguf")
_SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.(?:safetensors|bin))")


_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # OWNER/NAME
_FOLDERS, _SHOWN = 256, 4  # that are looked into, and named, where a folder itself has nothing
_MISSPELT = 0.8  # as difflib counts
_HUB_DOWNLOADS = os.path.join(".cache", "huggingface", "download")


@dataclass(frozen=True, slots=True)
class Found:
    """The weight files, the folder that their configurations lie in, and the index, if any.

    `notes` say what else the folder holds, and why it is left out; `whole`, that it was named
    itself, and not a file in it.
    """

    paths: list[str]
    folder: Folder | None
    index: Index | None = None
    notes: tuple[str, ...] = ()
    whole: bool = False


def find_files(path: str, limits: Limits) -> Found:
    """The files of the model that `path` means; only an index is read.

    Raises OSError, FormatError, UsageError, LimitError, UnsupportedError (a URL whose driver is
    not installed) or SecurityError (a link out of the folder).
    """
    if is_url(path):
        return _at_url(path, limits)
    if path.startswith(OLLAMA) and not os.path.lexists(path):
        from anamnesis.readers.ollama import blob_path  # noqa: PLC0415 - for such names alone

        return Found([blob_path(path, limits)], None)
    if os.path.isdir(path):
        return replace(_in_folder(LocalFolder(path, limits.allow), limits), whole=True)
    if os.path.lexists(path) or not glob.has_magic(path):
        _refuse_missing(path)
        return _one_file(path, limits)
    paths = sorted(glob.glob(path))
    if not paths:
        raise FileNotFoundError(2, "no file matches", path)
    root = os.path.dirname(path[: glob.magic_check.search(path).start()])  # type: ignore[attr-defined]
    followed = {match: follow(root, match, limits.allow) for match in paths}
    found = _files(paths, limits)
    return replace(found, paths=[followed[name] for name in found.paths])


def _refuse_missing(path: str) -> None:
    """FileNotFoundError, with the way out where one is known, for a path that nothing is at.

    It may be a URL or a repository of a hub without its `://`, or have a misspelt part.
    """
    if os.path.lexists(path):
        return
    near = _nearest_path(path)
    if url := URL_WITHOUT_SLASHES.fullmatch(path):
        hint = f"; a URL has two slashes: {url[1]}://{url[2]}"
    elif not near and _REPOSITORY.fullmatch(path) and not os.path.lexists(os.path.dirname(path)):
        hint = f"; a repository of Hugging Face is hf://{path}"
    else:
        hint = did_you_mean(near, "; ")
    if hint:  # what opens it has the system's own word
        raise FileNotFoundError(errno.ENOENT, f"{os.strerror(errno.ENOENT)}{hint}", path)


def _nearest_path(path: str) -> list[str]:
    """The path with what is there in place of its first part that is not; none for nothing like."""
    folder, name = os.path.split(path.rstrip(os.sep))
    rest = ""
    while folder and not os.path.lexists(folder):
        rest = os.path.join(name, rest)
        folder, name = os.path.split(folder)
    there: list[str] = []
    with contextlib.suppress(OSError):  # no folder
        there = sorted(os.listdir(folder or "."))[:_FOLDERS]
    same = [n for n in there if n.lower() == name.lower()]
    near = same or nearest(name, there, _MISSPELT) or [n for n in there if n.startswith(f"{name}.")]
    paths = [os.path.join(folder, found, rest).rstrip(os.sep) for found in near[:1]]
    return list(filter(os.path.lexists, paths))


def _one_file(path: str, limits: Limits) -> Found:
    folder = folder_of(path, limits.allow)
    named = path
    if not is_url(path):
        path = follow_text(path, limits.allow)
    if folder is not None and INDEX_NAME.fullmatch(base_name(named)):
        with open_source(path) as file:
            return _sharded(read_index(file, folder, limits), folder)
    return Found([path], folder)


def _files(paths: Sequence[str], limits: Limits) -> Found:
    whole = _whole_models(paths)
    return Found(whole, folder_of(whole[0], limits.allow))


def _at_url(url: str, limits: Limits) -> Found:
    from anamnesis.readers import urls  # noqa: PLC0415 - fsspec is for URLs alone

    local = urls.local_path(url)
    if local is not None:
        return find_files(local, limits)
    url = urls.pinned(url)
    fs, path = urls.filesystem(url)
    http = urls.is_http(fs)
    if "*" in path and not http:
        matches = urls.call(url, lambda: fs.glob(path))
        if not matches:
            raise FileNotFoundError(2, "no file matches", url)
        return _files(sorted(fs.unstrip_protocol(match) for match in matches), limits)
    known = {extension for row in READERS.values() for extension in row.extensions}
    is_file = http or os.path.splitext(base_name(url))[1].lower() in {*known, ".json"}
    if url.endswith("/") or not (is_file or not urls.call(url, lambda: fs.isdir(path))):
        if "::" in url:
            raise UnsupportedError(f"{url}: a folder behind a chain of protocols; name one file")
        return replace(_in_folder(RemoteFolder(url), limits), whole=True)
    return _one_file(url, limits)


def _in_folder(folder: Folder, limits: Limits) -> Found:
    names = folder.names()
    if not names and is_url(folder.path):
        return _unlisted(folder, limits)
    if PIPELINE in names:
        _refuse_pipeline(folder, limits)

    def read(name: str) -> Index:
        file = folder.open(name)
        if file is None:
            raise FileNotFoundError(2, "is gone", name)
        with file:
            return read_index(file, folder, limits)

    choice = choose(folder.path, names, read, lambda: _elsewhere(folder.path, names))
    if choice.index:
        return _sharded(choice.index, folder, choice.notes)
    whole = _whole_models([folder.join(name) for name in choice.names])
    if whole[0].endswith(".gguf") and len(whole) > 1:
        raise UsageError(f"{folder.path}: holds {len(whole)} GGUF models; name one of them")
    _refuse_gaps(folder, choice.names)
    return Found(whole, folder, notes=choice.notes)


def _elsewhere(path: str, names: Sequence[str]) -> str:
    """Where the weights may be of a folder that holds none, for its error; "" when unknown."""
    if any(name.endswith(".distcp") for name in names):
        return (
            "; its .distcp files are shards of torch.distributed.checkpoint, of which `python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} FILE` makes one"
        )
    below = []
    for name in names[:_FOLDERS]:
        with contextlib.suppress(OSError):  # a file, or a URL
            if holds_weights(os.listdir(os.path.join(path, name))):
                below.append(f"{path}/{name}")
    if below:
        return f"; folders in it hold some: {some(below, _SHOWN)}; name one of them"
    hidden: list[str] = []
    with contextlib.suppress(OSError):  # a URL, or no download of the hub
        hidden = [f"{_HUB_DOWNLOADS}/{n}" for n in os.listdir(os.path.join(path, _HUB_DOWNLOADS))]
    unfinished = sorted(n for n in (*names, *hidden) if os.path.splitext(n)[1] in UNFINISHED)
    return f"; downloads that did not end: {some(unfinished, _SHOWN)}" if unfinished else ""


def _refuse_pipeline(folder: Folder, limits: Limits) -> None:
    """Several models are no model; a job takes them one by one."""
    found, _ = components(folder, limits)
    if found:
        raise UsageError(
            f"{folder.path}: is a diffusers pipeline, of which {', '.join(found)} hold weights; "
            f"name one of these folders, such as {folder.path}/{found[0]} (remember, convert and "
            "run take them all)"
        )


def _unlisted(folder: Folder, limits: Limits) -> Found:
    """Nothing lists a folder over HTTP: an index, or what an unsharded model is called."""
    for name in INDEXES:
        file = folder.open(name)
        if file is not None:
            with file:
                return _sharded(read_index(file, folder, limits), folder)
    return Found([folder.join("model.safetensors")], folder)


def _refuse_gaps(folder: Folder, names: Sequence[str]) -> None:
    """Names such as `model-00001-of-00003.safetensors` tell without an index what is missing."""
    there: dict[tuple[str, ...], set[int]] = {}
    for name in names:
        if shard := _SHARD.fullmatch(name):
            there.setdefault(shard.group(1, 3, 4), set()).add(int(shard[2]))
    for (begin, total, end), numbers in there.items():
        missing = int(total) - len(numbers)
        if missing > 0:
            first = next(n for n in range(1, int(total) + 1) if n not in numbers)
            more = f" and {missing - 1} more are" if missing > 1 else " is"
            raise FormatError(
                f"{folder.path}: {begin}{first:05d}-of-{total}{end}{more} missing; the names of "
                f"the others count {int(total)}"
            )


def _sharded(index: Index, folder: Folder, notes: tuple[str, ...] = ()) -> Found:
    return Found([folder.join(shard) for shard in index.shards], folder, index, notes)


def _whole_models(paths: Sequence[str]) -> list[str]:
    """Of the parts of a split GGUF model only the first that is there: it opens the others."""
    kept: dict[object, str] = {}
    for path in paths:
        part = _PART.fullmatch(path)
        kept.setdefault((part[1], part[2]) if part else path, path)
    return list(kept.values())
