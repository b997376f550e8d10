"""What a configuration says was not quantised: evidence for dense tensors, and held against others.

| where | entries |
|---|---|
| `LEFT_ALONE`, lists of a block | names of modules or tensors, parts of these, patterns, `re:` |
| GPTQModel's `dynamic` | keys that begin with `-:`, each a regular expression |
| `lm_head`, and names with dots, of any block | `false` (MLX), `FLOAT` (ModelSlim) |
| AutoRound's `extra_config` | names whose `bits` are 16 or more |

Expressions are run as their tools do, from the beginning of a module's name on, if they take no
time (`_patterns`). A layer that is left alone by the configuration, and stored as complete codes,
has two readings: the tools' loaders make a dense layer of it, find no weight, and leave it
at random numbers or fail. So the codes are decoded, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import translate
from typing import Any

from anamnesis.readers.schemes._errors import first_of, where
from anamnesis.readers.schemes._patterns import LONGEST, compiled, cost, literal
from anamnesis.readers.schemes.base import Ledger

# Keys of a quantisation block that list what was left alone, over all tools.
LEFT_ALONE = (
    *("exclude", "exclude_modules", "excluded_layers", "ignore", "ignored_layers"),
    *("linear_weights_not_to_quantize", "llm_int8_skip_modules", "modules_to_not_convert"),
    *("modules_to_not_quantize",),
)
_DYNAMIC, _NOT = "dynamic", "-:"
_LAYERS, _WIDE = "extra_config", 16
_SHELL = set("*?[")
_LONGEST_SHELL = 512
_DEPTH = 32  # as deep as JSON is read
_MOST_STEPS = 10**10  # as the worst patterns take them; others need a hundredth


class LeftAlone:
    """The modules that the blocks of a configuration say were not quantised.

    `unknown` are expressions that are not run.
    """

    def __init__(self, blocks: Iterable[Mapping[str, Any]]) -> None:
        self.unknown: list[str] = []
        self._names: set[str] = set()
        self._expressions: list[re.Pattern[str]] = []  # from the beginning of a module's name
        self._shell: list[re.Pattern[str]] = []  # whole names of modules and of what holds them
        for entry in dict.fromkeys(entry for block in blocks for entry in _entries(block)):
            self._add(entry)

    def __bool__(self) -> bool:
        return bool(self._names or self._expressions or self._shell)

    def steps(self, letters: int) -> int:
        """What a name of so many letters takes, at most; never 0."""
        expressions = sum(cost(one.pattern, letters) for one in self._expressions)
        return 1 + expressions + len(self._shell) * letters * letters

    def _add(self, entry: str) -> None:
        kind, _, pattern = entry.partition(":") if entry[:3] == "re:" else ("", "", entry)
        if not kind and not set(entry) & _SHELL:
            self._names.add(entry)
        elif not kind and len(entry) <= _LONGEST_SHELL:
            self._shell.append(re.compile(translate(entry)))
        elif text := literal(pattern):
            self._names.add(text)
        elif (expression := compiled(pattern)) is not None:
            self._expressions.append(expression)
        else:
            self.unknown.append(entry)

    def has(self, name: str) -> bool:
        """Whether the tensor `name` is of such a module, expressions not counted.

        Those that fit more than was meant are common (`re:.*gate`), and this is evidence that
        integers are no codes.
        """
        parts = name.split(".")
        paths = {".".join(parts[: at + 1]) for at in range(len(parts))}
        if self._names.intersection(paths) or self._names.intersection(parts):
            return True
        return any(shell.match(path) for shell in self._shell for path in paths)

    def lists(self, name: str) -> bool:
        """Whether the tensor `name` is of such a module, expressions counted."""
        module = name.rpartition(".")[0] if len(name) <= LONGEST else ""
        return self.has(name) or any(e.match(module) for e in self._expressions if module)


def left_alone(ledger: Ledger) -> LeftAlone:
    """What the blocks of the stated methods say; where none is stated, any block that has a list.

    There, a method may be stated in words that no tool is known for (`_hints`).
    """
    if ledger.stated:
        return LeftAlone(one.block for one in ledger.stated)
    return LeftAlone(_blocks(list(ledger.configs.values()), 0))


def _blocks(value: object, depth: int) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if any(key in value for key in LEFT_ALONE):
            yield {key: value.get(key) for key in LEFT_ALONE}
        value = list(value.values())
    for one in value if isinstance(value, list) and depth < _DEPTH else ():
        if isinstance(one, (Mapping, list)):
            yield from _blocks(one, depth + 1)


def _entries(block: Mapping[str, Any]) -> Iterator[str]:
    for key in LEFT_ALONE:
        listed = block.get(key)
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, str) and entry:
                yield entry
    rules = block.get(_DYNAMIC)
    for entry in rules if isinstance(rules, Mapping) else ():
        if entry.startswith(_NOT):
            yield f"re:{entry.removeprefix(_NOT)}"
    for name, value in block.items():
        if (value is False or value == "FLOAT") and ("." in name or name == "lm_head"):
            yield name
    layers = block.get(_LAYERS)
    for name, own in layers.items() if isinstance(layers, Mapping) else ():
        bits = own.get("bits") if isinstance(own, Mapping) else None
        if type(bits) is int and bits >= _WIDE:
            yield name


def note_left_alone(ledger: Ledger) -> None:
    """Add a note on decoded layers that the configuration lists as left alone."""
    alone = LeftAlone(one.block for one in ledger.stated)
    decoded = [tensor for tensor in ledger.tensors.values() if tensor.quantised]
    if not decoded or not (alone or alone.unknown):
        return
    letters = min(LONGEST, max(len(tensor.name) for tensor in decoded))
    checked = decoded[: _MOST_STEPS // alone.steps(letters)]
    found = [tensor for tensor in checked if alone.lists(tensor.name)]
    if found:
        ledger.note(
            f"{first_of(found)}: the configuration lists it as left alone, and it is stored as "
            "complete codes, which were decoded; loaders that follow the list find no weight"
        )
    if alone.unknown or len(checked) < len(decoded):
        what = f"the pattern {alone.unknown[0]!r:.80}" if alone.unknown else "its patterns"
        ledger.note(
            f"{where(decoded[0].components[0].stored)}: {what} of what the configuration left "
            "alone was not run for every layer: what is stored as codes is decoded, listed or not"
        )
