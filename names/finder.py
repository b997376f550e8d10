"""From Hugging Face names to GGUF's, by the rows of one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from anamnesis.names.arrange import Link
from anamnesis.names.facts import Facts
from anamnesis.names.family import Row

_NUMBER = re.compile(r"\d+")


class Finder:
    """Links of names; `path` and `head` are where the text model and its head are."""

    def __init__(self, rows: Iterable[Row], path: str, head: str) -> None:
        self._by_key: dict[str, list[tuple[Row, re.Pattern[str]]]] = {}
        for row in rows:
            text = row.hf.replace("{m}", path).replace("{h}", head)
            key = _NUMBER.sub("#", re.sub(r"\{[a-z]\}", "#", text))
            matcher = re.compile(_as_regex(text))
            if row.hf:
                self._by_key.setdefault(key, []).append((row, matcher))

    def knows(self, name: str) -> bool:
        """Whether some row has that name."""
        return any(True for _ in self._found(name))

    def links(
        self,
        name: str,
        metadata: Mapping[str, Any],
        prefix: str = "",
        outputs: Sequence[int] = (),
    ) -> Iterator[Link]:
        """The links that begin in a tensor, in the order of its parts.

        `metadata` and `prefix` are as `Facts` has them; `outputs` are the layers that have an
        output of their own, of which `{k}` in a name is the number.
        """
        rows = list(self._found(name))
        if any(row.pattern.hf.join >= 0 for row, _ in rows):  # parts, rather than the whole
            rows = [(row, found) for row, found in rows if row.pattern.hf.join >= 0]
        for row, found in rows:
            if "k" in found:
                number = int(found["k"])
                found = {**found, "i": outputs[number] if number < len(outputs) else number}
            layer = found.get("i") or 0
            gguf = row.gguf.replace("{i}", str(layer))
            yield Link(name, gguf, row.pattern, row.value, Facts(metadata, int(layer), prefix))

    def _found(self, name: str) -> Iterator[tuple[Row, dict[str, Any]]]:
        for row, matcher in self._by_key.get(_NUMBER.sub("#", name), ()):
            match = matcher.fullmatch(name)
            if match is not None:
                yield row, match.groupdict()


def by_numbers(link: Link) -> tuple[int, ...]:
    """Layers and experts by their numbers; the sort keeps the order of all others."""
    return tuple(int(number) for number in _NUMBER.findall(link.hf))


def _as_regex(text: str) -> str:
    parts: Sequence[str] = re.split(r"\{([a-z])\}", text)
    return "".join(
        re.escape(part) if number % 2 == 0 else rf"(?P<{part}>\d+)"
        for number, part in enumerate(parts)
    )
