"""Encoders, one thread: million numbers a second, and ratios to a plain copy of the input.

The input is a matrix of BF16 as it is stored, and the copy `np.copyto` of it, timed in turn. What
is timed is what a conversion does with the values of a window: parts that stay in cache are widened
where an encoder wants float32, and encoded; nothing is read or written to a file, and no report of
the loss is made. A *window* is a million numbers; *45 M* is a whole matrix, of encoders that
neither search nor transpose. Peers encode a part of a window, in turn with ours, and have to give
its codes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels.encoders import ENCODERS
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.window_parts import WindowParts, widened
from anamnesis.pipeline.windows import batches
from anamnesis.readers.files import Files
from benchmarks.encoder_peers import calls
from benchmarks.kernels import _matches
from benchmarks.layers import dense
from benchmarks.measure import Neighbours, Times, interleave, keep, scratch, timed
from benchmarks.models import Layer, write_model
from benchmarks.opened import encoding_plan_of
from benchmarks.peers import installed

ROWS, COLUMNS = 11008, 4096
WINDOW_ROWS, PEER_ROWS = 256, 128
SECONDS = 0.5  # that the repetitions of one work may take
GOALS = {
    **dict.fromkeys(("bnb-int8", "bnb-nf4", "fp8-block", "fp8-channel", "fp8-tensor"), 0.5),
    **dict.fromkeys(("ct-int-quantized", "gguf-mxfp4", "gguf-nvfp4", "gguf-q4-0"), 0.5),
    **dict.fromkeys(("gguf-q8-0", "mxfp4", "mxfp8", "nvfp4"), 0.5),
}
# Encoders of a window alone: what searches takes seconds for a matrix, and what is transposed is
# gathered by other code.
WINDOW_ALONE = ("awq", "gguf-iq", "gguf-q2-k", "gguf-q3-k", "gguf-q4-k", "gguf-q5-k", "gguf-q6-k")
WINDOW_ALONE += ("gptq",)


def run(console: Console, patterns: Sequence[str] = ()) -> None:
    """Measure the encoders that match (all without patterns) and print a table."""
    names = [name for name, row in ENCODERS.items() if row.weights not in ("needed", "wanted")]
    chosen = [name for name in names if not patterns or _matches(name, patterns)]
    others, results = Neighbours(), []
    with console.status("") as status:
        for name in chosen:
            status.update(name)
            results.append(measure(name))
    console.print(_table(results), others.text())
    if not patterns:
        keep("encoders", {"peers": installed(), "cases": results}, others)


def measure(name: str) -> dict[str, Any]:
    """One encoder with its default settings."""
    result: dict[str, Any] = {"name": name, "goal": GOALS.get(name, 0.0)}
    result["window"] = _against_copy(name, WINDOW_ROWS)
    if not name.startswith(WINDOW_ALONE):
        result["matrix"] = _against_copy(name, ROWS)
    result["peers"] = against_peers(name)
    return result


def _against_copy(name: str, rows: int) -> dict[str, Any]:
    """A conversion's own window code on a matrix of so many rows, in turn with the copy."""
    work, bits = encoding(name, rows)
    target = np.ones_like(bits)
    works = {"ours": work, "copy": lambda: np.copyto(target, bits)}
    took = interleave(works, _repetitions(work))
    rates = {key: _rates(bits.size, times) for key, times in took.items()}
    return {
        "elems": bits.size,
        "mel_s": rates["ours"][0],
        "mel_s_range": rates["ours"][1:],
        "copy_mel_s": rates["copy"][0],
        "to_copy": took["copy"].median / took["ours"].median,
    }


def encoding(name: str, rows: int) -> tuple[Callable[[], Any], Any]:
    """A call that encodes a matrix, window after window, and the matrix: BF16's bits."""
    folder = scratch(None, rows * COLUMNS * 4)
    try:
        layer = _layer(rows)
        plan = encoding_plan_of(write_model(folder, layer), folder / "out", name)
        bits = layer.entries[0].array.view(np.uint16).reshape(-1)
    finally:
        shutil.rmtree(folder)
    pieces = [p for task in plan.tasks for p in task.pieces if isinstance(p, EncodedPiece)]
    step, encoded = pieces[0].step, replace(pieces[0].encoded, skip_loss=True)
    parts, unit = WindowParts(step, encoded, Files()), step.tensor.unit_elems
    values = bits if step.dtype == "BF16" else widened(bits, "BF16")
    spans = [
        (piece, window) for piece in pieces for window in batches(step, piece.start, piece.stop)
    ]

    def encode() -> dict[str, Any]:
        for piece, window in spans:
            some = values[window.start * unit : window.stop * unit]
            found = parts.encode(some, *piece.units(window.start, window.stop))
        return found

    return encode, bits


@cache
def _layer(rows: int) -> Layer:
    return dense("bf16", rows, COLUMNS)


def against_peers(name: str) -> dict[str, Any]:
    """Rates of the peers that are there, each in turn with ours; all have to give our codes."""
    work, bits = encoding(name, PEER_ROWS)
    works: dict[str, Callable[[], Any]] = {"ours": work}
    codes = next(iter(work().values()))
    for library, call in calls(name, bits.reshape(PEER_ROWS, COLUMNS)):
        if np.ascontiguousarray(call()).tobytes() != codes.tobytes():
            raise ArithmeticError(f"{name}: {library}'s codes are others")
        works[library] = call
    took = interleave(works, min(_repetitions(call) for call in works.values()))
    return {
        library: {
            "mel_s": _rates(bits.size, took[library])[0],
            "ours": took[library].median / took["ours"].median,
        }
        for library in works
        if library != "ours"
    }


def _repetitions(work: Callable[[], Any]) -> int:
    """As many as `SECONDS` are for, after a call that compiles."""
    work()
    return int(np.clip(SECONDS / timed(work), 3, 15))


def _rates(elems: int, times: Times) -> list[float]:
    return [elems / seconds / 1e6 for seconds in (times.median, times.high, times.low)]


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Encoders, one thread, from BF16")
    table.add_column("target")
    for head in ("window, M/s", "x copy", "45 M, M/s", "x copy", "goal", "peers"):
        table.add_column(head, justify="right")
    for result in results:
        cells = []
        for size in ("window", "matrix"):
            one = result.get(size)
            cells += [f"{one['mel_s']:,.0f}", f"{one['to_copy']:.2f}"] if one else ["", ""]
        peers = ", ".join(f"{k} {v['ours']:.1f}x" for k, v in result["peers"].items())
        table.add_row(result["name"], *cells, f"{result['goal'] or ''}", peers)
    return table
