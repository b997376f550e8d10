"""Links that were stored as text: small files whose content is the path of another file.

Where links cannot be made, git (`core.symlinks=false`, the default on Windows) checks them out so
(https://git-scm.com/docs/git-config#Documentation/git-config.txt-coresymlinks), and archives that
lose the mode of a link unpack so. The text is the link's target as `readlink` gives it: one line
of at most PATH_MAX bytes, relative to the folder that the link lies in, mostly without an end of
line. Which files are followed is the rule of `folder`.
"""

from __future__ import annotations

import os
import stat

from anamnesis.errors import AnamnesisError
from anamnesis.readers.source import LocalFile

_MOST_BYTES = 4096  # PATH_MAX of Linux; also of what git stores for a link


def path_in(data: bytes) -> str | None:
    """The path that the whole of a file is, or None when it is anything else.

    A name without a folder is one too, so that only what it leads to can tell it from a word.
    """
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None
    plain = 0 < len(data) <= _MOST_BYTES and text.isprintable() and text == text.strip()
    return text if plain else None


def target_of(path: str) -> str | None:
    """The regular file that the text in the file at `path` leads to, or None.

    Of names alone, without a folder, only weights and settings count, as text may be one.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _MOST_BYTES:
            return None
        with LocalFile(path) as file:
            text = path_in(file.read(0, min(file.size, _MOST_BYTES + 1)))
    except (AnamnesisError, OSError):  # whoever opens it for its content says what is wrong
        return None
    if text is None or ("/" not in text and path.endswith((".txt", ".md"))):
        return None
    # As the system follows a link: `..` is that of the folder it is in, links on the way included.
    target = os.path.realpath(os.path.join(os.path.realpath(os.path.dirname(path) or "."), text))
    return target if target != os.path.realpath(path) and os.path.isfile(target) else None


__all__ = ["path_in", "target_of"]
