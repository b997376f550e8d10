"""The CRC-32 of archive entries: joined from the spans that tasks read, completed, and compared.

Tasks take the checksum of what streams by, in pieces. Two CRC-32s join without their data: the
first is multiplied by x^(8 n) modulo the polynomial, n being the bytes of the second, and added.
The idea is that of zlib's `crc32_combine` since 1.2.12 (crc32.c, `x2nmodp` and `multmodp`), with
powers by repeated squaring; polynomials are integers whose bit 31 is x^0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from zlib_ng.zlib_ng import crc32

from anamnesis.limits import MiB
from anamnesis.readers.base import FileId, Member, Tensor
from anamnesis.readers.raw import SpanCrc
from anamnesis.readers.source import SourceFile
from anamnesis.readers.zip import check_crc32, checksum

_POLYNOMIAL = 0xEDB88320
_READ_BYTES = MiB


def check_members(
    members: Sequence[Member],
    spans: Iterable[SpanCrc],
    open_file: Callable[[FileId], SourceFile],
) -> None:
    """Hold the data of every member against its CRC-32; what no span covers is read.

    Raises IntegrityError naming the first member that differs, FormatError for a deflate stream
    that is broken or has another length than declared.
    """
    found: dict[tuple[str, str], list[SpanCrc]] = defaultdict(list)
    for span in spans:
        found[span.path, span.member].append(span)
    for member in members:
        file = open_file(member.file)
        parts = sorted(found.get((member.file.path, member.name), ()), key=lambda s: s[2:])
        check_crc32(member, _crc32(file, member, parts))


def check_tensor(
    tensor: Tensor, spans: Iterable[SpanCrc], open_file: Callable[[FileId], SourceFile]
) -> None:
    """`check_members` for one tensor that was read outside of a run.

    Members that hold much more than the tensor are let be: they would have to be read whole.
    """
    members = []
    for component in tensor.components:
        view = component.stored.view
        member = view.member if view else None
        if member and member.nbytes <= 2 * component.stored.nbytes + _READ_BYTES:
            members.append(member)
    check_members(members, spans, open_file)


def join(first: int, second: int, second_bytes: int) -> int:
    """The CRC-32 of data whose two parts have these."""
    return _times(_power(second_bytes), first) ^ second


def _crc32(file: SourceFile, member: Member, parts: Sequence[SpanCrc]) -> int:
    if member.deflated:
        whole = [part for part in parts if part.stop == member.nbytes]
        return whole[0].crc32 if whole else checksum(file, member)
    value = at = 0
    for part in parts:
        if part.start < at:
            continue  # read twice: a storage that tensors share
        value = _read(file, member, at, part.start, value)
        value = join(value, part.crc32, part.stop - part.start)
        at = part.stop
    return _read(file, member, at, member.nbytes, value)


def _read(file: SourceFile, member: Member, start: int, stop: int, value: int) -> int:
    buffer = bytearray(min(_READ_BYTES, stop - start))
    for at in range(start, stop, _READ_BYTES):
        view = memoryview(buffer)[: stop - at]
        file.read_into(member.offset + at, view)
        value = crc32(view, value)
    return value


@lru_cache(maxsize=4096)
def _power(nbytes: int) -> int:
    """x^(8 nbytes) modulo the polynomial."""
    power, square = 1 << 31, 1 << 23  # x^0, x^8
    while nbytes:
        if nbytes & 1:
            power = _times(square, power)
        square = _times(square, square)
        nbytes >>= 1
    return power


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo the polynomial."""
    product, bit = 0, 1 << 31
    while bit:
        if a & bit:
            product ^= b
        bit >>= 1
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
