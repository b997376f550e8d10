"""The words that rows use for patterns, and what they stand for.

A row's third column is words from this table, with their arguments after a colon, or a pattern
(`names.pattern`) of its own; `names.values` has the words for what is done to each number.
"""

from __future__ import annotations

from anamnesis.names.pattern import IDENTITY, Pattern, parse
from anamnesis.names.values import is_value

# `{}` is the argument. Left is Hugging Face, right is GGUF.
PATTERNS: dict[str, str] = {
    # The kernel of a convolution a channel: `[channels, 1, width]` is stored as a matrix.
    "conv": "c 1 k -> c k",
    # A fused projection whose rows are, for each head, one of q, one of k, one of v.
    "by-head": "(h t d) ... -> (t h d) ...; t=3 h={}",
    # A vector as a column.
    "column": "n -> n 1",
    # Columns of groups, the two numbers of a pair of groups changed for each other.
    "columns": "r (g s d) -> r (s g d); g={} s={} d={}",
    # A matrix an expert, all of them in one matrix, one below the other.
    "experts": "(e r) c -> e r c; e={}",
    "experts-transposed": "(e r) c -> e c r; e={}",
    # A vector of groups as one row a group.
    "grouped": "(g n) -> g n; g={}",
    # Part of a projection whose rows are, for each group, those of several tensors.
    "grouped-part": "(g +s) c -> +(g s) c; g={} s={}",
    "grouped-rows": "(g +s d) ... -> +(g s d) ...; g={} s={} d={}",
    # So many rows of a tensor.
    "part": "+r c -> +r c; r={}",
    # Rotary embeddings turn the two halves of a head's rows in one library, neighbours in the other
    # (`LlamaModel.permute` in https://github.com/ggml-org/llama.cpp, conversion/llama.py). Rows
    # that are no whole heads, where the file says how wide these are, are refused.
    "rope": "(h t d) ... -> (h d t) ...; t=2 d=half-head h={}",
    "rope-attention": "(h t d) ... -> (h d t) ...; t=rope-halves h={}",
    "rows": "(g s d) ... -> (s g d) ...; g={} s={} d={}",
    # The last rows of a tensor, their groups in another order than those before them.
    "tiled-conv": "+(g s d) 1 k -> +(s g d) k; g={} s={} d={}",
    "tiled-part": "+(g s d) ... -> +(s g d) ...; g={} s={} d={}",
    # Of each head, the rotary part, whose neighbours become halves, and the rest.
    "rotary-part": "(h +(d t)) ... -> (h +(t d)) ...; t=2 d=rotary-pairs h={}",
    "unrotary-part": "(h +r) ... -> (h +r) ...; h={}",
    # Matrices that are stored `[in, out]`.
    "transpose": "a b -> b a",
    "transpose-last": "e a b -> e b a",
}


def operation(text: str) -> tuple[Pattern, str]:
    """The pattern and the value operation of a row's third column; ValueError for unknown words."""
    if "->" in text:
        first, _, rest = text.strip().partition(" ")
        return (parse(rest), first) if is_value(first) else (parse(text), "")
    pattern, value = IDENTITY, ""
    for word in text.split():
        if is_value(word):
            value = word
            continue
        name, _, arguments = word.partition(":")
        if name not in PATTERNS:
            raise ValueError(f"{word!r}: is neither a pattern nor a value operation")
        pattern = parse(PATTERNS[name].format(*arguments.split(",")))
    return pattern, value
