"""What `scan(memory=...)` promises: how much a process grows while it streams 20 budgets and more.

The growth is from after a small scan, which loads and compiles everything, to the kernel's own
peak (VmHWM, which is set back in between).
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

MiB = 1 << 20
BUDGET = 8 * MiB
RESET = Path("/proc/self/clear_refs")
SHM = Path("/dev/shm")
SIZES = {"BF16": 2, "F8_E4M3": 1, "F16": 2, "F32": 4, "I32": 4}

pytestmark = pytest.mark.skipif(not RESET.exists(), reason="needs /proc")

GROWTH = """
import json, re, sys
import anamnesis

def status(key):
    found = re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())
    return int(found[1]) * 1024

def drain(path):
    total = 0
    for batch in anamnesis.scan(path, **settings):
        total += batch.nbytes
    return total

small, large, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
drain(small)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
total = drain(large)
print(status("VmHWM") - before, total)
"""

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def fp8(rows: int, columns: int) -> Shapes:
    return {
        "m.weight": ("F8_E4M3", (rows, columns)),
        "m.weight_scale_inv": ("F32", (-(-rows // 128), -(-columns // 128))),
    }


def gptq(outputs: int, inputs: int) -> Shapes:
    groups = inputs // 128
    return {
        "m.qweight": ("I32", (inputs // 8, outputs)),
        "m.qzeros": ("I32", (groups, outputs // 8)),
        "m.scales": ("F16", (groups, outputs)),
    }


def dense(rows: int, columns: int) -> Shapes:
    return {"m.weight": ("BF16", (rows, columns))}


CASES = {
    "fp8-raw": (fp8(12_800, 14_000), {}),
    "fp8-f32": (fp8(12_800, 14_000), {"decode": "f32"}),
    "gptq-bf16": (gptq(20_480, 16_384), {"decode": "bf16"}),
    "dense-flat-f32": (dense(1, 90_000_000), {"decode": "f32"}),
}


def write(path: Path, shapes: Shapes) -> int:
    """A file without holes: random bytes and sound scales; its size."""
    noise = np.random.default_rng(0).bytes(MiB)
    header, offset = {}, 0
    for name, (dtype, shape) in shapes.items():
        end = offset + SIZES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for dtype, shape in shapes.values():
            count = int(np.prod(shape))
            if dtype in ("F16", "F32"):
                file.write(np.full(count, 0.01, "<f2" if dtype == "F16" else "<f4").tobytes())
            else:
                for done in range(0, SIZES[dtype] * count, MiB):
                    file.write(noise[: min(MiB, SIZES[dtype] * count - done)])
    return path.stat().st_size


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: a disk may be slower than the test's patience."""
    if not SHM.is_dir():
        yield tmp_path
        return
    import tempfile

    with tempfile.TemporaryDirectory(dir=SHM) as name:
        yield Path(name)


@pytest.mark.parametrize("name", CASES)
def test_a_scan_holds_its_budget(name: str, folder: Path) -> None:
    shapes, settings = CASES[name]
    few = {"fp8": fp8(256, 256), "gptq": gptq(64, 256), "dense": dense(4, 4)}[name.split("-")[0]]
    small, large = folder / "small.safetensors", folder / "large.safetensors"
    write(small, few)
    assert write(large, shapes) > 20 * BUDGET
    arguments = json.dumps(settings | {"memory": BUDGET})
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(small), str(large), arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    growth, total = map(int, done.stdout.split())
    assert total > 20 * BUDGET
    assert growth < BUDGET, f"{growth / MiB:.1f} MiB"
