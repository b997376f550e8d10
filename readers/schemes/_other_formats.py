"""Number formats that a configuration names, and that the decoded tensors do not have: noted.

Tensors tell most formats apart by themselves, and are followed. A configuration that names another
one is that of another model, or a tool has put numbers into the names of another's: which of both
is wrong nobody can say here, so the user is told.

| stated | held against |
|---|---|
| ModelOpt's `quant_algo`, of the model and of its layers | the schemes of decoded layers |
| bitsandbytes' `bnb_4bit_quant_type` | the table that each layer's own state names |
| `modelopt`, or `compressed-tensors`, alone | which way NVFP4's scale of the tensor goes |
| several methods | those of which anything was decoded |
| zero points of floats (AutoRound's `int_asym_float_zp`) | integers of GPTQ's and AWQ's layers |
| an `adapter` (GPTQModel's EoRA) | nothing: its own loader adds it to what layers give |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes._stated import texts
from anamnesis.readers.schemes.base import Ledger

# What begins the schemes of an algorithm's layers, by how its name begins.
_ALGORITHMS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(w4a16_|w4a8_)?nvfp4"), "nvfp4"),
    (re.compile(r"(w4a16_|w4a8_)?mxfp4"), "mxfp4"),
    (re.compile(r"mxfp8"), "mxfp8"),
    (re.compile(r"fp8"), "fp8-"),
    (re.compile(r"w4a16|w4a8|int4"), "modelopt-int4"),
    (re.compile(r"w8a16|w8a8|int8"), "modelopt-int8"),
)
_WIDE = "w4a8_nvfp4"  # in blocks of 32
_SMALL = ("mxfp4", "mxfp8", "nvfp4")
_TYPES = {"bnb-nf4": "nf4", "bnb-fp4": "fp4"}
_DIRECTIONS = {"modelopt": "multiply", "compressed-tensors": "divide"}
_PACKED = ("awq", "gptq")
_DEPTH = 4


def note_formats(ledger: Ledger, methods: Iterable[str]) -> None:
    """Add a note for each kind of contradiction.

    `methods` are those of the schemes that have decoded anything, in the spelling of `_stated`.
    """
    decoded = [tensor for tensor in ledger.tensors.values() if tensor.quantised]
    if not decoded or not ledger.stated:
        return
    _note_algorithms(ledger, decoded)
    texts = (one.block.get("bnb_4bit_quant_type") for one in ledger.stated)
    kinds = {text for text in texts if isinstance(text, str)}
    other = [t for t in decoded if kinds and _TYPES.get(t.scheme, min(kinds)) not in kinds]
    said = f"bnb_4bit_quant_type {', '.join(sorted(kinds))}"
    _note(ledger, other, f"the configuration says {said}")
    stated = {one.method for one in ledger.stated}
    directions = {_DIRECTIONS.get(method, "") for method in stated}
    if len(directions) == 1 and "" not in directions:
        nvfp4 = [t for t in decoded if t.scheme == "nvfp4" and "global" in t.params]
        other = [t for t in nvfp4 if t.params["global"] not in directions]
        _note(ledger, other, f"its names are not those of {', '.join(sorted(stated))}")
    _note_methods(ledger, set(methods))
    _note_adapter(ledger)
    _note_float_zeros(ledger, decoded)


def _note_float_zeros(ledger: Ledger, decoded: list[Tensor]) -> None:
    """AutoRound's zero points that are no integers, which only GGUF's blocks of it hold.

    https://github.com/intel/auto-round/pull/560 (`int_asym_float_zp`, for Q4_1 and Q5_1).
    """
    for one in ledger.stated:
        named = [text for text in texts(one.block) if "float_zp" in text.lower()]
        packed = [t for t in decoded if t.scheme in _PACKED]
        if named and packed:
            said = f"{one} says {named[0]:.80}, zero points of floats: integers were stored"
            _note(ledger, packed, said)


def _note_algorithms(ledger: Ledger, decoded: list[Tensor]) -> None:
    blocks = [one.block for one in ledger.stated if one.method == "modelopt"]
    named = {text for block in blocks for text in _texts(block, 0)}
    layers = {text for text in named if not text.lower().startswith("mixed")}
    known = {_scheme(text) for text in layers or named}
    if known and "" not in known:
        beginnings = tuple(known)
        other = [t for t in decoded if not t.scheme.startswith(beginnings)]
        if known.intersection(_SMALL):  # of which one for another is noted by `_choices`
            other = [t for t in other if not t.scheme.startswith(_SMALL)]
        _note(ledger, other, f"the configuration says quant_algo {', '.join(sorted(named))}")
    if named and not any(text.lower().startswith(_WIDE) for text in named):
        wide = [t for t in decoded if t.scheme == "nvfp4" and t.params.get("block_elems") == 32]
        said = f"of quant_algo {', '.join(sorted(named))} a scale is of 16 numbers, and here of 32"
        _note(ledger, wide, said)


def _note_methods(ledger: Ledger, used: set[str]) -> None:
    """A method beside the one that was decoded, of which there is nothing: one is too many."""
    stated = {one.method: one for one in ledger.stated if one.method}
    unused = [one for method, one in stated.items() if method not in used]
    if unused and len(unused) < len(stated):
        ledger.note(
            f"{ledger.container.files[0].path}: {unused[0]} states a method too, and no tensor has "
            f"its layout; decoded was what {', '.join(sorted(used & stated.keys()))} means"
        )


def _note_adapter(ledger: Ledger) -> None:
    """Low-rank corrections beside the model, which its loader adds and nothing here merges.

    https://github.com/ModelCloud/GPTQModel gptqmodel/adapter/adapter.py (`Lora.post_init`).
    """
    for one in ledger.stated:
        adapter = one.block.get("adapter")
        if isinstance(adapter, Mapping) and adapter:
            path = str(adapter.get("path"))
            ledger.note(
                f"{ledger.container.files[0].path}: its {one} names an adapter ({path:.80}) that "
                "is added to what the layers give while the model runs; it was not merged"
            )


def _note(ledger: Ledger, found: list[Tensor], said: str) -> None:
    if found:
        ledger.note(f"{first_of(found)}: taken as {found[0].scheme} by its tensors, and {said}")


def _scheme(algorithm: str) -> str:
    """How the schemes of an algorithm begin; "" where any may do."""
    text = algorithm.lower()
    return next((scheme for known, scheme in _ALGORITHMS if known.match(text)), "")


def _texts(value: object, depth: int) -> Iterator[str]:
    """Every `quant_algo` of a block, those of its layers included."""
    for key, one in value.items() if isinstance(value, Mapping) else ():
        if key == "quant_algo" and isinstance(one, str):
            yield one[:200]
        elif depth < _DEPTH:
            yield from _texts(one, depth + 1)


__all__ = ["note_formats"]
