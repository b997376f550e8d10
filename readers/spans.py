"""What reading a stored tensor gives: its bytes, and checksums of those that streamed by."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class SpanCrc(NamedTuple):
    """The CRC-32 of bytes `[start, stop)` of an entry (uncompressed) of the archive at `path`."""

    path: str
    member: str
    start: int
    stop: int
    crc32: int


class RawBytes(Protocol):
    """What `open_raw` gives."""

    def read_into(self, begin: int, buffer: Any) -> None:
        """Fill `buffer` (uint8, one-dimensional) with the tensor's bytes from `begin` on."""
        ...

    def spans(self) -> list[SpanCrc]:
        """What was read in order so far, with its checksum."""
        ...
