"""A pickle interpreter that imports nothing and calls nothing, under a budget.

Opcodes, protocols 0 to 5: CPython's Lib/pickletools.py and Lib/pickle.py (`_Unpickler`). What
Python would look up or call goes to a `Policy`, which answers with records of its own. The
machine makes only numbers, text, bytes and `Node`s; no value is ever hashed, compared or shown, and
a nested one is bounded in depth, so that no input can run the C stack out.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import KiB, Limits, MiB

HIGHEST_PROTOCOL = 5
# Fixed limits of one pickle. A tensor takes about 100 bytes, 29 opcodes and 3.6 KiB, so that each
# one that was made adds to what the rest may take. A second runs 2 to 6 million opcodes.
PICKLE_BYTES = 128 * MiB
PICKLE_DEPTH = 256
PICKLE_OPCODES = 2_000_000
PICKLE_WORKING_BYTES = 192 * MiB
TENSOR_OPCODES = 64
TENSOR_WORKING_BYTES = 4 * KiB
_COUNTED_TENSORS = 1024  # at a time against the caller's limits
# What the working set is charged: sizes of CPython's objects, and for nodes the collector's work.
NODE_BYTES = 256
SLOT_BYTES = 16
TEXT_BYTES = 64
NUMBER_BYTES = 40
MEMO_BYTES = 112


# Shared by nodes that are empty, and never filled: a list apiece would be work for the collector.
EMPTY: list[Any] = []


class Node:
    """A tuple, list, dict or set of the pickle; a dict holds keys and values in turn.

    `depth` is 1 more than that of the deepest node that was inside when it was made or filled.
    """

    __slots__ = ("depth", "items", "kind")

    def __init__(self, kind: str, items: list[Any], depth: int = 1) -> None:
        self.kind = kind  # "tuple", "list", "dict", "set"
        self.items = items
        self.depth = depth

    def pairs(self) -> list[tuple[Any, Any]]:
        """Keys and values of a dict, in the order they were set; a key may come twice."""
        return list(zip(self.items[::2], self.items[1::2], strict=True))


class Policy(Protocol):
    """Answers for everything that Python's unpickler would import or call; errors say no."""

    def find(self, module: str, name: str) -> Any:
        """What stands for a global."""
        ...

    def extension(self, code: int) -> Any:
        """What stands for a global of copyreg's extension registry."""
        ...

    def call(self, function: Any, arguments: Any) -> Any:
        """REDUCE: what stands for `function(*arguments)`."""
        ...

    def construct(self, how: str, cls: Any, arguments: Any) -> Any:
        """INST, OBJ, NEWOBJ, NEWOBJ_EX: what stands for a new object."""
        ...

    def build(self, target: Any, state: Any) -> Any:
        """BUILD: `target` with its state set."""
        ...

    def persistent(self, identifier: Any) -> Any:
        """What stands for a persistent id."""
        ...

    def is_tensor(self, value: Any) -> bool:
        """Whether what a call gave is a tensor, which pays for more of the stream."""
        ...

    def tolerates(self, what: str, value: Any) -> bool:
        """Whether `value` may take an operation that its kind does not have."""
        ...

    def run_entries(self, machine: Machine) -> None:
        """A dict's entries may follow: run those at once that are known well, or none."""
        ...


class Skipped(Exception):  # noqa: N818 - no error: it never leaves `pickle_ops.run`
    """A value is asked for that a step did not make; `run` starts over, without steps."""


class Machine:
    """The state of the interpreter: a place in the stream, a stack with marks, and a memo.

    `pickle_ops.run` drives it. Its methods raise FormatError for a broken stream, LimitError over a
    budget, and what the policy raises; `ended` tells that the stream was only too short.
    """

    __slots__ = (
        "_granted",
        "_limits",
        "_marks",
        "_origin",
        "data",
        "end",
        "ended",
        "floor",
        "highest",
        "memo",
        "merged",
        "policy",
        "position",
        "room",
        "skipped",
        "stack",
        "steps",
        "tensors",
        "where",
    )

    def __init__(
        self, data: bytes, where: str, policy: Policy, limits: Limits, position: int = 0
    ) -> None:
        self.data, self.end, self._origin = data, len(data), position
        self.where, self.policy, self._limits = where, policy, limits
        self.steps = True  # whether the policy may run many opcodes as one
        self.start()

    def start(self) -> None:
        """Go to where the pickle begins, with nothing made yet."""
        self.position = self._origin
        self.ended = False
        self.memo: dict[int, Any] = {}
        self.highest = -1  # number under which something was remembered
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self.floor = 0  # the stack's height at the last MARK
        self.room = min(PICKLE_WORKING_BYTES, self._limits.max_single_alloc)
        self.tensors = 0  # made so far
        self.skipped = False  # whether the memo lacks values that a step did not make
        self.merged = 0  # opcodes of steps since the last grant
        self._granted = 0  # tensors that were paid for with opcodes

    # Errors

    def bad(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: pickle, before byte {self.position:,}: {what}")

    def cut(self, what: str) -> FormatError:
        self.ended = True
        return FormatError(f"{self.where}: pickle, at byte {self.position:,}: ends early: {what}")

    def charge(self, nbytes: int) -> None:
        """Count bytes of the working set before they are allocated."""
        self.room -= nbytes
        if self.room < 0:
            have = PICKLE_WORKING_BYTES + TENSOR_WORKING_BYTES * self.tensors
            raise LimitError(
                f"{self.where}: pickle, before byte {self.position:,}: needs more than "
                f"{have:,} bytes in memory, which is the fixed limit for {self.tensors:,} tensors "
                "(limits.max_single_alloc may lower it)",
                limit="pickle_working_bytes",
                need=have - self.room,
                have=have,
            )

    def count_tensor(self) -> None:
        """A tensor was made: more memory for what follows, within the caller's limits."""
        self.tensors += 1
        self.room += TENSOR_WORKING_BYTES
        if not self.tensors % _COUNTED_TENSORS:
            self._limits.tensors(self.tensors, f"{self.where}: tensors")

    def stepped(self, position: int, price: int, opcodes: int) -> None:
        """A tensor was made, up to `position`: what it cost, which was there, and its opcodes."""
        self.position = position
        self.room -= price
        self.merged += opcodes
        self.skipped = True
        self.count_tensor()

    def more_opcodes(self) -> int:
        """What the tensors that were made since the last question add to the opcodes."""
        new, self._granted = self.tensors - self._granted, self.tensors
        merged, self.merged = self.merged, 0
        return TENSOR_OPCODES * new - merged

    # The stream

    def take(self, nbytes: int) -> bytes:
        """The next bytes of the stream."""
        start = self.position
        if nbytes > self.end - start:
            raise self.cut(f"{nbytes:,} bytes are announced, {self.end - start:,} are left")
        self.charge(nbytes)
        self.position = start + nbytes
        return self.data[start : self.position]

    def number(self, code: struct.Struct) -> Any:
        """The next bytes as a fixed-size number."""
        start = self.position
        if code.size > self.end - start:
            raise self.cut("an argument is missing")
        self.position = start + code.size
        return code.unpack_from(self.data, start)[0]

    def line(self, most: int) -> bytes:
        """An argument of the text opcodes: up to the next newline."""
        start = self.position
        found = self.data.find(b"\n", start, start + most + 1)
        if found < 0:
            if self.end - start > most:
                raise self.bad(f"a text argument is over {most:,} bytes")
            raise self.cut("a text argument has no end")
        self.position = found + 1
        self.charge(found - start)
        return self.data[start:found]

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_number(self, value: float) -> None:
        self.charge(NUMBER_BYTES)
        self.stack.append(value)

    def push_node(self, kind: str, items: list[Any]) -> None:
        """A new node; `items` may hold other nodes."""
        self.charge(NODE_BYTES + SLOT_BYTES * len(items))
        node = Node(kind, items)
        if items:
            self._deepen(node, items)
        self.stack.append(node)

    def pop(self) -> Any:
        if len(self.stack) <= self.floor:
            raise self.bad("the stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= self.floor:
            raise self.bad("the stack is empty")
        return self.stack[-1]

    def replace(self, value: Any) -> None:
        """Put a value in the place of the top one."""
        self.pop()
        self.stack.append(value)

    def mark(self) -> None:
        self.charge(NUMBER_BYTES)
        self._marks.append(self.floor)
        self.floor = len(self.stack)

    def pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise self.bad("a MARK is missing")
        items = self.stack[self.floor :]
        del self.stack[self.floor :]
        self.floor = self._marks.pop()
        return items

    def pop_or_unmark(self) -> None:
        """POP: drops a mark when one is on top."""
        if self._marks and len(self.stack) == self.floor:
            self.floor = self._marks.pop()
        else:
            self.pop()

    def extend(self, kind: str, what: str, items: list[Any]) -> None:
        """Put items into the list, dict or set on top."""
        target = self.top()
        if type(target) is not Node or target.kind != kind:
            if self.policy.tolerates(f"{what} on", target):
                return
            raise self.bad(f"{what} on something that is no {kind}")
        if kind == "dict":
            self._check_keys(items)
        self.charge(SLOT_BYTES * len(items))
        self._deepen(target, items)
        if target.items:
            target.items += items
        else:
            target.items = items

    def _check_keys(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self.bad("a dict gets a key without a value")
        for key in items[::2]:
            kind = type(key)
            if kind is str or kind is int:
                continue
            nested = kind is Node and (key.kind != "tuple" or key.depth > 1)
            if nested and not self.policy.tolerates("dict key", key):
                raise self.bad(f"a {key.kind} of depth {key.depth} is used as a dict key")

    def _deepen(self, target: Node, items: list[Any]) -> None:
        for item in items:
            if type(item) is Node and item.depth >= target.depth:
                if item.depth >= PICKLE_DEPTH:
                    raise self.bad(f"values are nested deeper than {PICKLE_DEPTH}")
                target.depth = item.depth + 1

    def finish(self) -> Any:
        """The value on top, which must be all that is left."""
        value = self.pop()
        left = self.stack or self._marks
        if left and not self.policy.tolerates("STOP before the end of", self.stack):
            raise self.bad("values or marks are left on the stack at STOP")
        return value

    # The memo

    def remember(self, index: int) -> None:
        self.charge(MEMO_BYTES)
        self.memo[index] = self.top()
        self.highest = max(self.highest, index)

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise self.forgotten(index)
        self.stack.append(self.memo[index])

    def forgotten(self, index: int) -> Exception:
        """What to raise when the memo has nothing under `index`."""
        return Skipped() if self.skipped else self.bad(f"nothing is remembered under {index}")
