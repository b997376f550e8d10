"""YAML files beside the weights, as trainers and quantisers leave them, to plain values.

They are read for words that speak of quantisation alone, so nothing is constructed: tags and
anchors are passed over, a file with aliases (which grow without bound when followed) is none of
these, and a scalar is a number where it is written as one (https://yaml.org/spec/1.2.2/, 10.3.2).
"""

from __future__ import annotations

import re
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.limits import KiB

MOST_BYTES, MOST_FILES = 32 * KiB, 8  # real ones have a tenth of it
ENDINGS = (".yaml", ".yml")
_DEPTH = 32  # as deep as JSON is read
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


def read_yaml(data: bytes, path: str) -> dict[str, Any]:
    """The mapping that the one document of a file is. Raises FormatError for anything else."""
    import yaml  # noqa: PLC0415 - where there are such files

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not where libyaml is missing

    def plain(node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return {str(key.value): plain(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [plain(one) for one in node.value]
        text, style = str(node.value), getattr(node, "style", None)
        if style is None and _INT.fullmatch(text):
            return int(text)
        return _WORDS.get(text.lower(), text) if style is None else text

    try:
        text, depth = data.decode(), 0
        for token in yaml.parse(text, loader):
            depth += isinstance(token, yaml.CollectionStartEvent)
            depth -= isinstance(token, yaml.CollectionEndEvent)
            if isinstance(token, yaml.AliasEvent) or depth > _DEPTH:
                raise FormatError(f"{path}: has aliases, or is over {_DEPTH} levels deep")
        node = yaml.compose(text, loader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise FormatError(f"{path}: is no YAML: {' '.join(str(error).split()):.200}") from None
    if not isinstance(node, yaml.MappingNode):
        raise FormatError(f"{path}: must be a mapping")
    found: dict[str, Any] = plain(node)
    return found


__all__ = ["ENDINGS", "MOST_BYTES", "read_yaml"]
