"""Libraries that speak S3: parts sent and ranges read, through a line of known latency and rate.

`python -m benchmarks.stores [--nbytes 64e6] [--latency 0.05] [--requests 16]` starts moto's S3
server and a proxy that lets every request wait, and sends an object of parts of 8 MiB and reads it
again in ranges of 4 MiB with each library that is installed: botocore (threads), s3fs (its event
loop), obstore and pyarrow.fs (their own threads). The table has medians of three, in seconds, with
processor seconds of this process beside them, and what each can do.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "builders"))

PART_BYTES, RANGE_BYTES, REPEATS = 8 << 20, 4 << 20, 3
BUCKET, KEY = "lib", "object"


def cut(nbytes: int, each: int) -> list[tuple[int, int]]:
    """Ranges `[start, stop)` of so many bytes."""
    return [(at, min(at + each, nbytes)) for at in range(0, nbytes, each)]


def with_botocore(endpoint: str, data: bytes, requests: int) -> tuple[Any, Any]:
    """What sends an object, and what reads it."""
    from anamnesis.writers.s3 import S3

    url, store = f"s3://{BUCKET}/{KEY}", S3(f"s3://{BUCKET}")

    def send() -> None:
        upload = store.begin(url, "")
        parts = list(enumerate(cut(len(data), PART_BYTES), 1))
        with ThreadPoolExecutor(requests) as pool:
            tags = list(
                pool.map(lambda p: store.part(url, upload, p[0], data[p[1][0] : p[1][1]]), parts)
            )
        numbered = [(number, tag) for (number, _), tag in zip(parts, tags, strict=True)]
        store.complete(url, upload, numbered, new=False)

    def read() -> None:
        with ThreadPoolExecutor(requests) as pool:
            list(pool.map(lambda r: store.read(url, *r), cut(len(data), RANGE_BYTES)))

    return send, read


def with_s3fs(endpoint: str, data: bytes, requests: int) -> tuple[Any, Any]:
    """The same with s3fs."""
    import s3fs

    fs, name = s3fs.S3FileSystem(max_concurrency=requests), f"{BUCKET}/{KEY}"
    ranges = cut(len(data), RANGE_BYTES)

    def read() -> None:
        starts, stops = [r[0] for r in ranges], [r[1] for r in ranges]
        fs.cat_ranges([name] * len(ranges), starts, stops, batch_size=requests)

    return partial(fs.pipe_file, name, data, chunksize=PART_BYTES), read


def with_obstore(endpoint: str, data: bytes, requests: int) -> tuple[Any, Any]:
    """The same with obstore."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True})
    ranges = cut(len(data), RANGE_BYTES)

    def send() -> None:
        obstore.put(
            store, KEY, data, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=requests
        )

    def read() -> None:
        with ThreadPoolExecutor(requests) as pool:
            list(pool.map(lambda r: obstore.get_range(store, KEY, start=r[0], end=r[1]), ranges))

    return send, read


def with_pyarrow(endpoint: str, data: bytes, requests: int) -> tuple[Any, Any]:
    """The same with pyarrow.fs."""
    import pyarrow as pa
    from pyarrow import fs

    pa.set_io_thread_count(requests)
    store = fs.S3FileSystem(
        endpoint_override=endpoint.removeprefix("http://"), scheme="http", background_writes=True
    )
    name = f"{BUCKET}/{KEY}"

    def send() -> None:
        with store.open_output_stream(name) as file:
            for start, stop in cut(len(data), PART_BYTES):
                file.write(data[start:stop])

    def read() -> None:
        with store.open_input_file(name) as file, ThreadPoolExecutor(requests) as pool:
            list(pool.map(lambda r: file.read_at(r[1] - r[0], r[0]), cut(len(data), RANGE_BYTES)))

    return send, read


LIBRARIES: dict[str, tuple[str, Callable[[str, bytes, int], tuple[Any, Any]], str]] = {
    "botocore": ("botocore", with_botocore, "numbered parts, ETags, conditions; threads"),
    "s3fs": ("s3fs", with_s3fs, "whole uploads; parts by private calls; one event loop"),
    "obstore": ("obstore", with_obstore, "whole uploads, conditions on small puts; no parts"),
    "pyarrow.fs": ("pyarrow", with_pyarrow, "whole uploads, no conditions, no ETags"),
}


def measured(request: Callable[[], Any]) -> tuple[float, float]:
    """Median seconds, and processor seconds of this process, of some repetitions."""
    walls, used = [], []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        request()
        walls.append(time.perf_counter() - wall)
        used.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(used)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nbytes", type=float, default=64e6)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--requests", type=int, default=16)
    asked = parser.parse_args()
    from buckets import KEYS, Bucket, Faults, faulty, s3_server

    class Slow(Faults):
        ordered = False

        def take(self, line: str) -> str:
            time.sleep(asked.latency)
            return ""

    data = os.urandom(int(asked.nbytes))
    print("| library | send, s | CPU | read, s | CPU | can do |\n|---|---|---|---|---|---|")
    with s3_server() as server, faulty(server, Slow()) as endpoint:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"})
        Bucket(server, BUCKET)
        for name, (package, library, able) in LIBRARIES.items():
            if importlib.util.find_spec(package) is None:
                continue
            send, read = library(endpoint, data, asked.requests)
            try:
                row = [f"{seconds:.2f}" for seconds in (*measured(send), *measured(read))]
            except OSError as error:
                row, able = ["-"] * 4, f"{able}; failed: {str(error)[-80:]}"
            print(f"| {name} | {' | '.join(row)} | {able} |", flush=True)


if __name__ == "__main__":
    main()
