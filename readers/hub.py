"""Repositories of the Hugging Face hub: `hf://[models/|datasets/|spaces/]OWNER/NAME[@REVISION][/FILE]`.

One request (`HfApi.repo_info`) tells the commit that a revision is, and the size and digest of all
files. From then on everything is read at that commit: URLs that come out of here are pinned to it,
so that a branch which moves changes nothing. Endpoint, token and proxies are huggingface_hub's
(`HF_ENDPOINT`, `HF_TOKEN`, `hf auth login`), or those of fsspec's configuration for `hf`.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote, unquote

from anamnesis.errors import FormatError
from anamnesis.readers.retry import call, not_installed

_URL = re.compile(
    r"hf://(?:(models|datasets|spaces)/)?(?!buckets/)([\w.-]+/[\w.-]+)"
    r"(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(.*))?",
    re.IGNORECASE | re.DOTALL,
)
_COMMIT = re.compile("[0-9a-f]{40}")
_KEPT = 16  # repositories whose files are remembered


@dataclass(frozen=True, slots=True)
class Place:
    """What a URL of the hub says; `revision` is "" for the default branch."""

    kind: str  # model, dataset, space
    name: str
    revision: str
    path: str

    @property
    def url(self) -> str:
        """The URL again."""
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"hf://{kind}{self.name}{revision}" + (f"/{self.path}" if self.path else "")


def parse(url: str) -> Place | None:
    """What a URL of a repository says; None for any other."""
    match = _URL.fullmatch(url) if url[:5].lower() == "hf://" else None
    if match is None:
        return None
    kind, name, revision, path = match.groups()
    kind = (kind or "models").lower().removesuffix("s")
    return Place(kind, name, unquote(revision or ""), path or "")


class Tree:
    """The files of a repository at a commit, with what this package uses of fsspec's interface."""

    protocol = "hf"

    def __init__(self, place: Place, files: Mapping[str, tuple[int, str]]) -> None:
        """`place` is at a commit; `files` are sizes and digests by name."""
        self._place, self._files = place, files

    @property
    def commit(self) -> str:
        """The commit, 40 hexadecimal digits."""
        return self._place.revision

    def ls(self, path: str, detail: bool = False) -> list[Any]:
        """The names in a folder, with `detail` rows of name, size and type.

        FileNotFoundError when there is none.
        """
        begin = f"{path}/".lstrip("/")
        names = {begin + name[len(begin) :].partition("/")[0] for name in self._in(begin)}
        if not names:
            raise FileNotFoundError(self.unstrip_protocol(path))
        return [self._row(name) if detail else name for name in sorted(names)]

    def _row(self, name: str) -> dict[str, Any]:
        size, kind = (self._files[name][0], "file") if name in self._files else (0, "directory")
        return {"name": name, "size": size, "type": kind}

    def glob(self, pattern: str) -> list[str]:
        """The files that match; `*` stays in its folder."""
        depth = pattern.count("/")
        found = (n for n in self._files if n.count("/") == depth or "**" in pattern)
        return sorted(name for name in found if fnmatchcase(name, pattern))

    def isdir(self, path: str) -> bool:
        """Whether there are files below `path`."""
        return bool(self._in(f"{path}/".lstrip("/")))

    def info(self, path: str) -> tuple[int, str]:
        """Size and digest of a file; raises FileNotFoundError, or FormatError for a folder."""
        if path in self._files:
            return self._files[path]
        url = self.unstrip_protocol(path)
        if self.isdir(path):
            raise FormatError(f"{url}: is a directory, not a file")
        raise FileNotFoundError(2, "no such file", url)

    def unstrip_protocol(self, path: str) -> str:
        """The URL of a file, with the commit."""
        return replace(self._place, path=path).url

    def _in(self, begin: str) -> list[str]:
        return [name for name in self._files if name.startswith(begin)]


_trees: OrderedDict[tuple[str, str, str], Tree] = OrderedDict()
_lock = threading.Lock()


def tree(place: Place) -> Tree:
    """The files of a repository; a revision that is no commit is asked for anew each time.

    Raises OSError (no such repository, or none that may be read) and UnsupportedError (no driver).
    """
    with _lock:
        known = _trees.get((place.kind, place.name, place.revision))
    if known is not None:
        return known
    made, commit = _ask(place)
    with _lock:
        _trees[place.kind, place.name, commit] = made
        while len(_trees) > _KEPT:
            _trees.popitem(last=False)
    return made


def _ask(place: Place) -> tuple[Tree, str]:
    hub, settings = driver(place.url)
    api = hub.HfApi(**settings)
    info = call(
        place.url,
        lambda: api.repo_info(
            place.name,
            repo_type=place.kind,
            revision=place.revision or None,
            files_metadata=True,
        ),
    )
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise FormatError(f"{place.url}: the hub says its commit is {commit!r:.80}")
    files = {}
    for row in info.siblings or ():
        lfs: Any = row.lfs or {}
        digest = lfs.get("sha256") if hasattr(lfs, "get") else lfs.sha256
        files[str(row.rfilename)] = (int(row.size or 0), str(digest or row.blob_id or ""))
    return Tree(replace(place, revision=commit, path=""), files), commit


def at_commit(place: Place) -> Place:
    """The same place at the commit that its revision is now."""
    if _COMMIT.fullmatch(place.revision):
        return place
    return replace(place, revision=tree(place).commit)


def target(place: Place) -> str:
    """The URL by which the hub serves a file, or redirects to where it is."""
    hub, settings = driver(place.url)
    url: str = hub.hf_hub_url(
        place.name,
        place.path,
        repo_type=place.kind,
        revision=place.revision,
        endpoint=settings["endpoint"],
    )
    return url


def secrets(place: Place) -> dict[str, str]:
    """The headers that say who asks; for the hub alone, never for where it redirects to."""
    hub, settings = driver(place.url)
    headers: dict[str, str] = hub.utils.build_hf_headers(token=settings["token"])
    return headers


def driver(url: str) -> tuple[Any, dict[str, Any]]:
    """huggingface_hub, and endpoint and token; None is its own default."""
    try:
        import huggingface_hub  # noqa: PLC0415 - for such URLs alone
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        raise not_installed(url, error) from error
    from fsspec.config import conf  # noqa: PLC0415 - fsspec is for URLs alone

    own = conf.get("hf", {})
    return huggingface_hub, {"endpoint": own.get("endpoint"), "token": own.get("token")}
