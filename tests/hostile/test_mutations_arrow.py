"""Truncations and one-byte substitutions of tiny Arrow files, plain and packed.

Whatever the bytes say, opening, resolving and reading every value gives a model or one of this
package's errors; and what is read after all is what pyarrow reads, if that takes the file.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from anamnesis.errors import (
    AnamnesisError,
    FormatError,
    IntegrityError,
    LimitError,
    UnsupportedError,
)
from anamnesis.limits import Limits
from anamnesis.pipeline.values import to_numpy
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.writers import arrow
from anamnesis.writers.base import Item, Storage
from anamnesis.writers.part import PartFile

CODECS = ("none", "lz4", "zstd")
# Files of 5 kB: all of their mutants take an hour. MUTATIONS=1 tries one substitution of each byte.
EVERY = 1 if os.environ.get("MUTATIONS") == "1" else 8
NO_LIMITS = Limits(max_expansion_ratio=1 << 40)
ITEMS = [
    Item("w", (3, 2), "BF16", 6),
    Item("é", (2,), "F32", 2),
    Item("e", (0, 2), "F32", 0),
]


def write(path: Path, items: list[Item], values: list[Any], codec: str = "none") -> bytes:
    (file,) = (layout := arrow.layout(items, path, 1, Storage(codec))).files
    part = PartFile(file, overwrite=True)
    fd = os.open(part.part, os.O_RDWR)
    for (_, slot), data in zip(layout.places, values, strict=True):
        slot.write(fd, 0, data)
    os.close(fd)
    part.commit(arrow)
    return path.read_bytes()


def seed(path: Path, codec: str) -> bytes:
    values = [np.arange(1, 7, dtype=np.uint16), np.arange(2, dtype=np.float32), np.empty(0, "f4")]
    return write(path, ITEMS, values, codec)


def values(path: str) -> dict[str, bytes]:
    files = Files()
    try:
        return {t.name: to_numpy(t, files).tobytes() for t in load_model(path).tensors}
    finally:
        files.close()


def theirs(data: bytes) -> dict[str, bytes]:
    """The values of every tensor by name, as pyarrow has them."""
    found: dict[str, bytes] = {}
    with pa.ipc.open_file(pa.BufferReader(data)) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            for column in batch.columns[2:]:
                for name, row in zip(batch["tensor"].to_pylist(), column, strict=True):
                    if row.is_valid:
                        items = row.values
                        width = (
                            items.type.byte_width
                            if pa.types.is_fixed_size_binary(items.type)
                            else items.type.bit_width // 8
                        )
                        raw = (items.buffers()[1] or b"")[items.offset * width :]
                        part = bytes(raw)[: len(items) * width]
                        found[name] = found.get(name, b"") + part
    return found


def changed(data: bytes) -> Iterator[bytes]:
    chance = random.Random(len(data))
    for at in range(0, len(data), EVERY):
        value = (data[at] + chance.randrange(1, 256)) % 256
        yield data[:at] + bytes((value,)) + data[at + 1 :]


@pytest.mark.parametrize("codec", CODECS)
def test_no_foreign_exception(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    data = seed(path, codec)
    wanted = values(str(path))
    assert set(wanted) == {"w", "é", "e"}
    cut = (data[:length] for length in range(0, len(data), EVERY))
    accepted = 0
    messages: list[str] = []
    with path.open("r+b", buffering=0) as file:
        for mutant in (*cut, *changed(data)):
            os.ftruncate(file.fileno(), len(mutant))
            os.pwrite(file.fileno(), mutant, 0)
            try:
                found = values(str(path))
            except AnamnesisError as error:
                messages.append(str(error))
                continue
            accepted += 1
            assert len(mutant) == len(data)
            try:
                other = theirs(mutant)
            except (pa.ArrowException, OSError, ValueError, OverflowError):
                continue
            assert {n: v for n, v in found.items() if v} == other
    assert accepted > 150
    assert len(messages) > 700
    assert all(str(path) in message and message.isprintable() for message in messages)
    assert all(len(message) < 2_000 for message in messages)


def tweak(data: bytes, what: bytes, other: bytes, count: int = 2) -> bytes:
    assert data.count(what) == count
    assert len(what) == len(other)
    return data.replace(what, other)


@pytest.mark.parametrize(
    ("what", "other", "error", "field"),
    [
        (b'"batches":[0,1]', b'"batches":[1,1]', FormatError, "batches"),
        (b'"shape":[3,2]', b'"shape":[2,2]', FormatError, "2 rows, its batches have 3"),
        (b'"shape":[3,2]', b'"shape":[2,3]', FormatError, "something else"),
        (b'"shape":[3,2]', b'"shape":[-3]', None, ""),
        (b'"dtype":"F32"', b'"dtype":"I32"', FormatError, "no column of I32"),
        (b'"dtype":"F32"', b'"dtype":"X32"', FormatError, "dtype"),
        (b'"shard":1', b'"shard":0', FormatError, "counts from 1"),
        (b"anamnesis.tensors", b"anamnesis.tensorz", UnsupportedError, "other data (columns"),
        (b"ARROW1", b"ARROW2", FormatError, "no Arrow IPC file"),
        (b"lance.bfloat16", b"lance.bfloat61", FormatError, "items of BF16"),
    ],
)
def test_contradictions_are_told(
    what: bytes, other: bytes, error: type[AnamnesisError] | None, field: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.arrow"
    data = seed(path, "none")
    if error is None:
        path.write_bytes(data.replace(what, other))  # lengths that do not fit any more
        error = FormatError
    else:
        path.write_bytes(tweak(data, what, other, data.count(what)))
    with pytest.raises(AnamnesisError) as caught:
        load_model(str(path))
    assert type(caught.value) is error, caught.value
    assert field in str(caught.value)


def foreign(path: Path, table: pa.Table, **options: Any) -> None:
    settings = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_file(str(path), table.schema, options=settings) as out:
        out.write_table(table)


def test_other_peoples_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    foreign(path, pa.table({"x\n": [1], "y": ["a"], "z": [[1.0]]}))
    with pytest.raises(UnsupportedError, match=r"columns 'x\\n' i8, 'y' utf8, 'z' list") as caught:
        load_model(str(path))
    assert str(caught.value).isprintable()
    foreign(path, pa.table({f"c{i}": [1] for i in range(9)}))
    with pytest.raises(UnsupportedError, match="and 1 more"):
        load_model(str(path))
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("x", pa.int8())])):
        pass
    path.write_bytes(sink.getvalue())
    with pytest.raises(UnsupportedError, match="stream"):
        load_model(str(path))
    path.write_bytes(b"FEA1" + bytes(20))
    with pytest.raises(UnsupportedError, match="Feather"):
        load_model(str(path))
    path.write_bytes(b"{}" + bytes(20))
    with pytest.raises(FormatError, match="no Arrow IPC file"):
        load_model(str(path))


def test_a_file_that_another_program_wrote_again(tmp_path: Path) -> None:
    """The list of tensors went with the schema, and the batches are others."""
    path = tmp_path / "f.arrow"
    seed(path, "none")
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all().combine_chunks()
    foreign(path, table)
    with pytest.raises(FormatError, match="tensor 'w'"):
        load_model(str(path))


def test_a_file_that_another_program_compressed(tmp_path: Path) -> None:
    """Batch by batch, it is the same; but for the names, which are compressed as well."""
    path = tmp_path / "f.arrow"
    seed(path, "none")
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    foreign(path, table, compression="zstd")
    with pytest.raises(UnsupportedError, match=r"dictionary of names: compressed"):
        load_model(str(path))


def places(path: Path, name: str) -> tuple[tuple[int, int], ...]:
    """Where indices, row numbers, offsets and values of a tensor's first batch lie."""
    view = load_model(str(path), limits=NO_LIMITS).stored[name].view
    assert view is not None
    assert view.rows is not None
    return view.rows.runs[0].buffers


@pytest.mark.parametrize("codec", ["none", "lz4"])
@pytest.mark.parametrize(
    ("which", "what"), [(0, "dictionary index"), (1, "row number"), (2, "list offset")]
)
def test_what_lies_beside_the_values_is_checked(
    codec: str, which: int, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "f.arrow"
    data = seed(path, codec)
    at, _ = places(path, "w")[which]
    at += 8 + (8 if codec != "none" else 0)  # so short a buffer is not packed
    path.write_bytes(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
    with pytest.raises(FormatError, match=rf"tensor 'w': rows from 0 on: a {what}"):
        values(str(path))


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    item = Item("zeros", (4096, 4096), "F32", 1 << 24)
    data = write(path, [item], [np.zeros(1 << 24, np.float32)], "zstd")
    footer = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    body = data[:footer].rstrip(b"\0")  # what we write leaves room here, so that it is read back
    path.write_bytes(body + bytes(-len(body) % 8) + data[footer:])
    assert path.stat().st_size < 20_000
    with pytest.raises(LimitError, match="max_expansion_ratio"):
        load_model(str(path))
    assert load_model(str(path), limits=NO_LIMITS).tensors


def test_a_declared_length_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    item = Item("w", (64, 64), "F32", 4096)
    data = write(path, [item], [np.arange(4096, dtype=np.float32)], "zstd")
    at, packed = places(path, "w")[3]
    for length in (1 << 62, -2, 0, 4 * 4096 - 1):
        path.write_bytes(data[:at] + struct.pack("<q", length) + data[at + 8 :])
        with pytest.raises(FormatError, match=r"packed buffer of .* where 16,384 are needed"):
            values(str(path))
    path.write_bytes(data[: at + 8] + bytes(packed - 8) + data[at + packed :])
    with pytest.raises(FormatError, match="broken zstd data"):
        values(str(path))
    frame = pa.Codec("zstd").compress(bytes(100), asbytes=True)
    frame += pa.Codec("zstd").compress(bytes(100_000), asbytes=True)
    assert len(frame) < packed - 8
    path.write_bytes(data[: at + 8] + frame + data[at + 8 + len(frame) :])
    with pytest.raises(FormatError, match=r"unpacks to more|broken"):
        values(str(path))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    seed(path, "zstd")
    model = load_model(str(path))
    os.truncate(path, 100)
    with pytest.raises(IntegrityError):
        to_numpy(model.tensors[0], Files())


def test_sparse_and_huge(refused: Callable[..., str], tmp_path: Path) -> None:
    for nbytes in (1 << 31, 1, -1):
        refused(
            b"ARROW1\0\0" + bytes(40) + struct.pack("<i", nbytes - 1) + b"ARROW1",
            ".arrow",
            FormatError,
            "footer",
        )
    path = tmp_path / "sparse.arrow"
    with path.open("wb") as file:
        file.write(b"ARROW1\0\0")
        file.truncate(1 << 40)
        file.seek((1 << 40) - 10)
        file.write(struct.pack("<i", (1 << 31) - 1) + b"ARROW1")
    with pytest.raises(LimitError):
        load_model(str(path))


def test_a_listing_of_many_shards(tmp_path: Path) -> None:
    path = tmp_path / "f.arrow"
    schema = pa.ipc.open_file(pa.BufferReader(seed(path, "none"))).schema
    entries = json.loads(schema.metadata[b"anamnesis.tensors"])
    for entry in entries:
        entry["shard"] = 1 << 40
    names = pa.array([], pa.dictionary(pa.int32(), pa.utf8()))
    columns = [names, *(pa.array([], f.type) for f in list(schema)[1:])]
    table = pa.Table.from_arrays(
        columns, schema=schema.with_metadata({"anamnesis.tensors": json.dumps(entries)})
    )
    foreign(path, table)
    with pytest.raises(LimitError, match="shard"):
        load_model(str(path))
