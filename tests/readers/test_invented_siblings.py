"""What no tool ever wrote beside a layer is refused or noted: methods and parameters made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layer_parts import LAYERS, STEMS, about, within
from small_models import Parts, ledger_of, resolved

from anamnesis.errors import AnamnesisError, UnsupportedError
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes import SCHEMES, resolve
from anamnesis.readers.schemes._integers import BUFFERS
from anamnesis.readers.schemes._parents import _ENDINGS, _ORDINARY
from anamnesis.readers.schemes._siblings import (
    _OF_INPUTS,
    _ROTATED_MODULE,
    _ROTATION,
    harmless,
    is_own,
    may_move,
    moves_inputs,
)
from anamnesis.readers.schemes._stated_words import KEYS, NOT_STATED, canonical

# What a hypothetical tool might come up with.
UNDERSTOOD = {method for row in SCHEMES.values() for method in row.methods}
WORD = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12)


SHAPES = st.lists(st.integers(1, 64), max_size=3).map(tuple)
ANY = st.tuples(st.sampled_from(sorted(set(DTYPES) - {"F4", "F6_E2M3", "F6_E3M2"})), SHAPES)


@given(
    method=WORD.filter(lambda w: canonical(w) not in UNDERSTOOD | set(NOT_STATED)),
    key=st.sampled_from(KEYS),
    layer=st.sampled_from(sorted(LAYERS)),
    others=st.dictionaries(WORD, ANY, max_size=3),
)
def test_no_invented_method_is_converted(
    method: str, key: str, layer: str, others: dict[str, Any]
) -> None:
    parts = {**{f"m.{k}": v for k, v in others.items()}, **LAYERS[layer][1]}
    value: Any = method if key in ("quantize", "quant_method") else {"quant_method": method}
    for config in ({key: value}, {"text_config": {key: value}}):
        book = ledger_of(parts, configs={"config.json": config})
        with pytest.raises(UnsupportedError):
            resolve(book)


@given(
    layer=st.sampled_from(sorted(LAYERS)),
    name=WORD,
    what=ANY,
    configured=st.booleans(),
)
def test_no_invented_sibling_is_converted(
    layer: str, name: str, what: tuple[str, tuple[int, ...]], configured: bool
) -> None:
    """It is refused, consumed by the scheme, or harmless by name: it never comes out in silence."""
    method, parts = LAYERS[layer]
    full = STEMS.get(layer, "m.") + name
    if full in parts:
        return
    try:
        book = resolved({**parts, full: what}, about(method) if configured else None)
    except AnamnesisError:
        return
    row = harmless(name)
    assert full not in book.tensors or (row is not None and not row.dropped)


@given(
    layer=st.sampled_from(sorted(set(LAYERS) - set(STEMS))),
    module=st.sampled_from(["", "l.0.mlp."]),
    name=WORD,
    what=ANY,
    configured=st.booleans(),
)
def test_no_invented_sibling_of_a_module_is_converted(
    layer: str, module: str, name: str, what: tuple[str, tuple[int, ...]], configured: bool
) -> None:
    """The same beside the module, called after it."""
    method, parts = LAYERS[layer]
    full = f"{module}m_{name}"
    parts = {module + part: of for part, of in parts.items()}
    try:
        book = resolved({**parts, full: what}, about(method) if configured else None)
    except AnamnesisError:
        return
    row = harmless(name)
    assert full not in book.tensors or is_own(name) or (row is not None and not row.dropped)


@given(
    method=st.sampled_from(sorted(UNDERSTOOD - {"gguf"})),
    name=WORD,
    dtype=st.sampled_from([d for d, row in DTYPES.items() if row.kind in ("int", "code")]),
    shape=st.lists(st.sampled_from([2, 8, 32]), min_size=2, max_size=3).map(tuple),
)
def test_no_codes_come_out_dense_under_a_method(
    method: str, name: str, dtype: str, shape: tuple[int, ...]
) -> None:
    parts: Parts = {"n.weight": ("BF16", (4, 4)), f"m.{name}": (dtype, shape)}
    with pytest.raises(AnamnesisError):
        resolved(parts, about(method))


@pytest.mark.parametrize("layer", sorted(set(LAYERS) - {"mxfp4"}))
@given(
    part=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=2, max_size=9),
    shape=st.sampled_from([(64, 64), (32,), (64,), (2, 3, 4)]),
    module=st.sampled_from(["l.0.mlp.", "l.0.", "l.", ""]),
    dtype=st.sampled_from(["F32", "I64"]),
)
def test_an_invented_parameter_around_a_layer_is_never_silent(
    layer: str, part: str, shape: tuple[int, ...], module: str, dtype: str
) -> None:
    """Unless models are known to have it, it is noted, refused or dropped with a reason."""
    method, parts = LAYERS[layer]
    name = f"{module}{part}"
    book = ledger_of({**within("l.0.mlp", parts), name: (dtype, shape)}, about(method))
    try:
        resolve(book)
    except AnamnesisError:
        return
    told = any(name in note for note in book.notes) or any(d.why for d in book.dropped)
    assert told or is_known(part)


@given(
    part=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=9),
    inner=st.sampled_from(["lowrank.q_proj", "a.b.q_proj"]),
)
def test_a_module_that_is_called_as_a_decoded_layer_is_noted(part: str, inner: str) -> None:
    """One inside of another module, with whatever it has but a weight and a bias."""
    method, parts = LAYERS["fp8"]
    layer = {name.replace("m.", "l.0.q_proj."): entry for name, entry in parts.items()}
    others: Parts = {f"l.0.{inner}.{part}": ("F32", (8, 32)), "l.1.q_proj.weight": ("F32", (8, 8))}
    assume(part not in ("bias", "weight") and harmless(part) is None)
    book = ledger_of({**layer, **others}, about(method))
    try:
        resolve(book)
    except AnamnesisError:
        return
    assert [f"l.0.{inner}.{part}" in note for note in book.notes] == [True]


def is_known(part: str) -> bool:
    """Whether models are known to have such a parameter beside their layers."""
    listed = part in _ORDINARY or part in BUFFERS or part.endswith(_ENDINGS)
    return listed or is_own(part) or harmless(part) is not None


@pytest.mark.parametrize(
    "others",
    [
        {"l.0.mlp.sinks": ("BF16", (8,)), "l.0.norm.weight": ("BF16", (8,))},
        {"l.0.mlp.bias": ("BF16", (8,)), "l.0.A_log": ("F32", (8,)), "l.0.D": ("F32", (8,))},
        {"other.zz": ("F32", (8, 8)), "cls_token": ("F32", (8, 8)), "l.0.mlp.count": ("F32", ())},
    ],
)
def test_ordinary_parameters_around_a_layer_are_no_note(others: Parts) -> None:
    method, parts = LAYERS["fp8"]
    book = resolved({**within("l.0.mlp", parts), **others}, about(method))
    assert set(others) <= set(book.tensors)
    assert book.notes == []


EXPERTS: dict[str, tuple[str, Parts]] = {
    "fp8": (
        "fp8",
        {"e.gate_up_proj": ("F8_E4M3", (4, 64, 64)), "e.gate_up_proj_scale": ("F32", (4,))},
    ),
    "mxfp4": LAYERS["mxfp4"],
    "nvfp4": (
        "modelopt",
        {
            "e.down_proj": ("U8", (4, 64, 32)),
            "e.down_proj_weight_scale": ("F8_E4M3", (4, 64, 4)),
            "e.down_proj_weight_scale_2": ("F32", (4,)),
        },
    ),
}


@given(
    layer=st.sampled_from(sorted(EXPERTS)),
    part=WORD,
    shape=st.sampled_from([(64, 64), (64,), (4, 64), (4, 64, 2)]),
    dtype=st.sampled_from(["BF16", "F32", "I32", "U8", "BOOL"]),
    joined=st.booleans(),
)
def test_an_invented_parameter_of_stacked_experts_is_never_silent(
    layer: str, part: str, shape: tuple[int, ...], dtype: str, joined: bool
) -> None:
    method, parts = EXPERTS[layer]
    first = next(iter(parts)).removesuffix("_blocks")
    name = f"{first}_{part}" if joined else f"{first.rpartition('.')[0]}.{part}"
    if name in parts:
        return
    book = ledger_of({**parts, name: (dtype, shape)}, about(method))
    try:
        resolve(book)
    except AnamnesisError:
        return
    told = any(repr(name) in note for note in book.notes) or any(d.why for d in book.dropped)
    flags = dtype == "BOOL" and "mask" in part
    assert told or name not in book.tensors or flags or is_known(part)


@given(
    part=WORD,
    shape=st.sampled_from([(64, 64), (64,), (64, 2), (2, 3, 4)]),
    dtype=st.sampled_from(["BF16", "F32", "I8", "I64", "U8", "BOOL"]),
    kind=st.sampled_from(["pth", "safetensors"]),
)
def test_an_invented_parameter_beside_a_dense_matrix_is_never_silent(
    part: str, shape: tuple[int, ...], dtype: str, kind: str
) -> None:
    """Where nobody says that anything is quantised."""
    parts: Parts = {"l.q.weight": ("BF16", (64, 64)), f"l.q.{part}": (dtype, shape)}
    book = ledger_of(parts, kind=kind)
    try:
        resolve(book)
    except AnamnesisError:
        return
    told = any(f"'l.q.{part}'" in note for note in book.notes)
    flags = dtype == "BOOL" and "mask" in part
    assert told or flags or part == "weight" or is_known(part)


@pytest.mark.parametrize(
    ("module", "noted"),
    [("q_proj_lora", True), ("q_proj_svd", True), ("q_proj_norm", False), ("q_norm", False)],
)
def test_a_module_called_after_a_decoded_layer_is_noted(module: str, noted: bool) -> None:
    method, parts = LAYERS["fp8"]
    layer = {name.replace("m.", "a.q_proj."): entry for name, entry in parts.items()}
    book = ledger_of({**layer, f"a.{module}.weight": ("BF16", (64, 64))}, about(method))
    resolve(book)
    assert [f"'a.{module}.weight'" in note for note in book.notes] == [True] * noted


@given(
    st.lists(
        st.one_of(
            *(st.from_regex(one, fullmatch=True) for one in (_ROTATION, _ROTATED_MODULE)),
            st.sampled_from(sorted(_OF_INPUTS)),
            WORD,
        ),
        min_size=1,
        max_size=4,
    ).map(".".join),
    st.lists(WORD, max_size=2),
)
def test_what_moves_inputs_is_found_among_all_names(name: str, others: list[str]) -> None:
    """A text of all names is searched first, which must not miss any."""
    assert may_move("\n".join([*others, name]) + "\n") or not moves_inputs(name)
