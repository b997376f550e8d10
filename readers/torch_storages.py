"""Storages as a checkpoint's pickle declares them, by persistent id.

torch/serialization.py, `persistent_id` in `_save` and `_legacy_save`:

    ("storage", class, key, location, elements)         ZIP
    ("storage", class, key, location, elements, view)   legacy; view is None or, up to PyTorch 0.4,
                                                        (key of the view, offset, elements)

The location (a device) says nothing about the bytes and is not used.
"""

from __future__ import annotations

from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.pickle_vm import Node
from anamnesis.readers.torch_globals import Global
from anamnesis.readers.torch_records import DIMENSION_LIMIT, Storage


class Storages:
    """Answers for persistent ids; a key that comes again must say the same.

    Raises FormatError for an id of any other form.
    """

    def __init__(self, where: str, *, legacy: bool = False) -> None:
        self._where, self._legacy = where, legacy
        self.declared: dict[str, Storage] = {}
        self._views: dict[str, Storage] = {}

    def __call__(self, identifier: Any) -> Storage:
        found = self._again(identifier)
        if found is not None:
            return found
        where = f"{self._where}: persistent id"
        if type(identifier) is not Node or identifier.kind != "tuple":
            raise FormatError(f"{where}: must be a tuple, found {_shown(identifier)}")
        items = identifier.items
        lengths = (5, 6) if self._legacy else (5,)
        if len(items) not in lengths or items[0] != "storage":
            raise FormatError(f"{where}: is no storage's: {_shown(identifier)}")
        kind, key, _, elems = items[1:5]
        if type(kind) is not Global or kind.role != "storage":
            raise FormatError(f"{where}: storage class: found {_shown(kind)}")
        if type(key) is not str:
            raise FormatError(f"{where}: key: must be text, found {_shown(key)}")
        storage = Storage(
            key,
            kind.value,
            _count(f"{where}: storage {key!r:.100}: elements", elems),
            untyped=kind.path.endswith("UntypedStorage"),
        )
        before = self.declared.setdefault(key, storage)
        if before != storage:
            raise FormatError(
                f"{where}: storage {key!r:.100} is declared twice, as {before.elems:,} of "
                f"{before.dtype} and as {storage.elems:,} of {storage.dtype}"
            )
        view = items[5] if len(items) == 6 else None
        return before if view is None else self._view(before, view)

    def _again(self, identifier: Any) -> Storage | None:
        """What was declared before in these very words, as each tensor of a storage does."""
        if type(identifier) is not Node or len(identifier.items) != 5:
            return None
        tag, kind, key, _, elems = identifier.items
        if type(key) is not str or type(elems) is not int or tag != "storage":
            return None
        before = self.declared.get(key)
        if before is None or before.elems != elems or identifier.kind != "tuple":
            return None
        if type(kind) is not Global or kind.role != "storage" or kind.value != before.dtype:
            return None
        return before if kind.path.endswith("UntypedStorage") == before.untyped else None

    def _view(self, root: Storage, view: Any) -> Storage:
        where = f"{self._where}: persistent id: storage {root.key!r:.100}: view"
        if type(view) is not Node or view.kind != "tuple" or len(view.items) != 3:
            raise FormatError(f"{where}: must be (key, offset, elements), found {_shown(view)}")
        key, offset, elems = view.items
        if type(key) is not str:
            raise FormatError(f"{where}: key: must be text, found {_shown(key)}")
        start, elems = _count(f"{where}: offset", offset), _count(f"{where}: elements", elems)
        if start + elems > root.elems:
            raise FormatError(f"{where}: elements {start:,} to {start + elems:,} of {root.elems:,}")
        start *= root.nbytes // root.elems if root.elems else 0
        storage = Storage(root.key, root.dtype, elems, start, root.untyped)
        before = self._views.setdefault(key, storage)
        if before != storage:
            raise FormatError(f"{where}: {key!r:.100} is declared twice, with other bounds")
        return before


def _count(where: str, value: Any) -> int:
    if type(value) is not int:
        raise FormatError(f"{where}: must be an integer, found {_shown(value)}")
    if not 0 <= value < DIMENSION_LIMIT:
        shown = value if value.bit_length() < 128 else f"an integer of {value.bit_length()} bits"
        raise FormatError(f"{where}: {shown} is outside 0 .. 2^63-1")
    return value


def _shown(value: Any) -> str:
    if type(value) is Node:
        return f"a {value.kind} of {len(value.items)}"
    if type(value) in (str, bytes):
        return f"{value[:80]!r}"
    return value.path if type(value) is Global else type(value).__name__
