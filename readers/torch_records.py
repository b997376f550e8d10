"""What tensors of a checkpoint are to us: records, checked against the storage they view.

A torch tensor is a strided view of a storage, a run of numbers of one dtype; see
torch/_utils.py `_rebuild_tensor_v2` and torch/serialization.py `_save`, `_legacy_save`
(https://github.com/pytorch/pytorch). Offsets and strides count elements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from anamnesis.errors import FormatError, LimitError
from anamnesis.limits import RANK
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.pickle_vm import Node
from anamnesis.record import record

DIMENSION_LIMIT = 1 << 63

# torch's dtypes by name. Those without a name of ours are recognised and refused.
TORCH_DTYPES: dict[str, str] = {
    "bfloat16": "BF16",
    "bits16": "",
    "bits1x8": "",
    "bits2x4": "",
    "bits4x2": "",
    "bits8": "",
    "bool": "BOOL",
    "complex128": "",
    "complex32": "",
    "complex64": "C64",
    "float16": "F16",
    "float32": "F32",
    "float4_e2m1fn_x2": "",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "qint32": "",
    "qint8": "",
    "quint2x4": "",
    "quint4x2": "",
    "quint8": "",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
    **{f"{sign}int{bits}": "" for sign in ("", "u") for bits in range(1, 8)},
}
# Bytes of an element of the dtypes that are refused; their storages must fit all the same.
_REFUSED_BYTES = {"bits16": 2, "complex128": 16, "complex32": 4, "qint32": 4}

STORAGE_CLASSES: dict[str, str] = {
    "BFloat16Storage": "bfloat16",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "QInt32Storage": "qint32",
    "QInt8Storage": "qint8",
    "QUInt2x4Storage": "quint2x4",
    "QUInt4x2Storage": "quint4x2",
    "QUInt8Storage": "quint8",
    "ShortStorage": "int16",
    "UntypedStorage": "uint8",
}


@cache
def item_bytes(dtype: str) -> int:
    """Bytes of an element of a torch dtype."""
    ours = TORCH_DTYPES[dtype]
    return DTYPES[ours].bits // 8 if ours else _REFUSED_BYTES.get(dtype, 1)


@dataclass(frozen=True, slots=True)
class Storage:
    """`elems` numbers of the torch dtype `dtype`, kept under `key`.

    `start` is where it begins in the bytes kept there, in bytes (old files have storages that are
    a part of another); `dtype` is uint8 for an untyped one, and `untyped` tells it.
    """

    key: str
    dtype: str
    elems: int
    start: int = 0
    untyped: bool = False

    @property
    def nbytes(self) -> int:
        return self.elems * item_bytes(self.dtype)


@record(frozen=True, slots=True)
class TorchTensor:
    """A view of a storage; `nbytes` is the size of its own elements.

    `strides` is None when they are in row-major order. `refused` says why such a tensor is not
    converted, "" when it is.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int = 0
    storage: Storage | None = None
    offset: int = 0
    strides: tuple[int, ...] | None = None
    refused: str = ""


def view(
    where: str, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None
) -> TorchTensor:
    """The tensor of `size` and `stride` at `offset` of a storage; FormatError if it leaves it."""
    if type(storage) is not Storage:
        raise FormatError(f"{where}: a tensor whose storage is no storage")
    dtype = _dtype_of(where, storage, dtype)
    place = (where, storage)
    shape, strides = _integers(place, "size", size), _integers(place, "stride", stride)
    return lay(where, storage, _integer(place, "storage_offset", offset), (shape, strides), dtype)


def lay(
    where: str,
    storage: Storage,
    start: int,
    box: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: str | None = None,
) -> TorchTensor:
    """As `view`, of numbers that are known to be 0 .. 2^63-1; `box` is shape and strides."""
    shape, strides = box
    if dtype is None and not storage.untyped:
        dtype, have = storage.dtype, storage.elems
    else:
        dtype = _dtype_of(where, storage, dtype)
        have = storage.nbytes // item_bytes(dtype)
    if len(shape) != len(strides):
        raise FormatError(f"{_at(where, storage)}: {len(shape)} sizes and {len(strides)} strides")
    elems, reach, kept = _extent(shape, strides)
    if elems < 0:
        raise FormatError(f"{_at(where, storage)}: size: 2^63 elements or more")
    if start + reach > have:
        raise FormatError(
            f"{_at(where, storage)}: size {list(shape)} and stride {list(strides)} at "
            f"storage_offset {start:,} reach element {start + reach:,} of {have:,}"
        )
    nbytes = elems * item_bytes(dtype)
    return TorchTensor(dtype, shape, nbytes, storage, start, kept, _refusal(dtype))


def last_offset(tensor: TorchTensor) -> int:
    """The highest offset at which a tensor of its box is inside of its storage."""
    assert tensor.storage is not None
    shape, strides = tensor.shape, tensor.strides
    reach = math.prod(shape) if strides is None else _extent(shape, strides)[1]
    return tensor.storage.nbytes // item_bytes(tensor.dtype) - reach


def _dtype_of(where: str, storage: Storage, dtype: str | None) -> str:
    if dtype is None:
        if storage.untyped:
            raise FormatError(f"{_at(where, storage)}: an untyped storage and no dtype")
        return storage.dtype
    if not storage.untyped and dtype != storage.dtype:
        raise FormatError(f"{_at(where, storage)}: dtype {dtype} over a storage of {storage.dtype}")
    return dtype


@lru_cache(maxsize=1024)  # a model has few shapes, and may have a million tensors
def _extent(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[int, int, tuple[int, ...] | None]:
    """Elements (-1: 2^63 or more), elements of the storage from the first to the last of them, and
    the strides to keep."""
    reach = elems = extent = 1
    for dimension, step in zip(shape, strides, strict=True):
        if dimension > 1:
            reach += (dimension - 1) * step
        elems *= dimension
        extent *= dimension or 1
    kept = None if _contiguous(shape, strides) else _plain_strides(shape, strides)
    return (elems if extent < DIMENSION_LIMIT else -1), (reach if elems else 0), kept


def _at(where: str, storage: Storage) -> str:
    """A tensor, for messages alone: there may be a million of them."""
    return f"{where}: tensor of storage {storage.key!r:.100}"


@cache
def _refusal(dtype: str) -> str:
    if TORCH_DTYPES[dtype]:
        return ""
    kind = "complex" if dtype.startswith("complex") else "quantised or packed"
    return f"dtype torch.{dtype} ({kind})"


_Place = tuple[str, Storage]


def _integers(place: _Place, what: str, node: Any) -> tuple[int, ...]:
    if type(node) is not Node or node.kind not in ("tuple", "list"):
        raise FormatError(f"{_at(*place)}: {what}: must be a tuple of integers")
    items = node.items
    if len(items) > RANK:
        raise LimitError(
            f"{_at(*place)}: {what}: rank {len(items):,}, the fixed limit is {RANK}",
            limit="rank",
            need=len(items),
            have=RANK,
        )
    for item in items:
        if type(item) is not int or not 0 <= item < DIMENSION_LIMIT:
            _integer(place, what, item)
    return tuple(items)


def _integer(place: _Place, what: str, value: Any) -> int:
    if type(value) is not int:
        kind = type(value).__name__
        raise FormatError(f"{_at(*place)}: {what}: must hold integers, found {kind}")
    if not 0 <= value < DIMENSION_LIMIT:
        shown = value if value.bit_length() < 128 else f"an integer of {value.bit_length()} bits"
        raise FormatError(f"{_at(*place)}: {what}: {shown} is outside 0 .. 2^63-1")
    return value


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements follow one another in row-major order; strides of 1s do not count."""
    if 0 in shape:
        return True
    expected = 1
    for dimension, step in zip(reversed(shape), reversed(strides), strict=True):
        if dimension != 1 and step != expected:
            return False
        expected *= dimension
    return True


def _plain_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides with those of dimensions of 1 set to 0, where torch leaves anything."""
    return tuple(0 if d == 1 else s for d, s in zip(shape, strides, strict=True))
