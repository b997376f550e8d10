"""What a GGUF says of a model's origin: its name, size, authors, licence, and how to sample.

It comes out of the folder's name, model card and `generation_config.json`, as the `gguf` package
(extra `gguf`) reads them for llama.cpp's converter.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.limits import MiB
from anamnesis.readers.gguf_types import ARRAY, STRING, KeyValue
from anamnesis.words import extra

_MOST = 16 * MiB  # of a model card
_INT32, _FLOAT32 = 5, 6
_FILES = ("README.md", "config.json", "generation_config.json")
_FRAGILE = (
    *(AssertionError, AttributeError, LookupError, OSError),
    *(RecursionError, TypeError, ValueError),
)

Shapes = Iterable[tuple[str, tuple[int, ...]]]


def about(path: str, shapes: Shapes) -> dict[str, KeyValue]:
    """The `general.*` keys of the folder at `path`, whose GGUF has tensors of these shapes.

    A card that cannot be read leaves the folder's name and the size.
    """
    try:
        import gguf
        from yaml import YAMLError
    except ImportError as error:
        raise UnsupportedError(
            f"a GGUF of a model folder needs the `gguf` package: {extra('gguf')}"
        ) from error
    folder = Path(path).resolve()
    total, shared, experts, count = _parameters(shapes)
    with _quiet():
        try:
            found = gguf.Metadata.load(None, folder if _small(folder) else None, None, total)
            return _values(gguf, found, folder, gguf.size_label(total, shared, experts, count))
        except (*_FRAGILE, YAMLError):
            plain = gguf.Metadata()
            return _values(gguf, plain, folder, gguf.size_label(total, shared, experts, count))


def _values(gguf: Any, found: Any, folder: Path, size: str) -> dict[str, KeyValue]:
    found.name = found.name or folder.name
    found.size_label = found.size_label or size
    writer = gguf.GGUFWriter(None, "")
    found.set_gguf_meta_model(writer)
    return {
        key: _value(entry.type, entry.value)
        for key, entry in writer.kv_data[0].items()
        if key != "general.architecture"
    }


def _value(kind: Any, value: Any) -> KeyValue:
    """A key/value of the package as ours; ValueError for one that is not what its type says."""
    if int(kind) != ARRAY:
        if isinstance(value, str) != (int(kind) == STRING):
            raise ValueError(f"{value!r:.100} is not of type {kind}")
        return KeyValue(int(kind), value)
    if all(isinstance(item, str) for item in value):
        return KeyValue(ARRAY, list(value), STRING)
    if all(isinstance(item, int) for item in value):
        return KeyValue(ARRAY, list(value), _INT32)
    return KeyValue(ARRAY, [float(item) for item in value], _FLOAT32)


def _small(folder: Path) -> bool:
    """Whether the files that the package reads whole are of a usual size."""
    sizes = [file.stat().st_size for file in map(folder.joinpath, _FILES) if file.is_file()]
    return all(size <= _MOST for size in sizes)


def _parameters(shapes: Shapes) -> tuple[int, int, int, int]:
    """Numbers of all tensors, of those that are shared, of one expert, and how many there are.

    (`GGUFWriter.get_total_parameter_count`, of the package.)
    """
    total = shared = experts = number = stacks = 0
    for name, shape in shapes:
        elems = math.prod(shape)
        total += elems
        if "_exps." in name and len(shape) > 2:
            count = shape[-2 if ".bias" in name else -3]
            experts += elems // max(1, count)
            number += count
            stacks += 1
        else:
            shared += elems
    return total, shared, experts, round(number / stacks) if stacks else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's warnings on cards that say little."""
    logs = [logging.getLogger(name) for name in ("metadata", "gguf.gguf_writer")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
