"""What each sink takes to write into a bucket: peak memory, and bytes written on local disks.

`python -m benchmarks.sinks [--nbytes 200e6] [--threads 2]` starts moto's S3 server, converts a
model of BF16 in tensors of 4 MiB from tmpfs into it, once for each sink, in a process of its own,
and prints a table: the kernel's peak (VmHWM), what the plan had said, and `write_bytes` of
/proc/self/io.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "builders"), str(ROOT / "tests" / "pipeline")]

SINKS = {
    "safetensors": {},
    "hf": {},
    "gguf": {"names": "stored"},
    "arrow": {},
    "arrow, lz4": {"compression": "lz4"},
    "arrow, zstd": {"compression": "zstd"},
    "parquet": {},
}
_RUN = """
import json, re, sys
import anamnesis
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job
given = json.loads(sys.argv[1])
job = job_from(inputs=[given["model"]], output=given["output"], run=given["run"])
((_, plan),) = plan_job(job)
anamnesis.run(job)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
disk = int(re.search(r"^write_bytes: (\\d+)", open("/proc/self/io").read(), re.M)[1])
print(json.dumps([peak, plan.memory_bytes, disk, plan.out_bytes]))
"""


def row(model: Path, sink: str, threads: int) -> list[int]:
    """Peak, projection, bytes on disks and bytes of output of one sink."""
    path = f"s3://sinks/{sink.replace(', ', '-')}"
    output = {"path": path, "format": sink.partition(",")[0], "max_shard_size": "60MB"}
    given = {"model": str(model), "output": {**output, **SINKS[sink]}, "run": {"threads": threads}}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(given)], capture_output=True, check=True
    )
    found: list[int] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nbytes", type=float, default=200e6)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    from buckets import KEYS, Bucket, s3_server
    from network_lab import model_bytes

    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    print("| sink | output | peak | planned | written on local disks |\n|---|---|---|---|---|")
    with s3_server() as endpoint, tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": endpoint})
        Bucket(endpoint, "sinks")
        model = Path(folder, "model.safetensors")
        model.write_bytes(model_bytes(int(asked.nbytes)))
        for sink in SINKS:
            peak, planned, disk, nbytes = row(model, sink, asked.threads)
            mib = [f"{value / (1 << 20):.0f} MiB" for value in (peak, planned)]
            print(
                f"| {sink} | {nbytes / 1e6:.0f} MB | {' | '.join(mib)} | {disk:,} B |", flush=True
            )


if __name__ == "__main__":
    main()
