"""The golden cases as tensors of the readers, and a loop that decodes them window by window."""

from __future__ import annotations

import json
from functools import cache
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
FILES = ("mlx", "metal")


@cache
def header(name: str) -> dict[str, Any]:
    data = (FOLDER / f"{name}.safetensors").read_bytes()
    parsed: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return parsed


CONFIGS: dict[str, Any] = {
    case: (name, json.loads(text))
    for name in FILES
    for case, text in header(f"{name}-cases")["__metadata__"].items()
}


def names(*prefixes: str) -> list[str]:
    return sorted(name for name in CONFIGS if name.startswith(prefixes))


def tensor(case: str, rounding: str = "exact") -> Tensor:
    """A case as the schemes resolve it."""
    file, config = CONFIGS[case]
    whole = open_container(str(FOLDER / f"{file}-cases.safetensors"), Limits())
    stored = {k: s for k, s in whole.stored.items() if k.startswith(f"{case}.")}
    ledger = Ledger(
        Container(whole.kind, whole.files, stored, {}),
        {"config.json": config},
        Options(rounding=rounding),  # type: ignore[arg-type]
    )
    resolve(ledger)
    (only,) = ledger.tensors.values()
    return only


def _array(name: str, key: str) -> Any:
    kinds = {"U8": "|u1", "U16": "<u2", "BF16": "<u2", "F16": "<f2", "F32": "<f4", "U32": "<u4"}
    entry = header(name)[key]
    data = (FOLDER / f"{name}.safetensors").read_bytes()
    begin, end = (8 + int.from_bytes(data[:8], "little") + at for at in entry["data_offsets"])
    return np.frombuffer(data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"])


def expected(case: str, rounding: str = "exact") -> Any:
    """BF16 bits; both roundings are the same where only one is stored."""
    name = f"{CONFIGS[case][0]}-expected"
    key = f"{case}.{rounding}"
    return _array(name, key if key in header(name) else f"{case}.exact")


def parts(case: str) -> dict[str, Any]:
    """A case's stored tensors as arrays, BF16 as uint16."""
    name = f"{CONFIGS[case][0]}-cases"
    keys = [key for key in header(name) if key.startswith(f"{case}.")]
    return {key[len(case) + 1 :]: _array(name, key) for key in keys}
