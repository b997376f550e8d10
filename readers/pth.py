"""PyTorch checkpoints: the ZIP that torch.save has written since 1.6, or the format before it.

Layout: torch/serialization.py, `_save` and `_load`, and caffe2/serialize/inline_container.cc:

    ROOT/data.pkl        pickle of the object; its storages are persistent ids
    ROOT/data/KEY        the bytes of a storage, at a multiple of 64
    ROOT/byteorder       "little" or "big"; little when missing
    ROOT/version, ROOT/.format_version, ROOT/.storage_alignment, ROOT/.data/serialization_id

ROOT is `archive` or the file's name; all members share it. The pickle is run by our own
machine, which imports and calls nothing (`pickle_vm`, `torch_globals`).
"""

from __future__ import annotations

from collections.abc import Mapping

from zlib_ng.zlib_ng import crc32

from anamnesis.errors import FormatError, SecurityError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.base import Container, Member, Stored, View
from anamnesis.readers.impostors import HEAD_BYTES, recognise
from anamnesis.readers.pickle_globals import Findings, collect_globals
from anamnesis.readers.pickle_ops import run
from anamnesis.readers.pickle_vm import PICKLE_BYTES, Machine
from anamnesis.readers.pickled_texts import texts_beside
from anamnesis.readers.pth_legacy import list_legacy, open_legacy
from anamnesis.readers.source import SourceFile, open_source
from anamnesis.readers.state_dict import flatten
from anamnesis.readers.torch_policy import StateDictPolicy
from anamnesis.readers.torch_records import TORCH_DTYPES, Storage, TorchTensor, item_bytes
from anamnesis.readers.torch_storages import Storages
from anamnesis.readers.zip import check_crc32, read_members, read_start

ZIP_MAGIC = b"PK"
_BYTE_ORDERS = {b"little": False, b"big": True}


def open_pth(path: str, limits: Limits) -> Container:
    """Parse a checkpoint of either format; no storage is read.

    Tensors come in the order of the pickle, under the names that `state_dict` gives them. Raises
    SecurityError (a global that is not allowed), FormatError, UnsupportedError (TorchScript, tar
    files, dtypes that are not converted, objects that are no state dict), LimitError,
    IntegrityError (the pickle's CRC-32), OSError.
    """
    with open_source(path) as file:
        head = file.read(0, min(file.size, HEAD_BYTES))
        if head.startswith(ZIP_MAGIC):
            return _open_zip(file, limits)
        _refuse_others(path, head)
        return open_legacy(file, limits)


def list_globals(path: str, limits: Limits) -> Findings:
    """Every global that the pickles of a file name, allowed or not.

    Also of TorchScript archives and pickles that torch did not write. What is broken becomes a
    problem of the findings; raises FormatError or UnsupportedError only for a file that is no
    ZIP archive that can be read, LimitError and OSError.
    """
    with open_source(path) as file:
        head = file.read(0, min(file.size, HEAD_BYTES))
        if not head.startswith(ZIP_MAGIC):
            _refuse_others(path, head)
            return list_legacy(file, limits)
        found: list[Findings] = []
        for member in read_members(file, limits):
            if member.name.endswith(".pkl"):
                where = f"{path}: {member.name}"
                found.append(collect_globals(_read(file, member, limits), where, limits))
        return Findings(
            tuple(name for findings in found for name in findings.globals),
            tuple(problem for findings in found for problem in findings.problems),
        )


def _refuse_others(path: str, head: bytes) -> None:
    other = recognise(path, head, "checkpoints that torch.save wrote")
    if other and head[:1] != b"\x80":
        raise other


def _open_zip(file: SourceFile, limits: Limits) -> Container:
    members = {member.name: member for member in read_members(file, limits)}
    root = _root(file.path, members)
    _refuse_torchscript(file.path, root, members)
    pickle = members.get(f"{root}/data.pkl")
    if pickle is None:
        raise FormatError(f"{file.path}: member {f'{root}/data.pkl'!r:.200} is missing")
    swapped, byte_order = _byte_order(file, root, members, limits)
    where = f"{file.path}: {pickle.name}"
    data = _read(file, pickle, limits)
    storages = Storages(where)
    unknown = limits.allow.leave_out_unknown
    policy = StateDictPolicy(where, storages, leave_out_unknown=unknown)
    machine = Machine(data, where, policy, limits)
    top = run(machine)
    _refuse_rest(machine, limits)
    places = {
        key: _member(file.path, f"{root}/data/{key}", storage, members)
        for key, storage in storages.declared.items()
    }
    state = flatten(top, where, limits, stored_bytes=file.size, pickle_bytes=len(data))
    stored = _spans(state.tensors, places, swapped)
    unread = tuple(m for m in members.values() if m is not pickle and m is not byte_order)
    metadata = {**texts_beside(top), "serialization": "zip"}
    return Container(
        "pth", (file.id,), stored, metadata, unread, state.notes, state.values, state.unread
    )


def _root(path: str, members: Mapping[str, Member]) -> str:
    roots = dict.fromkeys(name.partition("/")[0] for name in members)
    if len(roots) > 1:
        first, second = list(roots)[:2]
        raise FormatError(f"{path}: two root folders, {first!r:.100} and {second!r:.100}")
    if not roots:
        raise FormatError(f"{path}: an archive without members")
    return next(iter(roots))


def _refuse_torchscript(path: str, root: str, members: Mapping[str, Member]) -> None:
    code = f"{root}/code/"
    if f"{root}/constants.pkl" in members or any(name.startswith(code) for name in members):
        raise UnsupportedError(
            f"{path}: is a TorchScript archive, which holds code; save the module's state_dict() "
            "with torch.save instead"
        )


def _byte_order(
    file: SourceFile, root: str, members: Mapping[str, Member], limits: Limits
) -> tuple[bool, Member | None]:
    member = members.get(f"{root}/byteorder")
    if member is None:
        return False, None
    text = _read(file, member, limits) if member.nbytes < 16 else b""
    if text not in _BYTE_ORDERS:
        raise FormatError(
            f"{file.path}: member {member.name!r:.200}: must be little or big, found {text!r}"
        )
    return _BYTE_ORDERS[text], member


def _read(file: SourceFile, member: Member, limits: Limits) -> bytes:
    """The whole of a small member, checked."""
    limits.alloc(member.nbytes, f"{file.path}: member {member.name!r:.200}", PICKLE_BYTES)
    data = read_start(file, member, member.nbytes)
    check_crc32(member, crc32(data))
    return data


def _refuse_rest(machine: Machine, limits: Limits) -> None:
    """Whatever follows the STOP may be run by another reader."""
    left = machine.end - machine.position
    if not left:
        return
    found = collect_globals(machine.data, machine.where, limits, machine.position).globals
    names = f" and names {', '.join(g.name for g in found[:8])!r:.300}" if found else ""
    raise SecurityError(
        f"{machine.where}: pickle: {left:,} bytes follow its end at byte {machine.position:,}; "
        f"a second pickle may hide there{names}"
    )


def _member(path: str, name: str, storage: Storage, members: Mapping[str, Member]) -> Member:
    member = members.get(name)
    if member is None:
        raise FormatError(f"{path}: storage {storage.key!r:.100}: member {name!r:.200} is missing")
    if member.nbytes != storage.nbytes:
        raise FormatError(
            f"{path}: storage {storage.key!r:.100}: {storage.elems:,} elements of {storage.dtype} "
            f"take {storage.nbytes:,} bytes, member {name!r:.200} has {member.nbytes:,}"
        )
    return member


def _spans(
    tensors: Mapping[str, TorchTensor], places: Mapping[str, Member], swapped: bool
) -> dict[str, Stored]:
    stored: dict[str, Stored] = {}
    kinds: dict[tuple[str, str, tuple[int, ...] | None], tuple[Member, int, View]] = {}
    before = None
    for name, tensor in tensors.items():
        assert tensor.storage is not None
        kind = tensor.storage.key, tensor.dtype, tensor.strides
        if kind != before:  # that of many in turn, if of many at all
            if kind not in kinds:
                member = places[kind[0]]
                view = View(tensor.strides, _swap(tensor, swapped), member)
                # Offsets in a deflated member count from its inflated start.
                kinds[kind] = member, 0 if member.deflated else member.offset, view
            member, start, view = kinds[kind]
            before, item, dtype = kind, item_bytes(tensor.dtype), TORCH_DTYPES[tensor.dtype]
        offset = start + tensor.offset * item
        stored[name] = Stored(name, dtype, tensor.shape, member.file, offset, tensor.nbytes, view)
    return stored


def _swap(tensor: TorchTensor, swapped: bool) -> int:
    """The size of the numbers whose bytes are to be swapped; 0 for none."""
    itemsize = item_bytes(tensor.dtype)
    numbers = itemsize // 2 if tensor.dtype == "complex64" else itemsize
    return numbers if swapped and numbers > 1 else 0
