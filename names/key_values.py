"""The key/values of a GGUF that is written: kept from a GGUF, or made for other inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anamnesis.errors import UsageError
from anamnesis.limits import Limits
from anamnesis.names.about import about
from anamnesis.names.gguf_config import reads_float
from anamnesis.readers.gguf_fields import read_key_values
from anamnesis.readers.gguf_types import ARRAY, BOOL, FLOAT32, NUMBERS, STRING, KeyValue
from anamnesis.readers.llamafile import open_inside
from anamnesis.readers.model import Model

_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # of llama_ftype
_ALIGNMENT, _SPLIT = "general.alignment", "split."
_UINT32, _INT32, _UINT64, _INT64 = 4, 5, 10, 11
_PLAIN = (bool, int, float, str)
_TYPES = {"string": STRING, **{name: type_id for type_id, (name, _) in NUMBERS.items()}}


def described(
    found: Mapping[str, KeyValue],
    model: Model,
    folder: str,
    dtype: str,
    vectors: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> dict[str, KeyValue]:
    """The key/values of an architecture with those that every file has.

    The files that say who made the model are in `folder`, on this machine. `vectors` are in the
    file besides the tensors of `model`.
    """
    shapes = [(t.name, t.shape) for t in model.tensors]
    shapes += [(name, (len(numbers),)) for name, numbers in vectors]
    return {
        "general.type": KeyValue(STRING, "model"),
        **about(folder, shapes),
        **found,
        "general.file_type": KeyValue(_UINT32, _FILE_TYPES[dtype]),
        "general.quantization_version": KeyValue(_UINT32, 2),
    }


def key_values(model: Model, dtype: str, limits: Limits) -> dict[str, KeyValue]:
    """What describes `model` in a GGUF whose matrices are of `dtype`.

    Of a GGUF, all that it has, in its order; those of its splits are left out.
    """
    found: dict[str, KeyValue] = {}
    if model.container == "gguf":
        with open_inside(model.files[0].path, limits) as file:
            found = read_key_values(file, limits)
        found = {key: value for key, value in found.items() if not key.startswith(_SPLIT)}
    else:
        name = Path(model.path).stem or "model"
        found["general.architecture"] = KeyValue(STRING, "unknown")
        found["general.name"] = KeyValue(STRING, name)
    if any(tensor.quantised for tensor in model.tensors) or model.container != "gguf":
        found["general.file_type"] = KeyValue(_UINT32, _FILE_TYPES[dtype])
        found.pop("general.quantization_version", None)
    return found


def changed(found: Mapping[str, KeyValue], given: Mapping[str, Any]) -> dict[str, KeyValue]:
    """The same with the caller's own, which keep the type of a key that is there.

    A new key's type is the one that llama.cpp reads: bool, string, float32, or uint32 (uint64 where
    it must, int32 or int64 below 0); whole numbers of a list are int32 (or int64). A key that ends
    with `:TYPE` has that type, as GGUF calls it, or is a list of it. Raises UsageError for a value
    that has none, or does not fit, and for keys that say where the data of a file lies.
    """
    out = dict(found)
    for said, value in given.items():
        key, type_id = _with_type(said, out)
        if key == _ALIGNMENT or key.startswith(_SPLIT):
            raise UsageError(f"{key}: is set by what is written, and cannot be given")
        out[key] = _as(key, value, out.get(key)) if type_id is None else _of(type_id, value)
    return out


def _with_type(said: str, there: Mapping[str, KeyValue]) -> tuple[str, int | None]:
    key, colon, name = said.rpartition(":")
    if not colon or said in there:
        return said, None
    if name not in _TYPES:
        raise UsageError(f"{said!r:.100}: {name!r:.50} is no type of GGUF's: {', '.join(_TYPES)}")
    return key, _TYPES[name]


def _of(type_id: int, value: Any) -> KeyValue:
    if isinstance(value, list):
        return KeyValue(ARRAY, value, type_id)
    return KeyValue(type_id, value)


def _as(key: str, value: Any, there: KeyValue | None) -> KeyValue:
    if there is None:
        return _of(_guess(key, value), value)
    if isinstance(value, list) != (there.type_id == ARRAY):
        raise UsageError(f"{key}: found {value!r:.100}; the key is {_kind(there)}")
    if isinstance(value, list):
        return KeyValue(ARRAY, value, there.item_type)
    guessed = _guess(key, value)
    same = guessed == STRING and there.type_id == STRING
    number = guessed != STRING and there.type_id in NUMBERS
    if not same and not number:
        raise UsageError(f"{key}: found {value!r:.100}; the key is {_kind(there)}")
    return KeyValue(there.type_id, value)


def _kind(there: KeyValue) -> str:
    names = {STRING: "text", ARRAY: "a list"}
    return names.get(there.type_id) or NUMBERS[there.type_id][0]


def _guess(key: str, value: Any) -> int:
    """The type of a value, or of the items of a list, that nobody says."""
    items = value if isinstance(value, list) else [value]
    kinds = {next((k for k in _PLAIN if isinstance(item, k)), None) for item in items}
    if kinds <= {str}:
        return STRING
    if kinds == {bool}:
        return BOOL
    if kinds == {int} and not reads_float(key):
        low, high = min(items), max(items)
        if low >= 0 and items is not value:
            return _UINT32 if high < 1 << 32 else _UINT64
        return _INT32 if low >= -(1 << 31) and high < 1 << 31 else _INT64
    if kinds <= {int, float}:
        return FLOAT32
    allowed = "a list of one type" if items is value else "text, a number, true, false, a list"
    raise UsageError(f"{key}: found {value!r:.100}; allowed: {allowed}")
