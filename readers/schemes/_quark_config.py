"""What Quark's configuration says of the weights of a layer.

`layer_quant_config` has shell patterns of layers, the first that fits counts; then comes what
`layer_type_quant_config` says of `Linear`, then `global_quant_config`. `weight` is one quantiser,
or several in turn. Source: amd-quark 0.13 torch/export/main_export/quant_config_parser.py
(`get_layer_quant_config`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from anamnesis.readers.schemes._stated_words import method_of

Spec = Mapping[str, Any]
FP6 = ("fp6_e2m3", "fp6_e3m2")


def weight_specs(config: Mapping[str, Any]) -> Iterator[Spec]:
    """The quantisers of weights of all groups of layers that have a dtype."""
    yield from _specs(config.get("global_quant_config"))
    for key in ("layer_quant_config", "layer_type_quant_config"):
        group = config.get(key)
        for layer in group.values() if isinstance(group, Mapping) else ():
            yield from _specs(layer)


def specs_of(config: Mapping[str, Any], layer: str) -> list[Spec]:
    """The quantisers of the weight of a layer; none under another tool's configuration."""
    if method_of(config) != "quark":
        return []
    chosen = config.get("layer_quant_config")
    for pattern, one in chosen.items() if isinstance(chosen, Mapping) else ():
        if isinstance(pattern, str) and fnmatchcase(layer, pattern):
            return list(_specs(one))
    typed = config.get("layer_type_quant_config")
    for name, one in typed.items() if isinstance(typed, Mapping) else ():
        if isinstance(name, str) and name.rpartition(".")[2] == "Linear":
            return list(_specs(one))
    return list(_specs(config.get("global_quant_config")))


def floats_of(config: Mapping[str, Any], layer: str) -> set[tuple[str, str]]:
    """`dtype` and `scale_format` of a layer of FP4 or FP6; all there are, where none is its own."""
    for specs in (specs_of(config, layer), weight_specs(config)):
        found = {
            (spec["dtype"], str(spec.get("scale_format") or "e8m0"))
            for spec in specs
            if spec["dtype"] in ("fp4", *FP6)
        }
        if found or method_of(config) != "quark":
            return found
    return set()


def _specs(layer: Any) -> Iterator[Spec]:
    weight = layer.get("weight") if isinstance(layer, Mapping) else None
    for one in weight if isinstance(weight, list) else [weight]:
        if isinstance(one, Mapping) and isinstance(one.get("dtype"), str):
            yield one
