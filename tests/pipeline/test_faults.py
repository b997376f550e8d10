"""A job that is stopped at any call, by any fault, ends well when it is run again (W01 to W06).

The work is done by `fault_lab.py` in a process of its own, which forks a child for every fault.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import anamnesis
from anamnesis.errors import AnamnesisError

LAB = Path(__file__).with_name("fault_lab.py")
Calls = Sequence[tuple[str, str]]  # (call, path)


@pytest.fixture(scope="module")
def lab() -> dict[str, Any]:
    """What the lab found; in memory where that is possible, as syncs are not what is timed."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="amn-faults-", dir=memory) as folder:
        command = [sys.executable, str(LAB), folder]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_w01_w03_w04_any_fault_at_any_call(lab: dict[str, Any]) -> None:
    assert lab["wrong"] == []
    assert sum(lab["counts"].values()) >= 200
    assert min(lab["counts"].values()) >= 10
    for state in ("fresh", "overwrite", "damaged"):
        assert {"pwrite", "write", "fsync", "rename", "unlink", "open"} <= lab["calls"][
            state
        ].keys()


def test_w02_killed_at_random_moments(lab: dict[str, Any]) -> None:
    assert lab["moments"]["wrong"] == []
    assert lab["moments"]["killed"] >= 5


def test_w05_a_limit_on_file_sizes_fails_one_shard(lab: dict[str, Any]) -> None:
    assert re.search(r"File too large: '.*model-00003-of-00003", lab["limited"]["error"])
    assert lab["limited"]["kept"] == 2


def test_w03_a_disk_that_fills_up(lab: dict[str, Any]) -> None:
    if not lab["small disk"]:
        pytest.skip("a small disk may not be mounted here")
    assert lab["small disk"]["wrong"] == []
    assert lab["small disk"]["errors"]["OSError"] >= 5


def test_w06_the_order_of_the_calls(lab: dict[str, Any]) -> None:
    check_order([(call, path) for call, path in lab["trace"]], "out", 3)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_w06_the_order_as_the_kernel_sees_it(fp8_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    job = tmp_path / "job.yaml"
    job.write_text(
        f"inputs: [{fp8_model}]\noutput: {{path: {tmp_path}/out, max_shard_size: 16MB}}\n"
    )
    names = "pwrite64,write,fsync,fdatasync,rename,renameat,renameat2,unlink"
    strace = ["strace", "-f", "-y", "--seccomp-bpf", "-e", f"trace={names}", "-o", str(log)]
    main = [sys.executable, "-c", "from anamnesis.cli.main import main; main()"]
    done = subprocess.run(
        [*strace, *main, "run", str(job)], check=False, capture_output=True, text=True, timeout=240
    )
    if done.returncode and "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = []
    for line in log.read_text().splitlines():
        if call := re.match(r'\d+ +(\w+)\((?:\d+<([^>]*)>|"([^"]*)")', line):
            calls.append((call[1].removesuffix("64"), call[2] or call[3]))
    check_order([(c, p) for c, p in calls if p.startswith(str(tmp_path))], "out", 3)


def check_order(calls: Calls, out: str, shards: int) -> None:
    """Data are safe before names, a record before its shard, and the manifest comes last."""
    folder = next(p for _, p in calls if p.endswith(f"/{out}.anamnesis.json") or f"/.{out}." in p)
    parent = str(Path(folder).parent)
    (manifest,) = {p for _, p in calls if f"/.{out}.anamnesis.json." in p}
    journal = f"{parent}/.{out}.anamnesis.journal"
    parts = sorted({p for _, p in calls if "/.model-" in p and p.endswith(".part")})
    assert len(parts) == shards
    ends = []
    for part in parts:
        name = next(i for i, call in enumerate(calls) if call == ("rename", part))
        (sync,) = (i for i, call in enumerate(calls) if call == ("fsync", part))
        assert max(i for i, call in enumerate(calls) if call == ("pwrite", part)) < sync < name
        recorded = [i for i, call in enumerate(calls) if call == ("fsync", journal) and i < name]
        assert recorded[-1] > sync
        assert max(i for i, c in enumerate(calls[:name]) if c == ("write", journal)) < recorded[-1]
        named = ("fsync", str(Path(part).parent))
        ends.append(next(i for i, call in enumerate(calls) if i > name and call == named))
    assert calls.index(("fsync", parent)) < calls.index(("rename", parts[0]))
    (sync,) = (i for i, call in enumerate(calls) if call == ("fsync", manifest))
    assert max(ends) < calls.index(("pwrite", manifest)) < sync
    name = calls.index(("rename", manifest))
    assert sync < name < calls.index(("fsync", parent), name)
    assert calls.index(("unlink", journal), name) > calls.index(("fsync", parent), name)


def test_d05_a_sparse_terabyte_is_refused_before_the_first_byte(
    tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    rows = (1 << 40) // 4096
    header = {"w": {"dtype": "F8_E4M3", "shape": [rows, 4096], "data_offsets": [0, 1 << 40]}}
    header["w_scale_inv"] = {
        "dtype": "F32",
        "shape": [rows // 128, 32],
        "data_offsets": [1 << 40, (1 << 40) + rows],
    }
    text = json.dumps(header).encode()
    source = tmp_path / "huge.safetensors"
    with source.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        try:
            file.truncate(8 + len(text) + (1 << 40) + rows)
        except OSError:
            pytest.skip("no sparse files of a terabyte here")
    # A terabyte takes longer than any test may.
    done = amn("remember", source, "-o", tmp_path / "out" / "x.safetensors")
    assert done.returncode in (1, 5)
    assert re.match(r"error: (OSError|LimitError): .* bytes", done.stderr)
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["huge.safetensors"]


def test_w12_a_manifest_with_any_byte_changed_is_not_believed(
    fp8_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    anamnesis.remember(fp8_model, out)
    manifest = tmp_path / "out.safetensors.anamnesis.json"
    data = manifest.read_bytes()
    for at in range(0, len(data), 7):
        manifest.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(AnamnesisError):
            anamnesis.verify(out)
