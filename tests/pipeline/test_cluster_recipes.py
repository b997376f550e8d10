"""The recipes of docs/cluster.md, as far as they go without a cloud: SLURM is played here."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from buckets import free_port

import anamnesis

PAGE = (Path(__file__).resolve().parents[2] / "docs/cluster.md").read_text()
CLI = "import sys; from anamnesis.cli.main import main; main()"
# What runs a job in this machine's background, and says so as SLURM does.
SBATCH = """
cp "$1" "$JOBS/$$.sh"
setsid sh "$JOBS/$$.sh" >>"$JOBS/log" 2>&1 &
echo $! >>"$JOBS/pids"
echo "Submitted batch job $!"
"""
PLAYED = {
    "amn": f'exec {shlex.quote(sys.executable)} -c {shlex.quote(CLI)} "$@"',
    "dask": f'exec {shlex.quote(sys.executable)} -m dask "$@"',
    "srun": 'exec "$@"',
    "sbatch": SBATCH,
    "scancel": 'kill -TERM -- "-$1"',
}


def block(kind: str, word: str) -> str:
    """The first block of the page's that has a word."""
    found = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return next(text for text in found if word in text)


@pytest.fixture
def machine(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Iterator[dict[str, str]]:
    """The environment of a login node, in a folder with a model and a job."""
    commands, jobs = tmp_path / "bin", tmp_path / "jobs"
    for folder in (commands, jobs, tmp_path / "configs"):
        folder.mkdir()
    for name, text in PLAYED.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(0o755)
    data = np.ones((64, 64), np.float32).tobytes()
    write_safetensors(tmp_path / "model.safetensors", {"a": ("F32", (64, 64), data)})
    job = {"inputs": ["model.safetensors"], "output": {"path": "out"}}
    job["run"] = {"executor": "distributed"}
    (tmp_path / "configs/cluster.yaml").write_text(yaml.safe_dump(job))
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, "PATH": path, "JOBS": str(jobs)}
    pids = jobs / "pids"
    for pid in pids.read_text().split() if pids.exists() else ():
        with suppress(ProcessLookupError):
            os.killpg(int(pid), signal.SIGKILL)


def finish(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run to the end; what a job leaves running ends with it, as in an allocation."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        process.wait(240)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        text = process.communicate()[0]
    assert process.returncode == 0, text
    assert anamnesis.verify(folder / "out")["tensors"] == 1
    return text


def test_one_allocation_of_slurm(machine: dict[str, str], tmp_path: Path) -> None:
    """Scheduler and workers begin while the client is there already."""
    script = block("sh", "#SBATCH").replace("8786", str(free_port()))
    (tmp_path / "job.sh").write_text(script.replace("--nworkers 16", "--nworkers 2"))
    finish(["sh", "job.sh"], tmp_path, machine)


def test_jobs_that_dask_jobqueue_submits(machine: dict[str, str], tmp_path: Path) -> None:
    if find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed (extra test)")
    script = block("python", "SLURMCluster(\n").replace("ib0", "lo")
    for large, small in (("cores=16", "cores=2"), ("processes=16", "processes=2"), ("32GB", "4GB")):
        assert large in script
        script = script.replace(large, small)
    (tmp_path / "job.py").write_text(script.replace("jobs=4", "jobs=1"))
    finish([sys.executable, "job.py"], tmp_path, machine)
    assert len((tmp_path / "jobs/pids").read_text().split()) == 1


def test_the_resource_of_kubernetes() -> None:
    """By the schema that the operator brings, which `kubectl apply` would ask."""
    spec = find_spec("dask_kubernetes")
    if spec is None or spec.origin is None:
        pytest.skip("dask-kubernetes is not installed (extra test)")
    jsonschema = pytest.importorskip("jsonschema")
    (path,) = Path(spec.origin).parent.rglob("crds/daskcluster.yaml")
    known: Any = yaml.safe_load(path.read_text())
    (version,) = known["spec"]["versions"]
    cluster: Any = yaml.safe_load(block("yaml", "DaskCluster"))
    assert cluster["apiVersion"] == f"{known['spec']['group']}/{version['name']}"
    jsonschema.validate(cluster, version["schema"]["openAPIV3Schema"])
    for part in ("worker", "scheduler"):
        (container,) = cluster["spec"][part]["spec"]["containers"]
        assert container["args"][:2] == ["dask", part]
