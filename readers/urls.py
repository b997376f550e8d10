"""fsspec's file systems (https://filesystem-spec.readthedocs.io) and the hub, by URL.

Drivers come as extras and take their credentials from where they always do, or from fsspec's own
configuration.
"""

from __future__ import annotations

from typing import Any

from anamnesis.errors import AnamnesisError, FormatError, UsageError
from anamnesis.readers import hub
from anamnesis.readers.retry import CutShort as CutShort
from anamnesis.readers.retry import backoff as backoff
from anamnesis.readers.retry import call as call
from anamnesis.readers.retry import call_on as call_on
from anamnesis.readers.retry import denied as denied
from anamnesis.readers.retry import is_no_archive, not_installed, words_of
from anamnesis.readers.retry import sleep as sleep
from anamnesis.readers.retry import translated as translated

_ARCHIVES = ("libarchive://", "tar://", "zip://")  # of fsspec, which lie in something else
_CONNECTIONS = 32  # as many as `ahead` and `together` have requests at a time


def filesystem(url: str) -> tuple[Any, str]:
    """The file system for `url`, and the path in it: fsspec's, or the tree of a hub's repository.

    Raises UnsupportedError when the driver is not installed, UsageError for an unknown protocol.
    """
    place = hub.parse(url)
    if place is not None:
        return hub.tree(place), place.path
    return driver(url)


def driver(url: str) -> tuple[Any, str]:
    """fsspec's file system for `url`, and the path in it; raises as `filesystem` does."""
    from fsspec.core import url_to_fs  # noqa: PLC0415 - fsspec is for URLs alone

    if url.lower().startswith(_ARCHIVES) and "::" not in url:
        kind, _, rest = url.partition("://")
        raise UsageError(f"{url}: names no archive; write {kind}://MEMBER::{rest or 'ARCHIVE'}")
    try:
        fs, path = url_to_fs(url, **_settings(url))
    except ImportError as error:
        raise not_installed(url, error) from error
    except AnamnesisError:
        raise
    except OSError as error:  # drivers of FTP and SSH connect as they are made
        raise translated(url, error) from error
    except Exception as error:  # all of it is a driver's, which cannot make sense of this URL
        if is_no_archive(error):
            raise FormatError(f"{url}: {words_of(error)}") from error
        text = str(error) if isinstance(error, ValueError) else words_of(error)
        raise UsageError(f"{url}: {text}") from error
    return fs, path


def _settings(url: str) -> dict[str, Any]:
    """What a driver is told besides its own configuration: botocore pools only 10 connections."""
    if not url.lower().startswith(("s3://", "s3a://")):
        return {}
    from fsspec.config import conf  # noqa: PLC0415 - fsspec is for URLs alone

    own = conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"max_pool_connections": _CONNECTIONS, **own}}


def local_path(url: str) -> str | None:
    """The path on this machine that a `file://` URL means, else None."""
    if not url.lower().startswith(("file://", "local://")):
        return None
    return str(filesystem(url)[1])


def speaks(fs: Any, *protocols: str) -> bool:
    """Whether a file system is that of one of `protocols`."""
    own = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return not own.isdisjoint(protocols)


def is_http(fs: Any) -> bool:
    """Whether a file system is that of HTTP, where nothing is a folder."""
    return speaks(fs, "http", "https")


def pinned(url: str) -> str:
    """The same URL with the commit that its revision is now, where there are revisions."""
    place = hub.parse(url)
    return url if place is None else hub.tree(place).unstrip_protocol(place.path)
