"""The pickle opcodes of the memo: what the top of the stack is remembered under, and recalled by.

`memo_put` and `memo_get` do as `Machine.remember` and `Machine.recall`, without a call for each
step: torch.save writes thirteen of them for each tensor, of which there may be a million.
"""

from __future__ import annotations

from collections.abc import Callable

from anamnesis.readers.pickle_literals import LINE_BYTES
from anamnesis.readers.pickle_vm import MEMO_BYTES, Machine, Skipped

Handler = Callable[[Machine], None]


def memo_put(size: int) -> Handler:
    """BINPUT and LONG_BINPUT, with an index of `size` bytes."""
    from_bytes = int.from_bytes

    def handle(machine: Machine) -> None:
        start, stack = machine.position, machine.stack
        if size > machine.end - start:
            raise machine.cut("an argument is missing")
        machine.position = start + size
        machine.room -= MEMO_BYTES
        if machine.room < 0:
            machine.charge(0)
        if len(stack) <= machine.floor:
            raise machine.bad("the stack is empty")
        index = from_bytes(machine.data[start : start + size], "little")
        machine.memo[index] = stack[-1]
        if index > machine.highest:
            machine.highest = index

    return handle


def memo_get(size: int) -> Handler:
    """BINGET and LONG_BINGET, with an index of `size` bytes."""
    from_bytes = int.from_bytes

    def handle(machine: Machine) -> None:
        start = machine.position
        if size > machine.end - start:
            raise machine.cut("an argument is missing")
        machine.position = start + size
        index = from_bytes(machine.data[start : start + size], "little")
        if index not in machine.memo:
            raise machine.forgotten(index)
        machine.stack.append(machine.memo[index])

    return handle


def text_put(machine: Machine) -> None:
    """PUT."""
    machine.remember(_text_index(machine))


def text_get(machine: Machine) -> None:
    """GET."""
    machine.recall(_text_index(machine))


def memoize(machine: Machine) -> None:
    """MEMOIZE: under the next number."""
    if machine.skipped:
        raise Skipped  # which number is next is not known
    machine.remember(len(machine.memo))


def _text_index(machine: Machine) -> int:
    raw = machine.line(LINE_BYTES)
    if not raw.isdigit() or len(raw) > 10:
        raise machine.bad(f"{raw[:40]!r} is no place in the memo")
    return int(raw)


__all__ = ["memo_get", "memo_put", "memoize", "text_get", "text_put"]
