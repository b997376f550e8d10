"""SDNQ, SD.Next's quantisation: `X.weight` and `X.scale`; see `kernels/sdnq.py`.

| tensor | stored, of `[out, in]` in groups |
|---|---|
| `X.weight` | U8 `[…]` of packed codes, or the kind's dtype `[out, in]`, `[out, groups, columns]` |
| `X.scale` | F32, F16 or BF16 `[out, groups, 1]`, `[out, 1]` for one a row |
| `X.zero_point` | the same, where codes are unsigned |
| `X.svd_up`, `X.svd_down` | BF16, F16 or F32 `[out, rank]`, `[rank, in]`: a part of low rank |

How many bits packed codes have stands in the configuration alone (`_sdnq_config.py`), and so does
whether a layer was rotated. Sources: PyPI sdnq 0.2.8 quantizer.py (`sdnq_quantize_layer_weight`),
dequantizer.py (`dequantize_weight`), quant_utils.py (`build_hadamard`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._fold import folded
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._sdnq_config import bits_of_kind, settings_of
from anamnesis.readers.schemes.base import Ledger

_KIND = re.compile(r"u?int[2-8]|float[2-8]_e\dm\dfnu?")
# Kinds that are not packed, and how they are stored: one number for each code.
_WHOLE = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int16": "I16",
    "int8": "I8",
    "uint16": "U16",
    "uint8": "U8",
}
_IMPLEMENTED = (
    "SDNQ's linear layers and embeddings of integers and packed floats of 2 to 8 bits, int16, "
    "uint16, float8, float16, bfloat16 and float32, with or without SVD and rotations"
)
_CODES = ("BOOL", "I16", "I32", "I64", "I8", "U16", "U32", "U8")
_FLOATS = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")  # codes only where the kind says so
# Of scales that are quantised themselves.
_TWICE = ("scale_2", "scale_zero_point", "zero_point_scale", "zero_point_2")
_ROTATED = (
    "SDNQ's rotated weights were rotated back in float32; what rounding the rotated weight to "
    "codes has lost is spread over a group"
)


def resolve(ledger: Ledger) -> None:
    """Claim what a configuration of SDNQ speaks of.

    Raises FormatError for parts that do not fit one another, UnsupportedError for kinds of codes
    and layers that are not implemented.
    """
    stated = next((one for one in ledger.stated if one.method == "sdnq"), None)
    if stated is None:
        return
    for scale in ledger.free():
        stem, dot, part = scale.name.rpartition(".")
        codes = ledger.get(f"{stem}.weight")
        if part != "scale" or not dot or codes is None:
            continue
        if codes.dtype not in _CODES and codes.dtype not in _FLOATS:
            continue
        settings = settings_of(stated.block, codes.name)
        if codes.dtype in _FLOATS and codes.dtype != _WHOLE.get(settings["weights_dtype"]):
            continue
        for name in _TWICE:
            twice = ledger.get(f"{stem}.{name}")
            if twice is not None:
                raise unsupported(twice, "a scale of scales", _IMPLEMENTED)
        if settings.get("use_codebook"):
            raise unsupported(codes, "a codebook", _IMPLEMENTED)
        tensor = _layer(ledger, stem, codes, scale, settings)
        ledger.claim(_undone(ledger, stem, tensor, settings))
        if settings.get("use_hadamard"):
            ledger.note(_ROTATED)
    ledger.undone += [one.block for one in ledger.stated if one.method == "sdnq"]


def _layer(
    ledger: Ledger, stem: str, codes: Stored, scale: Stored, settings: Mapping[str, Any]
) -> Tensor:
    kind = str(settings["weights_dtype"])
    if kind not in _WHOLE and not _KIND.fullmatch(kind):
        raise unsupported(codes, f"weights_dtype {kind!r:.40}", _IMPLEMENTED)
    bits = SCALE_BITS.get(_WHOLE.get(kind, ""), bits_of_kind(kind))
    if scale.dtype not in SCALE_BITS:
        raise misfit(scale, ", ".join(SCALE_BITS))
    grouped = len(scale.shape) == 3 and scale.shape[1] > 1
    if scale.shape[-1:] != (1,) or (len(scale.shape) != 2 and not grouped):
        what = f"scales {list(scale.shape)} (convolutions, or codes that a kernel has transposed)"
        raise unsupported(scale, what, _IMPLEMENTED)
    rows, groups = scale.shape[0], scale.shape[1] if grouped else 1
    columns, rest = divmod(_count(codes, kind, bits), max(1, rows))
    size = columns // groups
    if rest or not rows or size * groups != columns:
        raise misfit(codes, f"codes of {kind} for {rows} rows in {groups} groups")
    shape = (rows, groups, size) if grouped else (rows, columns)
    if settings.get("group_size") == -2 and rows == 1:
        raise unsupported(scale, "one scale for a tensor", _IMPLEMENTED)
    if bits >= 8 and codes.shape != shape:
        raise misfit(codes, f"{codes.dtype} {list(shape)}")
    if columns % 8:
        raise unsupported(codes, f"rows of {columns}, which are no whole eights", _IMPLEMENTED)
    if scale.dtype != "F32" and ledger.options.rounding == "reference":
        raise unsupported(scale, f"{scale.dtype} scales in reference order", _IMPLEMENTED)
    line = Contiguous(groups * SCALE_BITS[scale.dtype])
    components = [
        Component("payload", codes, Contiguous(max(1, columns) * bits)),
        Component("scale", scale, line),
    ]
    if kind.startswith("uint") or kind.endswith("u"):
        zero = need(ledger, codes, f"{stem}.zero_point", f"{kind} has one")
        if (zero.dtype, zero.shape) != (scale.dtype, scale.shape):
            raise misfit(zero, f"{scale.dtype} {list(scale.shape)}")
        components.append(Component("zero_point", zero, line))
    return Tensor(
        name=codes.name,
        shape=(rows, columns),
        scheme="sdnq",
        encoding="sdnq",
        components=tuple(components),
        unit_elems=max(1, columns),
        params={
            "kind": kind,
            "bits": bits,
            "columns": columns,
            "group_size": size,
            "scale_dtype": scale.dtype,
        },
    )


def _count(codes: Stored, kind: str, bits: int) -> int:
    """How many codes are stored; raises FormatError for a shape that is not that of their kind."""
    held = _WHOLE.get(kind, "U8")
    if codes.dtype != held:
        raise misfit(codes, f"{held} codes of {kind}")
    if bits >= 8:
        return math.prod(codes.shape)
    each = {6: 3}.get(bits, bits)
    shape = codes.shape
    fits = len(shape) == 1 if bits in (2, 4) else len(shape) == 2 and shape[1] == each
    if not fits:
        allowed = "U8 [bytes]" if bits in (2, 4) else f"U8 [packs, {each}]"
        raise misfit(codes, f"{allowed} of packed {kind}")
    return codes.nbytes * 8 // bits


def _undone(ledger: Ledger, stem: str, tensor: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """With the part of low rank added, and rotated back."""
    codes = tensor.components[0].stored
    up, down = ledger.get(f"{stem}.svd_up"), ledger.get(f"{stem}.svd_down")
    low_rank = None
    if up is not None or down is not None:
        up, down = (need(ledger, codes, f"{stem}.{part}") for part in ("svd_up", "svd_down"))
        low_rank = down, up
        if up.shape != (tensor.shape[0], *down.shape[:1]):
            raise unsupported(up, "a part of low rank that a kernel has transposed", _IMPLEMENTED)
    rotation = _rotation(codes, tensor.shape[1], settings) if settings.get("use_hadamard") else 0
    if low_rank is None and not rotation:
        return tensor
    sylvester = rotation.bit_length() % 2 == 0  # of no power of 4
    return folded(tensor, low_rank=low_rank, rotation=rotation, sylvester=sylvester)


def _rotation(codes: Stored, columns: int, settings: Mapping[str, Any]) -> int:
    """The columns of a group; 0 for a layer that was too narrow."""
    wanted = settings.get("hadamard_group_size", 256)
    if type(wanted) is not int or wanted < 1:
        raise misfit(codes, f"a hadamard_group_size above 0, not {wanted!r:.40}")
    size = min(columns, wanted)
    size = size if not size & (size - 1) else 1 << size.bit_length()
    while size > 1 and columns % size:
        size //= 2
    return size if size >= 4 else 0
