"""Names that a file system may take for one: those that differ in case alone, or in composition.

APFS, NTFS, FAT and folders of ext4 and F2FS with the flag `F` find a file by a name in any case,
and APFS by a letter and an accent as by the letter that has it. Of two such names the second file
would replace the first, so they are refused where they are to be written. A bucket tells all
names apart, and so do most file systems of Linux.
"""

from __future__ import annotations

import os
import string
import unicodedata
from collections.abc import Iterable
from pathlib import PurePath

from anamnesis.errors import UsageError
from anamnesis.writers.stores import store_of

_SWAPPED = str.maketrans(
    string.ascii_lowercase + string.ascii_uppercase, string.ascii_uppercase + string.ascii_lowercase
)


def refuse_alike(paths: Iterable[PurePath]) -> None:
    """UsageError for two outputs of a run that the file system of their folder takes for one."""
    seen: dict[str, PurePath] = {}
    for path in paths:
        other = seen.setdefault(folded(str(path)), path)
        if other != path and folds(path.parent):
            raise UsageError(
                f"{path.parent}: {other.name} and {path.name} would both be written, and are one "
                "name to its file system, or may be; rename one of them in the input, or choose an "
                "output on a file system that tells them apart"
            )


def folds(folder: PurePath) -> bool:
    """Whether a folder, or the one it will be made in, finds names in any case, or may do so.

    Told by a name that is there, and not by writing one. An empty disk has none, and the folder
    that it is mounted in is of another: nothing tells, and it is taken for one that does.
    """
    store = store_of(folder)
    for place in (folder, *folder.parents):
        try:
            names = set(store.names(place))
        except OSError:  # it may not be read
            continue
        for name in names:
            swapped = name.translate(_SWAPPED)
            if swapped not in names:
                return store.exists(place / swapped)
        if store.moves and os.path.ismount(place):
            return True
    return False


def folded(name: str) -> str:
    """The same text for names that any file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


__all__ = ["folded", "folds", "refuse_alike"]
