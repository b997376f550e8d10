"""PyTorch's files before 1.6: five pickles one after the other, then the storages' bytes.

Layout: torch/serialization.py, `_legacy_save` and `_legacy_load`; storages are as
`THPStorage_writeFileRaw` (torch/csrc/serialization.cpp) writes them:

    pickle   magic number 0x1950a86a20f9469cfc6c
    pickle   protocol version 1001
    pickle   sys_info {"protocol_version", "little_endian", "type_sizes"}
    pickle   the object; its storages are persistent ids
    pickle   list of the storages' keys, in the order of what follows
    per key  u64 LE elements, then the elements

How long a pickle is shows only when it is read, so a window on the file grows as needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.errors import AnamnesisError, FormatError, LimitError, UnsupportedError
from anamnesis.limits import Limits, MiB
from anamnesis.readers.base import Container, Stored, View
from anamnesis.readers.pickle_globals import Collector, Findings, GlobalName
from anamnesis.readers.pickle_ops import run
from anamnesis.readers.pickle_vm import Machine, Node, Policy
from anamnesis.readers.pickled_texts import texts_beside
from anamnesis.readers.source import SourceFile
from anamnesis.readers.state_dict import flatten
from anamnesis.readers.torch_policy import StateDictPolicy
from anamnesis.readers.torch_records import TORCH_DTYPES, Storage, TorchTensor, item_bytes
from anamnesis.readers.torch_storages import Storages

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
WINDOW_BYTES = 64 * MiB  # of the file, in which all pickles lie; read again as it grows
COUNT_BYTES = 8
_PICKLES = 5
_FIRST_BYTES = MiB


class PickleStream:
    """The pickles at the start of a file, one after the other."""

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self.file, self._limits = file, limits
        self.position = 0
        self._data = b""
        self._grow(min(_FIRST_BYTES, limits.max_single_alloc))

    def next(self, where: str, policy: Policy) -> Any:
        """What the next pickle describes. A pickle that leaves the window is begun again."""
        while True:
            machine = Machine(self._data, where, policy, self._limits, self.position)
            try:
                value = run(machine)
            except FormatError:
                if not machine.ended or len(self._data) == self.file.size:
                    raise
                self._grow(8 * len(self._data), where)
            else:
                self.position = machine.position
                return value

    def _grow(self, nbytes: int, where: str = "") -> None:
        most = min(self.file.size, WINDOW_BYTES)
        if where and len(self._data) == most:
            raise LimitError(
                f"{where}: pickle: has no end in the first {most:,} bytes, the fixed limit",
                limit="pickle_bytes",
                need=most + 1,
                have=most,
            )
        nbytes = min(nbytes, most)
        self._limits.alloc(nbytes, f"{self.file.path}: pickles")
        self._data += self.file.read(len(self._data), nbytes - len(self._data))


def open_legacy(file: SourceFile, limits: Limits) -> Container:
    """Parse the pickles of a legacy checkpoint; of the storages only their sizes are read.

    Raises FormatError, SecurityError (a global that is not allowed), UnsupportedError (another
    pickle, a big-endian writer, an object that is no state dict), LimitError, OSError.
    """
    path = file.path
    stream = PickleStream(file, limits)
    _check_magic(path, stream)
    where = f"{path}: protocol version"
    version = stream.next(where, _plain(where))
    if type(version) is not int or version != PROTOCOL_VERSION:
        shown = version if type(version) is int and version < 1 << 64 else "something else"
        raise FormatError(f"{where}: must be {PROTOCOL_VERSION}, found {shown}")
    where = f"{path}: system information"
    _check_system(where, stream.next(where, _plain(where)))
    where = f"{path}: object"
    storages = Storages(where, legacy=True)
    unknown = limits.allow.leave_out_unknown
    top = stream.next(where, StateDictPolicy(where, storages, leave_out_unknown=unknown))
    where = f"{path}: storage keys"
    keys = _check_keys(where, stream.next(where, _plain(where)), storages.declared)
    places = _place(file, stream.position, keys, storages.declared)
    state = flatten(top, path, limits, stored_bytes=file.size, pickle_bytes=stream.position)
    stored = {name: _span(file, name, tensor, places) for name, tensor in state.tensors.items()}
    metadata = {**texts_beside(top), "serialization": "legacy"}
    return Container(
        "pth",
        (file.id,),
        stored,
        metadata,
        notes=state.notes,
        values=state.values,
        unread=state.unread,
    )


def list_legacy(file: SourceFile, limits: Limits) -> Findings:
    """Every global that a legacy checkpoint's five pickles name, or any other file of pickles."""
    stream = PickleStream(file, limits)
    names: list[GlobalName] = []
    problems: list[str] = []
    for number in range(_PICKLES):
        where = f"{file.path}: pickle {number + 1}"
        collector = Collector()
        broken = False
        try:
            value = stream.next(where, collector)
            if not number and (type(value) is not int or value != MAGIC_NUMBER):
                problems.append(f"{where}: is no magic number: torch.save did not write this file")
        except AnamnesisError as error:
            problems.append(str(error))
            broken = True
        names += collector.found(where)
        if broken or stream.position == file.size:
            break
    return Findings(tuple(names), tuple(problems))


def _plain(where: str) -> StateDictPolicy:
    def refuse(identifier: Any) -> Any:
        raise FormatError(f"{where}: a persistent id outside of the object")

    return StateDictPolicy(where, refuse)


def _check_magic(path: str, stream: PickleStream) -> None:
    where = f"{path}: magic number"
    try:
        value = stream.next(where, _plain(where))
    except FormatError as error:
        why = str(error).removeprefix(f"{where}: ")
        raise FormatError(
            f"{path}: is neither a ZIP archive nor a legacy checkpoint (magic number: {why})"
        ) from None
    if type(value) is not int:
        raise UnsupportedError(
            f"{path}: is a Python pickle, but no checkpoint that torch.save wrote; load it where "
            "it was made and save its state dict"
        )
    if value != MAGIC_NUMBER:
        raise FormatError(f"{path}: magic number: {value:#x}, not {MAGIC_NUMBER:#x}")


def _check_system(where: str, value: Any) -> None:
    if type(value) is not Node or value.kind != "dict":
        raise FormatError(f"{where}: must be a dict")
    for key, entry in value.pairs():
        # Values are little-endian since PyTorch 0.4 whatever the machine, and in its byte order
        # before: nothing in the file tells.
        if type(key) is str and key == "little_endian" and entry is not True:
            raise UnsupportedError(
                f"{where}: little_endian is not True: it does not say how to read"
            )


def _check_keys(where: str, value: Any, declared: Mapping[str, Storage]) -> list[str]:
    if type(value) is not Node or value.kind != "list":
        raise FormatError(f"{where}: must be a list")
    seen: set[str] = set()
    for key in value.items:
        if type(key) is not str:
            raise FormatError(f"{where}: must be texts, found {type(key).__name__}")
        if key in seen:
            raise FormatError(f"{where}: {key!r:.100} is in the list twice")
        if key not in declared:
            raise FormatError(f"{where}: {key!r:.100} is no storage of the object")
        seen.add(key)
    missing = next((key for key in declared if key not in seen), None)
    if missing is not None:
        raise FormatError(f"{where}: storage {missing!r:.100} is missing")
    return value.items


def _place(
    file: SourceFile, position: int, keys: list[str], declared: Mapping[str, Storage]
) -> dict[str, int]:
    """Where each storage's bytes begin; they must fill the rest of the file."""
    places: dict[str, int] = {}
    for key in keys:
        storage = declared[key]
        where = f"{file.path}: storage {key!r:.100}"
        end = position + COUNT_BYTES + storage.nbytes
        if end > file.size:
            raise FormatError(
                f"{where}: {storage.elems:,} elements of {storage.dtype} from byte "
                f"{position + COUNT_BYTES:,} go past the end of the file ({file.size:,} bytes)"
            )
        count = int.from_bytes(file.read(position, COUNT_BYTES), "little", signed=True)
        if count != storage.elems:
            raise FormatError(
                f"{where}: elements: {count:,} at byte {position:,}, the object says "
                f"{storage.elems:,}"
            )
        places[key] = position + COUNT_BYTES
        position = end
    if position != file.size:
        raise FormatError(
            f"{file.path}: {file.size - position:,} bytes after the last storage, which ends at "
            f"byte {position:,}"
        )
    return places


def _span(file: SourceFile, name: str, tensor: TorchTensor, places: Mapping[str, int]) -> Stored:
    storage = tensor.storage
    assert storage is not None
    offset = places[storage.key] + storage.start + tensor.offset * item_bytes(tensor.dtype)
    view = View(tensor.strides) if tensor.strides is not None else None
    dtype = TORCH_DTYPES[tensor.dtype]
    return Stored(name, dtype, tensor.shape, file.id, offset, tensor.nbytes, view)
