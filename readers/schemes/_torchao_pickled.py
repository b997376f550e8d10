"""torchao's tensors in a pickle, in the form that its safetensors files describe them in.

A wrapper `X` of `readers/torch_subclasses.py` has its tensors as `X.NAME`, its class and settings
as the container's values. One around another weight (`LinearActivationQuantizedTensor`, which
quantises activations) is that weight; an `AffineQuantizedTensor` of torchao up to 0.13 keeps codes,
scales and zero points in its `tensor_impl`, whose class says how they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.torch_subclasses import KIND

AFFINE = "AffineQuantizedTensor"
TILED = "Int4TilePackedTo4dTensor"
_AROUND = {"LinearActivationQuantizedTensor": "original_weight_tensor"}
_INSIDE = "tensor_impl"
_TILES = "TensorCoreTiledAQTTensorImpl"
# Class of `tensor_impl` -> the attribute that holds the codes.
_CODES = {
    "PlainAQTTensorImpl": "int_data",
    "Float8AQTTensorImpl": "float8_data",
    _TILES: "packed_weight",
}


@dataclass(slots=True)
class _Wrapper:
    kind: str
    about: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Stored] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pickled:
    """A weight: its class, its settings as torchao's metadata has them, and its tensors by role."""

    name: str
    kind: str
    about: dict[str, Any]
    parts: dict[str, Stored]


def pickled(ledger: Ledger) -> Iterator[Pickled]:
    """The wrappers of a container; raises UnsupportedError for those whose codes are not plain."""
    wrappers = {
        name.removesuffix(f".{KIND}"): _Wrapper(str(kind))
        for name, kind in ledger.container.values.items()
        if name.endswith(f".{KIND}")
    }
    if not wrappers:
        return
    for name, value in ledger.container.values.items():
        owner, _, key = name.rpartition(".")
        if owner in wrappers and key != KIND:
            wrappers[owner].about[key] = _described(value)
    for stored in ledger.free():
        owner, _, key = stored.name.rpartition(".")
        if owner in wrappers:
            wrappers[owner].parts[key] = stored
    for name, one in wrappers.items():
        if name.rpartition(".")[0] not in wrappers:
            yield _weight(ledger, name, one, wrappers)


def _weight(ledger: Ledger, name: str, one: _Wrapper, wrappers: dict[str, _Wrapper]) -> Pickled:
    inner = name
    while one.kind in _AROUND and f"{inner}.{_AROUND[one.kind]}" in wrappers:
        inner = f"{inner}.{_AROUND[one.kind]}"
        one = wrappers[inner]
    about = {"dtype": one.about.get("_dtype"), "shape": one.about.get("_size"), **one.about}
    if one.kind != AFFINE and one.parts:
        return Pickled(name, one.kind, about, one.parts)
    holder = wrappers.get(f"{inner}.{_INSIDE}", one)
    codes = holder.parts.get(_CODES.get(holder.kind, ""))
    if codes is None:
        found = next(iter(holder.parts.values()), None)
        at = where(found) if found else f"{ledger.container.files[0].path}: {name!r:.200}"
        raise UnsupportedError(
            f"{at}: torchao's {one.kind!r:.80} in the layout of {holder.kind!r:.80} is recognised "
            f"and not implemented; implemented are {', '.join(_CODES)}. torchao can dequantise it, "
            "or save it as safetensors"
        )
    if codes.dtype.startswith("F8_") or holder.kind == _TILES:
        about["transposed"] = holder.about.get("transposed", False)
    parts = {
        ("qdata" if stored is codes else role): stored for role, stored in holder.parts.items()
    }
    return Pickled(name, TILED if holder.kind == _TILES else AFFINE, about, parts)


def _described(value: Any) -> Any:
    """A setting as torchao's metadata spells it: lists, and dtypes as objects."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, str) and value.startswith("torch."):
        return {"_type": "torch.dtype", "_data": value.removeprefix("torch.")}
    return value
