"""A tensor's raw blocks as table rows: where each lies, its bytes, and its scales as numbers.

A section is a run of rows that are made alike. Rows are known by arithmetic; bytes are read, with
`pread` and for the rows asked for only, when a column needs them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from anamnesis.kernels.types import Array
from anamnesis.pipeline.members import check_tensor
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.batch import OpenFile
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.raw import RawBytes, open_raw

LONGEST = 1 << 18  # elements of a row; longer ones are cut
NUMBERS = ("scale", "minimum", "zero", "scales", "minimums")

Columns = dict[str, Any]


class Section(Protocol):
    """Rows `[0, rows)` that are made alike."""

    @property
    def component(self) -> str:
        """The role of the stored tensor whose units the rows are."""
        ...

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    @property
    def multiple(self) -> int:
        """Batches of a multiple of so many rows read every number once."""
        ...

    def row_bytes(self, wanted: Collection[str]) -> int:
        """Memory for a row of these columns, about."""
        ...

    def place(self, start: int, stop: int) -> Columns:
        """`row`, `col` and `elems`, int64 `[stop - start]`; what has no place is left out."""
        ...

    def read(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        """Those of `payload` (an Arrow array) and `NUMBERS` (float32) that the rows have."""
        ...


class Parts:
    """The components of one tensor as bytes; remembers which were read."""

    def __init__(self, tensor: Tensor, open_file: OpenFile) -> None:
        self.tensor = tensor
        self.by_role = {c.role: c for c in tensor.components}
        self._open = open_file
        self._raws: dict[str, RawBytes] = {}
        self._read: dict[str, int] = {}

    def read(self, role: str, begin: int, end: int) -> Array:
        """Bytes `[begin, end)` of a component, as uint8 in memory of their own."""
        stored = self.by_role[role].stored
        raw = self._raws.get(role)
        if raw is None:
            raw = self._raws[role] = open_raw(stored, self._open(stored.file))
        out = np.empty(end - begin, np.uint8)
        raw.read_into(begin, out)
        self._read[role] = self._read.get(role, 0) + len(out)
        return out

    def numbers(self, role: str, start: int = 0, stop: int | None = None) -> Any:
        """Numbers `[start, stop)` of a component of scales, as float32."""
        from anamnesis.kernels.bits import to_float32

        stored = self.by_role[role].stored
        kind = np.dtype(DTYPES[stored.dtype].numpy)
        stop = stored.nbytes // kind.itemsize if stop is None else stop
        raw = self.read(role, start * kind.itemsize, stop * kind.itemsize)
        with np.errstate(all="ignore"):
            return to_float32(stored.dtype, raw.view(kind))

    def check(self) -> None:
        """Hold the archive entries of components that were read whole against their CRC-32."""
        whole = [
            c for c in self.tensor.components if self._read.get(c.role, 0) >= c.stored.nbytes > 0
        ]
        spans = [span for raw in self._raws.values() for span in raw.spans()]
        check_tensor(replace(self.tensor, components=tuple(whole)), spans, self._open)


class Runs:
    """The payload's units, each cut into runs of `run_elems`: where nothing is interleaved.

    Subclasses know the numbers of a run; this one knows none.
    """

    def __init__(self, parts: Parts, unit_elems: int, unit_bytes: int, run_elems: int) -> None:
        self.parts, self._tensor = parts, parts.tensor
        self._payload: Component = parts.tensor.components[0]
        self.component = self._payload.role
        self._unit_elems, self._unit_bytes = max(1, unit_elems), unit_bytes
        self._run_elems = max(1, min(run_elems, self._unit_elems))
        self.per_unit = self.multiple = -(-self._unit_elems // self._run_elems)
        self.elems = parts.tensor.elems
        whole, rest = divmod(self.elems, self._unit_elems)
        self.rows = whole * self.per_unit - (-rest // self._run_elems)

    @property
    def run_bytes(self) -> int:
        return -(-self._run_elems * self._unit_bytes // self._unit_elems)

    def row_bytes(self, wanted: Collection[str]) -> int:
        return 8 + (self.run_bytes if "payload" in wanted else 0)

    def split(self, start: int, stop: int) -> tuple[Any, Any]:
        """Unit, and run within it, of each row."""
        return np.divmod(np.arange(start, stop, dtype=np.int64), self.per_unit)

    def place(self, start: int, stop: int) -> Columns:
        first = self._first(start, stop)
        shape = self._tensor.shape
        row, col = np.divmod(first[:-1], shape[-1] if shape else 1)
        return {"row": row, "col": col, "elems": np.diff(first)}

    def read(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        return {"payload": self.payload(start, stop)} if "payload" in wanted else {}

    def payload(self, start: int, stop: int) -> Any:
        """The rows' bytes as `large_binary`, a view over what was read."""
        at = self.offsets(start, stop)
        data = self.parts.read(self.component, int(at[0]), int(at[-1]))
        return binaries(data, at - at[0])

    def offsets(self, start: int, stop: int) -> Any:
        """Byte of the payload where each row begins, and the one after the last."""
        return -(-self._first(start, stop) * self._unit_bytes // self._unit_elems)

    def _first(self, start: int, stop: int) -> Any:
        """First element of every row, and of the one after them."""
        unit, run = self.split(start, stop + 1)
        return np.minimum(unit * self._unit_elems + run * self._run_elems, self.elems)


class Scaled(Runs):
    """Runs with numbers of their own beside them."""

    def row_bytes(self, wanted: Collection[str]) -> int:
        return super().row_bytes(wanted) + 16 * len(wanted)

    def read(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        found = super().read(start, stop, wanted)
        if any(name in wanted for name in NUMBERS):
            with np.errstate(all="ignore"):
                found |= self.numbers(start, stop, wanted)
        return found

    def numbers(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        raise NotImplementedError


class Lines:
    """The lines of a component whose units lie in columns: bytes alone, each number's place lost.

    A line belongs to many rows of the output; so it has no `row`, and no scale.
    """

    multiple = 1
    _LONGEST = 1 << 20  # bytes

    def __init__(self, parts: Parts, role: str) -> None:
        self._parts, self.component = parts, role
        component = parts.by_role[role]
        self._bytes = component.stored.nbytes
        self._line = max(1, component.placement.line_bytes)
        self._piece = min(self._line, self._LONGEST)
        self._per_line = -(-self._line // self._piece)
        self.rows = -(-self._bytes // self._line) * self._per_line

    def row_bytes(self, wanted: Collection[str]) -> int:
        return 8 + (self._piece if "payload" in wanted else 0)

    def place(self, start: int, stop: int) -> Columns:
        return {}

    def read(self, start: int, stop: int, wanted: Collection[str]) -> Columns:
        if "payload" not in wanted:
            return {}
        line, piece = np.divmod(np.arange(start, stop + 1, dtype=np.int64), self._per_line)
        at = np.minimum(line * self._line + piece * self._piece, self._bytes)
        data = self._parts.read(self.component, int(at[0]), int(at[-1]))
        return {"payload": binaries(data, at - at[0])}


def binaries(data: Any, offsets: Array) -> Any:
    """`large_binary` over bytes that stay where they are."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int64, copy=False)), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
