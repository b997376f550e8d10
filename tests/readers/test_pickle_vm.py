"""The pickle machine against Python's own pickler, and each of its budgets."""

from __future__ import annotations

import collections
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anamnesis.errors import AnamnesisError, FormatError, LimitError, SecurityError
from anamnesis.limits import Limits
from anamnesis.readers import pickle_vm
from anamnesis.readers.pickle_globals import collect_globals
from anamnesis.readers.pickle_ops import OPCODES, run
from anamnesis.readers.pickle_vm import Machine, Node
from anamnesis.readers.torch_globals import ALLOWED
from anamnesis.readers.torch_policy import StateDictPolicy

PROTOCOLS = range(6)


def refuse(identifier: Any) -> Any:
    raise FormatError("persistent id")


def machine(data: bytes, limits: Limits | None = None) -> Machine:
    return Machine(data, "f.pkl", StateDictPolicy("f.pkl", refuse), limits or Limits())


def loads(data: bytes) -> Any:
    return plain(run(machine(data)))


def plain(value: Any) -> Any:
    """Nodes as Python's own objects."""
    if type(value) is not Node:
        return value
    if value.kind == "dict":
        return {plain(k): plain(v) for k, v in value.pairs()}
    make: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "list": list, "set": set}
    return make[value.kind]([plain(item) for item in value.items])


def same(found: Any, wanted: Any) -> bool:
    """Equal, with types and NaN: pickles of both say the same."""
    return pickle.dumps(found, protocol=2) == pickle.dumps(wanted, protocol=2)


VALUES = [
    None,
    True,
    False,
    0,
    1,
    255,
    256,
    65535,
    65536,
    -1,
    2**31 - 1,
    -(2**31),
    2**31,
    -(2**63),
    2**64,
    2**600,
    -(2**1900),
    0.0,
    -0.0,
    1.5,
    -1e-300,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "text",
    "é\n\\ \u4e2d \U0001f600 \x00",
    "lone \udc80 surrogate",
    "a" * 300,
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1, "two", [3.0, (None,)]],
    list(range(2500)),
    {},
    {"a": 1, "b": {"c": [1, 2]}, 3: "three", (1, "x"): 2.5},
    {str(n): n for n in range(1500)},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v!r:.20}")
def test_as_python_wrote_it(value: Any) -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps(value, protocol=protocol)
        assert same(loads(data), value), protocol
        assert same(loads(pickletools.optimize(data)), value), protocol


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("value", [b"", b"\x00\xff" * 200, b"x" * 70_000])
def test_bytes(value: bytes, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol=protocol)) == value
    if protocol == 5:
        assert loads(pickle.dumps(bytearray(value), protocol=protocol)) == value


def test_sets() -> None:
    for protocol in (4, 5):
        for items in ((), (1, 2, 3), (4, "five")):
            assert loads(pickle.dumps(set(items), protocol=protocol)) == set(items)
            assert loads(pickle.dumps(frozenset(items), protocol=protocol)) == set(items)
    assert loads(pickle.dumps({1, 2}, protocol=2)) == {1, 2}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ordered_dict(protocol: int) -> None:
    value = collections.OrderedDict(a=1, b=[2])
    value.more = {"_metadata": 1}  # type: ignore[attr-defined]  # state, which BUILD sets
    assert loads(pickle.dumps(value, protocol=protocol)) == dict(value)
    assert loads(b"ccollections\nOrderedDict\n(](](K\x01K\x02e](K\x03K\x04eetR.") == {1: 2, 3: 4}


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(JSON_LIKE, st.sampled_from(PROTOCOLS))
@example(-math.nan, 0)
def test_whatever_python_writes(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    assert same(loads(data), pickle.loads(data))  # protocol 0 loses the sign of a NaN


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (rb"'a\nb\x41\101\'\\ \q'", "a\nbAA'\\ \\q"),
        (b'"it\'s"', "it's"),
        (rb"'\xff'", b"\xff"),
        (b"''", ""),
    ],
)
def test_strings_of_python_2(text: bytes, value: Any) -> None:
    assert loads(b"S" + text + b"\n.") == value


def test_binary_strings_of_python_2() -> None:
    assert loads(b"U\x02hi.") == "hi"
    assert loads(b"U\x01\xff.") == b"\xff"
    assert loads(b"T\x02\0\0\0hi.") == "hi"


def test_shared_values_stay_shared() -> None:
    inner = [1]
    found = run(machine(pickle.dumps([inner, inner], protocol=2)))
    assert found.items[0] is found.items[1]


def test_every_opcode_of_pickletools_is_known() -> None:
    unknown = OPCODES[0]
    known = {code for code in range(256) if OPCODES[code] is not unknown} | {ord(".")}
    assert known == {ord(opcode.code) for opcode in pickletools.opcodes}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "STOP opcode is missing"),
        (b"N", "STOP opcode is missing"),
        (b".", "stack is empty"),
        (b"NN.", "left on the stack"),
        (b"(N.", "left on the stack"),
        (b"\xff.", "0xff is no opcode"),
        (b"0.", "stack is empty"),
        (b"t.", "MARK is missing"),
        (b"(\x85.", "stack is empty"),
        (b"h\x07.", "nothing is remembered under 7"),
        (b"g12\n.", "nothing is remembered under 12"),
        (b"g-1\n.", "no place in the memo"),
        (b"q\0.", "stack is empty"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x04\x95\x05\0\0\0\0\0\0\0N.", "a frame of 5 bytes"),
        (b"\x97.", "a buffer outside"),
        (b"X\xff\xff\xff\xffab", "4,294,967,295 bytes are announced"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab", "are announced"),
        (b"\x8b\xff\xff\xff\xff.", "-1 bytes"),
        (b"T\xfe\xff\xff\xff.", "-2 bytes"),
        (b"\x8b\x00\x02\0\0" + b"\1" * 512 + b".", "an integer of 512 bytes"),
        (b"I" + b"1" * 70_000 + b"\n.", "over 65,536 bytes"),
        (b"I" + b"1" * 20_000 + b"\n.", "no integer"),
        (b"I1_0\n.", "no integer"),
        (b"I \n.", "no integer"),
        (b"F1_0\n.", "no number"),
        (b"F0x1p3\n.", "no number"),
        (b"Sabc\n.", "without its quotes"),
        (b"S'\n.", "without its quotes"),
        (b"V\\u12\n.", "broken escape"),
        (b"X\x01\0\0\0\xff.", "not UTF-8"),
        (b"K", "an argument is missing"),
        (b"X\x01\0", "an argument is missing"),
        (b"NNs.", "stack is empty"),
        (b"NNNs.", "SETITEM on something that is no dict"),
        (b"}(Nu.", "a key without a value"),
        (b"}]Ns.", "a list of depth 1 is used as a dict key"),
        (b"}}Ns.", "a dict of depth 1 is used as a dict key"),
        (b"}N\x85\x85Ns.", "a tuple of depth 2 is used as a dict key"),
        (b"}Na.", "APPEND on something that is no list"),
        (b"N(e.", "APPENDS on something that is no list"),
        (b"](\x90.", "ADDITEMS on something that is no set"),
        (b"(o.", "OBJ without a class"),
        (b"NN\x93.", "the name of a global is no text"),
        (b"X\x01\0\0\0aN\x93.", "the name of a global is no text"),
        (b"N)R.", "REDUCE of something that is no function"),
        (b"ccollections\nOrderedDict\nNR.", "its arguments are no tuple"),
        (b"N}b.", "BUILD on something that has no state"),
        (b"NQ.", "persistent id"),
        (b"Pid\n.", "persistent id"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_broken(data: bytes, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        run(machine(data))
    assert text in str(caught.value)


@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v!r:.20}")
def test_cut_anywhere(value: Any) -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps(value, protocol=protocol)
        for stop in range(0, len(data), max(1, len(data) // 50)):
            cut = machine(data[:stop])
            with pytest.raises(FormatError, match="ends early"):
                run(cut)
            assert cut.ended


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cos\nsystem\n.", "'os.system'"),
        (b"cos\r\nsystem\n.", r"'os\r.system'"),
        (b"c\xd0\xbes\nsystem\n.", "'\u043es.system'"),
        (b"c\xff\nsystem\n.", r"'\\xff.system'"),
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "__globals__"),
        (b"ctorch\n_utils._rebuild_tensor_v2\n.", "_rebuild_tensor_v2"),
        (b"\x82\x07.", "global number 7"),
        (b"\x83\x07\x01.", "global number 263"),
        (b"\x84\x07\x01\0\0.", "global number 263"),
        (b"(icollections\nOrderedDict\n.", "INST"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"ccollections\nOrderedDict\n)}\x92.", "NEWOBJ_EX"),
        (b"ctorch\nFloatStorage\n)R.", "a call of torch.FloatStorage"),
        (b"ctorch\nfloat32\n)R.", "a call of torch.float32"),
        (b"}}X\x0c\0\0\0__setstate__Nsb.", "__setstate__"),
        (b"}N}X\x09\0\0\0__class__Ns\x86b.", "__class__"),
        (b"ctorch\nSize\n}b.", "BUILD"),
    ],
)
def test_refused(data: bytes, name: str) -> None:
    with pytest.raises(SecurityError) as caught:
        run(machine(data))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (b"N0" * pickle_vm.PICKLE_OPCODES, "pickle_opcodes"),
        (b"]" * 2_000_000, "pickle_working_bytes"),
        (b"X\0\0\x10\0" + b"a" * 2**20 + b"2" + b"U\xff" + b"b" * 255, ""),
        (b"N" + b"\x94" * 2_000_000, "pickle_working_bytes"),
        # A dict of 1,000 entries that is copied for 5 bytes a time.
        (
            b"](" + b"K\1" * 1000 + b"e\x85q\0c__builtin__\nset\nq\1" + b"h\1h\0R0" * 100_000,
            "pickle_working_bytes",
        ),
        (
            b"}(" + b"K\1N" * 1000 + b"uq\0ccollections\nOrderedDict\n)R" + b"h\0b" * 100_000,
            "pickle_working_bytes",
        ),
    ],
    ids=["opcodes", "lists", "cut", "memo", "set", "build"],
)
def test_budgets(data: bytes, limit: str) -> None:
    with pytest.raises(AnamnesisError) as caught:
        run(machine(data))
    if limit:
        assert isinstance(caught.value, LimitError)
        assert caught.value.limit == limit


def test_a_caller_may_tighten_the_working_set() -> None:
    run(machine(b"]" * 100 + b"0" * 99 + b"."))
    with pytest.raises(LimitError) as caught:
        run(machine(b"]" * 100 + b"0" * 99 + b".", Limits(max_single_alloc=10_000)))
    assert caught.value.limit == "pickle_working_bytes"


def test_depth() -> None:
    depth = pickle_vm.PICKLE_DEPTH
    run(machine(b"N" + b"\x85" * depth + b"."))
    run(machine(b"]" * depth + b"a" * (depth - 1) + b"."))
    for data in (b"N" + b"\x85" * (depth + 1), b"]" * (depth + 1) + b"a" * depth):
        with pytest.raises(FormatError, match="nested deeper"):
            run(machine(data + b"."))


def test_collected_globals() -> None:
    data = (
        b"cos\nsystem\n0ctorch._utils\n_rebuild_tensor_v2\n0"
        b"X\x05\0\0\0posixq\0X\x06\0\0\0systemq\1h\0h\1\x930"
        b"\x82\x05(ibuiltins\neval\n)\x81}b)RN\x93}Ns](NNu.ccode\nbehind\n."
    )
    found = collect_globals(data, "f.pkl", Limits())
    assert {g.name: g.allowed for g in found.globals} == {
        "os.system": False,
        "torch._utils._rebuild_tensor_v2": True,
        "posix.system": False,
        "copyreg extension 5": False,
        "builtins.eval": False,
        "(computed).(computed)": False,
        "code.behind": False,
    }
    assert any("bytes after the pickle" in problem for problem in found.problems)


def test_collecting_stops_at_what_is_broken() -> None:
    found = collect_globals(b"cos\nsystem\n\xff", "f.pkl", Limits())
    assert [g.name for g in found.globals] == ["os.system"]
    assert "0xff is no opcode" in found.problems[0]


# Read as records: nothing of these is called (see `torch_globals`).
_RECORDED = {"bytearray", "bytes", "complex", "set"}


def test_the_table_allows_nothing_that_runs_code() -> None:
    modules = {module for module, _ in ALLOWED}
    assert modules <= {
        "__builtin__",
        "_codecs",
        "builtins",
        "collections",
        "numpy",
        "numpy._core.multiarray",
        "numpy.core.multiarray",
        "torch",
        "torch._tensor",
        "torch._utils",
        "torch.nn.parameter",
        "torch.serialization",
        "torch.storage",
        "torch.tensor",
    }
    assert {name for module, name in ALLOWED if "builtin" in module} == _RECORDED
    assert not any("." in name for _, name in ALLOWED)
