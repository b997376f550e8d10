"""What `stats` holds while it reads input of twenty times its budget: the kernel's own count."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

MiB = 1 << 20
BUDGET = 256 * MiB
STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")

# Prints the peak of this process in bytes, and what it found of argv[1].
STATS = """
import re, sys
import anamnesis
found = anamnesis.stats(sys.argv[1], memory="256MiB", threads=2)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(int(peak) * 1024, *[f"{row.tensor}={row.zeros}" for row in found])
"""


def write(path: Path, dense: int, codes: int) -> None:
    """BF16 and FP8 zeros, rows of 8,192; nothing but the scales takes room on the disk."""
    shapes = {
        "w.weight_scale": ("F32", [codes, 1], 4 * codes),
        "dense": ("BF16", [dense, 8192], 2 * 8192 * dense),
        "norm": ("F32", [8192], 4 * 8192),
        "w.weight": ("F8_E4M3", [codes, 8192], 8192 * codes),
    }
    header, end = {}, 0
    for name, (dtype, shape, nbytes) in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(struct.pack("<f", 0.5) * codes)
        file.truncate(8 + len(text) + end)


def peak(path: Path) -> tuple[int, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-c", STATS, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    most, *found = done.stdout.split()
    return int(most), {n: int(z) for n, z in (re.split("=", pair) for pair in found)}


def test_twenty_budgets_of_input(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, 16, 16)
    peak(path)  # compiles
    dense, codes = 288 * 1024, 100 * 1024
    write(path, dense, codes)
    assert os.stat(path).st_size > 20 * BUDGET
    most, zeros = peak(path)
    assert zeros == {"dense": dense * 8192, "norm": 8192, "w.weight": codes * 8192}
    assert most < BUDGET, f"{most / MiB:.0f} MiB"
