"""What `--memory` promises: the peak of a whole process, on inputs far larger than the budget.

The peak is the kernel's own count (VmHWM) in real subprocesses. The budget here is what a process
holds anyway (`BASE_BYTES`) and a few MiB. A process that compiles a kernel may hold
`COMPILE_BYTES` more. Inputs of 30 and 100 times the few MiB are in `make test-oracles`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_bounds import COMPILE_BYTES

from anamnesis.limits import MiB
from anamnesis.pipeline.executors.greeting import WORKER_BYTES
from anamnesis.pipeline.fit import BASE_BYTES

ROOT = Path(__file__).resolve().parents[2]
STATUS = Path("/proc/self/status")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")

# Writes a model of the case argv[1], of at least argv[2] bytes, into argv[3]; prints where, and its
# size. Its matrices have argv[4] rows, and twice as many columns.
WRITE = """
import sys
from pathlib import Path
from benchmarks.cases import CASES
from benchmarks.models import write_model
layer = CASES[sys.argv[1]].make(int(sys.argv[4]), 2 * int(sys.argv[4]))
layers = -(-int(sys.argv[2]) // layer.nbytes)
print(write_model(Path(sys.argv[3]), layer, layers), layers * layer.nbytes)
"""
# Converts argv[1] to argv[2] within argv[3] and prints the peak of this process in bytes.
CONVERT = """
import re, sys
import anamnesis
path, out, memory, passthrough = sys.argv[1:]
anamnesis.remember(
    path, out, memory=int(memory), passthrough=passthrough or None, threads=2, overwrite=True
)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""
# The same on a cluster of two processes, and prints the largest of their peaks.
CLUSTER = """
import re, sys, threading, time
from pathlib import Path
import anamnesis

def peak(pid):
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int((re.search(r"VmHWM:\\s+(\\d+) kB", text) or [0, 0])[1]) * 1024

def watch():
    while not done.wait(0.1):
        for path in Path("/proc/self/task").glob("*/children"):
            for pid in path.read_text().split():
                peaks[pid] = max(peaks.get(pid, 0), peak(pid))

if __name__ == "__main__":
    peaks, done = {}, threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    path, out, memory, _ = sys.argv[1:]
    anamnesis.remember(
        path, out, memory=int(memory), executor="distributed", threads=2, overwrite=True
    )
    done.set()
    watcher.join()
    print(peak("self"), max(peaks.values()))
"""

# Of every family the layouts that differ in what is read at once. In MiB, what the budget leaves
# for buffers: layouts in columns are read in strips, of more than a window.
ROWS, COLUMNS = 8, 16
STRIPS = 64
FAMILIES = {
    "fp8-e4m3 block": ROWS,
    "fp8-e4m3 channel": ROWS,
    "fp8-e5m2 block": ROWS,
    "f32 to bf16": ROWS,
    "bnb nf4": ROWS,
    "bnb nf4 nested": ROWS,
    "bnb int8": ROWS,
    "gguf-q4-k": ROWS,
    "gguf-q8-0": ROWS,
    "gguf-iq2-xxs": ROWS,
    "gguf-nvfp4": ROWS,
    "awq int4 g128": ROWS,
    "awq int4 g128 gemv": ROWS,
    "mlx int4 g64": ROWS,
    "ct int8": ROWS,
    "mxfp4": ROWS,
    "nvfp4": ROWS,
    "mxfp4 gpt-oss": COLUMNS,
    "ct packed int4 g128 asym": ROWS,
    "gptq int4 g128": COLUMNS,
    "gptq int8 g128": COLUMNS,
    "gptq int4 act-order": COLUMNS,
    "bitnet": COLUMNS,
    "hqq int4 axis 1": COLUMNS,
    "hqq int4 axis 0": COLUMNS,
    "quanto int4": COLUMNS,
    "quanto int8": ROWS,
}
SHORT = ("fp8-e4m3 block", "bnb nf4 nested", "gguf-q4-k", "awq int4 g128", "gptq int4 act-order")


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is possible: page cache is not what is measured."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="amn-memory-", dir=memory) as name:
        yield Path(name)


def ran(code: str, *arguments: object, **settings: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=ROOT,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def written(folder: Path, case: str, nbytes: int, rows: int = 2048) -> tuple[Path, int]:
    path, size = ran(WRITE, case, nbytes, folder, rows)
    return Path(path), int(size)


def peak(folder: Path, case: str, source: Path, memory: int, **settings: str) -> int:
    """Of a conversion, in a process of its own; its output is removed."""
    passthrough = "bf16" if case.endswith("to bf16") else ""
    out = folder / "out.safetensors"
    found = ran(CONVERT, source, out, memory, passthrough, **settings)
    out.unlink()
    return int(found[-1])


@pytest.mark.parametrize("case", SHORT)
def test_the_peak_stays_in_the_budget(case: str, folder: Path) -> None:
    spare = FAMILIES[case] * MiB
    small, _ = written(folder, case, 1)
    peak(folder, case, small, BASE_BYTES + spare)  # compiles
    source, size = written(folder, case, 10 * spare)
    found = peak(folder, case, source, BASE_BYTES + spare)
    assert size >= 10 * spare
    assert found <= BASE_BYTES + spare, f"{found / MiB:.0f} MiB"


@pytest.mark.parametrize("case", ["gptq int4 g128"])
def test_the_peak_of_a_process_that_compiles(case: str, folder: Path) -> None:
    compiled(case, folder)


def compiled(case: str, folder: Path) -> Path:
    """The kernels of a case in a cache of their own, compiled within the budget."""
    spare = FAMILIES[case] * MiB
    source, _ = written(folder, case, 1)
    cache = folder / "cache"
    found = peak(folder, case, source, BASE_BYTES + spare, ANAMNESIS_CACHE=str(cache))
    assert any(path.is_file() for path in cache.rglob("*")), "compiled nothing"
    assert found <= BASE_BYTES + spare + COMPILE_BYTES, f"{found / MiB:.0f} MiB"
    return cache


@pytest.mark.oracle
@pytest.mark.parametrize("case", FAMILIES)
def test_inputs_of_many_budgets(case: str, folder: Path) -> None:
    """Any kernel is compiled; the input is 30 or 100 times what the budget leaves for buffers."""
    spare, times = FAMILIES[case] * MiB, 100 if case in SHORT else 30
    cache = compiled(case, folder)
    if shutil.disk_usage(folder).free < 600 * spare:
        pytest.skip("not enough room")
    source, size = written(folder, case, times * spare)
    found = peak(folder, case, source, BASE_BYTES + spare, ANAMNESIS_CACHE=str(cache))
    assert size >= times * spare
    assert found <= BASE_BYTES + spare, f"{found / MiB:.0f} MiB"


@pytest.mark.oracle
@pytest.mark.parametrize("case", [name for name in FAMILIES if name.startswith(("awq", "gptq"))])
def test_strips_of_large_matrices(case: str, folder: Path) -> None:
    """8192 x 16384, of which a strip is a small part."""
    small, _ = written(folder, case, 1)
    peak(folder, case, small, BASE_BYTES + STRIPS * MiB)
    source, size = written(folder, case, 3 * STRIPS * MiB, 8192)
    found = peak(folder, case, source, BASE_BYTES + STRIPS * MiB)
    assert size >= 3 * STRIPS * MiB
    assert found <= BASE_BYTES + STRIPS * MiB, f"{found / MiB:.0f} MiB"


@pytest.mark.oracle
def test_the_processes_of_a_cluster(folder: Path) -> None:
    case = "fp8-e4m3 block"
    spare = FAMILIES[case] * MiB
    source, _ = written(folder, case, 100 * spare)
    script = folder / "cluster.py"  # workers import the script
    script.write_text(CLUSTER)
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    found = ran(code, source, folder / "out.safetensors", BASE_BYTES + spare, "")
    for nbytes in map(int, found[-2:]):
        assert nbytes <= WORKER_BYTES + spare, found
