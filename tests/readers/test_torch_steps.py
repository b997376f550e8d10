"""Entries that are run as steps, against the same entries opcode by opcode."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pickled_entries import EntryWriter, text

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import pickle_ops, pickle_vm, torch_steps
from anamnesis.readers.pickle_ops import run
from anamnesis.readers.pickle_vm import Machine, Node
from anamnesis.readers.torch_policy import StateDictPolicy
from anamnesis.readers.torch_storages import Storages


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


@given(ENTRIES)
def test_steps_do_what_the_opcodes_do(entries: list[tuple[Any, ...]]) -> None:
    writer = EntryWriter()
    writer.fill()
    for entry in entries:
        writer.entry(*entry)
    data = writer.end() if len(entries) % 2 else writer.end()[:-1] + b"(" + b"0."
    assert outcome(machine(data, steps=True)) == outcome(machine(data, steps=False))


def batches(count: int) -> bytes:
    """A checkpoint of so many tensors, a MARK for the first and another for the others."""
    writer = EntryWriter()
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


def test_a_key_in_the_place_of_its_tuple() -> None:
    """The tuple replaces the key there, which a later GET finds."""
    writer = EntryWriter()
    writer.fill()
    writer.entry("m.0", "0", 8, 0, [2, 4])
    writer.data += b"u("
    writer.entry("m.1", "1", 8, 0, [2, 4])
    data, spelt = bytes(writer.data), text("1") + b"r"
    at = data.rindex(spelt) + len(spelt)
    place = struct.pack("<I", int.from_bytes(data[at : at + 4], "little") + 1)
    get = b"j" + struct.pack("<I", data[at] + 256 * data[at + 1] + 1)
    changed = data[:at] + place + data[at + 4 :] + text("late") + get + b"u."
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


@pytest.mark.parametrize("before", [1, 4])  # four: the last is one of many that are alike
def test_every_byte_of_an_entry(before: int) -> None:
    """Whatever is changed in it, both come to the same."""
    data = batches(before + 1)
    start = data.rindex(text(f"layers.{before}.weight"))
    for position in range(start, len(data)):
        for change in (1, 0x20, 0x80):
            changed = bytearray(data)
            changed[position] ^= change
            one, other = (machine(bytes(changed), steps=steps) for steps in (True, False))
            assert outcome(one) == outcome(other), (position, change)


OFFSETS = [0, 5, 255, 256, 70_000, 99_984, 99_985, (1 << 31) - 1, 1 << 33]


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("name", ["layers.4.weight", "ä", ""])
def test_what_is_spelt_alike_but_for_an_offset_or_a_name(offset: int, name: str) -> None:
    """99,984 is the last place of 16 numbers in a storage of 100,000."""
    writer = EntryWriter()
    writer.fill()
    writer.entry("first", "0", 100_000, 0, [2, 3])
    writer.data += b"u("
    for index in range(4):
        writer.entry(f"layers.{index}.weight", "0", 100_000, offset % 90_000, [2, 8])
    writer.entry(name, "0", 100_000, offset, [2, 8])
    writer.entry("behind", "0", 100_000, 7, [2, 8])
    data = writer.end()
    place = data.rindex(b"Q", 0, data.rindex(b"Q"))  # of the last but one
    negative = bytearray(data)
    if data[place + 1] == ord("J"):
        negative[place + 5] |= 0x80
    for one in (data, bytes(negative)):
        assert outcome(machine(one, steps=True)) == outcome(machine(one, steps=False))


def test_entries_alike_take_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred, two are looked at byte by byte, or three where an offset gets longer."""
    looked: list[int] = []

    class Search:
        def match(self, data: bytes, position: int) -> Any:
            looked.append(position)
            return search.match(data, position)

    search = torch_steps._ENTRY
    monkeypatch.setattr(torch_steps, "_ENTRY", Search())
    assert run(machine(batches(100), steps=True)).kind == "dict"
    assert len(looked) <= 8
