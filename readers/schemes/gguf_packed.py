"""Blocks of ggml's types in other containers: GPTQModel's `X.qweight`, U8 `[out, bytes of a row]`.

The type is the configuration's alone, `bits` and `format` (4 and `q_k_m` are Q4_K). Inputs are
filled up to whole blocks. Source: GPTQModel 7.7.0 nn_modules/qlinear/gguf.py,
quantization/config.py (`GGUFConfig`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from anamnesis.kernels import ENCODINGS
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, unsupported
from anamnesis.readers.schemes._padding import note_padding
from anamnesis.readers.schemes.base import Ledger

_SUBTYPE = re.compile(r"q_([0-9k])(?:_[sml]|_g128)?")
_DEFAULTS = {1: "0", 2: "0", 4: "k", 5: "k", 6: "k", 8: "0"}


def resolve(ledger: Ledger) -> None:
    """Claim the layers of a configuration whose method is gguf.

    Raises UnsupportedError for a type that GPTQModel does not write, and for types that differ from
    layer to layer, FormatError for rows that are no whole blocks.
    """
    block = next((one.block for one in ledger.stated if one.method == "gguf"), None)
    if block is None:
        return
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".")
        if part == "qweight" and dot and stored.dtype == "U8" and len(stored.shape) == 2:
            ledger.claim(_tensor(ledger, layer, stored, _encoding(stored, block)))


def _encoding(stored: Stored, block: Mapping[str, object]) -> str:
    """The row of the block type; GPTQModel has one for all layers, or patterns of others."""
    bits, subtype = block.get("bits"), block.get("format") or ""
    if block.get("dynamic"):
        raise unsupported(stored, "GGUF's types by patterns of layers (`dynamic`)", "one for all")
    text = str(subtype).lower().replace("-", "_")
    found = _SUBTYPE.fullmatch(text)
    kind = found[1] if found else ""
    if text in ("", "gguf") and type(bits) is int:
        kind = _DEFAULTS.get(bits, "")
    encoding = f"gguf-q{bits}-{kind}"
    if type(bits) is not int or encoding not in ENCODINGS:
        raise unsupported(stored, f"GGUF's type of {bits} bits, {subtype!r}", "ggml's Q types")
    return encoding


def _tensor(ledger: Ledger, layer: str, stored: Stored, encoding: str) -> Tensor:
    row, (outputs, width) = ENCODINGS[encoding], stored.shape
    if width % row.block_bytes:
        raise misfit(stored, f"rows of blocks of {row.block_bytes} bytes, as {encoding} has")
    note_padding(ledger, "GPTQModel's GGUF", row.block_elems)
    return Tensor(
        name=f"{layer}.weight",
        shape=(outputs, width // row.block_bytes * row.block_elems),
        scheme=encoding,
        encoding=encoding,
        components=(Component("payload", stored, Contiguous(8 * row.block_bytes)),),
        unit_elems=row.block_elems,
    )
