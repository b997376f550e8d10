"""The quant state of a bitsandbytes four-bit tensor: a small JSON object kept as a `U8` tensor.

Source: bitsandbytes 0.50.2, `functional.QuantState.as_dict` and `utils.pack_dict_to_tensor`
(https://github.com/bitsandbytes-foundation/bitsandbytes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.limits import RANK, KiB, Limits
from anamnesis.readers.base import Stored
from anamnesis.readers.files import Files
from anamnesis.readers.strict_json import loads

STATE_BYTES = 64 * KiB  # bitsandbytes writes about 80 to 180
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
QUANT_TYPES = ("nf4", "fp4")
DTYPES = ("bfloat16", "float16", "float32")

_PLAIN = ("quant_type", "blocksize", "dtype", "shape")
_NESTED = ("nested_blocksize", "nested_dtype", "nested_offset")


@dataclass(frozen=True, slots=True)
class QuantState:
    """`shape` in elements; `dtype` is what the library returns; the rest is of `absmax`."""

    quant_type: str
    blocksize: int
    dtype: str
    shape: tuple[int, ...]
    nested_blocksize: int = 0  # 0: absmax is stored as numbers
    nested_offset: float = 0.0

    @property
    def elems(self) -> int:
        return math.prod(self.shape)

    @property
    def blocks(self) -> int:
        return -(-self.elems // self.blocksize)


def read_state(stored: Stored, quant_type: str | None, files: Files) -> QuantState:
    """Read and check a quant state; `quant_type` is what the tensor's name says, if it does.

    Raises FormatError, UnsupportedError for a setting that is not implemented, and LimitError
    for a state of more than `STATE_BYTES`.
    """
    where = f"{stored.file.path}: tensor {stored.name!r}"
    if stored.dtype != "U8":
        raise FormatError(f"{where}: a quant state of dtype {stored.dtype}; allowed is U8")
    limits = Limits()
    limits.alloc(stored.nbytes, f"{where}: quant state", STATE_BYTES)
    text = files(stored.file).read(stored.offset, stored.nbytes)
    found = loads(text, where, limits, python=True)
    if not isinstance(found, dict):
        raise FormatError(f"{where}: found JSON {type(found).__name__}; allowed is an object")
    unknown = sorted(set(found).difference(_PLAIN, _NESTED))
    if unknown:
        raise UnsupportedError(
            f"{where}: unknown field {unknown[0]!r:.100}; implemented are "
            f"{', '.join(_PLAIN + _NESTED)}"
        )
    state = QuantState(
        quant_type=_one_of(
            where, found, "quant_type", (quant_type,) if quant_type else QUANT_TYPES
        ),
        blocksize=_one_of(where, found, "blocksize", BLOCK_SIZES),
        dtype=_one_of(where, found, "dtype", DTYPES),
        shape=_shape(where, found),
    )
    if not set(found).intersection(_NESTED):
        return state
    _one_of(where, found, "nested_dtype", ("float32",))
    return QuantState(
        state.quant_type,
        state.blocksize,
        state.dtype,
        state.shape,
        nested_blocksize=_one_of(where, found, "nested_blocksize", BLOCK_SIZES),
        nested_offset=_offset(where, found),
    )


def _one_of(where: str, state: Mapping[str, Any], field: str, allowed: tuple[Any, ...]) -> Any:
    value = _get(where, state, field)
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        choices = ", ".join(str(choice) for choice in allowed)
        raise FormatError(f"{where}: {field}: found {value!r:.100}; allowed: {choices}")
    return value


def _shape(where: str, state: Mapping[str, Any]) -> tuple[int, ...]:
    value = _get(where, state, "shape")
    sizes = value if isinstance(value, list) and len(value) <= RANK else []
    counts = all(type(size) is int and 0 <= size < 1 << 63 for size in sizes)
    if sizes and counts and math.prod(sizes) < 1 << 63:
        return tuple(sizes)
    raise FormatError(
        f"{where}: shape: found {value!r:.100}; allowed are 1 to {RANK} sizes and fewer than "
        "2**63 elements"
    )


def _offset(where: str, state: Mapping[str, Any]) -> float:
    value = _get(where, state, "nested_offset")
    # A weight with infinities has a mean that is none, which the library writes as Python does.
    if type(value) in (int, float) and (abs(value) <= 3.4028234663852886e38 or value - value != 0):
        return float(value)
    raise FormatError(f"{where}: nested_offset: found {value!r:.100}; allowed is a float32 number")


def _get(where: str, state: Mapping[str, Any], field: str) -> Any:
    if field not in state:
        raise FormatError(f"{where}: {field}: missing; found {', '.join(sorted(state))[:200]}")
    return state[field]
