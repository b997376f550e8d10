"""Kill a run into a bucket at random moments, and look at what the bucket has after each.

`python tests/pipeline/store_lab.py [KILLS]` starts an S3 server of its own on loopback, and a
client again and again on the same output, killed (SIGKILL) within the time that a run takes,
resumed, and once in `ROUND` left alone to end. After every kill each object with a final name must
be the local
run's, byte for byte; after every end nothing else may be there, and no multipart upload. Prints a
line of JSON; ends with 1 when anything was wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "builders"))
from buckets import KEYS, Bucket, s3_server

import anamnesis

ROUND = 8
_RUN = """
import sys, anamnesis
from anamnesis.writers import upload
upload.PART_BYTES = 5 << 20
anamnesis.run({'inputs': [sys.argv[1]],
    'output': {'path': sys.argv[2], 'dtype': 'bf16', 'max_shard_size': '12MB'},
    'run': {'executor': 'threads', 'threads': 2}})
"""


def make_model(path: Path) -> Path:
    """60 MB of float32 in one safetensors file."""
    rng, header, at = np.random.default_rng(3), {}, 0
    shapes = [(3000, 1001), (7,), (2500, 1024), (2200, 2048), (1000, 4000), (1, 3)]
    values = [rng.standard_normal(shape).astype("<f4").tobytes() for shape in shapes]
    for number, (shape, data) in enumerate(zip(shapes, values, strict=True)):
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(data)]}
        header[f"layer.{number}.weight"] = entry
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values))
    return path


def run(model: Path, url: str, seconds: float | None) -> int | None:
    """Run the job; kill it after so many seconds. What it ended with, None when it was killed."""
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(model), url])
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return None


def wrong(bucket: Bucket, want: dict[str, bytes], whole: bool) -> list[str]:
    """What is not as it has to be."""
    found = {key: bucket.read(key) for key in bucket.objects()}
    final = {
        k.removeprefix("out/"): v for k, v in found.items() if not k.startswith((".", "out/."))
    }
    final = {k: v for k, v in final.items() if "anamnesis" not in k}
    told = [f"{name}: differs" for name, data in final.items() if want.get(name) != data]
    if whole:
        told += [f"{key}: left behind" for key in found if key.startswith((".", "out/."))]
        told += [f"{key}: an upload is left" for key in bucket.uploads()]
        told += [f"{name}: absent" for name in want if name not in final]
    return told


def main(kills: int) -> int:
    random.seed(18)
    done, ends, bad, begin = 0, 0, list[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, s3_server() as endpoint:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": endpoint})
        model = make_model(Path(folder, "model.safetensors"))
        local = Path(folder, "want")
        anamnesis.convert(model, local, to="safetensors", dtype="bf16", max_shard_size="12MB")
        want = {path.name: path.read_bytes() for path in local.iterdir()}
        bucket, first = Bucket(endpoint, "lab"), time.monotonic()
        run(model, "s3://lab/out", None)
        whole = time.monotonic() - first
        bad += wrong(bucket, want, True)
        while done < kills:
            for key in bucket.objects():
                bucket.client.delete_object(Bucket="lab", Key=key)
            for _ in range(ROUND):
                # A process takes most of its time to start: most kills are after that.
                if run(model, "s3://lab/out", random.uniform(0.3, 1.1) * whole) is None:
                    done += 1
                bad += wrong(bucket, want, False)
            code = run(model, "s3://lab/out", None)
            bad += [f"ended with {code}"] if code else []
            bad += wrong(bucket, want, True)
            ends += 1
    seconds = round(time.monotonic() - begin)
    print(json.dumps({"kills": done, "ends": ends, "wrong": bad, "seconds": seconds}))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
