"""The golden cases as tensors of the readers, and a loop that decodes them window by window."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file

from anamnesis.kernels import decoder, preparer
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container, Tensor
from anamnesis.readers.batch import BlockReader, iter_windows
from anamnesis.readers.files import Files
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


def decoded(item: Tensor, units: int = 0, dtype: Any = np.uint16) -> Any:
    """All of a tensor, in windows of `units` units (0: all at once)."""
    files = Files()
    reader = BlockReader(item, files, reuse=True)
    params: Mapping[str, Any] = item.params
    prepare = preparer(item.encoding)
    assert prepare is not None
    params = {**params, **prepare(item.params, reader.wholes())}
    out = np.full(item.elems, 0x7777, dtype)
    for window in iter_windows(item, units or item.units):
        part = out[window.start * item.unit_elems : window.stop * item.unit_elems]
        views = reader.read(window).views
        for view in views.values():
            view.setflags(write=False)
        decoder(item.encoding)(views, params, window, part)
        for view in views.values():
            view.setflags(write=True)
    files.close()
    return out.reshape(item.shape)
