"""Entries that are run as steps, against the same entries opcode by opcode."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import pickle_ops, pickle_vm
from anamnesis.readers.pickle_ops import run
from anamnesis.readers.pickle_vm import Machine, Node
from anamnesis.readers.torch_policy import StateDictPolicy
from anamnesis.readers.torch_storages import Storages

SOME = 300  # values that the memo holds before: places of four bytes, as in any larger checkpoint


def number(value: int) -> bytes:
    """As Python's pickler spells it in protocol 2."""
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    if value < 1 << 16:
        return struct.pack("<cH", b"M", value)
    if value < 1 << 31:
        return struct.pack("<ci", b"J", value)
    nbytes = value.bit_length() // 8 + 1
    return struct.pack("<cB", b"\x8a", nbytes) + value.to_bytes(nbytes, "little")


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<cI", b"X", len(raw)) + raw


class Writer:
    """Opcodes with a memo, as `pickle.Pickler` numbers it."""

    def __init__(self) -> None:
        self.data = b"\x80\x02}q\x00("
        self.count = 1
        self.places: dict[str, int] = {}

    def put(self) -> None:
        self.data += struct.pack("<cI", b"r", self.count)
        self.count += 1

    def once(self, value: str, spelt: bytes) -> None:
        """A value that is spelt where it comes first."""
        if value in self.places:
            place = self.places[value]
            self.data += (
                struct.pack("<cB", b"h", place) if place < 256 else struct.pack("<cI", b"j", place)
            )
        else:
            self.places[value] = self.count
            self.data += spelt
            self.put()

    def tuple_(self, values: list[int]) -> None:
        if len(values) > 3:
            self.data += b"(" + b"".join(map(number, values)) + b"t"
        else:
            self.data += (
                b"".join(map(number, values)) + {1: b"\x85", 2: b"\x86", 3: b"\x87"}[len(values)]
            )
        self.put()

    def entry(self, name: str, key: str, elems: int, offset: int, shape: list[int]) -> None:
        self.data += text(name)
        self.put()
        self.once("f", b"ctorch._utils\n_rebuild_tensor_v2\n")
        self.data += b"(("
        self.once("storage", text("storage"))
        self.once("class", b"ctorch\nFloatStorage\n")
        self.once(f"key {key}", text(key))
        self.once("cpu", text("cpu"))
        self.data += number(elems) + b"t"
        self.put()
        self.data += b"Q" + number(offset)
        strides = [1] * len(shape)
        for axis in range(len(shape) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        self.tuple_(shape)
        self.tuple_(strides)
        self.data += b"\x89"
        self.once("hooks", b"ccollections\nOrderedDict\n")
        for opcodes in (b")R", b"t", b"R"):
            self.data += opcodes
            self.put()

    def fill(self) -> None:
        """Entries that are no tensors, so that places get four bytes."""
        for value in range(SOME):
            self.data += text(f"v{value}")
            self.put()
            self.data += b"N"

    def end(self) -> bytes:
        return self.data + b"u."


def machine(data: bytes, *, steps: bool) -> Machine:
    made = Machine(data, "m", StateDictPolicy("m", Storages("m")), Limits())
    made.steps = steps
    return made


def outcome(machine: Machine) -> tuple[str, ...]:
    """What came of it, in a form that compares."""
    try:
        found = run(machine)
    except AnamnesisError as error:
        return type(error).__name__, str(error)
    assert type(found) is Node
    return shown(found), str(machine.room), str(machine.tensors)


def shown(value: Any) -> str:
    if type(value) is Node:
        return f"{value.kind} {value.depth} [{', '.join(map(shown, value.items))}]"
    return repr(value)


ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["w", "layers.0.weight", "ä", "x" * 300]),
        st.sampled_from(["0", "1", "12345678901234567890", "odd"]),
        st.sampled_from([24, 70_000, 1 << 33]),
        st.sampled_from([0, 3, 300, 66_000, 1 << 32]),
        st.lists(st.integers(0, 300), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(ENTRIES)
def test_steps_do_what_the_opcodes_do(entries: list[tuple[Any, ...]]) -> None:
    writer = Writer()
    writer.fill()
    for entry in entries:
        writer.entry(*entry)
    data = writer.end() if len(entries) % 2 else writer.end()[:-1] + b"(" + b"0."
    assert outcome(machine(data, steps=True)) == outcome(machine(data, steps=False))


def batches(count: int) -> bytes:
    """A checkpoint of so many tensors, a MARK for the first and another for the others."""
    writer = Writer()
    writer.fill()
    writer.entry("first", "0", 24, 0, [2, 3])
    writer.data += b"u("
    for index in range(count):
        writer.entry(f"layers.{index}.weight", "0", 24, index % 8, [2, 8])
    return writer.end()


def test_all_opcodes_are_counted_and_few_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def counted(handler: pickle_ops.Handler) -> pickle_ops.Handler:
        def handle(machine: Machine) -> None:
            runs.append(1)
            handler(machine)

        return handle

    monkeypatch.setattr(pickle_ops, "OPCODES", tuple(map(counted, pickle_ops.OPCODES)))
    few, many = (machine(batches(count), steps=True) for count in (10, 110))
    assert run(few).kind == "dict"
    before = len(runs)
    assert run(many).kind == "dict"
    assert len(runs) == 2 * before  # the hundred more are of no more opcodes
    for one in (few, many):
        opcodes = sum(1 for _ in pickletools.genops(one.data))
        assert one.merged + before + 1 == opcodes  # STOP is run apart


def test_torch_writes_what_steps_run() -> None:
    torch = pytest.importorskip("torch")
    memory = io.BytesIO()
    storage = torch.zeros(40_000)
    tensors = {f"a.{n}.weight": storage[8 * n : 8 * n + 8].view(2, 2, 2) for n in range(2_500)}
    tensors |= {f"b.{n}.weight": torch.zeros(3, 4) for n in range(2_500)}
    torch.save(tensors, memory)
    with zipfile.ZipFile(memory) as archive:
        data = archive.read("archive/data.pkl")
    whole = machine(data, steps=True)
    assert outcome(whole) == outcome(machine(data, steps=False))
    opcodes = sum(1 for _ in pickletools.genops(data))
    assert whole.merged > 0.75 * opcodes  # all but the first thousand


@pytest.mark.parametrize("form", [b"j%b", b"g%d\n"])
@pytest.mark.parametrize("back", range(1, 7))
def test_what_was_skipped_is_made_when_it_is_asked_for(form: bytes, back: int) -> None:
    data = batches(3)
    place = sum(1 for op, _, _ in pickletools.genops(data) if "PUT" in op.name) - back
    get = form % (place if b"d" in form else place.to_bytes(4, "little"))
    data = data[:-2] + text("again") + get + b"u."
    fast, slow = machine(data, steps=True), machine(data, steps=False)
    assert outcome(fast) == outcome(slow)
    assert fast.steps == (back == 1)  # the tensor itself is remembered
    missing = data.replace(get + b"u.", b"j\xff\xff\0\0u.")
    assert outcome(machine(missing, steps=True)) == outcome(machine(missing, steps=False))


def test_the_next_place_of_a_memo_with_gaps() -> None:
    data = batches(3)[:-2] + text("more") + b"\x94" + b"Nu."
    fast, slow = machine(data, steps=True), machine(data, steps=False)
    assert outcome(fast) == outcome(slow)
    assert not fast.steps


@pytest.mark.parametrize("place", [0, 5, 305, 310, 320, 325, 1_000])
def test_places_that_are_filled_twice(place: int) -> None:
    """A step that would replace what is asked for, or be asked for what it replaces."""
    data = batches(4)
    name = data.rindex(text("layers.3.weight"))
    put = struct.pack("<cI", b"r", place)
    for index, byte in enumerate(data[name + 20 :]):
        if byte == ord("r"):
            start = name + 20 + index
            changed = data[:start] + put + data[start + 5 :]
            assert outcome(machine(changed, steps=True)) == outcome(machine(changed, steps=False))


@pytest.mark.parametrize("part", [1.0, 0.999, 0.99, 0.5])
def test_the_working_set_ends_at_the_same_byte(
    part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = batches(200)
    monkeypatch.setattr(pickle_vm, "TENSOR_WORKING_BYTES", 0)
    whole = machine(data, steps=False)
    run(whole)
    limit = int((pickle_vm.PICKLE_WORKING_BYTES - whole.room) * part)
    monkeypatch.setattr(pickle_vm, "PICKLE_WORKING_BYTES", limit)
    found = outcome(machine(data, steps=True))
    assert found == outcome(machine(data, steps=False))
    assert (found[0] == "LimitError") == (part < 1)


def test_every_byte_of_an_entry() -> None:
    """Whatever is changed in it, both come to the same."""
    data = batches(2)
    start = data.rindex(text("layers.1.weight"))
    for position in range(start, len(data)):
        for change in (1, 0x20, 0x80):
            changed = bytearray(data)
            changed[position] ^= change
            one, other = (machine(bytes(changed), steps=steps) for steps in (True, False))
            assert outcome(one) == outcome(other), (position, change)
