"""The records that the rooms hand to one another: spans, stored tensors, logical tensors.

A container parser turns a file into `Stored` tensors (named spans, no payload read); a scheme
groups them into `Tensor`s, each with an output shape, an encoding and its components. All of
them are small, frozen and picklable: a Dask task carries nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from anamnesis.readers.placement import WHOLE, Placement
from anamnesis.record import record


@dataclass(frozen=True, slots=True)
class FileId:
    """An input file as it was when it was opened; a later difference is an `IntegrityError`."""

    path: str
    size: int
    mtime_ns: int
    device: int
    inode: int


class Range(NamedTuple):
    """Bytes `[start, stop)` of a file that are going to be read, each once.

    Of a `loose` range some may not be read, or some more than once.
    """

    file: FileId
    start: int
    stop: int
    loose: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of an archive: its data at `offset` of `file`, and the CRC-32 of its `nbytes`.

    With `deflated`, the `packed_bytes` at `offset` inflate to `nbytes`; else they are equal.
    """

    name: str
    file: FileId
    offset: int
    packed_bytes: int
    nbytes: int
    crc32: int
    deflated: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of a tensor in one record batch: from row `first` on, `rows` of them.

    `buffers` are `(file offset, stored bytes)` of the dictionary indices, the row numbers, the list
    offsets and the values; with a `codec` (lz4, zstd) they are packed.
    """

    first: int
    rows: int
    buffers: tuple[tuple[int, int], ...]
    codec: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor in the record batches of an Arrow file, `row_bytes` a row.

    `number` is the tensor's in the dictionary of names, `width` the elements of a row.
    """

    number: int
    width: int
    row_bytes: int
    runs: tuple[Run, ...]

    @property
    def longest_packed(self) -> int:
        """Most bytes of values that can only be read from their start."""
        return max((run.rows * self.row_bytes for run in self.runs if run.codec), default=0)


@dataclass(frozen=True, slots=True)
class View:
    """How a stored tensor differs from plain little-endian numbers in row-major order.

    `strides` are in elements (None: row-major); `swap` is the size in bytes of the big-endian
    numbers to swap (0: none): of all, or of those at `fields` of each `block` of bytes. Of a
    deflated `member`, `Stored.offset` counts inflated bytes. With `rows` the numbers lie in several
    places, and the rest says nothing.
    """

    strides: tuple[int, ...] | None = None
    swap: int = 0
    member: Member | None = None
    rows: Rows | None = None
    block: int = 0
    fields: tuple[int, ...] = ()


@record(frozen=True, slots=True)
class Stored:
    """A tensor as a container stores it: `nbytes` bytes at `offset` of `file`.

    `dtype` is the safetensors name (`F8_E4M3`, `BF16`, …) or ggml's (`Q4_K`); `shape` is
    outermost dimension first, in elements. `nbytes` is the size of the tensor's own numbers, which
    a strided view may find in fewer or more bytes of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: FileId
    offset: int
    nbytes: int
    view: View | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """What a parser found: stored tensors by name, in file order, and the file's metadata.

    `members` are the archive entries whose CRC-32 must hold; `notes` say what was left out.
    `values` are settings that a layer's dict holds beside its tensors, by dotted name: integers,
    floats, text, dtypes as `torch.…`, None, and tuples of integers. `unread` are the names of what
    cannot be read and was left out, so that patterns may fit them.
    """

    kind: str  # the row in the table of readers
    files: tuple[FileId, ...]
    stored: Mapping[str, Stored]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    notes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Component:
    """One stored tensor in its role inside a logical tensor."""

    role: str  # the format's own name: qweight, scales, absmax, payload, …
    stored: Stored
    placement: Placement = WHOLE

    def window_bytes(self, units: int) -> int:
        """Bytes that are read for so many output units."""
        return self.placement.window_bytes(self.stored.nbytes, units)


@record(frozen=True, slots=True)
class Tensor:
    """A logical tensor: what comes out, and which stored tensors it is made of.

    The output is `units` of `unit_elems` elements in row-major order of `shape` (the last may be
    short). Windows start at multiples of `unit_multiple` units, and do not go from one matrix of a
    stack in columns to the next. `components[0]` is the payload.
    `out_dtype` is the dtype written when the caller asks for none: `BF16`, or the stored
    one for tensors that were never quantised.
    """

    name: str
    shape: tuple[int, ...]
    scheme: str
    encoding: str  # row in the table of encodings, or "copy" for bytes that stay as they are
    components: tuple[Component, ...]
    unit_elems: int
    unit_multiple: int = 1
    out_dtype: str = "BF16"
    params: Mapping[str, Any] = field(default_factory=dict)
    orientation: Literal["as-stored", "transposed"] = "as-stored"

    @property
    def elems(self) -> int:
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        return -(-self.elems // self.unit_elems)

    @property
    def matrix_units(self) -> int:
        """Units of a matrix, where windows have to end with it: in a stack in columns; else 0."""
        first, *others = self.components
        most = first.placement.matrix_units
        return max(most, *(c.placement.matrix_units for c in others)) if others else most

    @property
    def coding(self) -> str:
        """The encoding of the codes alone: of a folded tensor, that of its weight before it."""
        return str(self.params.get("inner", self.encoding))

    @property
    def stored_bytes(self) -> int:
        return sum([c.stored.nbytes for c in self.components])  # of a million tensors: no generator

    @property
    def quantised(self) -> bool:
        return self.scheme != "passthrough"


@record(frozen=True, slots=True)
class Dropped:
    """A stored tensor that has no place in the output, and why."""

    stored: Stored
    why: str


__all__ = [
    "Component",
    "Container",
    "Dropped",
    "FileId",
    "Member",
    "Rows",
    "Run",
    "Stored",
    "Tensor",
    "View",
]
