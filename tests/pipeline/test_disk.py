"""`run.disk`: what a run takes on local disks besides its output is refused, or kept to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hub import MODEL, Hub, running

import anamnesis
from anamnesis.errors import LimitError
from anamnesis.limits import MiB
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job, rehearse_job, run_job
from anamnesis.pipeline.plan import Plan

NPY_HEADER_BYTES = 128  # as numpy writes it


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two deflated arrays in Fortran order, of 2 and 4 MiB, and one that is read as it lies."""
    rng = np.random.default_rng(1)
    path = tmp_path / "m.npz"
    rows = {f"w{n}": rng.integers(0, 9, (n * 512, 512)).astype(np.float32) for n in (2, 4)}
    swapped = {name: np.asfortranarray(array) for name, array in rows.items()}
    np.savez_compressed(path, plain=rows["w4"], **swapped)
    return path


def job(source: object, out: Path, disk: object, **more: object) -> anamnesis.pipeline.config.Job:
    run = {"disk": disk, "threads": 2, "memory": "400MiB"}
    return job_from(inputs=[source], output={"path": out, **more}, run=run)


@contextmanager
def small(folder: Path, nbytes: int) -> Iterator[Path]:
    """A file system of its own that holds so many bytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "amn-test", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        pytest.skip("cannot mount a file system here")
    if done.returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def used(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes that were used on a file system, as the first item."""
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], used(folder))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


def test_spools_are_planned_and_refused(archive: Path, tmp_path: Path) -> None:
    need = 2 * (4 * MiB + NPY_HEADER_BYTES)  # the largest, on each of two threads
    ((_, plan),) = plan_job(job(archive, tmp_path / "o", None))
    assert isinstance(plan, Plan)
    assert plan.disk_bytes == need
    with pytest.raises(LimitError, match=r"run\.disk is 8,388,863: set it to at least 8388864"):
        run_job(job(archive, tmp_path / "o", need - 1))
    assert not (tmp_path / "o").exists()


def test_spools_keep_to_what_was_planned(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that holds no more."""
    need = 2 * (4 * MiB + NPY_HEADER_BYTES)
    run_job(job(archive, tmp_path / "here", None))
    with small(tmp_path / "small", need + 64 * 1024) as folder, watched(folder) as most:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        run_job(job(archive, tmp_path / "there", need))
    assert 4 * MiB <= most[0] <= need
    name = "model.safetensors"
    assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_folder_that_is_replaced_counts(archive: Path, tmp_path: Path, fp8_model: Path) -> None:
    out = tmp_path / "o"
    run_job(job(fp8_model, out, "1MB"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    replacing = job(archive, out, "16MiB", overwrite=True)
    for attempt in (run_job, rehearse_job):
        with pytest.raises(LimitError, match=r"a new folder beside .* remove the old output"):
            attempt(replacing)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    run_job(job(archive, out, "20MiB", overwrite=True))
    assert {path.name: path.read_bytes() for path in out.iterdir()} != before


def test_files_that_a_url_caches_count(fp8_model: Path, tmp_path: Path) -> None:
    url = f"simplecache::file://{fp8_model}"
    size = fp8_model.stat().st_size
    with pytest.raises(LimitError, match=f"take {size:,} bytes"):
        run_job(job(url, tmp_path / "o", size - 1))


def test_a_hub_with_less_disk_than_a_shard(
    write_safetensors: Callable[..., Path], tmp_path: Path
) -> None:
    """Temporary files, the home folder and huggingface_hub's cache on 4 MiB, shards of 8 MiB."""
    pytest.importorskip("aiohttp")
    pytest.importorskip("huggingface_hub")
    rng = np.random.default_rng(4)
    weight_map, files = {}, {}
    for number in (1, 2):
        name = f"model-{number:05d}-of-00002.safetensors"
        codes = rng.integers(0, 120, 8 * MiB, np.uint8).tobytes()
        path = write_safetensors(
            tmp_path / name, {f"l{number}.weight": ("BF16", (2048, 2048), codes)}
        )
        files[name] = path.read_bytes()
        weight_map[f"l{number}.weight"] = name
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    with running(Hub(files)) as hub, small(tmp_path / "small", 4 * MiB) as folder:
        settings = {name: str(folder) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME", "HF_HOME")}
        cache = os.environ.get("ANAMNESIS_CACHE", str(tmp_path / "kernels"))
        settings |= {"HF_ENDPOINT": hub.url, "ANAMNESIS_CACHE": cache}
        page = tmp_path / "job.yaml"
        out = tmp_path / "out"
        page.write_text(
            f"inputs: [hf://{MODEL}]\noutput: {{path: {out}, dtype: f32}}\nrun: {{disk: 1MB}}\n"
        )
        with watched(folder) as most:
            done = subprocess.run(
                [sys.executable, "-m", "anamnesis", "run", str(page)],
                env={**os.environ, **settings},
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
        assert done.returncode == 0, done.stderr
        assert most[0] <= 10**6
    made = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert made > 32 * MiB
