"""Ledgers of FP8 tensors and their scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from small_models import ledger_of

from anamnesis.readers.base import FileId, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes.base import Ledger, Options
from anamnesis.readers.schemes.fp8 import resolve

FILE = FileId("model-00001-of-00002.safetensors", 1 << 40, 0, 0, 1)
E4M3, F32 = "F8_E4M3", "F32"


def stored(name: str, dtype: str, shape: tuple[int, ...], file: FileId = FILE) -> Stored:
    nbytes = math.prod(shape) * DTYPES[dtype].bits // 8
    return Stored(name, dtype, shape, file, 0, nbytes)


def ledger(
    *tensors: tuple[str, str, tuple[int, ...]],
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    unit: bool = False,
) -> Ledger:
    parts = {name: (dtype, shape) for name, dtype, shape in tensors}
    options = Options(assume_unit_scale=unit)
    return ledger_of(parts, config, metadata=metadata, options=options, file=FILE)


def resolved(*tensors: tuple[str, str, tuple[int, ...]], **more: Any) -> Ledger:
    book = ledger(*tensors, **more)
    resolve(book)
    return book


def free(book: Ledger) -> list[str]:
    return [s.name for s in book.free()]
