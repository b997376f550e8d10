"""Start-up, time and memory: the interpreter, imports, `inspect` of 11 GB that are all holes.

The last lines convert models of 1 MiB, which is no work to speak of: with kernels that an earlier
run compiled, and with none (cold), each until the first values are written and to its end. FP8's
kernel takes as long to compile as most; GPTQ's is one of the two that take longest.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from anamnesis.limits import MiB
from anamnesis.readers.source import LocalFile
from benchmarks.cases import CASES
from benchmarks.end_to_end import COMMAND, launch
from benchmarks.measure import Neighbours, Times, keep, patience, scratch
from benchmarks.models import Layer, gguf_header, safetensors_header, write_model

ROWS, COLUMNS = 11008, 4096
SPARSE_BYTES = 11_000_000_000
SMALL = {"fp8-e4m3 block": "1 MiB", "gptq int4 g128": "1 MiB of GPTQ"}
# Notes on stderr when the first values were written; headers are shorter.
FIRST_BYTE = """
import os, time
def stamped(fd, data, offset):
    written = pwrite(fd, data, offset)
    if len(data) >= 65536 and not seen:
        seen.append(time.perf_counter())
        os.write(2, b"begun %r\\n" % seen[0])
    return written
pwrite, os.pwrite, seen = os.pwrite, stamped, []
"""
NO_KERNELS = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["ANAMNESIS_CACHE"] = folder.name
"""


def run(console: Console, repeat: int) -> dict[str, Any]:
    """Measure, print a table, keep the results."""
    folder, others = scratch(None, 0), Neighbours()
    try:
        files = [sparse("fp8-e4m3 block", folder), sparse("gguf-q4-k", folder)]
        commands = {
            "python -c pass": ["-c", "pass"],
            "import anamnesis": ["-c", "import anamnesis"],
            "amn --help": ["-c", COMMAND, "--help"],
            "import numpy": ["-c", "import numpy"],
            "import numpy, pyarrow, numba": ["-c", "import numpy, pyarrow, numba"],
            **{
                f"amn inspect, 11 GB {f.suffix[1:]}": ["-c", COMMAND, "inspect", str(f)]
                for f in files
            },
        }
        for case, what in SMALL.items():
            remember = _remember(folder, case)
            commands[f"amn remember, {what}"] = ["-c", FIRST_BYTE + COMMAND, *remember]
            cold = ["-c", NO_KERNELS + FIRST_BYTE + COMMAND, *remember]
            commands[f"amn remember, {what}, cold"] = cold
        found = _alternating(commands, repeat)
        read = {f.suffix[1:]: bytes_read(f) for f in files}
    finally:
        shutil.rmtree(folder)
    console.print(_table(found), others.text())
    for suffix, (tensors, nbytes) in read.items():
        console.print(f"inspect of the {suffix} file, {tensors} tensors: {nbytes:,} bytes read")
    results = {
        "seconds": {name: list(t) for name, (t, _) in found.items()},
        "peak_bytes": {name: peak for name, (_, peak) in found.items()},
        "bytes_read": {suffix: nbytes for suffix, (_, nbytes) in read.items()},
    }
    keep("startup", results, others)
    return results


def sparse(case: str, folder: Path, nbytes: int = SPARSE_BYTES) -> Path:
    """A model of about `nbytes` whose payload is a hole."""
    layer = CASES[case].make(ROWS, COLUMNS)
    layers = nbytes // layer.nbytes
    return write_sparse(folder / f"sparse.{layer.container}", layer, layers)


def write_sparse(path: Path, layer: Layer, layers: int, vocabulary: Sequence[str] = ()) -> Path:
    """The header of a model, and a hole as large as its tensors."""
    if layer.container == "gguf":
        header = gguf_header(layer, layers, vocabulary)
        payload = layers * sum(-(-e.array.nbytes // 32) * 32 for e in layer.entries)
    else:
        header, payload = safetensors_header(layer, layers), layers * layer.nbytes
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + payload)
    return path


def bytes_read(path: Path) -> tuple[int, int]:
    """Tensors, and the bytes of the file that `inspect` reads."""
    from anamnesis.model.api import inspect

    total = 0
    read_into = LocalFile.read_into

    def counted(self: LocalFile, offset: int, buffer: Any) -> None:
        nonlocal total
        total += memoryview(buffer).nbytes
        read_into(self, offset, buffer)

    LocalFile.read_into = counted  # type: ignore[method-assign]
    try:
        found = inspect(path)
    finally:
        LocalFile.read_into = read_into  # type: ignore[method-assign]
    return found.tensors, total


def _remember(folder: Path, case: str) -> list[str]:
    small = folder / CASES[case].encoding
    small.mkdir(exist_ok=True)
    path = write_model(small, CASES[case].make(256, COLUMNS))
    return ["remember", str(path), "-o", str(small / "out.safetensors"), "--overwrite"]


def _alternating(
    commands: Mapping[str, Sequence[str]], repeat: int
) -> dict[str, tuple[Times, int]]:
    """Wall times and the median of peak memory; the first round fills caches."""
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, list[int]] = {}
    for repetition in range(repeat + 1):
        for name, arguments in commands.items():
            found = _undisturbed([sys.executable, *arguments])
            if not repetition:
                continue
            phases = {name: found["seconds"]}
            if "begun" in found:
                phases = {f"{name}: first values": found["begun"] - found["begin"], **phases}
            for phase, duration in phases.items():
                seconds.setdefault(phase, []).append(duration)
                peaks.setdefault(phase, []).append(found["peak_bytes"])
    return {n: (Times.of(seconds[n]), sorted(peaks[n])[repeat // 2]) for n in seconds}


def _undisturbed(command: Sequence[str]) -> dict[str, Any]:
    while True:
        patience.wait()
        others = Neighbours()
        found = launch(command)
        if patience.accepts(others.cpus()):
            return found


def _table(found: Mapping[str, tuple[Times, int]]) -> Table:
    table = Table(title="Start-up, wall time and peak memory")
    table.add_column("")
    for head in ("ms", "range", "above the interpreter", "peak MiB"):
        table.add_column(head, justify="right")
    bare = found["python -c pass"][0].median
    for name, ((median, low, high), peak) in found.items():
        cells = [f"{1e3 * median:.0f}", f"{1e3 * low:.0f}-{1e3 * high:.0f}"]
        table.add_row(name, *cells, f"{1e3 * (median - bare):.0f}", f"{peak / MiB:.0f}")
    return table
