"""What an MLX or Metal config says about group sizes and bits: hints, where shapes leave a choice.

    "quantization": {"group_size": 64, "bits": 4, "mode": "affine",
                     "model.layers.0.mlp.down_proj": {"group_size": 64, "bits": 6},
                     "lm_head": false}

mlx-lm writes the same block again as `quantization_config`, without a `quant_method`; transformers
writes `quantization_config` with `quant_method: metal`. A path's own settings come before the
checkpoint's. mflux has no config: each of its files says in its metadata `quantization_level: "4"`,
and in some `quantization_mode` and `quantization_group_size`; a group is 64 where none is said.
Sources: https://github.com/ml-explore/mlx-lm mlx_lm/utils.py (`load_model`, `quantize_model`);
transformers utils/quantization_config.py (`MetalConfig`); https://github.com/filipstrand/mflux
(`QwenModelSaver`, `QuantizationConfig`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.schemes.base import Ledger

BITS = (1, 2, 3, 4, 5, 6, 8)
_KEYS = ("quantization", "quantization_config")
_METHODS = (None, "", "mlx", "metal")
_MFLUX = ("quantization_level", "quantization_group_size")
_MFLUX_GROUP = 64


@dataclass(frozen=True, slots=True)
class Hint:
    """A group size and bits; None where nothing is said."""

    group_size: int | None = None
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """The settings in force: `of(path)` gives a module's, its own first."""

    default: Hint = Hint()
    modules: Mapping[str, Hint] = field(default_factory=dict)
    found: bool = False  # whether there is such a config at all

    def of(self, path: str) -> Iterator[Hint]:
        """What may hold for the module `path`; the config may leave out the path's first parts."""
        while path:
            if path in self.modules:
                yield self.modules[path]
                break
            path = path.partition(".")[2]
        yield self.default


def stated(ledger: Ledger) -> Stated:
    """The config's settings; raises FormatError for values that no tool could have written."""
    config, path = ledger.configs.get("config.json", {}), ledger.container.files[0].path
    found: list[tuple[str, Mapping[str, Any]]] = []
    for holder in (config, config.get("text_config"), config.get("language_config")):
        for key in _KEYS:
            block = holder.get(key) if isinstance(holder, Mapping) else None
            if isinstance(block, Mapping) and block.get("quant_method") in _METHODS:
                found.append((key, block))
    if found:
        key, block = found[0]
        said = [{k: other[k] for k in ("bits", "group_size") if other.get(k)} for _, other in found]
        if any(said[0].get(k, value) != value for other in said for k, value in other.items()):
            ledger.note(
                f"{path}: its config.json states {' and '.join(map(str, said))} for MLX's layers; "
                f"those of {key} come first, as in mlx-lm"
            )
        return _of(block, f"{path}: {key} of its config.json")
    for one in ledger.stated:  # a file by itself says it in its metadata
        if one.method == "mlx" and one.where.startswith("metadata"):
            return _of(one.block, f"{ledger.container.files[0].path}: {one.where}")
    bits, size = (str(ledger.container.metadata.get(key)) for key in _MFLUX)
    if bits in map(str, BITS):
        return Stated(Hint(int(size) if size.isdecimal() else _MFLUX_GROUP, int(bits)), found=True)
    return Stated()


def _of(block: Mapping[str, Any], where: str) -> Stated:
    modules = {
        path: _hint(own, f"{where}, {path!r:.80}")
        for path, own in block.items()
        if isinstance(own, Mapping)
    }
    return Stated(_hint(block, where), modules, True)


def _hint(block: Mapping[str, Any], where: str) -> Hint:
    size, bits = block.get("group_size"), block.get("bits")
    if size is not None and (type(size) is not int or size < 1):
        raise FormatError(f"{where}: group_size: {size!r:.40}; allowed is 1 or more")
    if bits is not None and (type(bits) is not int or bits not in BITS):
        allowed = ", ".join(map(str, BITS))
        raise FormatError(f"{where}: bits: {bits!r:.40}; allowed is {allowed}")
    return Hint(size, bits)
