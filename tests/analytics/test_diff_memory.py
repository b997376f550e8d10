"""What `--memory` promises of a diff: two inputs, together twenty times as large."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

MiB = 1 << 20
BUDGET = 256 * MiB
STATUS = Path("/proc/self/status")
COMPARE = """
import re, sys
import anamnesis
found = anamnesis.diff(sys.argv[1], sys.argv[2], memory="256MiB", threads=2)
assert found.total.elems == int(sys.argv[3]) and found.compared[0].identical, found
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


def holes(path: Path, dtype: str, itemsize: int, rows: int, tensors: int) -> Path:
    """A model of zeros, which takes no room on a disk."""
    header, offset = {}, 0
    for number in range(tensors):
        end = offset + rows * 4096 * itemsize
        header[f"t{number}"] = {
            "dtype": dtype,
            "shape": [rows, 4096],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, path.stat().st_size + offset)
    return path


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
def test_peak_stays_in_the_budget(tmp_path: Path) -> None:
    rows, tensors = 16_384, 10
    a = holes(tmp_path / "a.safetensors", "F32", 4, rows, tensors)
    b = holes(tmp_path / "b.safetensors", "F32", 4, rows, tensors)
    assert a.stat().st_size + b.stat().st_size >= 20 * BUDGET
    elems = rows * 4096 * tensors
    command = [sys.executable, "-c", COMPARE]
    small = [str(holes(tmp_path / f"{side}.safetensors", "F32", 4, 1, 1)) for side in "cd"]
    subprocess.run([*command, *small, "4096"], check=True)  # compiles, once on a machine
    done = subprocess.run(
        [*command, str(a), str(b), str(elems)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= BUDGET
