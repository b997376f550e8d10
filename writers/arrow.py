"""The Arrow IPC sink: one file, or a folder that `pyarrow.dataset` reads as it is.

A row of the table is a row of a tensor seen as a matrix of `shape[-1]` columns (tensors of no
or one dimension are one row): `tensor` (utf8 in a dictionary), `row` (int64), and the numbers as a
large_list, in a column for each dtype; see `arrow_schema`. The schema metadata `anamnesis.tensors`
lists every tensor of all files with its shape, dtype, scheme, file (`shard`, from 1) and record
batches there (`batches`, first and count).

A batch holds rows of one tensor, about 16 MiB, and never a part of a row. Its size follows from
row count and row length, so offsets are arithmetic, and any window goes straight to its place.
With a compression the finished file is made from that one, batch by batch; see `arrow_pack`.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path, PurePath

from anamnesis.errors import IntegrityError, LimitError
from anamnesis.limits import MiB
from anamnesis.writers import arrow_ipc as ipc
from anamnesis.writers.arrow_schema import dtypes_of, listing, serialised
from anamnesis.writers.arrow_slot import ArrowSlot
from anamnesis.writers.base import PLAIN, Item, Layout, OutFile, Storage, check_known, shard_groups
from anamnesis.writers.finished import open_finished

SUFFIX = ".arrow"
FIXED_BYTES = 256 * MiB  # names, and rows without elements, which a layout holds
FOOTER_BYTES = 100_000_000  # of block list and schema; the reader refuses more
_CHECKED_BYTES = 64 * MiB  # of a packed batch that a check may unpack in memory


def layout(
    items: Sequence[Item], path: PurePath, max_shard_bytes: int, storage: Storage = PLAIN
) -> Layout:
    """Lay out one file (`path` ends in `.arrow`) or a folder of numbered parts.

    Raises UnsupportedError for a dtype that Arrow lacks, and LimitError when the bytes that are
    known beforehand would not fit in memory.
    """
    dtypes = dtypes_of(items)
    columns = {dtype: number for number, dtype in enumerate(dtypes)}
    slots = [ArrowSlot.of(item, columns[item.dtype], len(columns)) for item in items]
    _limit_fixed(items, slots)
    if path.suffix == SUFFIX:
        groups, paths = [list(range(len(items)))], [path]
    else:
        groups = shard_groups(items, [s.nbytes for s in slots], max_shard_bytes)
        names = [f"part-{i + 1:05d}-of-{len(groups):05d}{SUFFIX}" for i in range(len(groups))]
        paths = [path / name for name in names]
    text = listing(items, [slot.batches for slot in slots], groups)
    message = ipc.schema_message(serialised(dtypes, storage.bf16, text))
    codec = "" if storage.compression == "none" else storage.compression
    numbers = [0] * len(items)
    files = []
    for number, (group, name) in enumerate(zip(groups, paths, strict=True)):
        dictionary, block = _dictionary([items[i].name for i in group])
        offset = len(ipc.FILE_START) + len(message)
        fixed = [(0, ipc.FILE_START), (len(ipc.FILE_START), message), (offset, dictionary)]
        block = (offset, *block[1:])
        offset += len(dictionary)
        for n, i in enumerate(group):
            numbers[i] = number
            slot = slots[i] = replace(slots[i], offset=offset, number=n)
            if not slot.row_bytes or not slot.rows:  # no window will come
                fixed += slot.heads()
            offset += slot.nbytes
        tail = ipc.footer(message, block, (b for i in group for b in slots[i].blocks()))
        _limit("schema and batch list", sum(map(len, tail)), FOOTER_BYTES)
        for part in tail:
            fixed.append((offset, part))
            offset += len(part)
        group_slots = tuple(slots[i] for i in group)
        out = OutFile(str(name), offset, tuple(fixed), group_slots)
        if codec:
            out = replace(out, codec=codec, packer="arrow_pack", packed_bytes=offset)
        files.append(out)
    places = tuple(zip(numbers, slots, strict=True))
    return Layout(tuple(files), places, tuple(i for group in groups for i in group))


def check(path: PurePath, expected: OutFile) -> None:
    """All bytes but the values are what was laid out, and Arrow reads the file.

    Raises IntegrityError. Values are not read. Of a packed file, the bytes before its batches are
    known; its first and last batch are unpacked if they are small.
    """
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.ipc  # noqa: PLC0415

    if expected.codec:
        start = b"".join(data for _, data in expected.fixed[:3])
        with open_finished(path) as file:
            if file.read(len(start)) != start:
                raise IntegrityError(f"{path}: the first {len(start):,} bytes are not the header")
    else:
        check_known(Path(path), expected)
    slots = [slot for slot in expected.slots if isinstance(slot, ArrowSlot)]
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open_finished(path))
            if isinstance(path, Path):
                # A map: the values of the two batches are not touched, unless they are packed.
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                reader = stack.enter_context(pa.ipc.open_file(pa.py_buffer(mapped)))
            else:
                reader = stack.enter_context(pa.ipc.open_file(pa.PythonFile(file, mode="r")))
            count = reader.num_record_batches
            wanted = sum(slot.batches for slot in slots)
            schema = pa.ipc.read_schema(pa.py_buffer(expected.fixed[1][1]))
            if count != wanted or not reader.schema.equals(schema, check_metadata=True):
                raise IntegrityError(f"{path}: Arrow finds another schema, or {count:,} batches")
            for batch, slot in {0: slots[0], count - 1: slots[-1]}.items() if count else ():
                if not expected.codec or slot.batch_rows * slot.row_bytes <= _CHECKED_BYTES:
                    reader.get_batch(batch).validate()
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise IntegrityError(f"{path}: Arrow cannot read what was written: {error}") from error


def _dictionary(names: Sequence[str]) -> tuple[bytes, ipc.Block]:
    _limit("names of all tensors of a file", sum(len(name.encode()) for name in names), FIXED_BYTES)
    return ipc.dictionary_message(names)


def _limit_fixed(items: Sequence[Item], slots: Sequence[ArrowSlot]) -> None:
    """Refuse block lists, and rows without elements, that would not fit in memory."""
    total = blocks = 0
    for item, slot in zip(items, slots, strict=True):
        blocks += slot.batches * ipc.BLOCK_BYTES
        total += 0 if slot.row_bytes and slot.rows else slot.nbytes
        rows = f"{item.name}: {slot.rows:,} rows: "
        _limit(f"{rows}batch list", blocks, FOOTER_BYTES)
        _limit(f"{rows}rows without elements", total, FIXED_BYTES)


def _limit(what: str, need: int, have: int) -> None:
    if need > have:
        raise LimitError(
            f"{what}: {need:,} bytes in an Arrow file; the fixed limit is {have:,}: write a folder "
            "with a smaller max_shard_size, or safetensors",
            limit="arrow.fixed_bytes",
            need=need,
            have=have,
        )
