"""The key/values of a GGUF that is written: kept from a GGUF, or made for other inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anamnesis.errors import UsageError
from anamnesis.limits import Limits
from anamnesis.names.about import about
from anamnesis.readers.gguf_fields import read_key_values
from anamnesis.readers.gguf_types import ARRAY, NUMBERS, STRING, KeyValue
from anamnesis.readers.llamafile import open_inside
from anamnesis.readers.model import Model

_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # of llama_ftype
_ALIGNMENT, _SPLIT = "general.alignment", "split."
_UINT32, _INT32, _FLOAT32, _BOOL = 4, 5, 6, 7


def described(
    found: Mapping[str, KeyValue],
    model: Model,
    dtype: str,
    vectors: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> dict[str, KeyValue]:
    """The key/values of an architecture with those that every file has.

    `vectors` are in the file besides the tensors of `model`.
    """
    shapes = [(t.name, t.shape) for t in model.tensors]
    shapes += [(name, (len(numbers),)) for name, numbers in vectors]
    return {
        "general.type": KeyValue(STRING, "model"),
        **about(model.path, shapes),
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

    A new key's type is that of the value: bool, int32 (int64 where it must), float32, string, or an
    array of one of these. Raises UsageError for a value that has none, or does not fit, and for
    keys that say where the data of a file lies.
    """
    out = dict(found)
    for key, value in given.items():
        if key == _ALIGNMENT or key.startswith(_SPLIT):
            raise UsageError(f"{key}: is set by what is written, and cannot be given")
        out[key] = _as(key, value, out.get(key))
    return out


def _as(key: str, value: Any, there: KeyValue | None) -> KeyValue:
    if there is not None and isinstance(value, list) != (there.type_id == ARRAY):
        raise UsageError(f"{key}: found {value!r:.100}; the key is {_kind(there)}")
    if isinstance(value, list):
        items = [_as(key, item, None) for item in value]
        kinds = {item.type_id for item in items} or {STRING}
        if there is not None:
            kinds = {there.item_type}
        if len(kinds) != 1 or ARRAY in kinds:
            raise UsageError(f"{key}: found {value!r:.100}; allowed: a list of one type")
        return KeyValue(ARRAY, value, kinds.pop())
    guessed = _guess(key, value)
    if there is None:
        return guessed
    same = guessed.type_id == STRING and there.type_id == STRING
    number = guessed.type_id != STRING and there.type_id in NUMBERS
    if not same and not number:
        raise UsageError(f"{key}: found {value!r:.100}; the key is {_kind(there)}")
    return KeyValue(there.type_id, value)


def _kind(there: KeyValue) -> str:
    names = {STRING: "text", ARRAY: "a list"}
    return names.get(there.type_id) or NUMBERS[there.type_id][0]


def _guess(key: str, value: Any) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(_BOOL, value)
    if isinstance(value, int):
        fits = -(1 << 31) <= value < 1 << 31
        return KeyValue(_INT32 if fits else 11, value)
    if isinstance(value, float):
        return KeyValue(_FLOAT32, value)
    if isinstance(value, str):
        return KeyValue(STRING, value)
    raise UsageError(f"{key}: found {value!r:.100}; allowed: text, a number, true, false, a list")
