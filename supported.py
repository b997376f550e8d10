"""The systems that this program runs on, told before what another one lacks is imported."""

from __future__ import annotations

import sys

from anamnesis.errors import UnsupportedError

WINDOWS = "Windows is not supported; Linux and macOS are, and Windows has Linux as WSL"


def check() -> None:
    """UnsupportedError on a system that lacks what files are written with: locks, pwrite, links."""
    if sys.platform == "win32":
        raise UnsupportedError(WINDOWS)
