"""Sizes as people write them: `512MiB`, `1.5GB`, `4096`."""

from __future__ import annotations

import re

from anamnesis.errors import UsageError

UNITS = {
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
MAX_SIZE_BYTES = (1 << 63) - 1
_SIZE = re.compile(
    rf"(?P<whole>[0-9]{{1,19}})(\.(?P<part>[0-9]{{1,12}}))? ?(?P<unit>{'|'.join(UNITS)})?"
)
_LOOSE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,12})?) ?([kKmMgGtT])[iI]?[bB]?")
SIZE_PATTERN = f"^{re.sub('[?]P<[a-z]+>', '', _SIZE.pattern)}$"
SIZE_FORM = "whole bytes (1048576), binary (512MiB: KiB MiB GiB TiB) or decimal (5GB: kB MB GB TB)"


def parse_size(size: int | str) -> int:
    """Bytes in `size`: an int, or text such as `512MiB`, `1.5GB` or `4096`.

    Raises `UsageError` for another form, a size of zero, a part of a byte, or over 2**63 - 1.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        nbytes, rest = size, 0
    elif isinstance(size, str) and (match := _SIZE.fullmatch(size)):
        whole, part, unit = match["whole"], match["part"] or "", match["unit"] or "B"
        nbytes, rest = divmod(int(whole + part) * UNITS[unit], 10 ** len(part))
    else:
        likely = meant_size(size)
        hint = f"; did you mean {likely}?" if likely else ""
        raise UsageError(f"found {size!r:.60}; allowed: {SIZE_FORM}{hint}")
    if rest or not 1 <= nbytes <= MAX_SIZE_BYTES:
        raise UsageError(f"found {size!r:.60}; allowed: whole bytes from 1 to 2**63 - 1")
    return nbytes


def memory_bytes(memory: int | str) -> int:
    """As `parse_size`, of the keyword `memory`, which errors name."""
    try:
        return parse_size(memory)
    except UsageError as error:
        raise UsageError(f"memory: {error}") from None


def enough(need: int) -> str:
    """A size of at least `need` bytes as it can be given: to the byte, from 16 MiB on in MiB."""
    return f"{-(-need >> 20)}MiB" if need >= 16 << 20 else str(need)


def meant_size(size: object) -> str:
    """What a size in another spelling (`4G`, `512mb`) may stand for; nothing where it is none."""
    found = _LOOSE.fullmatch(str(size).strip())
    return "{0}{1}iB or {0}{1}B".format(found[1], found[2].upper()) if found else ""
