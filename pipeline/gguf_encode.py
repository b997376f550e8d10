"""What an encoding takes from a GGUF's key/values, and what it writes there."""

from __future__ import annotations

from collections.abc import Mapping

from anamnesis.pipeline.importance import key_values_of
from anamnesis.pipeline.mixtures import MIXTURES, Facts
from anamnesis.pipeline.policy import FILE_TYPES
from anamnesis.pipeline.targets import Encode, type_of
from anamnesis.readers.gguf_types import KeyValue

_UINT32 = 4
_QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION


def facts_of(found: Mapping[str, KeyValue]) -> Facts:
    """What mixtures ask of a model; 0 layers when its key/values do not say."""
    kind = str(found["general.architecture"].value) if "general.architecture" in found else ""
    layers, experts = (
        _number(found, f"{kind}.{key}") or 0 for key in ("block_count", "expert_count")
    )
    heads = _number(found, f"{kind}.attention.head_count") or 0
    values = _number(found, f"{kind}.attention.head_count_kv")
    values = heads if values is None else values
    shared = heads // values if values > 0 else 0
    # Llama of 65 billion has as many values as heads.
    large = layers == 80 and (kind in ("deci", "qwen2") or (kind == "llama" and shared != 1))
    return Facts(layers, experts, large=large, shared=shared, falcon=kind == "falcon")


def _number(found: Mapping[str, KeyValue], key: str) -> int | None:
    """The number of a key, or of a list of numbers the first, that of layer 0."""
    value = found[key].value if key in found else None
    if isinstance(value, list) and value:
        value = value[0]
    return value if type(value) is int else None


def encoded_as(encode: Encode) -> dict[str, KeyValue]:
    """The key/values that say how most of the weights are stored."""
    if encode.mixture:
        number = MIXTURES[encode.mixture].file_type
    else:
        targets = [encode.target] if encode.target else [rule.target for rule in encode.rules]
        types = [type_of(target) for target in targets]
        number = FILE_TYPES[types[0]]
    found = {
        "general.file_type": KeyValue(_UINT32, number),
        "general.quantization_version": KeyValue(_UINT32, _QUANTIZATION_VERSION),
    }
    return found | (key_values_of(encode.imatrix) if encode.imatrix else {})
