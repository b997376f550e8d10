"""Folders that hold a model, here or behind a URL, and what may be opened in them.

What an index, a pattern or a format's own rules name must lie in the folder: a symlink out of it
is a SecurityError, since the folder may come from a stranger and the link would lend his model
the reader's files. One kind of link out is known and kept: in the cache of the Hugging Face hub,
`models--X/snapshots/REVISION/*` link to `models--X/blobs/*` of the same repository
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache). A path that the caller names
by itself may be any link.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from anamnesis.errors import SecurityError
from anamnesis.readers.source import LocalFile, SourceFile, is_url, open_source

_HUB_REPOSITORY = ("models--", "datasets--", "spaces--")


class Folder(Protocol):
    """Where the files of a model lie."""

    @property
    def path(self) -> str: ...

    def names(self) -> list[str]:
        """The names in it, sorted; none of hidden files."""
        ...

    def join(self, name: str) -> str:
        """The path of `name` in it; SecurityError when that leads out of it."""
        ...

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none."""
        ...


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, path: str) -> None:
        self.path = path

    def names(self) -> list[str]:
        """The names in it, sorted; none of hidden files."""
        return sorted(name for name in os.listdir(self.path or ".") if not name.startswith("."))

    def join(self, name: str) -> str:
        """The path of `name` in it; SecurityError when that leads out of it."""
        path = os.path.join(self.path, _plain(self.path, name))
        check_inside(self.path, path)
        return path

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none."""
        if not os.path.lexists(os.path.join(self.path, name)):
            return None
        return LocalFile(self.join(name))


class RemoteFolder:
    """A folder behind a URL; over HTTP nothing lists what is in it."""

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")

    def names(self) -> list[str]:
        """The names in it, sorted; none of hidden files, and none at all over HTTP."""
        from anamnesis.readers import urls  # noqa: PLC0415 - fsspec is for URLs alone

        fs, path = urls.filesystem(self.path)
        if urls.is_http(fs):
            return []
        listed = urls.call(self.path, lambda: fs.ls(path, detail=False))
        names = (name.rstrip("/").rpartition("/")[2] for name in listed)
        return sorted(name for name in names if name and not name.startswith("."))

    def join(self, name: str) -> str:
        """The URL of `name` in it."""
        return f"{self.path}/{_plain(self.path, name)}"

    def open(self, name: str) -> SourceFile | None:
        """The file `name`, or None when there is none, or none that may be read."""
        try:
            return open_source(self.join(name))
        except (FileNotFoundError, PermissionError):
            return None


def folder_of(path: str) -> Folder | None:
    """The folder that the file at `path` lies in, or None when a URL does not tell."""
    if not is_url(path):
        return LocalFolder(os.path.dirname(path))
    if "::" in path:
        return None
    # A signature or a token in the query is for that one file.
    return RemoteFolder(re.split("[?#]", path, maxsplit=1)[0].rpartition("/")[0])


def check_inside(folder: str, path: str) -> None:
    """Raise SecurityError when `path` leads out of `folder`; see the rule above."""
    root, target = Path(os.path.realpath(folder or ".")), Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return
    for snapshots in (root, *root.parents):
        repository = snapshots.parent
        if snapshots.name == "snapshots" and repository.name.startswith(_HUB_REPOSITORY):
            if target.is_relative_to(repository / "blobs"):
                return
            break
    raise SecurityError(
        f"{path}: is a link to {target}, out of the folder {folder or '.'}; name that file itself "
        "if it is meant"
    )


def _plain(folder: str, name: str) -> str:
    if not name or name in (".", "..") or os.path.basename(name) != name or "\0" in name:
        raise SecurityError(f"{folder}: {name!r:.200} is not the name of a file in this folder")
    return name


__all__ = ["Folder", "LocalFolder", "RemoteFolder", "check_inside", "folder_of"]
