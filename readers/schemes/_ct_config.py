"""What compressed-tensors' config says beside the tensors, and what of it makes a file unreadable.

`quantization_config` (older: `compression_config`) has `config_groups`, each with `weights`, a
`format`, and a `version`. The regular expressions in their `targets` and `ignore` are never run.
Source: https://github.com/vllm-project/compressed-tensors quantization/quant_config.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from anamnesis.readers.schemes._modelslim_config import is_modelslim
from anamnesis.readers.schemes._scale_grid import Block, declared_blocks
from anamnesis.readers.schemes.base import Ledger

_DENSE_SINCE = (0, 18)  # https://github.com/vllm-project/compressed-tensors/pull/732
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?!\d)")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force; empty or None where the config says nothing."""

    method: str
    bits: frozenset[int]  # of integer weights, over all groups of layers
    padded: bool | None  # how versions packed 3, 5, 6 and 7 bits
    blocks: list[Block]
    foreign: bool  # the config speaks of another tool's integers


def settings(ledger: Ledger) -> Settings:
    """The config's hints."""
    found = ledger.quantization()
    method = ledger.method()
    groups = found.get("config_groups")
    bits = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and weights.get("type", "int") == "int":
            number = weights.get("num_bits")
            if type(number) is int and 1 <= number <= 8:
                bits.add(number)
    version = found.get("version")
    parts = _VERSION.match(version[:40]) if isinstance(version, str) else None
    padded = (int(parts[1]), int(parts[2])) < _DENSE_SINCE if parts else None
    foreign = method not in ("", "compressed-tensors") or bool(found.get("quant_algo"))
    foreign = foreign or is_modelslim(ledger)
    return Settings(method, frozenset(bits), padded, declared_blocks(found), foreign)
