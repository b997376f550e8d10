"""YAML without its surprises: one small document to plain data, with a position for every key.

Only mappings with text keys, lists and scalars; no aliases, anchors, tags or merges. Unquoted
scalars follow the core schema of YAML 1.2.2 (https://yaml.org/spec/1.2.2/, section 10.3.2)
for null, true, false, decimal whole numbers and floats; all else is text, so `NO`, `1:30` and
`010` are what was typed. Everything is refused before it is expanded or constructed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

from anamnesis.errors import AnamnesisError, LimitError, SecurityError, UsageError
from anamnesis.pipeline.validate import KeyPath, at, shown

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 16
MAX_NUMBER_CHARS = 40

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_PYTHON_TAG = re.compile(r"(?:tag:yaml\.org,2002:|!)python[/:]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data, and where each key or list item stands, as `name:line:column`."""

    data: Any
    marks: dict[KeyPath, str]


class StrictLoader(yaml.SafeLoader):
    """A loader that only composes nodes, and refuses the forbidden ones as their events come."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.source = name
        self.path: list[str | int] = []
        self.nodes = 0

    def mark(self, mark: Any) -> str:
        return f"{self.source}:{mark.line + 1}:{mark.column + 1}"

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_key = isinstance(parent, yaml.MappingNode) and index is None
        inner = parent is not None and not is_key
        if inner:
            self.path.append(index if isinstance(index, int) else index.value)
        self._admit(self.peek_event(), is_key)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if inner:
            self.path.pop()
        return node

    def _admit(self, event: Any, is_key: bool) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise LimitError(
                f"{self.source}: holds over {MAX_NODES:,} values; name folders or globs instead",
                limit="job file values",
                need=self.nodes,
                have=MAX_NODES,
            )
        found = ""
        if isinstance(event, yaml.AliasEvent):
            found = f"alias {shown(event.anchor)} is not allowed; write the value out"
        elif event.anchor is not None:
            found = (
                f"anchor {shown(event.anchor)} is not allowed; write the value out where it is used"
            )
        elif event.tag is not None:
            if _PYTHON_TAG.match(event.tag):
                raise SecurityError(
                    self._at(event, f"the tag {shown(event.tag)} asks for code to run")
                )
            found = f"tag {shown(event.tag)} is not allowed; quote a value to make it text"
        elif is_key and not isinstance(event, yaml.ScalarEvent):
            found = "a key must be text"
        elif len(self.path) > MAX_DEPTH:
            found = f"nested over {MAX_DEPTH} levels deep"
        if found:
            raise UsageError(self._at(event, found))

    def _at(self, event: Any, text: str) -> str:
        path = tuple(self.path)
        return at(path, {path: self.mark(event.start_mark)}, text)


def parse(text: str, name: str) -> Document:
    """Parse one document; `name` begins every message.

    Raises `UsageError` for what is not YAML or not allowed here, `SecurityError` for a tag
    of the `python` family, `LimitError` for over `MAX_NODES` values.
    """
    marks: dict[KeyPath, str] = {}
    try:
        loader = StrictLoader(text, name)
        node = loader.get_single_node()
        return Document(None if node is None else _data(node, loader, (), marks), marks)
    except AnamnesisError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        said += "; lines are indented with blanks" if "'\\t'" in said else ""
        raise UsageError(f"{name}{place}: {said[:300]}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        raise UsageError(
            f"{name}:{line}:{column}: the character {chr(int(error.character))!r} is not allowed"
        ) from None
    except (ValueError, OverflowError):  # PyYAML's own, from int() and chr()
        raise UsageError(f"{name}: a \\U escape or a %YAML version is out of range") from None


def read(path: str | os.PathLike[str]) -> Document:
    """Parse the UTF-8 file at `path`, of at most `MAX_BYTES` bytes; `OSError` passes through."""
    name = os.fspath(path)
    with open(path, "rb") as file:
        raw = file.read(MAX_BYTES + 1)
        nbytes = max(len(raw), os.fstat(file.fileno()).st_size)
    # As in the lengths or versions that all containers begin with; UTF-16 has other bytes first.
    if b"\0" in raw[:8] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(
            f"{name}: is no job file, which is text in YAML; a model is recovered by "
            f"`amn remember {name} -o OUT`"
        )
    if len(raw) > MAX_BYTES:
        raise LimitError(
            f"{name}: a job file may hold at most {MAX_BYTES:,} bytes, this one holds more",
            limit="job file bytes",
            need=nbytes,
            have=MAX_BYTES,
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise UsageError(
            f"{name}:{line}:{column}: not UTF-8: byte 0x{raw[error.start]:02x}"
        ) from None
    return parse(text, name)


def _data(node: yaml.Node, loader: StrictLoader, path: KeyPath, marks: dict[KeyPath, str]) -> Any:
    """A node as plain data; its depth was bounded when it was composed."""
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            here = (*path, _text(key, loader, path))
            if key.value in mapping:
                where = {here: loader.mark(key.start_mark)}
                raise UsageError(at(here, where, f"duplicate key; the first is at {marks[here]}"))
            marks[here] = loader.mark(key.start_mark)
            mapping[key.value] = _data(value, loader, here, marks)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            here = (*path, index)
            marks[here] = loader.mark(item.start_mark)
            items.append(_data(item, loader, here, marks))
        return items
    text = _text(node, loader, path)
    unquoted = isinstance(node, yaml.ScalarNode) and node.style is None
    return _plain(text, loader, node, path) if unquoted else text


def _text(node: yaml.Node, loader: StrictLoader, path: KeyPath) -> str:
    text: str = node.value
    if not text.isascii() and _SURROGATE.search(text):
        where = {path: loader.mark(node.start_mark)}
        raise UsageError(at(path, where, "half of a surrogate pair is not text"))
    return text


def _plain(text: str, loader: StrictLoader, node: yaml.Node, path: KeyPath) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    is_int = _INT.fullmatch(text)
    if not is_int and not _FLOAT.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_CHARS:
        where = {path: loader.mark(node.start_mark)}
        found = f"a number of {len(text):,} characters; at most {MAX_NUMBER_CHARS} are allowed"
        raise UsageError(at(path, where, found))
    # float() knows inf and nan without YAML's leading dot.
    return int(text) if is_int else float(re.sub(r"\.(?=[a-zA-Z])", "", text))
