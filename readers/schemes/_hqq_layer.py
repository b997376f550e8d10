"""What HQQ stores beside the codes of a layer: small tensors, or plain values in a pickle.

`encode_safetensor_type` of hqq/core/utils.py makes tensors of everything: integers are I32 `[]`,
truth values U8 `[]`, text (packing, dtypes) U8 `[characters]`, the shape I64 `[2]`. `qmodel.pt`,
which hqq itself writes, has Python's own values instead, in a dict `meta` for old versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.files import Files
from anamnesis.readers.raw import open_raw
from anamnesis.readers.schemes._errors import missing, where
from anamnesis.readers.schemes._hqq_coded import Coded, read_coded
from anamnesis.readers.schemes.base import Ledger

# By name, how each is stored: i an integer, b a truth value, t text, s a shape.
SINQ_SIDECAR = "model.safetensors.index.json.meta.json"  # in which SINQ speaks of its layers
FIELDS = {
    "axis": "i",
    "channel_wise": "b",
    "compute_dtype": "t",
    "encoded_state_dict": "b",
    "group_size": "i",
    "nbits": "n",  # 1.58 is a float
    "offload_meta": "b",
    "optimize": "b",
    "packing": "t",
    "quant_scale": "b",
    "quant_zero": "b",
    "round_zero": "b",
    "shape": "s",
    "stores_quant_config": "b",
    "unpack_view_dtype": "t",
    "view_as_float": "b",
}
_DTYPES = {"i": ("I32", "I64"), "b": ("U8", "BOOL"), "t": ("U8",), "s": ("I64", "I32")}
_SIDES = ("scale", "zero")
_LONGEST = 64  # bytes of a field
_PACKINGS = {"8bit_u8": 8, "4bit_u8": 4, "3bit_32": 3, "2bit_u8": 2, "1bit_u8": 1}
_BITS = {8: 8, 6: 8, 5: 8, 4: 4, 3: 3, 2: 2, 1.58: 2, 1: 1}
_COMPUTE = {
    f"{lead}{name}": dtype
    for lead in ("torch.", "")
    for name, dtype in (
        ("bfloat16", "BF16"),
        ("float16", "F16"),
        ("half", "F16"),
        ("float32", "F32"),
        ("float", "F32"),
    )
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's tensors and settings, the latter as the file states them."""

    prefix: str  # with its dot
    codes: Stored
    scale: Stored
    zero: Stored
    bits: int | None  # of the packing; None when nothing says it
    shape: tuple[int, int]
    axis: int | None
    group_size: int | None
    compute_dtype: str
    coded: Mapping[str, Coded] = field(default_factory=dict)  # of scale and zero, those in codes

    def error(self, what: str, stored: Stored | None = None) -> FormatError:
        return FormatError(f"{where(stored or self.codes)}: {what}")


def read_layer(ledger: Ledger, codes: Stored, files: Files) -> tuple[Layer, list[Stored]]:
    """The layer of `codes`, and the tensors that hold its settings.

    Raises FormatError for a part that is missing or makes no sense, UnsupportedError for what HQQ
    can do and this program does not.
    """
    prefix = codes.name.removesuffix("W_q")
    found, fields = _fields(ledger, prefix, files)
    halves = _halves(ledger, prefix)
    if found.get("channel_wise") is False:
        raise _unsupported(codes, "HQQ with one scale for the whole tensor")
    if "packing" in found and found["packing"] is None:
        raise _unsupported(codes, "HQQ without bit packing")
    axis = _integer(codes, found, "axis", (0, 1))
    coded, sides = {}, {}
    for name in _SIDES:
        sides[name] = halves.get(name) or _part(ledger, prefix, name)
        inner = halves.get(f"{name}_q") or _part(ledger, prefix, f"{name}_q")
        if sides[name] is None and inner is not None:
            coded[name] = _coded(ledger, prefix, name, inner)
            sides[name] = coded[name].flat(1 if axis is None else axis)
    scale, zero = sides.values()
    lacks = [prefix + n for n, part in sides.items() if part is None]
    if scale is None or zero is None:
        raise missing(ledger, codes, *lacks, why="HQQ has both")
    if coded and axis is None:
        raise FormatError(f"{where(codes)}: no {prefix}axis beside it, which its groups need")
    if "shape" not in found:
        raise FormatError(f"{where(codes)}: no {prefix}shape beside it, which the output needs")
    layer = Layer(
        prefix,
        codes,
        scale,
        zero,
        _bits(codes, found),
        _shape(codes, found["shape"]),
        axis,
        _integer(codes, found, "group_size", None),
        _compute(codes, found),
        coded,
    )
    return layer, fields


def _coded(ledger: Ledger, prefix: str, name: str, codes: Stored) -> Coded:
    """Scales or zeros that are codes, with the settings that a pickle has of them."""
    step, middle = (_part(ledger, prefix, f"meta_{name}.{part}") for part in _SIDES)
    about: dict[str, Any] = {}
    for lead in (f"{prefix}meta.meta_{name}.", f"{prefix}meta_{name}."):
        values = ledger.container.values
        about |= {k: values[lead + k] for k in ("packing", "nbits") if lead + k in values}
    return read_coded(codes, step, middle, about)


def _halves(ledger: Ledger, prefix: str) -> dict[str, Stored]:
    """What `offload_meta` has stacked: zeros, then scales, or the codes of both."""
    both = _part(ledger, prefix, "zero_scale")
    if both is None:
        return {}
    view = both.view
    in_order = view is None or (view.strides is None and view.rows is None)
    if both.shape[:1] != (2,) or not in_order:
        raise FormatError(f"{where(both)}: allowed is [2, …], zeros and then scales")
    nbytes = both.nbytes // 2
    zero = replace(both, shape=both.shape[1:], nbytes=nbytes)
    scale = replace(zero, offset=both.offset + nbytes)
    end = "_q" if both.dtype == "U8" else ""
    return {f"zero{end}": zero, f"scale{end}": scale}


def _part(ledger: Ledger, prefix: str, name: str) -> Stored | None:
    return ledger.get(f"{prefix}{name}") or ledger.get(f"{prefix}meta.{name}")


def _fields(ledger: Ledger, prefix: str, files: Files) -> tuple[dict[str, Any], list[Stored]]:
    found: dict[str, Any] = {}
    tensors = []
    values = ledger.container.values
    for name, kind in FIELDS.items():
        stored = _part(ledger, prefix, name)
        if stored is not None:
            tensors.append(stored)
            found[name] = _read(stored, kind, files)
            continue
        for key in (f"{prefix}{name}", f"{prefix}meta.{name}"):
            if key in values:
                found[name] = values[key]
    return found, tensors


def _read(stored: Stored, kind: str, files: Files) -> Any:
    """The value that a small tensor holds."""
    if kind == "n":
        kind = "f" if stored.dtype == "F32" else "i"
    allowed = ("F32",) if kind == "f" else _DTYPES[kind]
    count = math.prod(stored.shape)
    least, most = {"s": (1, 8), "t": (1, _LONGEST)}.get(kind, (1, 1))
    if stored.dtype not in allowed or not least <= count <= most:
        raise FormatError(
            f"{where(stored)}: allowed is {least} to {most} of {' or '.join(allowed)}"
        )
    data = np.empty(stored.nbytes, np.uint8)
    open_raw(stored, files(stored.file)).read_into(0, data)
    numbers = data.view(DTYPES[stored.dtype].numpy)
    if kind == "t":
        return data.tobytes().decode("ascii", "replace")
    if kind == "s":
        return tuple(int(n) for n in numbers)
    if kind == "f":
        return round(float(numbers[0]), 3)
    return int(numbers[0]) if kind == "i" else bool(numbers[0])


def _bits(codes: Stored, found: dict[str, Any]) -> int | None:
    packing, nbits = found.get("packing"), found.get("nbits")
    if packing is not None:
        if not isinstance(packing, str) or packing not in _PACKINGS:
            raise _misfit(codes, "packing", packing, ", ".join(_PACKINGS))
        return _PACKINGS[packing]
    if nbits is not None:
        if not isinstance(nbits, (int, float)) or nbits not in _BITS:
            raise _misfit(codes, "nbits", nbits, ", ".join(map(str, _BITS)))
        return _BITS[nbits]
    return None


def _shape(codes: Stored, shape: Any) -> tuple[int, int]:
    whole = isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)
    if not whole or len(shape) != 2:
        raise _misfit(codes, "shape", shape, "two numbers above 0")
    return shape[0], shape[1]


def _integer(
    codes: Stored, found: dict[str, Any], name: str, allowed: tuple[int, ...] | None
) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if type(value) is not int or (value not in allowed if allowed else value <= 0):
        raise _misfit(codes, name, value, " or ".join(map(str, allowed or ("above 0",))))
    return value


def _compute(codes: Stored, found: dict[str, Any]) -> str:
    value = found.get("compute_dtype", "torch.float16")  # as Quantizer.dequantize takes it
    if not isinstance(value, str) or value not in _COMPUTE:
        raise _misfit(codes, "compute_dtype", value, "bfloat16, float16 or float32")
    return _COMPUTE[value]


def _misfit(codes: Stored, name: str, value: Any, allowed: str) -> FormatError:
    return FormatError(f"{where(codes)}: its {name} is {value!r:.60}; allowed is {allowed}")


def _unsupported(codes: Stored, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{where(codes)}: {what} is recognised and not implemented; implemented is HQQ of 1, 2, 3, "
        "4 and 8 bits with scales and zeros of groups, plain or of 8 bits"
    )
