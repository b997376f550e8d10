"""Folders that hold a model, here or behind a URL, and what may be opened in them.

What an index, a pattern or a format's own rules name must lie in the folder. A symlink out of it
would lend a stranger's model the reader's files, and an unpacked archive's links belong to whoever
unpacked it, so that their owner says nothing. Links out are followed

- in the cache of the Hugging Face hub, from `models--X/snapshots/REVISION/*` to `models--X/blobs/*`
  of the same repository (https://huggingface.co/docs/huggingface_hub/guides/manage-cache);
- to a blob of any such repository that is named by a digest of its content (SHA-1 or SHA-256), as
  `hf download --local-dir` of older releases left them: only who knows its content can name it;
- with `Allow.follow_links`, to any other file.

For the last two, the links and the file must belong to the caller, and the file be a regular one.

Anything else is a SecurityError. A path that the caller names by itself may be any link.

A link that was stored as text (see `text_links`) is one that no loader follows: it is a FormatError
without `Allow.follow_links`, wherever it leads, and with it is followed by the rule for the others.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Protocol

from anamnesis.errors import FormatError, SecurityError
from anamnesis.limits import NOTHING, Allow
from anamnesis.readers.source import LocalFile, SourceFile, is_url, open_source
from anamnesis.readers.text_links import target_of

_HUB_REPOSITORY = ("models--", "datasets--", "spaces--")
_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_LINKS = 40  # that may follow one another, as in Linux


class Folder(Protocol):
    """Where the files of a model lie."""

    @property
    def path(self) -> str: ...

    def names(self) -> list[str]:
        """The names in it, sorted; none of hidden files."""
        ...

    def join(self, name: str) -> str:
        """The path of `name`, which may be in folders in it; SecurityError when it leads out."""
        ...

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none."""
        ...


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, path: str, allow: Allow = NOTHING) -> None:
        """`allow` says whether the caller's own links out of it are followed."""
        self.path = path
        self._allow = allow

    @property
    def here(self) -> str:
        """Where its files lie on this machine."""
        return self.path

    def names(self) -> list[str]:
        """The names in it, sorted; none of hidden files."""
        return sorted(name for name in os.listdir(self.path or ".") if not name.startswith("."))

    def join(self, name: str) -> str:
        """The path of `name`, which may be in folders in it; what it leads to, if it is a text.

        Raises SecurityError when it leads out, and FormatError for such a text, unless links are
        followed.
        """
        return follow(self.path, os.path.join(self.path, _plain(self.path, name)), self._allow)

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none."""
        if not os.path.lexists(os.path.join(self.path, name)):
            return None
        return LocalFile(self.join(name))


class RemoteFolder:
    """A folder behind a URL; over HTTP nothing lists what is in it."""

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._listed: frozenset[str] = frozenset()  # once it was, where anything lists it

    def names(self) -> list[str]:
        """The names in it, sorted; none of hidden files, and none at all over HTTP."""
        from anamnesis.readers import urls  # noqa: PLC0415 - fsspec is for URLs alone

        fs, path = urls.filesystem(self.path)
        if urls.is_http(fs):
            return []
        listed = urls.call(self.path, lambda: fs.ls(path, detail=False))
        names = [name.rstrip("/").rpartition("/")[2] for name in listed]
        self._listed = frozenset(names)
        return sorted(name for name in names if name and not name.startswith("."))

    def sizes(self) -> dict[str, int]:
        """The bytes of each file in it, by name; of no hidden one, and of none over HTTP."""
        from anamnesis.readers import urls  # noqa: PLC0415 - fsspec is for URLs alone

        fs, path = urls.filesystem(self.path)
        if urls.is_http(fs):
            return {}
        rows = urls.call(self.path, lambda: fs.ls(path, detail=True))
        files = {
            str(row["name"]).rpartition("/")[2]: int(row["size"] or 0)
            for row in rows
            if row["type"] == "file"
        }
        return {name: files[name] for name in sorted(files) if name and name[0] != "."}

    def join(self, name: str) -> str:
        """The URL of `name` in it."""
        return f"{self.path}/{_plain(self.path, name)}"

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none, or none that may be read.

        What a listing of the folder has not is not asked for, which takes several requests.
        """
        if self._listed and name.partition("/")[0] not in self._listed:
            return None
        try:
            return open_source(self.join(name))
        except (FileNotFoundError, PermissionError):
            return None


def folder_of(path: str, allow: Allow = NOTHING) -> Folder | None:
    """The folder that the file at `path` lies in, or None when a URL does not tell."""
    if not is_url(path):
        return LocalFolder(os.path.dirname(path), allow)
    if "::" in path:
        return None
    # A signature or a token in the query is for that one file.
    return RemoteFolder(re.split("[?#]", path, maxsplit=1)[0].rpartition("/")[0])


def follow(folder: str, path: str, allow: Allow = NOTHING) -> str:
    """`path`, which lies in `folder`, or the file that it leads to if it is a link stored as text.

    Raises SecurityError when it leads out of `folder`, and FormatError for such a text, unless
    they are followed; see the rule above.
    """
    _check_inside(folder, path, allow)
    return follow_text(path, allow)


def follow_text(path: str, allow: Allow = NOTHING) -> str:
    """As `follow`, of a path that the caller names by itself, which may be any other link."""
    target = target_of(path)
    if target is None:
        return path
    if not allow.follow_links:
        raise FormatError(
            f"{path}: is a link stored as text, to {target}, as git and archives leave links where "
            "they can make none; name that file itself, or say --follow-links if the links are "
            "your own"
        )
    mine = os.geteuid()
    for at in (path, target):
        if os.stat(at).st_uid != mine:
            raise SecurityError(f"{path}: is a link stored as text: {at} belongs to another user")
    return target


def _check_inside(folder: str, path: str, allow: Allow) -> None:
    root, target = Path(os.path.realpath(folder or ".")), Path(os.path.realpath(path))
    if target.is_relative_to(root) or _same_repository(root, target):
        return
    why = ""
    if allow.follow_links or _is_blob(target):
        why = _not_own(root, path, target)
        if not why:
            return
    raise SecurityError(
        f"{path}: is a link to {target}, out of the folder {folder or '.'}"
        + (f": {why}" if why else "; name that file itself, or say --follow-links if the links are "
           "your own (a folder from an archive may hold links that its author chose)")
    )  # fmt: skip


def _same_repository(root: Path, target: Path) -> bool:
    for snapshots in (root, *root.parents):
        repository = snapshots.parent
        if snapshots.name == "snapshots" and repository.name.startswith(_HUB_REPOSITORY):
            return target.is_relative_to(repository / "blobs")
    return False


def _is_blob(target: Path) -> bool:
    repository = target.parent.parent
    return (
        target.parent.name == "blobs"
        and repository.name.startswith(_HUB_REPOSITORY)
        and _DIGEST.fullmatch(target.name) is not None
    )


def _not_own(root: Path, path: str, target: Path) -> str:
    """Why a link is not followed although the caller follows links; "" when it is.

    Every link from the folder on has to belong to the caller, and what they lead to as well.
    """
    mine = os.geteuid()
    at = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
    if not Path(at).is_relative_to(root):
        return "the way to it leaves the folder"
    for _ in range(_LINKS):
        status = os.lstat(at)
        if status.st_uid != mine:
            return f"{at} belongs to another user"
        if not stat.S_ISLNK(status.st_mode):
            return "" if stat.S_ISREG(status.st_mode) else f"{target} is no regular file"
        at = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(at)), os.readlink(at)))
    return "too many links follow one another"


def _plain(folder: str, name: str) -> str:
    """A name, or one in folders below, without `..` and the like."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise SecurityError(f"{folder}: {name!r:.200} is not the name of a file in this folder")
    return name


__all__ = ["Folder", "LocalFolder", "RemoteFolder", "follow", "follow_text", "folder_of"]
