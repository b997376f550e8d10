"""Encodings: how a block of raw bytes becomes numbers. The table of them is in `table.py`.

A kernel is a plain function `decode(blocks, params, window, out)`:

- `blocks` maps a component's role to a `uint8` array of shape `[units, unit_bytes]` (or
  `[lines, bytes]` for components stored in columns), read-only views over what was read;
- `params` holds the tensor's scalar parameters and what the row's `prepare` made of its
  whole-tensor components;
- `window` is the range of output units that `blocks` covers;
- `out` is a one-dimensional array of `window.stop - window.start` times `unit_elems`
  elements (the tensor's last window may be shorter), `uint16` BF16 bits or `float32`.

It fills `out`, allocates nothing that grows with the tensor, and holds no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from anamnesis.kernels._row import Encoding as Encoding
from anamnesis.kernels.table import ENCODINGS as ENCODINGS


class Window(NamedTuple):
    """A range of a tensor's output units, `start` inclusive and `stop` exclusive."""

    start: int
    stop: int


class PayloadError(ValueError):
    """A number of the payload that the format does not allow, and no array of the wrong shape."""


Decode = Callable[[Mapping[str, Any], Mapping[str, Any], Window, Any], None]
Prepare = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
# From the parameters of a tensor, its units, and how many such tensors there are; None: not as one.
Stack = Callable[[Mapping[str, Any], int, int], dict[str, Any] | None]

# Who is told the name of each kernel that has to be compiled, just before.
watchers: list[Callable[[str], None]] = []


@contextmanager
def compiling(tell: Callable[[str], None]) -> Iterator[None]:
    """Have `tell` called, in any thread, with the name of each kernel that has to be compiled.

    That is seconds of work, on the first use of a kernel on a machine.
    """
    watchers.append(tell)
    try:
        yield
    finally:
        watchers.remove(tell)


def _load(target: str) -> Any:
    module, _, function = target.partition(":")
    return getattr(_module(module), function)


@cache  # of a million small tensors each asks
def _module(name: str) -> ModuleType:
    return import_module(f"anamnesis.kernels.{name}")


def decoder(name: str) -> Decode:
    """The decode function of an encoding; imports its module on first use.

    Numba is imported where a kernel is called that this machine has not compiled yet.
    """
    decode: Decode = _load(ENCODINGS[name].target)
    return decode


def stacker(name: str) -> Stack | None:
    """The function that says how alike tensors of an encoding are decoded as one, if any."""
    row = ENCODINGS.get(name)
    return _load(row.stack) if row is not None and row.stack else None


def preparer(name: str) -> Prepare | None:
    """The function that prepares an encoding's whole-tensor parameters, if it has any."""
    row = ENCODINGS[name]
    return _load(row.prepare) if row.prepare else None
