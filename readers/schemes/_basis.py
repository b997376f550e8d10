"""Weights in another basis, by what a configuration says: refused, since no tensor shows it.

A rotated weight is noise without the rotation of its inputs, which some loaders do on the fly.
Tools say so under keys of their own (`rotation_config`, `hadamard_block_size`) or by the name of an
algorithm (Quark's `algo_config: [{name: rotation, …}]`), at any depth. What schemes have undone
(compressed-tensors' `transform_config`, FP-Quant) they have put into `Ledger.undone`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes._stated_gguf import meanings_in_gguf
from anamnesis.readers.schemes._stated_words import is_of_others, is_unknown_format
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.yaml_values import ENDINGS

# Keys and names, in lower case.
_ROTATED = re.compile(r".*(hadamard|rotat|quarot|spinquant).*")
_TRANSFORMS = re.compile(r"transforms?|transform_config")  # parts of a model have others
# What says that numbers lie in another order, which tensors do not show either.
_ORDERED = re.compile(
    r".*(column_?major|endian|interleav|permut|rearrang|revers|shuffl|swizzl|transpos|zig_?zag).*|"
    r"(?!act_)(.*_)?order(_map|ing)?"
)
# What says that codes or scales mean other numbers; fp8's scheme reads GPTQModel's word for it.
_VALUED = re.compile(
    r"(?!weight_scale_semantics$|act|in(put)?_|kv|out(put)?_)(.*_)?"
    r"(companding|complement|codebook|divisor|exponent|formula|inverse|lookup_table|lut|multiplier|"
    r"non_?linear|offset|outliers?|post_?(process|scale)|pre_?(process|scale)|reciprocal|residual|"
    r"semantics|sign|signed)(_.*)?|dequant(_(fn|formula|function))?|"
    r"(weights?_)?(compression|delta|encrypt(ed|ion)|entropy_cod(ed|er|ing)|lora|low_?rank|svd)(_(rank|path))?"
)
_OF_WEIGHTS = re.compile(r".*(basis|preprocess|quant|weight).*")  # in a model's configuration
_POSITIONS = re.compile(r".*(rotary|rope|rotate_half).*")  # of queries and keys, not of weights
_NAMING = re.compile(r".*(algo|basis|kind|method|mode|name|preprocess|transform|type).*")
_ARRANGING = re.compile(r".*(format|layout|mode|order).*")
_ORDERS_READ = ("torchao",)  # whose scheme heeds what its tensors say of their order
_BOOKS_READ = ("aqlm", "exl3", "higgs", "sdnq", "spqr", "squeezellm", "svdquant", "vptq")
_NOTHING = ("", "false", "no", "none", "null")
_SWITCHES = ("enable", "enabled", "is_enabled")
_DEPTH = 32


def check_basis(ledger: Ledger) -> None:
    """Raise UnsupportedError for weights that a configuration says to be in a rotated basis.

    After all schemes: those that know the method have more to say. A GGUF's own keys may say so.
    Beside the stated blocks the
    model's configuration itself may say so, if anything of the model is quantised. What schemes
    have undone counts no more.
    """
    if ledger.container.kind == "gguf":
        quantised = any(tensor.quantised for tensor in ledger.tensors.values())
        path, metadata = ledger.container.files[0].path, ledger.container.metadata
        rotated = list(_in_gguf(metadata))
        _refuse(ledger, "metadata", rotated[0] if rotated and quantised else None)
        for key in (*rotated, *meanings_in_gguf(metadata)):
            ledger.note(
                f"{path}: its metadata {key:.80} speaks of a basis, an order or a meaning of "
                "numbers that is not known here and was not heeded"
            )
        return
    for one in ledger.stated:
        refuse_basis(ledger, str(one), _without(one.block, ledger.undone), stated=True)
    if ledger.stated or any(tensor.quantised for tensor in ledger.tensors.values()):
        config = ledger.configs.get("config.json", {})
        refuse_basis(ledger, "config.json", _without(config, ledger.undone), stated=False)
        named = _named(config, _ROTATED, _OF_WEIGHTS, 0)
        _refuse(ledger, "config.json", next(named, None))
    _note_recipes(ledger)
    _note_orders(ledger)


def _in_gguf(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a GGUF that speak of a rotation, but for those of positions and of caches."""
    for key, value in metadata.items():
        *_, last = parts = key.lower().split(".")
        ordinary = parts[0] == "tokenizer" or is_of_others(last) or last.endswith("_by")
        if ordinary or _is_off(value):
            continue
        named = _names_one(last, value, _ROTATED, _OF_WEIGHTS)
        if named or any(_ROTATED.fullmatch(p) and not _POSITIONS.fullmatch(p) for p in parts):
            yield key


def _note_orders(ledger: Ledger) -> None:
    """Note what a method's block says of other numbers, or of another order: it is not heeded."""
    for one in ledger.stated:
        found = chain(_keys(one.block, _ORDERED, 0), _named(one.block, _ORDERED, _ARRANGING, 0))
        ordered = next(found, None) if one.method not in _ORDERS_READ else None
        valued = next(_keys(one.block, _VALUED, 0), None) if one.method not in _BOOKS_READ else None
        formats = next(_formats(one.block, 0), None) if ordered is None else None
        for path, what in (
            (ordered, "an order of numbers"),
            (valued, "a meaning of numbers"),
            (formats, "a format of numbers"),
        ):
            if path is not None:
                ledger.note(
                    f"{ledger.container.files[0].path}: its {one}: {path:.80} speaks of {what} "
                    "that is not known here and was not heeded; if weights or scales are stored "
                    "in it, what was decoded is not them"
                )


def _formats(value: object, depth: int) -> Iterator[str]:
    """The paths of keys whose texts are formats that nobody is known to have."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if isinstance(inner, str) and is_unknown_format(str(key), inner):
            yield f"{key}: {inner}"
        elif depth < _DEPTH and not is_of_others(str(key)):
            for path in _formats(inner, depth + 1):
                yield f"{key}.{path}"


def _keys(value: object, kind: re.Pattern[str], depth: int) -> Iterator[str]:
    """The paths of keys of this `kind` in a method's block, but for what is switched off."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if "." not in key and kind.fullmatch(key.lower()) and not _is_off(inner):
            yield key
        elif depth < _DEPTH:
            for path in _keys(inner, kind, depth + 1):
                yield f"{key}.{path}"


def _named(
    value: object, kind: re.Pattern[str], naming: re.Pattern[str], depth: int
) -> Iterator[str]:
    """The paths of what has a name of this `kind`, under keys of what is named so."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if _names_one(key, inner, kind, naming):
            yield key
        elif depth < _DEPTH:
            for path in _named(inner, kind, naming, depth + 1):
                yield f"{key}.{path}"


def _note_recipes(ledger: Ledger) -> None:
    """Note YAML of how a model was made that speaks of rotations, where none was undone.

    llm-compressor's recipe.yaml does; compressed-tensors then states them in config.json, where it
    is read. Without that nobody can say whether weights are rotated.
    """
    for name, document in () if ledger.undone else ledger.configs.items():
        path = next(_rotations(document, True, 0), None) if name.endswith(ENDINGS) else None
        if path is not None:
            ledger.note(
                f"{ledger.container.files[0].path}: {name} beside it speaks of a rotation "
                f"({path:.80}), which no other configuration states, and none was undone"
            )


def _without(block: Mapping[str, Any], undone: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A block of a configuration without what was undone, be it all, or blocks inside of it."""
    if any(block is one for one in undone):
        return {}
    return {
        key: _without(value, undone) if isinstance(value, Mapping) else value
        for key, value in block.items()
    }


def refuse_basis(ledger: Ledger, where: str, block: Mapping[str, Any], *, stated: bool) -> None:
    """Raise UnsupportedError for a block that speaks of a rotation.

    `stated` if it is a method's own, not that of the whole model, which has other transforms.
    """
    _refuse(ledger, where, next(_rotations(block, stated, 0), None))


def _refuse(ledger: Ledger, where: str, path: str | None) -> None:
    if path is not None:
        raise UnsupportedError(
            f"{ledger.container.files[0].path}: its {where}: {path:.80}: weights in a rotated "
            "basis are not implemented: without the rotation of their inputs they are noise"
        )


def _rotations(value: object, stated: bool, depth: int) -> Iterator[str]:
    """The paths of what speaks of a rotation; `stated` if that is a method's own block."""
    if depth > _DEPTH:
        return
    if isinstance(value, list):
        for number, item in enumerate(value):
            for path in _rotations(item, stated, depth + 1):
                yield f"{number}.{path}"
        return
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if _is_rotation(key, inner, stated or not depth) or (
            stated and _names_one(key, inner, _ROTATED, _NAMING)
        ):
            yield key
        elif not _is_off(inner):
            for path in _rotations(inner, stated, depth + 1):
                yield f"{key}.{path}"


def _is_rotation(key: str, value: object, whole: bool) -> bool:
    """Whether a key is of a rotation, and its value says that there is one.

    `whole` if the key is of a method or of the whole model, not of some part of it.
    """
    text = key.lower()
    known = _ROTATED.fullmatch(text) or (whole and _TRANSFORMS.fullmatch(text))
    if "." in key or not known or _POSITIONS.fullmatch(text):
        return False  # a name with dots is a tensor's
    if isinstance(value, Mapping):
        value = value.get("config_groups", value)
    return not _is_off(value)


def _names_one(key: str, value: object, kind: re.Pattern[str], naming: re.Pattern[str]) -> bool:
    """Whether a value is a name of this kind, or a list with one, under a key of what is named."""
    texts = value if isinstance(value, list) else [value]
    return "." not in key and naming.fullmatch(key.lower()) is not None and any(
        isinstance(text, str)
        and kind.fullmatch(text[:200].lower()) is not None
        and _POSITIONS.fullmatch(text[:200].lower()) is None
        for text in texts
    )  # fmt: skip


def _is_off(value: object) -> bool:
    """Whether a value says no, or is of settings that all do."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    if isinstance(value, Mapping):
        if any(value.get(key) is False for key in _SWITCHES):
            return True
        return all(_is_off(inner) for inner in value.values())
    return not value


__all__ = ["check_basis", "refuse_basis"]
