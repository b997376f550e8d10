"""What a GGUF says of a model, out of `config.json`: one row a key, by class of model.

Rows are `GGUF-KEY  SOURCE`, one a line; a later row of a key takes the place of an earlier one. A
key follows `ARCHITECTURE.`; one with `?` behind it is left to the vocabulary where that says it. A
source is one or more choices with `|` between them, of which the first that is there counts:

- `hidden_size`, `ffn_config.moe_top_k`: a number, text, or list of the configuration;
- `4*hidden_size`, `kv_lora_rank+qk_rope_head_dim`: made of several, and of whole numbers;
- `=2048`, `="none"`, `=true`: always that;
- `@name`, `@name:arguments`: a function of `names.sources`;
- `-`: the key is left out.

What is said, and of what, is as llama.cpp's converter has it (conversion/ of
https://github.com/ggml-org/llama.cpp); files of every class here were compared with its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Literal

MODULES = ("dense", "encoder", "gemma", "hybrid", "mixture", "others", "plamo", "qwen", "remote")


@dataclass(frozen=True)
class Keys:
    """The key/values of one or more classes.

    `factors` names the scalings of rotary embeddings that the architecture has tensors for.
    `tokens` are special tokens, by number or by text, where the folder names none of that kind;
    with `!` after the kind, in place of what it names. `vocabulary` is how a `tokenizer.model` is
    read: `added` takes the added tokens of `tokenizer.json` too, `added-spaced` says that a text
    begins with a space as well, `unigram` is T5's, `fairseq` XLM-RoBERTa's. `listed` takes
    `tokenizer.json` alone, without scores, `gemma4` with its merges; `plamo` takes
    `tokenizer.jsonl`, `plamo-chat` with the template of chats. `head` says when the matrix of
    the output is written: `untied` leaves out one that `tie_word_embeddings` calls that of the
    embeddings, `never` any: llama.cpp takes those. `second` is a setting that makes a model one of
    the family's second architecture. `all_matrices` says that no matrix stays in float32.
    """

    classes: tuple[str, ...]
    rows: str
    factors: tuple[str, ...] = ()
    tokens: Mapping[str, int | str] = field(default_factory=dict)
    vocabulary: Literal[
        "", "added", "added-spaced", "gemma4", "listed", "fairseq", "plamo", "plamo-chat", "unigram"
    ] = ""
    head: Literal["", "never", "untied"] = ""
    second: str = ""
    all_matrices: bool = False

    @property
    def sources(self) -> dict[str, str]:
        """Sources by key; those that are left out are not there."""
        return sources_of(self.rows)

    @property
    def usual(self) -> frozenset[str]:
        """Keys that the vocabulary may say something else of."""
        keys = (line.split(None, 1)[0] for line in self.rows.splitlines() if line.strip())
        return frozenset(key.removesuffix("?") for key in keys if key.endswith("?"))


def sources_of(rows: str) -> dict[str, str]:
    """Sources by key, of which later ones count; those that are left out are not there."""
    pairs = (line.split(None, 1) for line in rows.splitlines() if line.strip())
    found = {key.removesuffix("?"): source.strip() for key, source in pairs}
    return {key: source for key, source in found.items() if source != "-"}


@cache
def described() -> Mapping[str, Keys]:
    """The row of every class, sorted by the class's name."""
    found: dict[str, Keys] = {}
    for name in MODULES:
        for keys in import_module(f"anamnesis.names.keys.{name}").KEYS:
            found |= dict.fromkeys(keys.classes, keys)
    return dict(sorted(found.items()))
