"""A cluster whose workers share nothing with the client but the bucket."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import numpy as np
import pytest
from buckets import KEYS, Bucket, forget_clients, free_port
from hub import MODEL, Hub, served

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline import referred
from anamnesis.pipeline.executors.greeting import WORKER_BYTES

pytest.importorskip("s3fs", reason="s3fs is not installed (extra test)")
# No wait here is bound to a clock but by this: a cluster of a slow machine takes what it takes.
pytestmark = pytest.mark.timeout(900)


class Cluster:
    """`dask scheduler` and workers as processes, each in an empty folder of its own."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self._root, self._environment = root, environment
        self.processes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        self.start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        while self.processes[0].poll() is None:
            try:
                socket.create_connection(("127.0.0.1", int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the scheduler did not start")

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        arguments = ("--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
        return self.start("worker", self.address, *arguments, **environment)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        folder = self._root / f"process-{len(self.processes)}"
        folder.mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
            cwd=folder,
            env={**os.environ, **self._environment, "HOME": str(folder), **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def written(self) -> list[str]:
        """Weights on the disks of the processes."""
        ends = (".safetensors", ".part", ".arrow")
        return [str(p) for p in self._root.rglob("*") if p.name.endswith(ends)]

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    for key, value in found.items():
        monkeypatch.setenv(key, value)
    forget_clients()
    return found


@pytest.fixture
def cluster(tmp_path: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", environment)
    yield cluster
    cluster.close()


@pytest.fixture
def bucket(
    endpoint: str,
    environment: dict[str, str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    write_safetensors: Callable[..., Path],
) -> Bucket:
    """A bucket with a model of 40 MB in it, which is nowhere else but in `whole`."""
    bucket = Bucket(endpoint, f"c{abs(hash(request.node.name)):x}")
    rng = np.random.default_rng(7)
    shapes = [(3000, 1001), (2500, 1024), (7,), (2200, 2048)]
    entries = {
        f"layer.{n}.weight": ("F32", shape, rng.standard_normal(shape).astype("f4").tobytes())
        for n, shape in enumerate(shapes)
    }
    whole = tmp_path / "whole.safetensors"
    write_safetensors(whole, entries)
    bucket.put("in/model.safetensors", whole.read_bytes())
    anamnesis.convert(
        whole, tmp_path / "want", to="safetensors", dtype="bf16", max_shard_size="9MB"
    )
    return bucket


def convert(bucket: Bucket, cluster: Cluster, source: str = "", **settings: object) -> None:
    job = {
        "inputs": [source or f"s3://{bucket.name}/in/model.safetensors"],
        "output": {
            "path": f"s3://{bucket.name}/out",
            "dtype": "bf16",
            "max_shard_size": "9MB",
            **settings,
        },
        "run": {"executor": "distributed", "scheduler": cluster.address},
    }
    anamnesis.run(job)


def differences(bucket: Bucket, want: Path) -> list[str]:
    """What of the whole bucket is not as it has to be, and how."""
    found = {key: bucket.read(key) for key in bucket.objects()}
    assert found.pop("out.anamnesis.json")  # the manifest, which tells of the machine's times
    expected = {f"out/{p.name}": p.read_bytes() for p in want.iterdir()}
    expected["in/model.safetensors"] = (want.parent / "whole.safetensors").read_bytes()
    told = [f"{key} is left behind, {len(found[key])} bytes" for key in found.keys() - expected]
    told += [f"{key} is absent" for key in expected.keys() - found]
    for key in found.keys() & expected:
        if found[key] != expected[key]:
            pairs = enumerate(zip(found[key], expected[key], strict=False))
            at = next((n for n, (one, other) in pairs if one != other), "the end")
            told.append(f"{key} differs from byte {at}, {len(found[key])} bytes")
    return sorted(told + [f"{key} is being uploaded" for key in bucket.uploads()])


def test_from_a_bucket_through_workers_into_a_bucket(
    bucket: Bucket, cluster: Cluster, tmp_path: Path
) -> None:
    for _ in range(2):
        cluster.worker()
    convert(bucket, cluster)
    assert differences(bucket, tmp_path / "want") == []
    assert cluster.written() == []
    assert anamnesis.verify(f"s3://{bucket.name}/out")["tensors"] == 4


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("aiohttp")
    pytest.importorskip("huggingface_hub")
    with served(monkeypatch) as hub:
        yield hub


def test_packed_shards_go_straight_from_a_hub_to_the_bucket(
    bucket: Bucket, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    """Their tasks, which are large when they name many tensors, are sent by reference."""
    hub.files = {"model.safetensors": (tmp_path / "whole.safetensors").read_bytes()}
    for _ in range(2):
        cluster.worker(HF_ENDPOINT=hub.url)
    monkeypatch.setattr(referred, "TASK_PIECES", 0)
    monkeypatch.setattr(referred, "MOST_BYTES", 0)
    sent: list[object] = []
    submit = distributed.Client.submit

    def noted(self: object, function: object, task: object, **more: object) -> object:
        sent.append(task)
        return submit(self, function, task, **more)

    monkeypatch.setattr(distributed.Client, "submit", noted)
    local = {"to": "parquet", "dtype": "bf16", "max_shard_size": "9MB"}
    anamnesis.convert(tmp_path / "whole.safetensors", tmp_path / "packed", **local)
    convert(bucket, cluster, f"hf://{MODEL}@main", format="parquet")
    assert differences(bucket, tmp_path / "packed") == []
    assert cluster.written() == []
    assert len(sent) == 3
    for task in sent:
        assert isinstance(task, referred.ReferredTask)
        assert len(pickle.dumps(task)) < 1024


def test_a_worker_that_dies_takes_nothing_along(
    bucket: Bucket, cluster: Cluster, tmp_path: Path
) -> None:
    first = cluster.worker()
    cluster.worker()
    job = subprocess.Popen(
        [sys.executable, "-c", _JOB, bucket.name, cluster.address],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not any("/task-" in key for key in bucket.objects()) and job.poll() is None:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    said, _ = job.communicate()
    assert job.returncode == 0
    assert differences(bucket, tmp_path / "want") == []
    assert int(said.splitlines()[-1]) << 10 < WORKER_BYTES  # the client's peak, in KiB


ROOT = Path(__file__).resolve().parents[2]


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run: rates, times, ports, and how far it is."""
    lines = [line for line in text.splitlines() if " left" not in line]
    lines = [re.sub(r"done [0-9.]+ MiB, .*", "done", line) for line in lines]
    lines = [re.sub(r"in [0-9.]+ s \(.*", "", line) for line in lines]
    return sorted(re.sub(r"127\.0\.0\.1:[0-9]+", "HOST", line) for line in lines)


def test_the_first_job_of_the_page(
    endpoint: str,
    environment: dict[str, str],
    cluster: Cluster,
    amn: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    write_safetensors: Callable[..., Path],
) -> None:
    """What docs/cluster.md shows is what the job in configs/bucket.yaml says."""
    rng = np.random.default_rng(7)
    shapes = [(1500, 3701), (2500, 1800), (7,), (2000, 2000), (3,)]
    write_safetensors(
        tmp_path / "m.safetensors",
        {
            f"layer.{n}.weight": ("F32", shape, rng.standard_normal(shape).astype("f4").tobytes())
            for n, shape in enumerate(shapes)
        },
    )
    bucket = Bucket(endpoint, "models")
    bucket.put("llama-fp8/model.safetensors", (tmp_path / "m.safetensors").read_bytes())
    for _ in range(2):
        cluster.worker()
    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(2)
    small = ("--set", "output.max_shard_size=12MB", "--set", "output.dtype=bf16")
    ran = amn("run", ROOT / "configs/bucket.yaml", "--scheduler", cluster.address, *small)
    assert ran.returncode == 0, ran.stderr
    verified = amn("verify", "s3://models/llama-bf16")
    assert verified.returncode == 0, verified.stderr
    page = (ROOT / "docs/cluster.md").read_text()
    block = page.split("```console\n$ amn run configs/bucket.yaml", 1)[1].split("```", 1)[0]
    shown = [line for line in block.splitlines()[1:] if not line.startswith("$")]
    said = ran.stderr + ran.stdout + verified.stderr + verified.stdout
    assert plain("\n".join(shown)) == plain(said), said


_JOB = """
import sys, anamnesis
anamnesis.run({'inputs': [f's3://{sys.argv[1]}/in/model.safetensors'],
    'output': {'path': f's3://{sys.argv[1]}/out', 'dtype': 'bf16', 'max_shard_size': '9MB'},
    'run': {'executor': 'distributed', 'scheduler': sys.argv[2]}})
print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
"""


@pytest.mark.parametrize(
    ("environment_of_worker", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "redentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Could not connect"),
    ],
    ids=["credentials", "route"],
)
def test_a_worker_that_cannot_reach_the_bucket_is_named(
    bucket: Bucket, cluster: Cluster, environment_of_worker: dict[str, str], message: str
) -> None:
    cluster.worker(AWS_EC2_METADATA_DISABLED="true", **environment_of_worker)
    refused = pytest.raises(UsageError, match=rf"worker tcp://127\.0\.0\.1:\d+: .*{message}")
    with refused as caught:
        convert(bucket, cluster)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    assert bucket.objects() == ["in/model.safetensors"]
    assert bucket.uploads() == []
