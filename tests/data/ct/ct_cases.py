"""The golden cases as tensors of the readers, and a loop that decodes them window by window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from decoding import decoded as decoded
from safetensors.numpy import load_file

from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container, Tensor
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger, Options

FOLDER = Path(__file__).parent
CASES, EXPECTED = FOLDER / "cases.safetensors", load_file(FOLDER / "expected.safetensors")
Entry = tuple[str, tuple[int, ...], bytes]


def _read() -> tuple[dict[str, Any], dict[str, Entry]]:
    data = CASES.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    configs = {name: json.loads(text) for name, text in header.pop("__metadata__").items()}
    entries = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        entries[name] = (entry["dtype"], shape, data[start + begin : start + end])
    return configs, entries


CONFIGS, ENTRIES = _read()
NAMES = sorted(CONFIGS)


def tensor(name: str, rounding: str = "exact", config: Any = None) -> Tensor:
    """A case as the schemes resolve it; `config` in place of its own."""
    whole = open_container(str(CASES), Limits())
    stored = {k: s for k, s in whole.stored.items() if k.startswith(f"{name}.")}
    container = Container(whole.kind, whole.files, stored, {})
    configs = {"config.json": {"quantization_config": CONFIGS[name] if config is None else config}}
    ledger = Ledger(container, configs, Options(rounding=rounding))  # type: ignore[arg-type]
    resolve(ledger)
    (only,) = ledger.tensors.values()
    return only


def expected(name: str, rounding: str = "exact") -> Any:
    """BF16 bits; both roundings are the same where the library's own dtype is not binary16."""
    native = EXPECTED.get(f"{name}.native")
    if native is None or rounding == "exact":
        return EXPECTED[f"{name}.exact"]
    return native.astype(ml_dtypes.bfloat16).view(np.uint16)
