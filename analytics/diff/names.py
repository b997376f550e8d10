"""Which tensor of one checkpoint is which of another, and where in a network it stands.

Names that are equal in both come first. What is left is matched through one spelling of names,
where that leaves no choice: those of llama-family models in GGUF (`blk.0.attn_q.weight`) and in
Hugging Face checkpoints (`model.layers.0.self_attn.q_proj.weight`; gguf-py,
`gguf/tensor_mapping.py`), and prefixes that wrappers add. Experts that GGUF stacks in one tensor
match no single ones.

llama.cpp's converter reorders the rows of q and k of architecture `llama` within each head, from
halves to pairs (`LlamaModel.permute`, conversion/llama.py). A pair of which one side is such a GGUF
carries the number of heads, by which the comparison puts the rows back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from anamnesis.readers.base import Tensor
from anamnesis.readers.model import Model

# Of GGUF's block `blk.N.`, and outside of blocks.
_BLOCK = {
    "attn_k": "self_attn.k_proj",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "attn_q": "self_attn.q_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_v": "self_attn.v_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.up_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
}
_OUTSIDE = {"output": "lm_head", "output_norm": "model.norm", "token_embd": "model.embed_tokens"}
_GGUF_BLOCK = re.compile(r"blk\.(\d{1,9})\.(\w+)\.(weight|bias)")
_GGUF_OUTSIDE = re.compile(r"(\w+)\.(weight|bias)")
_WRAPPERS = ("module.", "_orig_mod.", "language_model.", "model.language_model.")
_BARE = ("layers.", "embed_tokens.", "norm.")
# Mixtral's spelling of what others call mlp.
_SPELLINGS = (
    (".block_sparse_moe.", ".mlp."),
    (".w1.", ".gate_proj."),
    (".w2.", ".down_proj."),
    (".w3.", ".up_proj."),
)
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|blk)\.(\d{1,9})\.")
_EXPERT = re.compile(r"\.experts\.\d+\.")
_PERMUTED = re.compile(r"blk\.\d{1,9}\.attn_([qk])\.(?:weight|bias)")


@dataclass(frozen=True, slots=True)
class Pair:
    """Tensors of both sides that are one; a side in GGUF's row order has its number of heads."""

    a: Tensor
    b: Tensor
    heads_a: int = 0
    heads_b: int = 0


@dataclass(frozen=True, slots=True)
class Matched:
    """Pairs in the order of A, names that have no partner, and remarks."""

    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: in `layer` (None: outside of them) as the module `kind`."""

    layer: int | None
    kind: str


def match(a: Model, b: Model, include: Sequence[str], exclude: Sequence[str]) -> Matched:
    """Pair the tensors of two models; shell patterns choose by the name on either side."""
    in_b = {t.name: t for t in b.tensors}
    partner = {t.name: in_b[t.name] for t in a.tensors if t.name in in_b}
    left_a = [t for t in a.tensors if t.name not in partner]
    left_b = [t for t in b.tensors if t.name not in partner]
    spelled_a, spelled_b = _by_spelling(left_a), _by_spelling(left_b)
    for name, tensor in spelled_a.items():
        if name in spelled_b:
            partner[tensor.name] = spelled_b[name]
    taken = {t.name for t in partner.values()}

    def chosen(*names: str) -> bool:
        def fits(patterns: Iterable[str]) -> bool:
            return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

        return fits(include) and not fits(exclude)

    pairs, unsure = [], 0
    for tensor in a.tensors:
        other = partner.get(tensor.name)
        if other is None or not chosen(tensor.name, other.name):
            continue
        heads = [0, 0]
        if tensor.name != other.name:
            heads = [_heads(tensor, a), _heads(other, b)]
            unsure += -1 in heads
        pairs.append(Pair(tensor, other, max(0, heads[0]), max(0, heads[1])))
    notes = []
    if unsure:
        notes.append(
            f"{unsure} tensors of q and k are compared in the order that they are stored in: their "
            "side with GGUF's names may have other rows in a head, and does not say how many heads"
        )
    return Matched(
        tuple(pairs),
        tuple(t.name for t in a.tensors if t.name not in partner and chosen(t.name)),
        tuple(t.name for t in b.tensors if t.name not in taken and chosen(t.name)),
        tuple(notes),
    )


def spelling(name: str) -> str:
    """The one spelling of a tensor's name; what is no llama-family name stays as it is."""
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            rest = name.removeprefix(wrapper)
            name = f"model.{rest}" if wrapper.startswith("model.") else rest
    found = _GGUF_BLOCK.fullmatch(name)
    if found and found[2] in _BLOCK:
        return f"model.layers.{found[1]}.{_BLOCK[found[2]]}.{found[3]}"
    found = _GGUF_OUTSIDE.fullmatch(name)
    if found and found[1] in _OUTSIDE:
        return f"{_OUTSIDE[found[1]]}.{found[2]}"
    if ".block_sparse_moe." in name:
        for theirs, ours in _SPELLINGS:
            name = name.replace(theirs, ours)
    return f"model.{name}" if name.startswith(_BARE) else name


def place(name: str) -> Place:
    """The layer and the module of a tensor, from its name; experts of a layer are one module."""
    name = spelling(name)
    found = _LAYER.search(name)
    if found is None:
        return Place(None, name.removesuffix(".weight"))
    tower = name[: found.start()].removeprefix("model")
    kind = _EXPERT.sub(".experts.", "." + name[found.end() :])[1:].removesuffix(".weight")
    return Place(int(found[1]), f"{tower.strip('.')}: {kind}" if tower else kind)


def _by_spelling(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Tensors by their one spelling; none of those that share it."""
    spelled = [(spelling(t.name), t) for t in tensors]
    counts = Counter(name for name, _ in spelled)
    return {name: tensor for name, tensor in spelled if counts[name] == 1}


def _heads(tensor: Tensor, model: Model) -> int:
    """Heads whose rows are reordered: 0 for none, -1 where the file does not say."""
    found = _PERMUTED.fullmatch(tensor.name)
    if found is None:
        return 0
    metadata: Mapping[str, Any] = model.metadata
    number: Callable[[str], Any] = lambda key: metadata.get(f"llama.attention.{key}")  # noqa: E731
    if metadata.get("general.architecture", "llama") != "llama":
        return 0
    heads = number("head_count")
    if found[1] == "k":
        heads = number("head_count_kv") or heads
    rows = tensor.shape[0] if tensor.shape else 0
    if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
        return -1
    return heads


__all__ = ["Matched", "Pair", "Place", "match", "place", "spelling"]
