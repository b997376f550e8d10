"""Kill clients, workers and the server of runs into a bucket, and look at the bucket after each.

`python tests/pipeline/store_lab.py [KILLS] [SECONDS] [STORE] [KINDS]` starts a server on loopback
(moto's, or for `az` and `gs` one of builders/other_buckets), with a proxy in front of it that
stands for the service (its requests fail, its connections are cut; what it has stored stays), and
runs one job again and again on the same output, with all of these or those of KINDS (`a,b`):

- *client*: the client is killed (SIGKILL) within the time that a run takes, and run again;
- *worker*: a worker of a cluster is, and another takes its place; the run has to end well;
- *server*: the proxy cuts all connections and refuses new ones for a while;
- *faults*: every tenth request gets 503 SlowDown, 500, no answer, half a body, an answer that is
  lost after the request was done, or an expired token, which ends the run.

After each, an object with a final name is the local run's, byte for byte. After a round of each
kind the job is run to its end, after which nothing else is there, and no multipart upload. After
SECONDS, or KILLS, the round is cut short by such a run. Prints a line of JSON; ends with 1 when
anything was wrong.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "builders"))
from buckets import KEYS, Bucket, Faults, faulty, free_port, s3_server
from other_buckets import OtherBucket, other_server, settle

import anamnesis
from anamnesis.writers import lease, upload

ROUND = 5  # kills of a kind, before a run to the end
KINDS = ("client", "faults", "server", "worker")
PASSING = ("slow-down", "server-error", "drop", "cut", "lost-answer")
_WORKER = "from anamnesis.writers import upload; upload.PART_BYTES = 5 << 20\n"


class Random(Faults):
    """Faults that are drawn for each request; `down`, every connection is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.share, self.kinds, self.down, self.met = 0.0, PASSING, False, 0

    def take(self, line: str) -> str:
        if self.down:
            return "drop"
        if random.random() >= self.share:
            return ""
        self.met += 1
        return random.choice(self.kinds)


def make_model(path: Path) -> Path:
    """34 MB of float32 in one safetensors file."""
    rng, header, at = np.random.default_rng(3), {}, 0
    shapes = [(1500, 1001), (7,), (1250, 1024), (1100, 2048), (800, 4000), (1, 3)]
    values = [rng.standard_normal(shape).astype("<f4").tobytes() for shape in shapes]
    for number, (shape, data) in enumerate(zip(shapes, values, strict=True)):
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        header[f"layer.{number}.weight"] = entry
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values))
    return path


def start(job: dict[str, object]) -> int:
    """Run a job in a process that is forked from this one, which has imported all of it."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        upload.PART_BYTES, lease.RENEW_SECONDS = 5 << 20, 1.0
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        anamnesis.run(job)
        code = 0
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """What a process ended with, None when it runs after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Cluster:
    """A scheduler and two workers, in empty folders of their own."""

    def __init__(self, root: Path) -> None:
        self.root, self.port, self.made = root, free_port(), 0
        port = str(self.port)
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", port)
        self.address = f"tcp://127.0.0.1:{port}"
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> subprocess.Popen[bytes]:
        preload = self.root / "preload.py"
        preload.write_text(_WORKER)
        more = ("--nthreads", "1", "--memory-limit", "0", "--no-nanny", "--preload", str(preload))
        return self.start("worker", self.address, *more)

    def start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self.root / f"p{self.made}"
        self.made += 1
        folder.mkdir()
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
        out = subprocess.DEVNULL
        environment = {**os.environ, "HOME": str(folder)}
        return subprocess.Popen(
            [*command, "--no-dashboard"], cwd=folder, env=environment, stdout=out, stderr=out
        )

    def kill_one(self) -> None:
        """Kill a worker, and start another."""
        number = random.randrange(len(self.workers))
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self.worker()

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


class Lab:
    """One job, its bucket, and how often what was done to it."""

    def __init__(
        self,
        folder: Path,
        bucket: Bucket | OtherBucket,
        faults: Random,
        want: dict[str, bytes],
    ) -> None:
        self.folder, self.bucket, self.faults, self.want = folder, bucket, faults, want
        self.store = bucket.store if isinstance(bucket, OtherBucket) else "s3"
        self.kills, self.bad, self.cluster = dict.fromkeys(KINDS, 0), list[str](), Cluster(folder)
        self.ends, self.whole = 0, 0.0

    @property
    def done(self) -> int:
        """How much was done to it so far."""
        return sum(self.kills.values())

    def job(self, to: str | None = None) -> dict[str, object]:
        run: dict[str, object] = {"executor": "threads", "threads": 2}
        if to:
            run = {"executor": "distributed", "scheduler": to}
        return {
            "inputs": [str(self.folder / "model.safetensors")],
            "output": {"path": f"{self.store}://lab/out", "dtype": "bf16", "max_shard_size": "7MB"},
            "run": run,
        }

    def once(self, kind: str) -> None:
        """One run, and one thing that happens to it."""
        pid = start(self.job(self.cluster.address if kind == "worker" else None))
        if kind == "faults":
            self.faults.share = 0.1
            ends = self.store == "s3" and random.random() < 0.3
            self.faults.kinds = (*PASSING, "expired") if ends else PASSING
        elif ended(pid, random.uniform(0.0, 0.9) * self.whole) is not None:
            return
        self.kills[kind] += 1
        if kind == "client":
            kill(pid)
        elif kind == "worker":
            self.cluster.kill_one()
        elif kind == "server":
            self.faults.down = True
            time.sleep(random.uniform(0.1, 2.0))
            self.faults.down = False
        if kind != "client" and ended(pid, 120) is None:
            self.bad.append(f"{kind}: hangs")
            kill(pid)
        self.faults.share = 0.0
        self.look(kind, False)

    def end(self, kind: str) -> None:
        """Run to the end, after which all is as it has to be; then start from nothing."""
        code = ended(start(self.job()), 120)
        if code:
            self.bad.append(f"{kind}: ended with {code}")
        self.ends += 1
        self.look(kind, True)
        self.clear()

    def clear(self) -> None:
        for key in self.bucket.objects():
            self.bucket.remove(key)

    def look(self, kind: str, whole: bool) -> None:
        """Note what is not as it has to be."""
        keys = self.bucket.objects()
        own = [
            key for key in keys if key.startswith("out/") and not re.search(r"/\.|anamnesis", key)
        ]
        found = {key.removeprefix("out/"): self.bucket.read(key) for key in own}
        told = [f"{name}: differs" for name, data in found.items() if self.want.get(name) != data]
        if whole:
            told += [f"{key}: left behind" for key in keys if re.search(r"(^|/)\.", key)]
            told += [f"{key}: an upload is left" for key in self.bucket.uploads()]
            told += [f"{name}: absent" for name in self.want if name not in found]
        self.bad += [f"{kind}: {text}" for text in told]


def bucket_of(store: str, endpoint: str, proxy: str) -> Bucket | OtherBucket:
    """A bucket to look into; from here on drivers of this process go by the proxy."""
    if store == "s3":
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": proxy})
        return Bucket(endpoint, "lab")
    settle(store, endpoint)
    bucket = OtherBucket(store, endpoint, "lab")
    settle(store, proxy)
    return bucket


def main(kills: int, seconds: float, store: str, wanted: str) -> int:
    begin, folder, faults = time.monotonic(), Path(tempfile.mkdtemp()), Random()
    server = s3_server() if store == "s3" else other_server(store)
    with server as endpoint, faulty(endpoint, faults) as proxy:
        bucket = bucket_of(store, endpoint, proxy)
        model, local = make_model(folder / "model.safetensors"), folder / "want"
        anamnesis.convert(model, local, to="safetensors", dtype="bf16", max_shard_size="7MB")
        want = {path.name: path.read_bytes() for path in local.iterdir()}
        lab = Lab(folder, bucket, faults, want)
        try:
            for _ in range(2):  # the first compiles, and imports drivers
                first = time.monotonic()
                lab.end("alone")
                lab.whole = time.monotonic() - first
            kinds = itertools.cycle(wanted.split(","))
            while lab.done < kills and time.monotonic() - begin < seconds:
                kind = next(kinds)
                for _ in range(ROUND):
                    if lab.done < kills and time.monotonic() - begin < seconds:
                        lab.once(kind)
                lab.end(kind)
        finally:
            lab.cluster.close()
            shutil.rmtree(folder)
        took = round(time.monotonic() - begin)
        done = {"kills": lab.kills, "ends": lab.ends, "faults": faults.met, "wrong": lab.bad}
        print(json.dumps({"store": store, **done, "seconds": took}))
        return 1 if lab.bad else 0


if __name__ == "__main__":
    given = [*sys.argv[1:], *("200", "1e9", "s3", ",".join(KINDS))[len(sys.argv) - 1 :]]
    raise SystemExit(main(int(given[0]), float(given[1]), given[2], given[3]))
