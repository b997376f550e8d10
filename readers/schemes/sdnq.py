"""SDNQ, SD.Next's quantisation: `X.weight` and `X.scale`; see `kernels/sdnq.py`.

| tensor | stored, of `[out, in]` in groups |
|---|---|
| `X.weight` | U8 `[…]` of packed codes, or the kind's dtype `[out, in]`, `[out, groups, columns]` |
| `X.scale` | F32, F16 or BF16 `[out, groups, 1]`, `[out, 1]` for one a row |
| `X.zero_point` | the same, where codes are unsigned |
| `X.svd_up`, `X.svd_down` | BF16, F16 or F32 `[out, rank]`, `[rank, in]`: a part of low rank |

Of convolutions the kernel's sizes follow the inputs, in codes and in scales: `[out, 1, …]`, or
`[out, groups, 1, …]`. Codes of whole bytes that were made for a quantised product are transposed,
`[in, out]` with scales `[1, out]`, and so are parts of low rank beside any codes.

How many bits packed codes have stands in the configuration alone (`_sdnq_config.py`), and so does
whether a layer was rotated. Sources: PyPI sdnq 0.2.8 quantizer.py (`sdnq_quantize_layer_weight`),
dequantizer.py (`dequantize_weight`), quant_utils.py (`build_hadamard`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._fold import LowRank, folded
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
    "SDNQ's layers, embeddings and convolutions of integers and packed floats of 2 to 8 bits, "
    "int16, uint16, float8, float16, bfloat16 and float32, with or without SVD and rotations"
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
    rows, groups, spatial, transposed = _grid(codes, scale, settings)
    columns, rest = divmod(_count(codes, kind, bits), max(1, rows))
    each = groups * math.prod(spatial)
    size = columns // max(1, each)
    if rest or not rows or size * each != columns:
        raise misfit(codes, f"codes of {kind} for {rows} rows in {groups} groups")
    shape = (rows, groups, size, *spatial) if groups > 1 else (rows, size, *spatial)
    if settings.get("group_size") == -2 and rows == 1:
        raise unsupported(scale, "one scale for a tensor", _IMPLEMENTED)
    if bits >= 8 and codes.shape != (shape[::-1] if transposed else shape):
        raise misfit(codes, f"{codes.dtype} {list(shape[::-1] if transposed else shape)}")
    if bits < 8 and columns % 8:
        raise unsupported(codes, f"rows of {columns}, which are no whole eights", _IMPLEMENTED)
    if scale.dtype != "F32" and ledger.options.rounding == "reference":
        raise unsupported(scale, f"{scale.dtype} scales in reference order", _IMPLEMENTED)
    line = Contiguous(each * SCALE_BITS[scale.dtype])
    across = Strided(bits, max(1, rows * bits // 8))
    components = [
        Component("payload", codes, across if transposed else Contiguous(max(1, columns) * bits)),
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
            "spatial": spatial,
            "transposed": transposed,
            "scale_dtype": scale.dtype,
        },
    )


def _grid(
    codes: Stored, scale: Stored, settings: Mapping[str, Any]
) -> tuple[int, int, tuple[int, ...], bool]:
    """Rows, groups of inputs in a row, a convolution's sizes, and whether codes are transposed."""
    shape = scale.shape
    if len(shape) == 2 and shape[1] == 1:
        return shape[0], 1, (), False
    if len(shape) == 3 and shape[1] > 1 and shape[2] == 1:
        return shape[0], shape[1], (), False
    if len(shape) == 2 and shape[0] == 1 and codes.shape[1:] == shape[1:]:
        if settings.get("quant_conv"):
            what = "transposed codes where convolutions are quantised, of which no shape is left"
            raise unsupported(codes, what, _IMPLEMENTED)
        return shape[1], 1, (), True
    # Those of a transposed convolution begin with 1.
    if 3 <= len(shape) <= 5 and shape[1] == 1 < shape[0]:
        return shape[0], 1, shape[2:], False
    if 4 <= len(shape) <= 6 and shape[2] == 1 < shape[0]:
        return shape[0], shape[1], shape[3:], False
    what = f"scales {list(shape)} (of transposed convolutions, or of an order that is not known)"
    raise unsupported(scale, what, _IMPLEMENTED)


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
    rows, columns = tensor.shape
    low_rank = None
    if up is not None or down is not None:
        up, down = (need(ledger, codes, f"{stem}.{part}") for part in ("svd_up", "svd_down"))
        across = up.shape[1:] == (rows,) and down.shape == (columns, up.shape[0])
        if across and up.shape == (rows, rows) and rows == columns:
            across = settings.get("use_quantized_matmul") is True
        low_rank = LowRank(down, up, across)
    rotation = _rotation(codes, columns, settings) if settings.get("use_hadamard") else 0
    spatial = tensor.params["spatial"]
    if rotation and spatial:
        raise unsupported(codes, "a convolution that is rotated", _IMPLEMENTED)
    if low_rank is not None or rotation:
        sylvester = rotation.bit_length() % 2 == 0  # of no power of 4
        tensor = folded(tensor, low_rank=low_rank, rotation=rotation, sylvester=sylvester)
    return replace(tensor, shape=(rows, columns // math.prod(spatial), *spatial))


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
