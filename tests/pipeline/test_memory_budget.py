"""What `--memory` promises: the peak of a whole process, on tensors far larger than the budget.

The peak is the kernel's own count (VmHWM). Machine code is made beforehand, in other processes:
compiling takes memory of its own, once on a machine.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MiB = 1 << 20
BUDGET = 256 * MiB
STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")

# Converts argv[1] to argv[2] and prints the peak of this process in bytes.
CONVERT = """
import re, sys
import anamnesis
anamnesis.remember(sys.argv[1], sys.argv[2], memory="256MiB", overwrite=True)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""

Shapes = dict[str, tuple[str, tuple[int, ...]]]
SIZES = {"F8_E4M3": 1, "F16": 2, "F32": 4, "I32": 4}


def fp8(rows: int, columns: int) -> Shapes:
    grid = (-(-rows // 128), -(-columns // 128))
    return {
        "m.weight": ("F8_E4M3", (rows, columns)),
        "m.weight_scale_inv": ("F32", grid),
    }


def gptq(outputs: int, inputs: int, order: bool = False) -> Shapes:
    groups = inputs // 128
    parts = {
        "m.qweight": ("I32", (inputs // 8, outputs)),
        "m.qzeros": ("I32", (groups, outputs // 8)),
        "m.scales": ("F16", (groups, outputs)),
    }
    return parts | ({"m.g_idx": ("I32", (inputs,))} if order else {})


def awq(outputs: int, inputs: int) -> Shapes:
    groups = inputs // 128
    return {
        "m.qweight": ("I32", (inputs, outputs // 8)),
        "m.qzeros": ("I32", (groups, outputs // 8)),
        "m.scales": ("F16", (groups, outputs)),
    }


def write(path: Path, shapes: Shapes) -> int:
    """A file without holes: random codes and sound scales, written in pieces; its size."""
    rng = np.random.default_rng(0)
    noise = rng.bytes(MiB)
    header, offset = {}, 0
    for name, (dtype, shape) in shapes.items():
        end = offset + SIZES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in shapes.items():
            count = int(np.prod(shape))
            if name.endswith("g_idx"):
                file.write((rng.permutation(count) // 128).astype("<i4").tobytes())
            elif dtype in ("F16", "F32"):
                file.write(np.full(count, 0.01, "<f2" if dtype == "F16" else "<f4").tobytes())
            else:
                nbytes = SIZES[dtype] * count
                for done in range(0, nbytes, MiB):
                    file.write(noise[: min(MiB, nbytes - done)])
    return path.stat().st_size


def peak(source: Path, out: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, str(source), str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


CASES = {
    "fp8": (fp8(10_240, 30_720), fp8(256, 256)),  # 300 MiB, 600 MiB decoded
    # 128 MiB, 512 MiB decoded: read whole, the codes alone would pass the budget.
    "gptq-long": (gptq(8192, 32_768), gptq(64, 256)),
    "gptq-wide": (gptq(32_768, 8192), gptq(64, 256)),
    "gptq-act-order": (gptq(4096, 32_768, order=True), gptq(64, 256, order=True)),
    "awq": (awq(32_768, 4096), awq(64, 256)),
}


@pytest.mark.parametrize("name", CASES)
def test_peak_stays_in_the_budget(name: str, tmp_path: Path) -> None:
    large, small = CASES[name]
    source, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    write(source, small)
    peak(source, out)  # compiles
    stored = write(source, large)
    try:
        most = peak(source, out)
        assert stored + out.stat().st_size > BUDGET
        assert most < BUDGET, f"{most / MiB:.0f} MiB"
    finally:
        source.unlink()
        out.unlink(missing_ok=True)
