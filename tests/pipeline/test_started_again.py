"""An output in a store that starts again after a run of another job: nothing of that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from buckets import KEYS, Bucket, files_in_memory, forget_clients, local, model_in, remote

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.writers import bucket, upload

Killed = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_in(tmp_path / "model")


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Killed:
    """Has a run end when it has completed so many files, as if it had been killed there."""

    @contextmanager
    def after(count: int) -> Iterator[None]:
        done: list[object] = []

        def commit(self: upload.Upload, *arguments: Any) -> None:
            if len(done) >= count:
                raise OSError("killed")
            done.append(self)
            real(self, *arguments)

        real = upload.Upload.commit
        with monkeypatch.context() as patch:
            patch.setattr(upload.Upload, "commit", commit)
            patch.setattr(upload.Upload, "discard", lambda self: None)
            patch.setattr(bucket.Bucket, "clear", lambda *arguments: None)
            with pytest.raises(OSError, match="killed"):
                yield

    return after


def convert(model: Path, out: Path | str, size: str, *, overwrite: bool = False) -> None:
    output = {"path": str(out), "dtype": "bf16", "max_shard_size": size, "overwrite": overwrite}
    anamnesis.run({"inputs": [str(model)], "output": output, "run": {"executor": "serial"}})


@pytest.mark.parametrize("done", [0, 1], ids=["nothing-complete", "a-file-complete"])
def test_what_another_job_left_is_removed(
    memory: Any, model: Path, tmp_path: Path, killed: Killed, done: int
) -> None:
    url = "memory://b/out"
    with killed(done):
        convert(model, url, "3MB")
    left = files_in_memory("/b/out/")
    assert sum(name.endswith(".safetensors") for name in left) == done
    assert any(name.startswith(".model-00002-of-00004") for name in left)
    if done:
        with pytest.raises(UsageError, match="is of another job; --overwrite starts again"):
            convert(model, url, "6MB")
    convert(model, url, "6MB", overwrite=bool(done))
    convert(model, tmp_path / "out", "6MB")
    assert files_in_memory("/b/out/") == local(tmp_path / "out")
    assert anamnesis.verify(url)["files"] == 2


def test_an_old_output_goes_though_its_replacement_was_another(
    memory: Any, model: Path, tmp_path: Path, killed: Killed
) -> None:
    """One that is complete, two that were killed while they replaced that, and the last."""
    url = "memory://b/out"
    convert(model, url, "2MB")
    with killed(1):
        convert(model, url, "3MB", overwrite=True)
    with killed(0):
        convert(model, url, "4MB", overwrite=True)
    convert(model, url, "6MB", overwrite=True)
    convert(model, tmp_path / "out", "6MB")
    assert files_in_memory("/b/out/") == local(tmp_path / "out")
    assert anamnesis.verify(url)["files"] == 2


def test_uploads_of_another_job_are_aborted(
    endpoint: str, model: Path, tmp_path: Path, killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of which nothing but the name is known too; not what somebody else sends there."""
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
    forget_clients()
    store = Bucket(endpoint, "started-again")
    with killed(1):
        convert(model, "s3://started-again/out", "3MB")
    for key in ("out/model-00009-of-00009.safetensors", "out/notes.txt", "other/x.safetensors"):
        store.client.create_multipart_upload(Bucket=store.name, Key=key)
    assert len(store.uploads()) > 4
    convert(model, "s3://started-again/out", "6MB", overwrite=True)
    convert(model, tmp_path / "out", "6MB")
    assert remote(store) == local(tmp_path / "out")
    assert sorted(store.uploads()) == ["other/x.safetensors", "out/notes.txt"]
    forget_clients()
