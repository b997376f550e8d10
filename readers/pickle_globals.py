"""Every global that a pickle names, allowed or not: a report, which nothing in the file can stop.

The machine runs with a policy that answers everything with one placeholder, so that names put
together on the stack or in the memo are seen, and code behind the first STOP too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers.pickle_ops import run
from anamnesis.readers.pickle_vm import Machine
from anamnesis.readers.torch_globals import ALLOWED
from anamnesis.readers.torch_subclasses import is_torchao

_PICKLES = 1_000  # that may follow one another in one stream


class GlobalName(NamedTuple):
    """A global, whether reading the checkpoint allows it, and the pickle that names it."""

    name: str
    allowed: bool
    pickle: str


class Findings(NamedTuple):
    """What a file names; `problems` says what no valid checkpoint has."""

    globals: tuple[GlobalName, ...]
    problems: tuple[str, ...]


class Collector:
    """A policy that allows everything and makes nothing of it."""

    def __init__(self) -> None:
        self.names: dict[str, bool] = {}

    def found(self, where: str) -> list[GlobalName]:
        """What was named so far."""
        return [GlobalName(name, allowed, where) for name, allowed in self.names.items()]

    def find(self, module: str, name: str) -> Any:
        # A report is printed: no lone surrogates in it.
        shown = f"{module}.{name}".encode("utf-8", "backslashreplace").decode()
        self.names[shown] = (module, name) in ALLOWED or is_torchao(module)
        return _REBUILDS if name.startswith("_rebuild_tensor") else _PLACEHOLDER

    def extension(self, code: int) -> Any:
        self.names[f"copyreg extension {code}"] = False
        return _PLACEHOLDER

    def call(self, function: Any, arguments: Any) -> Any:
        return _TENSOR if function is _REBUILDS else _PLACEHOLDER

    def construct(self, how: str, cls: Any, arguments: Any) -> Any:
        return _PLACEHOLDER

    def build(self, target: Any, state: Any) -> Any:
        return target

    def persistent(self, identifier: Any) -> Any:
        return _PLACEHOLDER

    def is_tensor(self, value: Any) -> bool:
        return value is _TENSOR

    def tolerates(self, what: str, value: Any) -> bool:
        return True

    def run_entries(self, machine: Machine) -> None:
        """No steps: every opcode is to be seen."""


class _Placeholder:
    """Stands for whatever a global, a call or a persistent id would give."""


_PLACEHOLDER = _Placeholder()
_REBUILDS = _Placeholder()  # a function that gives tensors
_TENSOR = _Placeholder()


def collect_globals(data: bytes, where: str, limits: Limits, position: int = 0) -> Findings:
    """The globals of the pickle at `position`, and of those behind it; raises nothing of ours."""
    collector = Collector()
    problems: list[str] = []
    for number in range(_PICKLES):
        if number:
            left = len(data) - position
            problems.append(f"{where}: {left:,} bytes after the pickle that ends at {position:,}")
        machine = Machine(data, where, collector, limits, position)
        try:
            run(machine)
        except AnamnesisError as error:
            problems.append(str(error))
            break
        position = machine.position
        if position >= len(data):
            break
    return Findings(tuple(collector.found(where)), tuple(problems))
