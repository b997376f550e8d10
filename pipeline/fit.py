"""What of a run fits in the memory of a process: threads, and what they may fetch ahead."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from anamnesis.errors import LimitError
from anamnesis.limits import MiB
from anamnesis.pipeline.reading import T, reading_of
from anamnesis.sizes import enough

# What a process holds besides the buffers of its tasks: interpreter, numpy, pyarrow, numba and
# the compiled kernels. Measured by tests/pipeline/test_memory_budget.py; see docs/memory.md.
BASE_BYTES = 184 * MiB
BASE_TENSORS = 1000  # whose records it includes


def fit_threads(
    needs: Sequence[tuple[int, str]], base_bytes: int, memory_bytes: int, threads: int
) -> int:
    """How many threads fit in `memory_bytes`, of which the process itself holds `base_bytes`.

    Each may need the most of `needs`: bytes of buffers, with the name of the tensor. Raises
    LimitError when none fits.
    """
    if not needs:
        return threads
    need, name = max(needs, key=itemgetter(0))
    room = memory_bytes - base_bytes
    if need > room:
        raise LimitError(
            f"{name}: one window needs {need:,} bytes besides the "
            f"{base_bytes:,} of the process; run.memory (--memory) is {memory_bytes:,}: "
            f"set it to at least {enough(need + base_bytes)}",
            limit="run.memory",
            need=need + base_bytes,
            have=memory_bytes,
        )
    return max(1, min(threads, room // max(1, need)))


def fit_tasks(
    tasks: Sequence[T], memory_bytes: int, threads: int
) -> tuple[tuple[T, ...], int, int]:
    """The tasks with what each may fetch ahead in `memory_bytes`, the threads that fit, the peak.

    Raises LimitError when a piece does not fit.
    """
    pieces = [piece for task in tasks for piece in task.pieces]
    read = reading_of(pieces)
    base = BASE_BYTES + read.base
    needs = [(piece.memory_bytes + read.each, piece.tensors[0].name) for piece in pieces]
    threads = fit_threads(needs, base, memory_bytes, threads)
    tasks = read.shared(tasks, memory_bytes - base, threads)
    return tasks, threads, base + threads * max((t.memory_bytes for t in tasks), default=0)
