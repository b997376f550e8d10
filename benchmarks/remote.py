"""Models behind URLs: opening 200 shards, and a conversion beside a plain download of the bytes.

    python -m benchmarks.remote [--latency 0.05] [--bandwidth 100e6] [--nbytes 400e6] [--repeat 1]

The hub is `tests/builders/hub.py` in a process of its own, with a latency before each answer and a
bandwidth for all connections together. The download is 32 connections of Python's own HTTP client
that fetch ranges of 8 MiB from where the hub redirects to, and drop them. What a conversion has
written is removed, and on the disk, before the next thing begins.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = "org/model"
CONNECTIONS, RANGE_BYTES = 32, 8 << 20


def write_shard(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> list[str]:
    """A safetensors file; returns the names of its tensors."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        end = at + len(data)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(data for _, _, data in tensors.values())
    return list(tensors)


def write_index(folder: Path, shards: dict[str, list[str]]) -> None:
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (folder / "config.json").write_text(json.dumps(config))


def write_many(folder: Path, count: int, tensors: int) -> None:
    """Shards of many small tensors."""
    shards = {}
    for number in range(count):
        rows = {
            f"model.layers.{number}.mlp.{k}.weight": ("BF16", (128,), bytes(256))
            for k in range(tensors)
        }
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        shards[name] = write_shard(folder / name, rows)
    write_index(folder, shards)


def write_large(folder: Path, nbytes: int, count: int = 4, side: int = 4096) -> int:
    """FP8 blocks with scales, random; returns the bytes of all tensors."""
    rng = np.random.default_rng(1)
    shards, total = {}, 0
    each = max(1, nbytes // count // side**2)
    for number in range(count):
        rows: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
        for k in range(each):
            stem = f"model.layers.{number * each + k}.mlp.up_proj.weight"
            codes = rng.integers(0, 120, side * side, np.uint8).tobytes()
            scales = rng.random((side // 128, side // 128), np.float32).tobytes()
            rows[stem] = ("F8_E4M3", (side, side), codes)
            rows[f"{stem}_scale_inv"] = ("F32", (side // 128, side // 128), scales)
            total += len(codes) + len(scales)
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        shards[name] = write_shard(folder / name, rows)
    write_index(folder, shards)
    return total


class Served:
    """A hub in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def set(self, latency: float, bandwidth: float, each: float = 0.0) -> tuple[int, int, int]:
        """Change how it serves; requests, bytes, and most at a time since the last change."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{latency} {bandwidth} {each}\n")
        self._process.stdin.flush()
        requests, sent, most = map(int, self._line().split())
        return requests, sent, most


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    command = [sys.executable, str(ROOT / "tests" / "builders" / "hub.py"), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Served(process)
        assert process.stdin is not None
        process.stdin.close()


def download(url: str, folder: Path) -> int:
    """All shards in parallel ranges; returns how many bytes came."""
    where = urlsplit(url)
    wanted = [
        (path.name, at, min(at + RANGE_BYTES, path.stat().st_size))
        for path in sorted(folder.glob("*.safetensors"))
        for at in range(0, path.stat().st_size, RANGE_BYTES)
    ]

    def fetch(part: list[tuple[str, int, int]]) -> int:
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        got = 0
        for name, start, stop in part:
            connection.request("GET", f"/{name}", headers={"Range": f"bytes={start}-{stop - 1}"})
            got += len(connection.getresponse().read())
        return got

    parts = [wanted[k::CONNECTIONS] for k in range(CONNECTIONS)]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return sum(pool.map(fetch, parts))


def amn(url: str, *arguments: str) -> tuple[float, float]:
    """Seconds of a command in a process of its own, and of the run in it without its start."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "anamnesis", *arguments, "--json"],
        env={**os.environ, "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    seconds = time.perf_counter() - begin
    outcomes = json.loads(done.stdout).get("outcomes") or [{"seconds": seconds}]
    return seconds, outcomes[0]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--bandwidth", type=float, default=100e6)
    parser.add_argument("--nbytes", type=float, default=400e6)
    parser.add_argument("--each", type=float, default=0.0)
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amn-remote-") as name:
        folder = Path(name) / "many"
        folder.mkdir()
        write_many(folder, 200, 100)
        with served(folder) as hub:
            hub.set(given.latency, 0)
            for url in (f"hf://{MODEL}", f"{hub.url}/"):
                seconds, _ = amn(hub.url, "inspect", url)
                count, sent, most = hub.set(given.latency, 0)
                print(f"200 shards, {url.partition(':')[0]}: {seconds:.2f} s, {count} requests, "
                      f"{sent / 1e6:.0f} MB, {most} at a time")  # fmt: skip
        folder = Path(name) / "large"
        folder.mkdir()
        nbytes = write_large(folder, int(given.nbytes))
        with served(folder) as hub:
            line = (given.latency, given.bandwidth, given.each)
            for _ in range(given.repeat):
                compared(hub, folder, Path(name) / "out", nbytes, line)


def compared(
    hub: Served, folder: Path, out: Path, nbytes: int, line: tuple[float, float, float]
) -> None:
    """Print what a download takes, and conversions after it."""
    os.sync()
    hub.set(*line)
    begin = time.perf_counter()
    download(hub.url, folder)
    plain = time.perf_counter() - begin
    hub.set(*line)
    print(f"download of {nbytes / 1e6:.0f} MB: {plain:.2f} s", flush=True)
    for url in (f"hf://{MODEL}", f"{hub.url}/"):
        seconds, run = amn(hub.url, "remember", url, "-o", str(out))
        count, sent, most = hub.set(*line)
        print(f"conversion, {url.partition(':')[0]}: {seconds:.2f} s, "
              f"{seconds / plain:.2f}x; without start and headers {run:.2f} s, "
              f"{run / plain:.2f}x; {count} requests, {sent / 1e6:.0f} MB, "
              f"{most} at a time", flush=True)  # fmt: skip
        for path in out.parent.glob(f"*{out.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.sync()


if __name__ == "__main__":
    main()
