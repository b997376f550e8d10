"""One table of cases: for every row of the table of encodings, layers as a tool would store them.

The tensors of a case's layer are written to a model file and opened by the package itself, so a
kernel is measured, and tested, on what a reader hands to it. The rows of the table of encodings say
which layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from anamnesis.kernels import ENCODINGS, Encoding
from anamnesis.kernels._row import FAMILIES, Bench
from benchmarks.models import Layer


@dataclass(frozen=True, slots=True)
class Case:
    """`make(rows, columns)` gives a layer in `encoding`; `settings` go to the output's `Spec`.

    `goal` is the part of a plain copy's speed that the kernel should reach on a whole matrix, and
    `target` what another implementation did, million elements a second on one thread.
    """

    name: str
    encoding: str
    make: Callable[[int, int], Layer]
    settings: dict[str, Any] = field(default_factory=dict)
    goal: float = 0.0
    target: int = 0


def _case(encoding: str, row: Encoding, bench: Bench) -> Case:
    module, _, name = bench.layer.partition(":")
    make = getattr(import_module(f"benchmarks.{module}"), name)
    return Case(
        bench.name,
        encoding,
        lambda rows, columns: make(*bench.arguments, rows, columns),
        {"passthrough": bench.passthrough} if bench.passthrough else {},
        row.goal,
        bench.target,
    )


CASES: dict[str, Case] = {
    bench.name: _case(encoding, row, bench)
    for encoding, row in ENCODINGS.items()
    for bench in row.cases
}


def by_family(
    results: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Families with the results of their cases, the fastest on a whole matrix first."""
    for family in FAMILIES:
        members = [r for r in results if ENCODINGS[CASES[r["name"]].encoding].family == family]
        if members:
            yield family, sorted(members, key=lambda c: -c["matrix"]["mel_s"])
