"""What an error is called on the command line, and the exit code that goes with it.

The classes of `anamnesis.errors` and the file system's own are the contract. Whatever else comes up
is a bug of this program, and is said to be one: it must not pass for a file system that said no.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import click

from anamnesis import address_space
from anamnesis.errors import AnamnesisError, LimitError, UsageError
from anamnesis.pipeline.progress import printable
from anamnesis.version import __version__

_START_BYTES = 96 << 20
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
REPORT = (
    f"this is a bug of anamnesis {__version__}; please report it with what the same command prints "
    "after --debug"
)
# What the interpreter and the linker say when the address space, not the machine, is at its end.
_NO_MEMORY = ("can't start new thread", "cannot allocate memory", "failed to map segment")


class SeveralError(Exception):
    """Some inputs of a job failed; it counts as the first of them, or as a bug if one is."""

    def __init__(self, failures: Sequence[tuple[str, BaseException]], inputs: int) -> None:
        errors = [error for _, error in failures]
        self.counts_as = next((e for e in errors if exit_code(e) == INTERNAL), errors[0])
        kind, _, text = line(errors[0]).partition(": ")
        super().__init__(f"{kind}: {len(failures)} of {inputs} inputs failed, the first: {text}")


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    if isinstance(error, SeveralError):
        return exit_code(error.counts_as)
    if isinstance(error, AnamnesisError):
        return error.exit_code
    if isinstance(error, click.ClickException):
        return UsageError.exit_code if isinstance(error, click.UsageError) else 1
    if _is_out_of_memory(error):
        return LimitError.exit_code
    return 1 if isinstance(error, OSError) else INTERNAL


def line(error: BaseException) -> str:
    """`KIND: message`, one line."""
    if isinstance(error, SeveralError):
        return str(error)
    if isinstance(error, AnamnesisError):
        kind, text = error.kind, str(error)
    elif isinstance(error, click.ClickException):
        kind, text = "usage", error.format_message()
    elif _is_out_of_memory(error):
        kind = LimitError.kind
        first = str(error).partition(". ")[0]
        text = f"out of memory, by a limit on the address space or the machine: {first}"
    elif isinstance(error, OSError):
        kind, text = _builtin(error), _os_message(error)
    else:
        name, detail = type(error).__name__, str(error)
        kind, text = "internal", f"{name}: {detail}" if detail else name
    return f"{kind}: {plain(text)}"


def _builtin(error: OSError) -> str:
    """The documented name: that of Python's own class, which ours are kinds of."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def plain(text: str) -> str:
    """One line; a file's names may hold what a terminal would obey."""
    return printable(" ".join(text.split()))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        # A library that could not be mapped, of which llvmlite says that it was not found.
        unmapped = error.errno is None and "shared object" in str(error) and _is_limited()
        return error.errno == errno.ENOMEM or unmapped
    if isinstance(error, SystemError | ImportError) and _is_limited():
        return True  # allocations fail in C code, which does not always say so
    text = str(error).lower()
    return isinstance(error, RuntimeError | ImportError) and any(t in text for t in _NO_MEMORY)


def check_address_space() -> None:
    """LimitError where a limit on the address space leaves too little for the libraries to start.

    OpenBLAS, which numpy brings along and nothing here uses, would end the process by itself.
    """
    if _is_limited():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each takes 32 MiB of it
        address_space.check(_START_BYTES, "to begin")


def _is_limited() -> bool:
    """Whether somebody set a limit on the address space."""
    return address_space.limit_bytes() is not None


def _os_message(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename is not None else text
