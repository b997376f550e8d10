from __future__ import annotations

import json
from typing import Any

import pytest
from clock import within
from hypothesis import given, settings
from hypothesis import strategies as st

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import Limits
from anamnesis.readers import strict_json

_TEXT = st.text(st.characters(codec="utf-8"))
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=30,
)


def loads(data: bytes | bytearray) -> Any:
    return strict_json.loads(data, "model.json: header", Limits())


@settings(max_examples=300)
@given(_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_whatever_json_writes_is_read(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert loads(text.encode()) == json.loads(text)


@settings(max_examples=300)
@given(st.text('"\\[]{}:,a0 ', max_size=40))
def test_what_json_refuses_is_refused(text: str) -> None:
    """The skeleton's shortcut for strings must never let through, or refuse, what it should not."""
    pairs: list[list[str]] = []

    def keep(members: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append([name for name, _ in members])
        return dict(members)

    try:
        expected = json.loads(text, object_pairs_hook=keep)
    except ValueError:
        with pytest.raises(FormatError):
            loads(text.encode())
        return
    if any(len(set(names)) < len(names) for names in pairs):
        with pytest.raises(FormatError, match="twice"):
            loads(text.encode())
    else:
        assert loads(text.encode()) == expected


@pytest.mark.parametrize(
    "data",
    [b'"\\\\"', b'["\\"[{", "\\\\\\"]", "]"]', b'{"a:{": "},\\"["}', b'["","",""]', b'{"":""}'],
)
def test_brackets_and_quotes_in_strings_do_not_count(data: bytes) -> None:
    assert loads(data) == json.loads(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "'a' is given twice"),
        (b'{"a":1,"\\u0061":2}', "'a' is given twice"),
        (b'[{"x":[{"b":{},"b":{"c":1}}]}]', "'b' is given twice"),
        (b'{"a":{"x":1},"a":{"y":2,"z":3}}', "'a' is given twice"),
        (b"[NaN]", "not JSON"),
        (b"[Infinity]", "not JSON"),
        (b"[-Infinity]", "not JSON"),
        (b"[1e999]", "not JSON"),
        (b"[" + b"9" * 5000 + b"]", "not JSON"),
        (b"[01]", "not JSON"),
        (b"[1,]", "not JSON"),
        (b'["\\ud800"]', "not JSON"),
        (b'["\\udfff\\ud800"]', "not JSON"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        (b'["\xff"]', "not UTF-8"),
        (b'["\n"]', "not JSON"),
        (b"[1]x", "not JSON"),
        (b"[1]\0", "not JSON"),
        (b"{}{}", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"", "not JSON"),
        (b"   ", "not JSON"),
        (b"[" * 33 + b"]" * 33, "nested more than 32 deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "nested more than 32 deep"),
        (b"[" * 1_000_000, "not JSON"),
        (b"[" * 1_000_000 + b"]" * 1_000_000, "nested more than 32 deep"),
        (b"[}", "not JSON"),
        (b"/* no comments */ {}", "not JSON"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=r"^model\.json: header: ") as caught:
        loads(data)
    assert reason in str(caught.value)


def test_depth_up_to_the_cap_is_read() -> None:
    depth = strict_json.MAX_DEPTH
    assert json.dumps(loads(b"[" * depth + b"]" * depth)) == "[" * depth + "]" * depth


def test_integers_are_exact_and_may_be_large() -> None:
    values = [2**63, 2**64, -(2**63) - 1, 10**40]
    assert loads(json.dumps(values).encode()) == values


def test_a_bytearray_is_read_too() -> None:
    assert loads(bytearray(b'{"a": [1, "\\\\"]}')) == {"a": [1, "\\"]}


def test_the_parsed_size_is_bounded_before_it_is_built() -> None:
    data = b"[" + b"{}," * 6_000_000 + b"{}]"
    with within(0.2), pytest.raises(LimitError, match=r"model\.json: header: parsed JSON"):
        loads(data)


def test_callers_can_tighten_the_bound() -> None:
    with pytest.raises(LimitError):
        strict_json.loads(b"[" + b"[]," * 1000 + b"[]]", "x", Limits(max_single_alloc=10_000))


def test_a_12_mb_header_is_quick() -> None:
    entry = {"dtype": "BF16", "shape": [4096, 4096], "data_offsets": [123456789, 123456999]}
    names = (f"model.layers.{i}.self_attn.q_proj.weight.and.more" for i in range(100_000))
    data = json.dumps(dict.fromkeys(names, entry)).encode()
    assert len(data) > 12_000_000
    with within(0.4):
        loads(data)
