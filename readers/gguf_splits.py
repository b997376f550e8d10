"""The parts of a split GGUF model: `NAME-00001-of-000NN.gguf` and the keys that go with it.

Rules: https://github.com/ggml-org/llama.cpp, tools/gguf-split and src/llama-model-loader.cpp:
there are `split.count` parts, `split.no` counts them from 0, `split.tensors.count` is the number
of tensors in all; only the first part has the model's own key/values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.limits import SHARDS, Limits
from anamnesis.readers.folder import LocalFolder
from anamnesis.readers.source import is_url
from anamnesis.words import and_more

_PART_NAME = re.compile(r"(?s)(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")


def part_paths(path: str, metadata: Mapping[str, Any], limits: Limits) -> list[str]:
    """The paths of all parts in order, given one part and its key/values; else `[path]`."""
    count = _number(path, metadata, "split.count", 1)
    folder, name = os.path.split(path)
    match = _PART_NAME.fullmatch(name)
    if match is None:
        if count > 1:
            raise FormatError(
                f"{path}: split.count: {count:,}, but the name, which names the other parts, "
                f"is not NAME-00001-of-{count:05}.gguf"
            )
        return [path]
    prefix, named_number, named_count = match[1], int(match[2]), int(match[3])
    if named_count <= 1 and count <= 1:
        return [path]
    limits.items(named_count, f"{path}: parts", SHARDS)
    if named_count != count:
        raise FormatError(
            f"{path}: split.count: {count:,}, but the name says {named_count:,} parts"
        )
    if not 1 <= named_number <= named_count:
        raise FormatError(f"{path}: there is no part {named_number:,} of {named_count:,}")
    names = [f"{prefix}-{n:05}-of-{named_count:05}.gguf" for n in range(1, named_count + 1)]
    # Behind a URL a missing part shows when it is opened.
    missing = [n for n in names if not is_url(path) and not os.path.exists(os.path.join(folder, n))]
    if missing:
        more = and_more(len(missing))
        raise FormatError(
            f"{path}: part {missing[0]!r}{more} of {count:,} is missing from its folder"
        )
    if is_url(path):
        return [f"{folder}/{n}" for n in names]
    return [path if n == name else LocalFolder(folder, limits.allow).join(n) for n in names]


def check_part(path: str, number: int, count: int, metadata: Mapping[str, Any]) -> None:
    """Raise FormatError unless a part says that it is part `number` (from 0) of `count`."""
    for key, expected in (("split.count", count), ("split.no", number)):
        found = _number(path, metadata, key, -1)
        if found != expected:
            said = "missing" if found < 0 else f"{found:,}"
            raise FormatError(f"{path}: {key}: {said}; by the file's name it is {expected:,}")


def check_total(path: str, found: int, metadata: Mapping[str, Any]) -> None:
    """Raise FormatError unless the first part's count of all tensors, if it has one, is right."""
    declared = _number(path, metadata, "split.tensors.count", found)
    if declared != found:
        raise FormatError(
            f"{path}: split.tensors.count: {declared:,}, but the parts hold {found:,} tensors"
        )


def _number(path: str, metadata: Mapping[str, Any], key: str, default: int) -> int:
    value = metadata.get(key, default)
    if type(value) is not int:
        raise FormatError(f"{path}: {key}: must be an integer, found {value!r:.80}")
    return value
