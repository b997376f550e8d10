from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from progress_runs import Clock


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a job of that text; its path."""

    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def clock() -> Clock:
    """A clock that stands until it is set."""
    return Clock()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
