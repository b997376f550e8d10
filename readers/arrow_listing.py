"""The list of tensors in the schema of an Arrow dataset, `anamnesis.tensors`.

A JSON list of objects `{"name", "shape", "dtype", "scheme", "shard", "batches"}`, the same in all
files: `shard` counts files from 1, `batches` are the first and the number of a tensor's record
batches there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from anamnesis.errors import AnamnesisError, FormatError
from anamnesis.limits import RANK, SHARDS, Limits
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.strict_json import loads

LISTING = "anamnesis.tensors"
_KEYS = frozenset(("name", "shape", "dtype", "scheme", "shard", "batches"))
_DIMENSION_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the list; `rows` of `width` elements are its shape as a matrix."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    shard: int
    first: int
    count: int

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        return self.shape[-1] if self.shape else 1


@dataclass(frozen=True, slots=True)
class Listing:
    """All tensors of a dataset: by file number, and the file number by name."""

    shards: Mapping[int, Sequence[Entry]]
    shard_of: Mapping[str, int]

    @property
    def parts(self) -> int:
        """How many files there are."""
        return max(self.shards, default=1)


def read_listing(data: bytes, path: str, limits: Limits) -> Listing:
    """Check and read the list in the schema of the file at `path`.

    Raises FormatError or LimitError.
    """
    try:
        return _listing(data, limits)
    except AnamnesisError as error:
        error.args = (f"{path}: schema: {error}",)
        raise


@lru_cache(maxsize=1)
def _listing(data: bytes, limits: Limits) -> Listing:
    """All files of a dataset have the same list: that of the last file is kept."""
    where = LISTING
    listed = loads(data, where, limits)
    if type(listed) is not list:
        raise FormatError(f"{where}: must be a list, found {type(listed).__name__}")
    limits.tensors(len(listed), where)
    shards: dict[int, list[Entry]] = {}
    shard_of: dict[str, int] = {}
    for number, item in enumerate(listed):
        entry = _entry(item, f"{where}[{number}]", limits)
        if entry.name in shard_of:
            raise FormatError(f"{where}: {entry.name!r:.200} is given twice")
        shard_of[entry.name] = entry.shard
        shards.setdefault(entry.shard, []).append(entry)
    return Listing(shards, shard_of)


def _entry(item: Any, where: str, limits: Limits) -> Entry:
    if type(item) is not dict or item.keys() != _KEYS:
        raise FormatError(f"{where}: must be an object of {', '.join(sorted(_KEYS))}")
    name, shape, dtype = item["name"], item["shape"], item["dtype"]
    if type(name) is not str:
        raise FormatError(f"{where}: name: must be a text")
    if type(dtype) is not str or dtype not in DTYPES:
        raise FormatError(f"{where}: dtype: {dtype!r:.80} is none of {', '.join(DTYPES)}")
    if type(shape) is not list:
        raise FormatError(f"{where}: shape: must be a list")
    limits.items(len(shape), f"{where}: shape: rank", RANK)
    extent = 1  # of the dimensions that are not zero: absurd ones are refused beside a zero too
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension < _DIMENSION_LIMIT:
            raise FormatError(f"{where}: shape: {dimension!r:.80} is no dimension")
        extent *= dimension or 1
    if extent >= _DIMENSION_LIMIT:
        raise FormatError(f"{where}: shape: 2^63 elements or more")
    shard = _count(item["shard"], f"{where}: shard")
    limits.items(shard, f"{where}: shard", SHARDS)
    batches = item["batches"]
    if type(batches) is not list or len(batches) != 2:
        raise FormatError(f"{where}: batches: must be [first, count]")
    first, count = (_count(n, f"{where}: batches") for n in batches)
    if shard < 1:
        raise FormatError(f"{where}: shard: counts from 1")
    return Entry(name, tuple(shape), dtype, shard, first, count)


def _count(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value < _DIMENSION_LIMIT:
        raise FormatError(f"{where}: {value!r:.80} is no count")
    return value
