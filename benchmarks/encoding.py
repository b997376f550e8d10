"""Encoders, one thread, a window that stays in cache: ns a number, and ratios in the same run.

The copies are `np.copyto` of as many numbers of the input's dtype, as float32 and as BF16: what
the window's numbers are held as, and what most models are stored as. Of ggml's types, libggml's
`ggml_quantize_chunk` encodes the same numbers, and has to give the same bytes.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import ENCODERS, Form, encoder, former
from anamnesis.readers.dtypes import DTYPES
from benchmarks.decoders import libggml_base
from benchmarks.kernels import _matches
from benchmarks.measure import Neighbours, interleave, keep

ROWS, COLUMNS, REPETITIONS = 32, 4096, 15


def run(console: Console, patterns: Sequence[str] = ()) -> None:
    """Measure the encoders that match (all without patterns) and print a table."""
    names = [name for name, row in ENCODERS.items() if row.weights != "needed"]
    chosen = [name for name in names if not patterns or _matches(name, patterns)]
    others = Neighbours()
    with console.status("encoders"):
        results = [measure(name) for name in chosen]
    console.print(_table(results), others.text())
    if not patterns:
        keep("encoders", results, others)


def measure(name: str) -> dict[str, Any]:
    """One encoder with its default settings, of numbers in BF16."""
    values = _numbers()
    out, halves = np.ones_like(values), np.ones((2, values.size), np.uint16)
    parts = _parts(name)
    works: dict[str, Callable[[], Any]] = {
        "ours": _encoding(name, values, parts),
        "copy of float32": lambda: np.copyto(out, values),
        "copy of BF16": lambda: np.copyto(halves[1], halves[0]),
    }
    theirs = _by_libggml(name, values)
    if theirs is not None:
        blocks, works["libggml"] = theirs
    took = interleave(works, REPETITIONS)
    if theirs is not None and not np.array_equal(blocks, parts["blocks"]):
        raise AssertionError(f"{name}: libggml's bytes are others")
    found = {key: times.median / values.size * 1e9 for key, times in took.items()}
    return {"name": name, "ns": found}


def _numbers() -> Any:
    values = np.random.default_rng(0).standard_normal(ROWS * COLUMNS).astype(np.float32)
    values *= np.float32(0.02)
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _form(name: str) -> tuple[Form, Mapping[str, Any]]:
    settings = {key: row.default for key, row in ENCODERS[name].keys.items()}
    experts = settings.get("style") == "gpt-oss"
    shape = (1, COLUMNS, ROWS) if experts else (ROWS, COLUMNS)
    return former(name)("X.weight", shape, "BF16", settings), settings


def _parts(name: str) -> dict[str, Any]:
    form, _ = _form(name)
    units = ROWS * COLUMNS // form.unit_elems
    return {
        part.role: np.zeros(
            part.room(0, units) if part.units else math.prod(part.shape),
            np.uint8 if part.block_bytes else DTYPES[part.dtype].numpy,
        )
        for part in form.parts
    }


def _encoding(name: str, values: Any, parts: Mapping[str, Any]) -> Callable[[], Any]:
    form, settings = _form(name)
    params = {**settings, "dtype": "BF16", "columns": form.unit_elems, "shape": (ROWS, COLUMNS)}
    params |= {"first": 0, "least": values.min(), "most": values.max()}
    encode = encoder(name)
    return lambda: encode(values, params, parts)


def _by_libggml(name: str, values: Any) -> tuple[Any, Callable[[], Any]] | None:
    """Room for blocks, and what fills it; None for what the library does not have."""
    row = ENCODINGS[ENCODERS[name].reads_back]
    if row.ggml_type < 0:
        return None
    try:
        library = libggml_base()
    except KeyError:
        return None
    blocks = np.zeros(values.size // row.block_elems * row.block_bytes, np.uint8)
    library.ggml_quantize_init(row.ggml_type)
    call, size, pointer = library.ggml_quantize_chunk, ctypes.c_int64, ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    call.restype = ctypes.c_size_t
    source, target = values.ctypes.data, blocks.ctypes.data
    return blocks, lambda: call(row.ggml_type, source, target, 0, ROWS, COLUMNS, None)


def _table(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Encoders, one thread, a window of 131,072 numbers")
    table.add_column("target")
    for head in ("ns a number", "x copy of float32", "x copy of BF16", "x libggml"):
        table.add_column(head, justify="right")
    for result in results:
        ns = result["ns"]
        ratios = (ns.get(key, 0) / ns["ours"] for key in ("copy of float32", "copy of BF16"))
        peer = f"{ns['libggml'] / ns['ours']:.1f}" if "libggml" in ns else ""
        cells = (f"{ratio:.2f}" for ratio in ratios)
        table.add_row(result["name"], f"{ns['ours']:.2f}", *cells, peer)
    return table
