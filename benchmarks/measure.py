"""Interleaved timing, the machine's description, and where results are kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
STRETCH = 0.5  # seconds of rounds that are kept or repeated together
WAIT = 1200.0  # seconds of patience with the neighbours


class Times(NamedTuple):
    """Seconds: the median and the extremes of the repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        return cls(statistics.median(seconds), min(seconds), max(seconds))

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def timed(work: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleave(
    works: Mapping[Any, Callable[[], Any]],
    repetitions: int,
    calls: int = 1,
    after: Callable[[], Any] | None = None,
) -> dict[Any, Times]:
    """Time each work in turn, so that a busy neighbour slows all of them alike; see `rounds`."""
    found = rounds(works, repetitions, calls, after)
    return {name: Times.of(seconds) for name, seconds in found.items()}


def rounds(
    works: Mapping[Any, Callable[[], Any]],
    repetitions: int,
    calls: int = 1,
    after: Callable[[], Any] | None = None,
) -> dict[Any, list[float]]:
    """Seconds of each work, round by round.

    One repetition is `calls` calls in a row, of which the mean counts; a first round warms up.
    `after` cleans up behind each work, outside of the clock. Rounds that `patience` finds
    disturbed are repeated.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in works}
    _round(works, calls, after)
    rest = repetitions
    while rest > 0:
        patience.wait()
        others, begin, stretch = Neighbours(), time.perf_counter(), []
        while len(stretch) < rest and (time.perf_counter() - begin < STRETCH or not stretch):
            stretch.append(_round(works, calls, after))
        if len(stretch) == 1 or patience.accepts(others.cpus()):
            rest -= len(stretch)
            for name, found in seconds.items():
                found += [one[name] for one in stretch]
    return seconds


def _round(
    works: Mapping[Any, Callable[[], Any]], calls: int, after: Callable[[], Any] | None
) -> dict[Any, float]:
    found = {}
    for name, work in works.items():
        kept = False
        while not kept:
            others = Neighbours()
            took = sum(timed(work) for _ in range(calls))
            kept = took < STRETCH / 2 or patience.accepts(others.cpus())
            found[name] = took / calls
            if after is not None:
                after()
    return found


class Patience:
    """With a limit: wait until others take fewer CPUs, and repeat what they disturbed.

    It looks at the neighbours' processor time only, never at what was measured, and gives up
    after `WAIT` seconds.
    """

    def __init__(self) -> None:
        self.limit: float | None = None
        self._repeated = 0
        self._end = 0.0

    def begin(self, limit: float | None) -> None:
        """From now on, for a while."""
        self.limit, self._end = limit, time.monotonic() + WAIT

    def wait(self) -> None:
        """Return after a quiet half second."""
        while self._active():
            others = Neighbours()
            time.sleep(0.5)
            if (others.cpus() or 0) <= (self.limit or 0):
                break

    def accepts(self, cpus: float | None) -> bool:
        """Whether to keep what was measured while others took so many CPUs."""
        kept = not self._active() or cpus is None or cpus <= (self.limit or 0)
        self._repeated += not kept
        return kept

    def text(self) -> str:
        if self.limit is None:
            return ""
        gave_up = "" if self._active() else ", then gave up"
        return f"; repeated {self._repeated} times for more than {self.limit}{gave_up}"

    def _active(self) -> bool:
        return self.limit is not None and time.monotonic() < self._end


class Neighbours:
    """How many CPUs other processes, and other machines on the same host, took meanwhile."""

    def __init__(self) -> None:
        self._begin = time.perf_counter(), _busy(), _own()

    def cpus(self) -> float | None:
        begin, busy, own = self._begin
        if busy is None:
            return None
        seconds = time.perf_counter() - begin
        return max(0.0, (_busy() or 0) - busy - (_own() - own)) / seconds

    def text(self) -> str:
        cpus = self.cpus()
        return "" if cpus is None else f"meanwhile others took {cpus:.2f} CPUs{patience.text()}"


patience = Patience()


def _busy() -> float | None:
    """Seconds that all processors worked, or were taken by the host."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, soft, stolen = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    return sum(os.times()[:4])


def machine() -> dict[str, Any]:
    """What figures depend on: processor, memory, versions, and the load at this moment."""
    packages = ("numba", "llvmlite", "numpy", "pyarrow", "dask", "xxhash")
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def describe(found: Mapping[str, Any]) -> str:
    """The machine in two lines."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['processor']}, {found['cpus']} CPUs, {found['memory_bytes'] / 2**30:.0f} GiB, "
        f"{found['system']}, load {found['load']:.1f}\nPython {found['python']}, {versions}"
    )


def keep(name: str, results: Any, neighbours: Neighbours) -> None:
    """Write results as JSON, beside the machine's description."""
    RESULTS.mkdir(exist_ok=True)
    document = {"machine": machine(), "others_cpus": neighbours.cpus(), "results": results}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def kept(name: str) -> dict[str, Any]:
    """What `keep` wrote last."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def forget(path: Path) -> None:
    """Take a file out of memory, so that it is read from its disk; in memory alone it stays."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # what is not written yet cannot be let go of
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def scratch(folder: str | None, need_bytes: int) -> Path:
    """A folder with so much room: the one that was asked for, or memory, or a temporary one."""
    import shutil
    import tempfile

    candidates = [folder] if folder else ["/dev/shm", tempfile.gettempdir()]
    free = {}
    for candidate in candidates:
        if os.path.isdir(candidate):
            free[candidate] = shutil.disk_usage(candidate).free
            if free[candidate] > need_bytes:
                return Path(tempfile.mkdtemp(prefix="amn-bench-", dir=candidate))
    raise SystemExit(f"needs {need_bytes:,} bytes; free: {free}; see --gib and --folder")
