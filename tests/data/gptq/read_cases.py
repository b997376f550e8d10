"""The golden cases as tensors of the readers, and a loop that decodes them window by window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from decoding import decoded as decoded

from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container, Tensor
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger, Options

FOLDER = Path(__file__).parent


def header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    parsed: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return parsed


CONFIGS = {
    k: json.loads(v) for k, v in header(FOLDER / "cases.safetensors")["__metadata__"].items()
}


def names(*prefixes: str) -> list[str]:
    return sorted(name for name in CONFIGS if name.startswith(prefixes))


def tensor(name: str, rounding: str = "exact") -> Tensor:
    """A case as the schemes resolve it."""
    whole = open_container(str(FOLDER / "cases.safetensors"), Limits())
    stored = {k: s for k, s in whole.stored.items() if k.startswith(f"{name}.")}
    container = Container(whole.kind, whole.files, stored, {})
    configs = {"config.json": {"quantization_config": CONFIGS[name]}}
    ledger = Ledger(container, configs, Options(rounding=rounding))  # type: ignore[arg-type]
    resolve(ledger)
    (only,) = ledger.tensors.values()
    return only


def expected(name: str, rounding: str = "exact") -> Any:
    """BF16 bits `[out, in]`; both roundings are the same where only one is stored."""
    path = FOLDER / "expected.safetensors"
    entries = header(path)
    key = f"{name}.{rounding}" if f"{name}.{rounding}" in entries else f"{name}.exact"
    begin, end = entries[key]["data_offsets"]
    start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    raw = path.read_bytes()[start + begin : start + end]
    return np.frombuffer(raw, np.uint16).reshape(entries[key]["shape"])


def parts(name: str) -> dict[str, Any]:
    """A case's stored tensors as arrays, BF16 as uint16."""
    kinds = {"I32": "<i4", "I16": "<i2", "I8": "|i1", "F16": "<f2", "F32": "<f4", "BF16": "<u2"}
    path = FOLDER / "cases.safetensors"
    data, entries = path.read_bytes(), header(path)
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for key, entry in entries.items():
        if key.startswith(f"{name}."):
            begin, end = entry["data_offsets"]
            array = np.frombuffer(data[start + begin : start + end], kinds[entry["dtype"]])
            found[key[len(name) + 1 :]] = array.reshape(entry["shape"])
    return found
