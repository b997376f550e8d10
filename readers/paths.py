"""What stands in a path before it means a file: `~`, and variables that nobody expands.

A shell expands both before a program sees them; a job file and a Python call do not. Taken
literally, `~/models` makes a folder named `~`, which invites `rm -rf ~`. So a leading `~/` is the
home folder everywhere. A variable is refused by name: a job file may come from elsewhere, and a
path such as `https://host/${TOKEN}` would send the environment away.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from anamnesis.errors import UsageError
from anamnesis.readers.source import is_url

_VARIABLE = re.compile(r"\$\{[^}]*\}?|^\$[A-Za-z_][A-Za-z0-9_]*")


def expand(path: str, key: str = "") -> str:
    """`path` with a leading `~` or `~/` replaced by the home folder; URLs stay as they are.

    Raises UsageError, with `key` (the setting's name) before it, for `${NAME}` anywhere, a leading
    `$NAME`, and `~NAME`, of which the message names the first.
    """
    where = f"{key}: {path}" if key else path
    variable = _VARIABLE.search(path)
    if variable:
        raise UsageError(
            f"{where}: {variable[0]} is not expanded here; write the path itself, or let a shell "
            'expand it (--set output.path="$HOME/out")'
        )
    if is_url(path) or not path.startswith("~"):
        return path
    first = path.split("/", 1)[0]
    home = os.path.expanduser(first)
    if first != "~" or home == first:
        raise UsageError(
            f"{where}: {first} is not expanded here; ~/ is the home folder, and ./{first} a file "
            "or folder of that name"
        )
    return home + path[len(first) :]


def output_path(path: str, key: str = "") -> str:
    """The expanded path of an output, the last part of which is a name.

    What lies beside an output has its name with something before or after, so `.` and `..` become
    the real path of the folder. Raises what `expand` does, and UsageError for the root.
    """
    path = expand(path, key)
    if is_url(path) or Path(path).name not in ("", ".."):
        return path
    real = os.path.realpath(path)
    if not Path(real).name:
        where = f"{key}: {path}" if key else path
        raise UsageError(f"{where}: is the root of the file system; choose a folder in it")
    return real


def local_path(path: str | os.PathLike[str]) -> Path:
    """The expanded path of a file to write, whether it came as text or not."""
    return Path(expand(os.fspath(path)))


__all__ = ["expand", "local_path", "output_path"]
