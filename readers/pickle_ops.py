"""What each pickle opcode does to the machine; byte values and arguments as in pickletools.py.

Sizes are checked against the bytes that are left before anything is sliced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from anamnesis.errors import LimitError
from anamnesis.limits import NAME_BYTES
from anamnesis.readers.pickle_literals import (
    push_bytes,
    push_integer,
    push_old_text,
    push_text,
    read_float,
    read_int,
    read_long,
    read_string,
    read_unicode,
)
from anamnesis.readers.pickle_memo import memo_get, memo_put, memoize, text_get, text_put
from anamnesis.readers.pickle_vm import (
    EMPTY,
    HIGHEST_PROTOCOL,
    NODE_BYTES,
    NUMBER_BYTES,
    PICKLE_OPCODES,
    SLOT_BYTES,
    Machine,
    Node,
    Skipped,
)

Handler = Callable[[Machine], None]

STOP = ord(".")

_U1, _U2, _U4, _U8 = (struct.Struct(f"<{c}") for c in "BHIQ")
_I4 = struct.Struct("<i")
_F8 = struct.Struct(">d")


def _sized(size: struct.Struct, push: Callable[[Machine, bytes], None]) -> Handler:
    def handle(machine: Machine) -> None:
        push(machine, machine.take(machine.number(size)))

    return handle


def _signed_sized(push: Callable[[Machine, bytes], None]) -> Handler:
    def handle(machine: Machine) -> None:
        nbytes = machine.number(_I4)
        if nbytes < 0:
            raise machine.bad(f"an argument of {nbytes} bytes")
        push(machine, machine.take(nbytes))

    return handle


def _number(code: struct.Struct) -> Handler:
    unpack, size = code.unpack_from, code.size

    def handle(machine: Machine) -> None:
        start = machine.position
        if size > machine.end - start:
            raise machine.cut("an argument is missing")
        machine.position = start + size
        machine.room -= NUMBER_BYTES
        if machine.room < 0:
            machine.charge(0)
        machine.stack.append(unpack(machine.data, start)[0])

    return handle


def _constant(value: bool | None) -> Handler:
    def handle(machine: Machine) -> None:
        machine.push(value)

    return handle


def _protocol(machine: Machine) -> None:
    version = machine.number(_U1)
    if version > HIGHEST_PROTOCOL:
        raise machine.bad(f"protocol {version}; the highest is {HIGHEST_PROTOCOL}")


def _frame(machine: Machine) -> None:
    nbytes = machine.number(_U8)
    if nbytes > machine.end - machine.position:
        left = machine.end - machine.position
        raise machine.cut(f"a frame of {nbytes:,} bytes, {left:,} are left")


def _buffer(machine: Machine) -> None:
    raise machine.bad("a buffer outside of the pickle, which has none")


def _empty(kind: str) -> Handler:
    def handle(machine: Machine) -> None:
        machine.push_node(kind, EMPTY)

    return handle


def _marked(kind: str) -> Handler:
    """LIST, TUPLE, DICT and FROZENSET: a node of what lies above the mark."""

    def handle(machine: Machine) -> None:
        items = machine.pop_to_mark()
        if kind == "dict":
            machine.push_node(kind, EMPTY)
            machine.extend(kind, "DICT", items)
        else:
            machine.push_node(kind, items)

    return handle


def _tuple(count: int) -> Handler:
    def handle(machine: Machine) -> None:
        items = [machine.pop() for _ in range(count)] if count > 1 else [machine.pop()]
        items.reverse()
        machine.push_node("tuple", items)

    return handle


def _append(machine: Machine) -> None:
    machine.extend("list", "APPEND", [machine.pop()])


def _appends(machine: Machine) -> None:
    machine.extend("list", "APPENDS", machine.pop_to_mark())


def _set_item(machine: Machine) -> None:
    value = machine.pop()
    machine.extend("dict", "SETITEM", [machine.pop(), value])


def _set_items(machine: Machine) -> None:
    machine.extend("dict", "SETITEMS", machine.pop_to_mark())


def _add_items(machine: Machine) -> None:
    machine.extend("set", "ADDITEMS", machine.pop_to_mark())


def _mark(machine: Machine) -> None:
    machine.mark()
    if machine.steps and machine.data[machine.position : machine.position + 1] == b"X":
        machine.policy.run_entries(machine)


def _dup(machine: Machine) -> None:
    machine.push(machine.top())


def _pop_mark(machine: Machine) -> None:
    machine.pop_to_mark()


def _name(machine: Machine) -> str:
    # A byte that is not UTF-8 becomes an escape, which no allowed name has.
    return machine.line(NAME_BYTES).decode("utf-8", "backslashreplace")


def _global(machine: Machine) -> None:
    module = _name(machine)
    machine.push(machine.policy.find(module, _name(machine)))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(module) is not str or type(name) is not str:
        if not machine.policy.tolerates("the name of a global", name):
            raise machine.bad("the name of a global is no text")
        module = name = "(computed)"
    machine.push(machine.policy.find(module, name))


def _extension(code: struct.Struct) -> Handler:
    def handle(machine: Machine) -> None:
        machine.push(machine.policy.extension(machine.number(code)))

    return handle


def _charge_copy(machine: Machine, value: Any) -> None:
    """Pay for a copy of the items of a node and of those directly in it."""
    if type(value) is Node:
        inner = sum(len(item.items) for item in value.items if type(item) is Node)
        machine.charge(NODE_BYTES + SLOT_BYTES * (len(value.items) + inner))


def _reduce(machine: Machine) -> None:
    arguments = machine.pop()
    _charge_copy(machine, arguments)
    policy = machine.policy
    value = policy.call(machine.top(), arguments)
    machine.stack[-1] = value
    if policy.is_tensor(value):
        machine.count_tensor()


def _build(machine: Machine) -> None:
    state = machine.pop()
    _charge_copy(machine, state)
    machine.replace(machine.policy.build(machine.top(), state))


def _inst(machine: Machine) -> None:
    module = _name(machine)
    cls = machine.policy.find(module, _name(machine))
    arguments = Node("tuple", machine.pop_to_mark())
    machine.push(machine.policy.construct("INST", cls, arguments))


def _obj(machine: Machine) -> None:
    items = machine.pop_to_mark()
    if not items:
        raise machine.bad("OBJ without a class")
    machine.push(machine.policy.construct("OBJ", items[0], Node("tuple", items[1:])))


def _newobj(machine: Machine) -> None:
    arguments = machine.pop()
    machine.replace(machine.policy.construct("NEWOBJ", machine.top(), arguments))


def _newobj_ex(machine: Machine) -> None:
    machine.pop()
    arguments = machine.pop()
    machine.replace(machine.policy.construct("NEWOBJ_EX", machine.top(), arguments))


def _text_persistent(machine: Machine) -> None:
    machine.push(machine.policy.persistent(_name(machine)))


def _persistent(machine: Machine) -> None:
    machine.replace(machine.policy.persistent(machine.top()))


def _unknown(machine: Machine) -> None:
    machine.position -= 1
    raise machine.bad(f"0x{machine.data[machine.position]:02x} is no opcode")


_HANDLERS: dict[str, Handler] = {
    "(": _mark,
    ")": _empty("tuple"),
    "0": Machine.pop_or_unmark,
    "1": _pop_mark,
    "2": _dup,
    "B": _sized(_U4, push_bytes),
    "C": _sized(_U1, push_bytes),
    "F": read_float,
    "G": _number(_F8),
    "I": read_int,
    "J": _number(_I4),
    "K": _number(_U1),
    "L": read_long,
    "M": _number(_U2),
    "N": _constant(None),
    "P": _text_persistent,
    "Q": _persistent,
    "R": _reduce,
    "S": read_string,
    "T": _signed_sized(push_old_text),
    "U": _sized(_U1, push_old_text),
    "V": read_unicode,
    "X": _sized(_U4, push_text),
    "]": _empty("list"),
    "a": _append,
    "b": _build,
    "c": _global,
    "d": _marked("dict"),
    "e": _appends,
    "g": text_get,
    "h": memo_get(1),
    "i": _inst,
    "j": memo_get(4),
    "l": _marked("list"),
    "o": _obj,
    "p": text_put,
    "q": memo_put(1),
    "r": memo_put(4),
    "s": _set_item,
    "t": _marked("tuple"),
    "u": _set_items,
    "}": _empty("dict"),
    "\x80": _protocol,
    "\x81": _newobj,
    "\x82": _extension(_U1),
    "\x83": _extension(_U2),
    "\x84": _extension(_I4),
    "\x85": _tuple(1),
    "\x86": _tuple(2),
    "\x87": _tuple(3),
    "\x88": _constant(True),
    "\x89": _constant(False),
    "\x8a": _sized(_U1, push_integer),
    "\x8b": _signed_sized(push_integer),
    "\x8c": _sized(_U1, push_text),
    "\x8d": _sized(_U8, push_text),
    "\x8e": _sized(_U8, push_bytes),
    "\x8f": _empty("set"),
    "\x90": _add_items,
    "\x91": _marked("set"),
    "\x92": _newobj_ex,
    "\x93": _stack_global,
    "\x94": memoize,
    "\x95": _frame,
    "\x96": _sized(_U8, push_bytes),
    "\x97": _buffer,
    "\x98": _buffer,
}
OPCODES: tuple[Handler, ...] = tuple(_HANDLERS.get(chr(code), _unknown) for code in range(256))


def run(machine: Machine) -> Any:
    """The object that the pickle at the machine's position describes; stops behind its STOP."""
    try:
        return _run(machine)
    except Skipped:
        machine.steps = False
        machine.start()
        return _run(machine)


def _run(machine: Machine) -> Any:
    data, end, opcodes = machine.data, machine.end, OPCODES
    total = more = PICKLE_OPCODES
    while more > 0:
        for _ in range(more):
            position = machine.position
            if position >= end:
                raise machine.cut("the STOP opcode is missing")
            opcode = data[position]
            machine.position = position + 1
            if opcode == STOP:
                return machine.finish()
            opcodes[opcode](machine)
        more = machine.more_opcodes()
        total += more
    raise LimitError(
        f"{machine.where}: more than {total:,} pickle opcodes, which is the fixed limit for "
        f"{machine.tensors:,} tensors",
        limit="pickle_opcodes",
        need=total + 1,
        have=total,
    )
