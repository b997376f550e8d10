"""Run kept inputs through their targets, without atheris."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from targets import TARGETS, Lab

HERE = Path(__file__).resolve().parent


def kept_files(name: str) -> list[Path]:
    """The seeds and regressions of a target."""
    folders = (HERE / "corpus" / name, HERE / "regressions" / name)
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]


def replay(names: Iterable[str]) -> int:
    """Run every kept file, and convert what is accepted; how many there were."""
    lab, count = Lab(), 0
    try:
        for name in names:
            for path in kept_files(name):
                TARGETS[name].run(lab, path.read_bytes(), convert=True)
                count += 1
    finally:
        lab.close()
    return count
