"""What `config.json` says of a class of model, as data: rows of keys, constants, words a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anamnesis.readers.model import Model

Change = Callable[[dict[str, Any], Mapping[str, Any], str, Model], None]

# Rows of all classes; `KEY -` in a class's own rows takes one of them out.
ALL = """
hidden_size              embedding_length
intermediate_size        feed_forward_length
num_hidden_layers        block_count
num_attention_heads      attention.head_count
num_key_value_heads      attention.head_count_kv
head_dim                 attention.key_length
max_position_embeddings  context_length
rms_norm_eps             attention.layer_norm_rms_epsilon
rope_theta               rope.freq_base
sliding_window           attention.sliding_window
"""


@dataclass(frozen=True)
class ModelClass:
    """The configuration of a class.

    `rows` are `KEY  GGUF-KEY` (after `ARCHITECTURE.`), one a line; a key with dots lies in blocks.
    `biases` are keys that are true where some tensor's name ends so, in one of several ways; those
    of `config_blocks.USUAL_BIASES` are any class's, where they are true. `kinds` are keys whose
    value is a list, one word a layer: `TENSOR=WORD …`, the first of a layer's tensors, or `*`,
    decides.
    `lacks` is what no file says, and what stands in its place; `missing` what tensors of the class
    no file has; `same_as` is the class of transformers that computes the same, where it has none
    of this name, and `remote` says that it has neither.
    """

    model_type: str
    rows: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    lacks: str = ""
    missing: str = ""
    same_as: str = ""
    remote: bool = False

    @property
    def sources(self) -> dict[str, str]:
        """The GGUF key of each key, those of all classes first."""
        found = dict(line.split() for line in ALL.strip().splitlines())
        found |= dict(line.split() for line in self.rows.splitlines() if line.strip())
        return {key: source for key, source in found.items() if source != "-"}


def decimal(value: Any) -> Any:
    """A float32 as the shortest decimal that means it; anything else as it is."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def set_value(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a key; `a.b` is `b` in the block `a`."""
    *blocks, last = key.split(".")
    for name in blocks:
        config = config.setdefault(name, {})
    config[last] = value


def layers_with(model: Model, tensor: str) -> list[int]:
    """The numbers of the layers that have a tensor."""
    end = f".{tensor}"
    names = (n for n in model.stored if n.startswith("blk.") and n.endswith(end))
    return sorted(int(name.split(".")[1]) for name in names)


def words(model: Model, layers: Iterable[int], text: str) -> list[str]:
    """A word for each layer, by the tensors it has; `text` as in `ModelClass.kinds`."""
    pairs = [pair.split("=") for pair in text.split()]
    have = {tensor: set(layers_with(model, tensor)) for tensor, _ in pairs}
    return [next(w for tensor, w in pairs if tensor == "*" or i in have[tensor]) for i in layers]
