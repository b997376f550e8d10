"""A bucket job over a cluster on a simulated network, with one to eight workers.

`python tests/pipeline/network_lab.py [MB] [RATE] [WORKERS…]` (as root) starts an S3 server, a
scheduler, workers and a client in network name spaces and root folders of their own. Each worker's
line has RATE (in tc's words, 64mbit) each way, so that lines are the limit and not this machine's
processors, and every request to the store takes 50 ms more; `2x4` is two workers of four threads.
Prints a line of JSON for each number of workers: seconds of the run, MB/s of output, peaks, and
bytes on the workers' disks.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "builders"))
from buckets import KEYS, Bucket, Faults, faulty
from name_spaces import Network, network

JOB = """
import json, sys, time
begin = time.monotonic()
import anamnesis
anamnesis.run({'inputs': ['s3://lab/in/model.safetensors'],
    'output': {'path': 's3://lab/' + sys.argv[2], 'max_shard_size': sys.argv[3]},
    'run': {'executor': 'distributed', 'scheduler': sys.argv[1]}})
# ru_maxrss would begin at what this program had resident when it started the client.
peak = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
print(json.dumps([time.monotonic() - begin, peak]), file=sys.stderr)
"""
TENSOR_BYTES = 4 << 20
LATENCY_SECONDS = 0.05


def model_bytes(nbytes: int) -> bytes:
    """A safetensors file of BF16 noise."""
    rng, count = np.random.default_rng(1), max(1, nbytes // TENSOR_BYTES)
    header = {
        f"layer.{n:03d}.weight": {
            "dtype": "BF16",
            "shape": [1024, TENSOR_BYTES // 2048],
            "data_offsets": [n * TENSOR_BYTES, (n + 1) * TENSOR_BYTES],
        }
        for n in range(count)
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rng.bytes(count * TENSOR_BYTES)


def wait_for(address: str, port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def server(made: Network) -> str:
    """Start an S3 server; its endpoint."""
    space, address = made.space()
    made.start(space, sys.executable, "-m", "moto.server", "-H", address, "-p", "5000")
    wait_for(address, 5000)
    return f"http://{address}:5000"


def cluster(made: Network, endpoint: str, workers: int, rate: str = "", threads: int = 1) -> str:
    """Start a scheduler and workers; the scheduler's address."""
    space, address = made.space()
    dask, keys = "distributed.cli.dask_", {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    quiet = ("--no-dashboard",)
    made.start(
        space, sys.executable, "-m", f"{dask}scheduler", "--host", address, "--port", "8786", *quiet
    )
    wait_for(address, 8786)
    for _ in range(workers):
        own, at = made.space(rate)
        more = ("--host", at, "--nthreads", str(threads), "--memory-limit", "0", "--no-nanny")
        at_scheduler = f"tcp://{address}:8786"
        made.start(own, sys.executable, "-m", f"{dask}worker", at_scheduler, *more, *quiet, **keys)
    return f"tcp://{address}:8786"


def client(
    made: Network, endpoint: str, scheduler: str, out: str, shard: str
) -> tuple[float, int, str]:
    """Run the job; seconds, peak in KiB, and what it said when it failed."""
    space, _ = made.space()
    keys = {**KEYS, "AWS_ENDPOINT_URL": endpoint}
    job = made.start(space, sys.executable, "-c", JOB, scheduler, out, shard, **keys)
    job.wait(300)
    said = made.said(job)
    if job.returncode:
        return 0.0, 0, said[-2000:]
    seconds, peak = json.loads(said.splitlines()[-1])
    return seconds, peak, ""


def peak_kib(pid: int) -> int:
    """The most memory that a process had resident so far."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM"))


def written(pid: int) -> int:
    """Bytes of all files in a process's own `/tmp`, but for compiled kernels."""
    root = Path(f"/proc/{pid}/root/tmp")
    own = root.stat().st_dev  # a checkout below this machine's /tmp is mounted there
    files = [p for p in root.rglob("*") if p.is_file() and "cache" not in p.parts]
    return sum(p.stat().st_size for p in files if p.lstat().st_dev == own)


class Slow(Faults):
    """Every request takes longer."""

    ordered = False

    def take(self, line: str) -> str:
        time.sleep(LATENCY_SECONDS)
        return ""


def main(megabytes: int, rate: str, numbers: list[str]) -> int:
    data = model_bytes(megabytes * 1_000_000)
    for number in numbers:
        workers, threads = map(int, f"{number}x1".split("x")[:2])
        with (
            tempfile.TemporaryDirectory() as folder,
            network(Path(folder)) as made,
            faulty(server(made), Slow(), made.host) as endpoint,
        ):
            bucket = Bucket(endpoint, "lab")
            bucket.put("in/model.safetensors", data)
            address = cluster(made, endpoint, workers, rate, threads)
            time.sleep(5)  # workers import
            own = made.processes[-workers:]
            client(made, endpoint, address, "warm", "1GB")  # drivers, kernels
            seconds, peak, said = client(made, endpoint, address, "out", "32MB")
            found = {
                "workers": number,
                "seconds": round(seconds, 1),
                "MB/s": round(len(data) / 1e6 / max(seconds, 1e-9), 1),
                "worker MiB": max(peak_kib(process.pid) for process in own) // 1024,
                "client MiB": peak // 1024,
                "bytes on disks": sum(written(process.pid) for process in own),
                "failed": said,
            }
            print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    counts = given[2:] or ["1", "2", "4", "8"]
    raise SystemExit(main(int(given[0] if given else 130), (given[1:2] or ["64mbit"])[0], counts))
