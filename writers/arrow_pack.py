"""The finished file of a compressed Arrow output, made from the plain one batch by batch.

Sizes of packed buffers are known when they are packed, so that windows have no place in such a
file beforehand. The plain file is written first, as always; then one pass in file order reads it
again, packs buffer by buffer as a stream, and writes the messages and the footer with the places
that came out. What comes out depends on the plain file's bytes alone, and memory does not grow
with a batch or a row. A buffer that does not shrink, or does not begin to, is stored as it is, as
the format allows.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from anamnesis.limits import Limits, MiB
from anamnesis.writers import arrow_ipc as ipc
from anamnesis.writers.arrow_slot import ArrowSlot
from anamnesis.writers.base import OutFile, PackTarget, Source, read_all, write_all

if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK_BYTES = MiB
_LENGTH = struct.Struct("<q")  # before a packed buffer; -1: stored as it is


def pack(source: Source, target: PackTarget, out: OutFile, stopped: Callable[[], bool]) -> None:
    """Write the packed file to `target` from the plain one at `source`, which is read in order.

    Of the latter a part goes back, by no more than a buffer of a batch.

    Raises OSError, and CancelledError soon after `stopped` says so.
    """
    import pyarrow as pa  # noqa: PLC0415

    packer = _Packer(source, target, pa, out.codec, stopped)
    (_, start), (_, schema), (at, dictionary) = out.fixed[:3]
    for part in (start, schema, dictionary):
        packer.write(part)
    message = ipc.PREFIX_BYTES + int.from_bytes(dictionary[4:8], "little")
    block = (at, message, len(dictionary) - message)
    blocks: list[ipc.Block] = []
    for slot in out.slots:
        assert isinstance(slot, ArrowSlot)
        blocks += [packer.batch(slot, batch) for batch in range(slot.batches)]
    first, *rest = ipc.footer(schema, block, blocks)
    packer.write(ipc.END_OF_STREAM)
    packer.leave(_slack(out, packer.at))
    for part in (first[len(ipc.END_OF_STREAM) :], *rest):
        packer.write(part)
    if isinstance(target, int):
        os.ftruncate(target, packer.at)
    else:
        target.end(packer.at)


def _slack(out: OutFile, at: int) -> int:
    """Bytes without meaning, a hole where the file system has such, before the footer.

    Readers refuse a file from which more than so many times its bytes would come, as from one made
    to fill a disk; zeros pack better than that, and what was written must be read back.
    """
    slots = [slot for slot in out.slots if isinstance(slot, ArrowSlot)]
    values = sum(slot.rows * slot.row_bytes for slot in slots)
    return int(ipc.padded(max(0, -(-values // Limits().max_expansion_ratio) - at)))


class _Packer:
    """Appends to `target`; `at` is its end so far."""

    def __init__(
        self,
        source: Source,
        target: PackTarget,
        arrow: Any,
        codec: str,
        stopped: Callable[[], bool],
    ) -> None:
        self._stopped = stopped
        self._source, self._target, self._arrow, self._codec = source, target, arrow, codec
        self._chunk = bytearray(_CHUNK_BYTES)
        self.at = 0

    def write(self, data: Any) -> None:
        write_all(self._target, data, self.at)
        self.at += len(data)

    def leave(self, nbytes: int) -> None:
        """Go on so many bytes further; nothing is written there."""
        self.at += nbytes

    def batch(self, slot: ArrowSlot, batch: int) -> ipc.Block:
        """Pack one batch; its block in the packed file."""
        nodes, buffers = slot.nodes(batch), slot.buffers(batch)
        begin = self.at
        message_bytes = ipc.message_bytes(len(nodes), len(buffers), self._codec)
        self.at += message_bytes
        source = slot.place(batch) + ipc.message_bytes(len(nodes), len(buffers))
        sizes = []
        for nbytes in buffers:
            first = self.at
            if nbytes:
                self._buffer(source, nbytes)
            sizes.append(self.at - first)
            self.write(bytes(ipc.padded(sizes[-1]) - sizes[-1]))
            source += ipc.padded(nbytes)
        message = ipc.batch_message(nodes, sizes, self._codec)
        write_all(self._target, message, begin)
        return begin, message_bytes, self.at - begin - message_bytes

    def _buffer(self, source: int, nbytes: int) -> None:
        first = self.at
        if self._shrinks(source, nbytes):
            if not isinstance(self._target, int):
                self._target.mark(first)
            self.write(_LENGTH.pack(nbytes))
            sink = self._arrow.PythonFile(_Sink(self), mode="w")
            with self._arrow.CompressedOutputStream(sink, self._codec) as stream:
                self._copy(source, nbytes, stream)
            if self.at - first - _LENGTH.size < nbytes:
                return
            self.at = first
            if not isinstance(self._target, int):
                self._target.rewind()
        self.write(_LENGTH.pack(-1))
        self._copy(source, nbytes, self)

    def _shrinks(self, source: int, nbytes: int) -> bool:
        """Whether the first chunk does: LZ4 finds nothing in trained BF16, and takes its time."""
        view = memoryview(self._chunk)[:nbytes]
        read_all(self._source, view, source)
        return len(self._arrow.compress(view, self._codec, asbytes=True)) < len(view)

    def _copy(self, source: int, nbytes: int, stream: _Packer | pa.NativeFile) -> None:
        view = memoryview(self._chunk)
        done = 0
        while done < nbytes:
            if self._stopped():
                raise CancelledError
            part = view[: nbytes - done]
            read_all(self._source, part, source + done)
            stream.write(part)
            done += len(part)


class _Sink(io.RawIOBase):
    """What Arrow's stream writes to."""

    def __init__(self, packer: _Packer) -> None:
        self._packer = packer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._packer.write(data)
        return len(data)
