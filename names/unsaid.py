"""Key/values of an architecture that change what a model computes and that `config.json` lacks.

A class has no setting for them, so that transformers would compute something else than llama.cpp.
Whatever nobody asked for while the configuration was made is one, unless llama.cpp's converter
writes it for every model of the class, or it is a size that tensors have too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from anamnesis.names.keys import described
from anamnesis.readers.gguf_types import KeyValue

Found = TypeVar("Found")

# After `ARCHITECTURE.`: sizes, and what no computation takes.
_SIZES = frozenset(
    "attention.head_count attention.head_count_kv attention.key_length attention.value_length "
    "attention.value_length_swa block_count context_length embedding_length "
    "embedding_length_out expert_count expert_feed_forward_length "
    "expert_shared_count expert_shared_feed_forward_length expert_used_count feed_forward_length "
    "n_deepstack_layers nextn_predict_layers rope.dimension_count rope.scaling.finetuned "
    "rope.scaling.original_context_length ssm.conv_kernel ssm.group_count ssm.inner_size "
    "ssm.state_size ssm.time_step_rank tensor_data_layout vocab_size".split()
)


class Asked(Mapping[str, Found]):
    """Key/values, and the keys that somebody asked for."""

    def __init__(self, values: Mapping[str, Found], keys: set[str]) -> None:
        self._values, self.keys_asked = values, keys

    def __getitem__(self, key: str) -> Found:
        self.keys_asked.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def is_not_causal(values: Mapping[str, KeyValue], prefix: str, name: str) -> bool:
    """Whether attention looks both ways in a class that usually looks back alone."""
    said = values.get(f"{prefix}.attention.causal")
    keys = described().get(name)
    usual = keys.sources.get("attention.causal") if keys is not None else ""
    return said is not None and said.value is False and usual in (None, "@not-causal")


def unsaid(
    values: Mapping[str, KeyValue], asked: set[str], prefix: str, name: str
) -> Iterator[str]:
    """A remark on what a file of architecture `prefix` says and the class `name` cannot."""
    keys = described().get(name)
    usual = keys.sources if keys is not None else {}
    found = []
    if is_not_causal(values, prefix, name):
        found.append(f"{prefix}.attention.causal = False")
    for key, value in values.items():
        last = key.removeprefix(f"{prefix}.")
        known = last == key or key in asked or last in usual or last in _SIZES
        if not known and not _is_neutral(last, value.value):
            found.append(f"{key} = {value.value!r:.60}")
    if found:
        yield (
            f"config.json: {name} has no setting for {', '.join(found[:8])}: llama.cpp computes "
            "with it, transformers does not"
        )


def _is_neutral(key: str, value: Any) -> bool:
    """Whether a value says that nothing is done."""
    return not value or (value == 1 and key.endswith(("scale", "_factor")))
