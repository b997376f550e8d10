from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import s3_server
from progress_runs import Clock


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[[str], str]:
    """Write a job of that text; its path."""

    def write(text: str) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Of an S3 server for all tests, which have buckets of their own."""
    with s3_server() as url:
        yield url


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


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """A model folder: three tensors of 4 kB, one of them FP8, and a configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 126, (32, 64), dtype=np.uint8)
    entries: dict[str, Any] = {
        name: ("BF16", (2048,), rng.integers(0, 9999, 2048, dtype=np.uint16).tobytes())
        for name in ("a", "b")
    }
    entries["c.weight"] = ("F8_E4M3", (32, 64), codes.tobytes())
    entries["c.weight_scale"] = ("F32", (), np.float32(0.5).tobytes())
    write_safetensors(folder / "model.safetensors", entries)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    (folder / "tokenizer.json").write_text("{}")
    return folder
