"""Sizes and speeds as they are shown.

What lies in a file or in memory is shown in binary units (KiB, MiB, GiB), and speeds in decimal
ones (MB/s, GB/s), as disks and lines are sold; whole numbers of bytes are exact.
"""

from __future__ import annotations


def size(nbytes: float) -> str:
    """What a file or memory holds, by 1024: `1234567890` is `1.1 GiB`."""
    return _in_units(nbytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def speed(bytes_per_second: float) -> str:
    """A speed, by 1000: `1234567890` is `1.2 GB/s`."""
    return _in_units(bytes_per_second, 1000, ("B", "kB", "MB", "GB", "TB")) + "/s"


def _in_units(value: float, step: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        digits = 0 if unit == "B" else 1
        if round(value, digits) < step:
            return f"{value:.{digits}f} {unit}"
        value /= step
    return f"{value:.1f} {units[-1]}"


__all__ = ["size", "speed"]
