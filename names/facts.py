"""Sizes that shapes do not tell, out of a GGUF's key/values: heads, groups, widths of heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Metadata = Mapping[str, Any]


class Facts:
    """What the key/values of an architecture say of one layer; 0 is "does not say"."""

    def __init__(self, metadata: Metadata, layer: int = 0, prefix: str = "") -> None:
        """`prefix` of the keys is `general.architecture`, unless another is given."""
        self._metadata = metadata
        self._layer = layer
        self._prefix = prefix or str(metadata.get("general.architecture", ""))

    def __call__(self, name: str) -> int:
        """The size that `name` stands for: a derived one, or the key `ARCH.name`."""
        derived = _DERIVED.get(name)
        return max(0, derived(self)) if derived is not None else self.get(name)

    def get(self, key: str) -> int:
        """The integer at `ARCH.key`; of an array, the layer's. What is no size is not said."""
        value = self._metadata.get(f"{self._prefix}.{key}", 0)
        if isinstance(value, list):
            value = value[self._layer] if self._layer < len(value) else 0
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return max(0, int(value)) if whole else 0

    def lacking(self, name: str) -> tuple[str, ...]:
        """The keys without a size, in full, that `name` is made of, where shapes do not tell it."""
        if name in _SEEN_IN_SHAPES:
            return ()
        asked = _Asked(self._metadata, self._layer, self._prefix)
        asked(name)
        return tuple(f"{self._prefix}.{key}" for key in asked.lacking_keys)

    @property
    def deepstack(self) -> int:
        """How many layers before this one have an output of their own (Qwen3-VL)."""
        flags = self._metadata.get(f"{self._prefix}.is_deepstack_layers", ())
        return sum(map(bool, flags[: self._layer])) if isinstance(flags, list) else 0

    def listed(self, key: str) -> bool:
        """Whether `ARCH.key` is an array, one number a layer."""
        return isinstance(self._metadata.get(f"{self._prefix}.{key}"), list)


class _Asked(Facts):
    """Notes the keys that say nothing where they are asked for."""

    def __init__(self, metadata: Metadata, layer: int, prefix: str) -> None:
        super().__init__(metadata, layer, prefix)
        self.lacking_keys: list[str] = []

    def get(self, key: str) -> int:
        size = super().get(key)
        if not size:
            self.lacking_keys.append(key)
        return size


def _over(a: int, b: int) -> int:
    return a // b if b and a % b == 0 else 0


def _head_count_kv(facts: Facts) -> int:
    return facts.get("attention.head_count_kv") or facts("heads")


def _head_dim(facts: Facts) -> int:
    stated = facts.get("attention.key_length")
    return stated or _over(facts.get("embedding_length"), facts("heads"))


def _key_nope(facts: Facts) -> int:
    length = facts.get("attention.key_length_mla") or facts.get("attention.key_length")
    return length - facts.get("rope.dimension_count")


def _rope_halves(facts: Facts) -> int:
    """2; or 1 in a layer that the counts call one without attention, whose rows were left alone."""
    counts = facts.listed("attention.head_count_kv")
    return 1 if counts and not facts.get("attention.head_count_kv") else 2


# Held against the shape where the file says them.
_SEEN_IN_SHAPES = {"half-head"}
_DERIVED: dict[str, Callable[[Facts], int]] = {
    "experts": lambda f: f.get("expert_count"),
    "head-dim": _head_dim,
    "half-head": lambda f: _over(_head_dim(f), 2),
    "heads": lambda f: f.get("attention.head_count"),
    "heads-kv": _head_count_kv,
    "key-nope": _key_nope,
    "q-per-kv": lambda f: _over(f("heads"), f("heads-kv")),
    "rope-halves": _rope_halves,
    "ssm-groups": lambda f: f.get("ssm.group_count"),
    "ssm-heads": lambda f: f.get("ssm.time_step_rank"),
    "ssm-inner": lambda f: f.get("ssm.inner_size"),
    "ssm-key-dim": lambda f: f.get("ssm.state_size"),
    "ssm-keys": lambda f: 2 * f.get("ssm.group_count") * f.get("ssm.state_size"),
    "ssm-states": lambda f: f.get("ssm.group_count") * f.get("ssm.state_size"),
    "ssm-v-per-k": lambda f: _over(f.get("ssm.time_step_rank"), f.get("ssm.group_count")),
    "ssm-value-dim": lambda f: _over(f.get("ssm.inner_size"), f.get("ssm.time_step_rank")),
    "rotary-pairs": lambda f: f.get("rope.dimension_count") // 2,
    "value-group": lambda f: f("ssm-v-per-k") * f("ssm-value-dim"),
}
