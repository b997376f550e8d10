"""Instructions an element that kernels execute, counted by valgrind's callgrind.

The count has no clock in it: it is the same on a busy machine. Kernels are compiled for a CPU that
valgrind knows (`TARGET`), into a cache of their own, whatever this machine has; so counts are the
same on any x86-64 machine with AVX2 and the same numba and LLVM. What a call takes besides its
elements drops out: the difference of two windows counts.

The process under valgrind is this file's `main`. It tells callgrind by client requests, sequences
of instructions that do nothing elsewhere, what to count.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TARGET = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+popcnt,+sse4.2",
}
CACHE = ROOT / "build" / "bench-check"
ROWS, COLUMNS = 256, 512  # two 128 x 128 blocks of rows
_RUN = "from benchmarks.instructions import main; main()"
# int request(uint64_t *arguments): valgrind/valgrind.h, amd64-linux.
_REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
_CALLGRIND = 0x43540000  # 'C' 'T'; callgrind.h
_ZERO, _DUMP_AT, _START = _CALLGRIND + 1, _CALLGRIND + 3, _CALLGRIND + 4


def unavailable() -> str:
    """Why instructions cannot be counted here; empty when they can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if os.uname().machine not in ("x86_64", "AMD64"):
        return "client requests are written for x86-64"
    return ""


def count(names: Sequence[str]) -> dict[str, float]:
    """Instructions an element of the cases of these names, to BF16."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _prepare(names, Path(folder))
        _start([], folder)  # compiles
        valgrind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"]
        _start([*valgrind, f"--callgrind-out-file={folder}/callgrind"], folder)
        counts = _totals(Path(folder))
    return {
        name: (counts[f"{number} whole"] - counts[f"{number} part"]) / counts[f"{number} elements"]
        for number, name in enumerate(names)
    }


def _start(prefix: Sequence[str], folder: str) -> None:
    environment = {**os.environ, **TARGET, "ANAMNESIS_CACHE": str(CACHE), "PYTHONHASHSEED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*prefix, sys.executable, "-c", _RUN, folder],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{prefix or 'compiling'} failed:\n{done.stderr[-2000:]}")


def _prepare(names: Sequence[str], folder: Path) -> None:
    """What each decoder is called with, for a window of a layer and for half of it."""
    from anamnesis.kernels import Window
    from benchmarks.cases import CASES
    from benchmarks.opened import opened

    for number, name in enumerate(names):
        case = CASES[name]
        with opened(case, folder, ROWS, COLUMNS) as found:
            tensor = found.step.tensor
            half = -(-tensor.units // 2 // tensor.unit_multiple) * tensor.unit_multiple
            calls = {}
            for part, stop in (("whole", tensor.units), ("part", half)):
                window = Window(0, stop)
                views = {role: view.copy() for role, view in found.views(window).items()}
                calls[part] = views, window, min(stop * tensor.unit_elems, tensor.elems)
            call = {"encoding": found.step.tensor.encoding, "params": found.params, "calls": calls}
        (folder / f"{number}.pickle").write_bytes(pickle.dumps((call, found.kind)))


def _totals(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in folder.glob("callgrind.*"):
        text = path.read_text()
        trigger = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if trigger and total:
            # The least of the calls: valgrind has translated, and Python cached, everything.
            name = trigger[1]
            found[name] = min(found.get(name, sys.maxsize), int(total[1]))
    for path in folder.glob("*.pickle"):
        call, _ = pickle.loads(path.read_bytes())  # written above
        elems = [call["calls"][part][2] for part in ("whole", "part")]
        found[f"{path.stem} elements"] = elems[0] - elems[1]
    return found


def main() -> None:
    """Decode what the folder holds, telling callgrind what is what."""
    from anamnesis.kernels import decoder

    folder = Path(sys.argv[1])
    works = []
    for number in range(len(list(folder.glob("*.pickle")))):
        call, kind = pickle.loads((folder / f"{number}.pickle").read_bytes())
        decode = decoder(call["encoding"])
        for part, (views, window, elems) in call["calls"].items():
            out = np.ones(elems, kind)
            decode(views, call["params"], window, out)
            works.append((f"{number} {part}", decode, views, call["params"], window, out))
    request = _Requests()
    gc.disable()
    request.send(_START)
    for name, decode, views, params, window, out in works:
        for _ in range(4):
            request.send(_ZERO)
            decode(views, params, window, out)
            request.send(_DUMP_AT, name)


class _Requests:
    """Valgrind's client requests, by a few instructions in memory of their own."""

    def __init__(self) -> None:
        self._page = mmap.mmap(
            -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        )
        self._page.write(_REQUEST)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(address)

    def send(self, number: int, text: str = "") -> None:
        name = ctypes.create_string_buffer(text.encode())
        arguments = (ctypes.c_uint64 * 6)(number, ctypes.addressof(name), 0, 0, 0, 0)
        self._call(ctypes.addressof(arguments))
