"""Small models for tests: ledgers of stored tensors that no file holds, and values as BF16 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from anamnesis.readers.base import Container, FileId, Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger, Options

Parts = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name
FILE = FileId("model.safetensors", 1 << 30, 0, 0, 0)


def ledger_of(
    parts: Parts,
    config: Any = None,
    *,
    prefix: str = "",
    file: FileId = FILE,
    configs: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    kind: str = "safetensors",
    options: Options | None = None,
) -> Ledger:
    """A ledger of `parts`, names to dtype and shape, all in one file.

    `config` is the `quantization_config` of config.json, `configs` whole documents by file name.
    """
    stored = {
        f"{prefix}{name}": Stored(
            f"{prefix}{name}", dtype, shape, file, 0, math.prod(shape) * DTYPES[dtype].bits // 8
        )
        for name, (dtype, shape) in parts.items()
    }
    if config is not None:
        configs = {"config.json": {"quantization_config": config}}
    container = Container(kind, (file,), stored, metadata or {})
    return Ledger(container, configs or {}, options or Options())


def resolved(parts: Parts, config: Any = None, **more: Any) -> Ledger:
    """The ledger of `parts` as the schemes leave it, who must have taken all of them."""
    ledger = ledger_of(parts, config or None, **more)
    resolve(ledger)
    assert not list(ledger.free())
    return ledger


def bf16(values: Any) -> Any:
    """float32 numbers, rounded to BF16, as uint16 bits."""
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
