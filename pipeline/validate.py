"""Plain data to frozen structs, with errors that name the key's path and the nearest valid one.

msgspec converts the values; the walk over the keys is ours, because a wrong key should be told
what was likely meant, and a wrong value what is allowed, whatever msgspec's wording is.
A field's `Meta(extra=…)` may hold `form`, the allowed values in words, and `check`, a function
that raises `UsageError` for a value of the right type that cannot be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from anamnesis.errors import UsageError
from anamnesis.words import meant

KeyPath = tuple[str | int, ...]
Marks = Mapping[KeyPath, str]
S = TypeVar("S", bound=Struct)

_NOWHERE: Marks = {}
_NAME = re.compile(r"[\w-]{1,60}")


def dotted(path: KeyPath) -> str:
    """`("inputs", 0)` as `inputs[0]`, with odd names quoted and shortened."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part if _NAME.fullmatch(part) else shown(part)}"
    return text.removeprefix(".") or "the job"


def shown(value: Any) -> str:
    """A value as YAML would show it, on one line and never long."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text):,} characters)"


def at(path: KeyPath, marks: Marks, text: str) -> str:
    """A message that begins with the position of the key, or of the nearest key around it."""
    place = next((marks[p] for n in range(len(path), -1, -1) if (p := path[:n]) in marks), "")
    return ": ".join(
        part for part in (place, dotted(path) if path or not place else "", text) if part
    )


def build(kind: type[S], data: Any, marks: Marks = _NOWHERE) -> S:
    """A `kind` from plain data; raises `UsageError` for the first key or value that is wrong."""
    return cast(S, _section(kind, kind, data, marks, ()))


def require_key(kind: type[Struct], path: KeyPath, marks: Marks = _NOWHERE) -> None:
    """Raise `UsageError` unless `path` names a key or a section of `kind`."""
    level: Any = kind
    for depth, key in enumerate(path):
        fields = _fields(level) if _is_section(level) else {}
        if key not in fields:
            raise UsageError(at(path, marks, _unknown(kind, level, path[: depth + 1])))
        level = fields[str(key)].type


def _section(root: type[Struct], kind: Any, data: Any, marks: Marks, path: KeyPath) -> Struct:
    fields = _fields(kind)
    if not isinstance(data, dict):
        keys = ", ".join(fields)
        text = f"found {shown(data)}; allowed: a mapping with the keys {keys}"
        needed = [name for name, field in fields.items() if field.required]
        if isinstance(data, str) and len(needed) == 1:
            text += f"; write {{{needed[0]}: {shown(data)}}}"
        raise UsageError(at(path, marks, text))
    for key in data:
        if key not in fields:
            here = (*path, key)
            raise UsageError(at(here, marks, _unknown(root, kind, here)))
    values = {}
    for name, field in fields.items():
        here = (*path, name)
        if name not in data:
            if field.required:
                raise UsageError(at(here, marks, "required, and missing"))
        elif _is_section(field.type):
            values[name] = _section(root, field.type, data[name], marks, here)
        else:
            values[name] = _value(field.type, data[name], marks, here)
    return cast(Struct, kind(**values))


def _value(kind: Any, value: Any, marks: Marks, path: KeyPath) -> Any:
    extra = _extra(kind)
    try:
        converted = msgspec.convert(value, kind)
        if "check" in extra and converted is not None:
            extra["check"](converted)
    except msgspec.ValidationError as error:
        item = re.search(r"\$\[(\d+)\](?:\.(\w+))?", str(error))
        if item and isinstance(value, list):
            path, kind = (*path, int(item[1])), _item(kind)
            value = value[int(item[1])]
            if _is_section(kind) and isinstance(value, dict):
                path, kind, value = _wrong_field(kind, value, item[2], marks, path)
        raise UsageError(at(path, marks, _wrong(kind, value))) from None
    except UsageError as error:
        raise UsageError(at(path, marks, str(error))) from None
    return converted


def _wrong_field(
    kind: Any, row: dict[Any, Any], name: str | None, marks: Marks, path: KeyPath
) -> tuple[KeyPath, Any, Any]:
    """Where a mapping in a list has its wrong value, which that is, and what it should be.

    Raises UsageError for a key that is missing or unknown.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in row:
        if key not in fields:
            keys = ", ".join(fields)
            raise UsageError(at((*path, key), marks, f"unknown key; the keys here are {keys}"))
    for key, field in fields.items():
        if field.required and key not in row:
            raise UsageError(at((*path, key), marks, "required, and missing"))
    if name is None:
        return path, kind, row
    return (*path, name), fields[name].type, row[name]


def _item(kind: Any) -> Any:
    """What a list's items are, where it may also be something else."""
    kind = _bare(kind)
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if get_origin(part) is tuple)
    return get_args(kind)[0]


def _wrong(kind: Any, value: Any) -> str:
    text = f"found {shown(value)}; allowed: {_form(kind)}"
    guess = _extra(kind).get("meant")
    if guess and (likely := guess(value)):
        return f"{text}; did you mean {likely}?"
    if isinstance(value, str):
        choices = [choice for choice in _choices(kind) if isinstance(choice, str)]
        if _bare(kind) is bool:
            choices = ["true", "false"]
        if near := " or ".join(meant(value, choices)):
            return f"{text}; did you mean {near}?"
        if get_origin(_bare(kind)) is tuple:
            return f"{text}; write [{shown(value)}]"
    elif isinstance(value, bool | int | float) and _bare(kind) in (str, str | None):
        return f"{text}; quote it to mean text"
    return text


def _unknown(root: Any, kind: Any, path: KeyPath) -> str:
    """Keys beside the wrong one win over equally like ones in other sections."""
    likely = {
        dotted(known): _likeness(str(known[-1]), str(path[-1])) - 0.1 * (known[:-1] != path[:-1])
        for known in _keys(root)
    }
    if near := _best(likely):
        return f"unknown key; did you mean {near}?"
    if _is_section(kind):
        return f"unknown key; the keys here are {', '.join(_fields(kind))}"
    return "unknown key"


def _likeness(known: str, wanted: str) -> float:
    from difflib import SequenceMatcher

    # Known names are short: the cut keeps a hostile one from costing quadratic time.
    return SequenceMatcher(None, known.lower(), wanted[:60].lower()).ratio()


def _best(likely: Mapping[str, float]) -> str | None:
    best = max(likely, key=likely.__getitem__, default=None)
    return best if best is not None and likely[best] >= 0.6 else None


@cache  # evaluating the annotations of all sections takes 2 ms
def _fields(kind: Any) -> dict[str, FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _keys(kind: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    for name, field in _fields(kind).items():
        yield (*path, name)
        if _is_section(field.type):
            yield from _keys(field.type, (*path, name))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(_bare(part) for part in get_args(kind))]  # noqa: UP007
    return kind


def _extra(kind: Any) -> dict[str, Any]:
    """The `extra` of a field's annotations, the outermost winning."""
    if get_origin(kind) is Annotated:
        inner, *metas = get_args(kind)
        found = _extra(inner)
        for meta in metas:
            found |= meta.extra or {}
        return found
    if get_origin(kind) in (Union, UnionType):
        return {k: v for part in get_args(kind) for k, v in _extra(part).items() if k != "form"}
    return {}


def _choices(kind: Any) -> tuple[Any, ...]:
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return tuple(choice for part in get_args(kind) for choice in _choices(part))
    return ()


def _form(kind: Any) -> str:
    """The allowed values in words."""
    if form := _extra(kind).get("form"):
        return str(form)
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(_form(part) for part in get_args(kind))
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list of " + _form(get_args(kind)[0]).replace("a mapping", "mappings")
    if get_origin(kind) is dict:
        return "a mapping"
    if _is_section(kind):
        keys = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        return f"a mapping with the keys {keys}"
    words = {str: "text", int: "a whole number", bool: "true | false", type(None): "null"}
    return words.get(kind, str(kind))
