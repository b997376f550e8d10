"""GGUF's encoders, with an importance matrix and without, beside libggml's own on one thread.

`python -m benchmarks.encoders [TARGET…]`; nanoseconds of processor time a number, the least of
three runs over a matrix that stays in cache.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import ENCODERS, encoder

ROWS, COLUMNS, RUNS = 64, 2048, 3


class Row(NamedTuple):
    """A target, whether it had weights, and nanoseconds a number; libggml's None without it."""

    target: str
    weighed: bool
    ours: float
    theirs: float | None


def targets() -> list[tuple[str, bool]]:
    """Every target of GGUF that can do without weights, and with them where it takes any."""
    names = [name for name in ENCODERS if name.startswith("gguf-")]
    alone = [(name, False) for name in names if ENCODERS[name].weights != "needed"]
    return sorted([*alone, *((name, True) for name in names if ENCODERS[name].weights)])


def measured(target: str, weighed: bool) -> Row:
    """One row; both write the same bytes, which is checked."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weights = (rng.standard_normal(COLUMNS) ** 2).astype(np.float32)
    row = ENCODINGS[target]
    out = np.empty(values.size // row.block_elems * row.block_bytes, np.uint8)
    params: dict[str, Any] = {"columns": COLUMNS, "first": 0, "shape": values.shape}
    if weighed:
        params["weights"] = lambda matrix: weights
    encode, flat = encoder(target), values.reshape(-1)
    encode(flat, params, {"blocks": out})  # compiles
    ours = _least(lambda: encode(flat, params, {"blocks": out}), values.size)
    theirs = _libggml(row.ggml_type, values, weights if weighed else None)
    if theirs is None:
        return Row(target, weighed, ours, None)
    call, made = theirs
    taken = _least(call, values.size)
    if made[: len(out)].tobytes() != out.tobytes():
        raise ValueError(f"{target}: libggml writes other bytes")
    return Row(target, weighed, ours, taken)


def _least(call: Callable[[], Any], count: int) -> float:
    found = []
    for _ in range(RUNS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found) / count * 1e9


def _libggml(kind: int, values: Any, weights: Any) -> tuple[Callable[[], Any], Any] | None:
    """libggml's call on the same numbers, and where it writes to; None where it is not."""
    try:
        import libggml
    except ImportError:
        return None
    library = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))
    library.ggml_quantize_init(kind)
    call = library.ggml_quantize_chunk
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    made = np.zeros(values.nbytes, np.uint8)
    where = None if weights is None else weights.ctypes.data
    given = (kind, values.ctypes.data, made.ctypes.data, 0, *values.shape, where)
    return lambda: call(*given), made


def main(names: list[str]) -> None:
    """Print a table of all targets, or of those named."""
    print("| target | weights | ns a number | libggml | times |\n|---|---|---|---|---|")
    for target, weighed in targets():
        if names and target not in names:
            continue
        row = measured(target, weighed)
        beside = "| - | - |"
        if row.theirs is not None:
            beside = f"| {row.theirs:.1f} | {row.theirs / row.ours:.1f} |"
        print(f"| `{target}` | {'yes' if weighed else ''} | {row.ours:.1f} {beside}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
