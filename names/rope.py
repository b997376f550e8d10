"""Rotary embeddings' scaling: what config.json says of it, out of key/values and factor tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.names.config_class import decimal
from anamnesis.readers.base import Stored
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.readers.model import Model
from anamnesis.readers.raw import open_raw
from anamnesis.readers.source import open_source

_MOST = 1 << 16  # elements of a tensor of factors
_KINDS = ("linear", "yarn")
# Settings of YaRN, and the GGUF keys after `rope.scaling.`.
_YARN = {
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def rope_scaling(
    values: Mapping[str, KeyValue], prefix: str, model: Model, config: Mapping[str, Any]
) -> dict[str, Any]:
    """`rope_scaling`, `partial_rotary_factor` and what belongs to them, as a file says it."""

    def get(key: str) -> Any:
        found = values.get(f"{prefix}.rope.{key}")
        return None if found is None else decimal(found.value)

    out: dict[str, Any] = {}
    heads = config.get("num_attention_heads") or config.get("n_head")
    width = config.get("head_dim") or 0
    if not width and isinstance(heads, int) and heads:
        width = int(config.get("hidden_size") or config.get("n_embd") or 0) // heads
    rotary = get("dimension_count")
    if rotary and width and rotary < width:
        share = rotary / width
        # transformers takes the whole part of the product, which must not be one less.
        out["partial_rotary_factor"] = (
            share if int(width * share) == rotary else math.nextafter(share, 1)
        )
    length = get("scaling.original_context_length")
    scaling: dict[str, Any] = {}
    kind = get("scaling.type") or "linear"  # as llama.cpp takes it where a file does not say
    factor = get("scaling.factor") or get("scale_linear")  # its name in old files
    long, short = (_floats(model, f"rope_factors_{kind}.weight") for kind in ("long", "short"))
    if long and short:
        scaling = {"rope_type": "longrope", "long_factor": long, "short_factor": short}
        out["original_max_position_embeddings"] = length
    elif kind in _KINDS and factor:
        scaling = {"rope_type": kind, "factor": factor}
        for key, name in _YARN.items():
            if get(f"scaling.{name}") is not None:
                scaling[key] = get(f"scaling.{name}")
        if length:
            scaling["original_max_position_embeddings"] = length
    elif "rope_freqs.weight" in model.stored and get("freq_base"):
        factors = _floats(model, "rope_freqs.weight")
        scaling = _proportional(factors) or _llama3(factors, float(get("freq_base")))
    if scaling:
        out["rope_scaling"] = scaling
    return out


def unknown_factors(model: Model, config: Mapping[str, Any], kind: Any) -> tuple[str, ...]:
    """A remark on factors, or a `kind`, that no scaling which `config` may have comes to."""
    if "rope_scaling" in config:
        return ()
    if kind not in (None, "none", *_KINDS):
        return (
            f"config.json: rope scaling {kind!r:.60} is not known here without tensors of its "
            "factors, and is left out; complete rope_scaling by hand",
        )
    names = [n for n in model.stored if n.startswith(("rope_freqs.", "rope_factors_"))]
    unsaid = [n for n in names if set(_floats(model, n)) != {1.0}]
    return tuple(
        f"config.json: {name} is of no scaling known here, and is left out; complete rope_scaling "
        "by hand"
        for name in unsaid
    )


_UNROTATED = 1e30  # what a dimension is divided by that is not rotary


def _proportional(factors: list[float]) -> dict[str, Any]:
    """The share of dimensions that are rotary, the first of each half (Gemma 4)."""
    rotary = factors.count(1.0)
    if (
        not factors
        or factors[rotary:] != [_UNROTATED] * (len(factors) - rotary)
        or all(factor == 1.0 for factor in factors)
    ):
        return {}
    return {"rope_type": "proportional", "partial_rotary_factor": rotary / len(factors)}


def proportional_factors(width: int, share: float) -> tuple[float, ...]:
    """The factors that turn a share of a head of `width` alone."""
    rotary = int(width * share / 2)
    return (1.0,) * rotary + (_UNROTATED,) * (width // 2 - rotary)


def _llama3(factors: list[float], base: float) -> dict[str, Any]:
    """The settings of Llama 3's scaling whose factors these are; empty where none fits.

    Frequencies with waves longer than `original / low` are divided by `factor`, those shorter than
    `original / high` stay, and between them the factor goes over.
    """
    dim = 2 * len(factors)
    top = max(factors, default=1.0)
    if top == 1.0:  # nothing is scaled
        return {}
    freqs = 1.0 / (np.float32(base) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)))
    for power in range(6, 21):
        length = 1 << power
        made = [_factor(2 * math.pi / float(f), top, length) for f in freqs]
        if np.allclose(made, factors, rtol=1e-5):
            return {
                "rope_type": "llama3",
                "factor": top,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": length,
            }
    return {}


def llama3_factors(scaling: Mapping[str, Any], base: float, width: int) -> tuple[float, ...]:
    """The factors of Llama 3's scaling for heads of `width`, in float32 as the converter has them.

    Powers are those of float64, rounded: numpy's own for float32 depend on the processor.
    (`LlamaModel.generate_extra_tensors` in https://github.com/ggml-org/llama.cpp, conversion/.)
    """
    one, low = np.float32(1), np.float32(scaling.get("low_freq_factor", 1.0))
    high, factor = (
        np.float32(scaling.get(key, usual))
        for key, usual in (("high_freq_factor", 4.0), ("factor", 8.0))
    )
    length = np.float32(scaling.get("original_max_position_embeddings", 8192))
    steps = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    found = []
    powers = (np.float64(base) ** steps.astype(np.float64)).astype(np.float32)
    for freq in one / powers:
        wave = one / freq * np.float32(2 * math.pi)  # torch divides a number by multiplying it
        if wave < length / high:
            found.append(1.0)
        elif wave > length / low:
            found.append(float(factor))
        else:
            smooth = (one / wave * length - low) / (high - low)
            found.append(float(one / ((one - smooth) / factor + smooth)))
    return tuple(found)


def _factor(wave: float, factor: float, length: int) -> float:
    if wave < length / 4.0:
        return 1.0
    if wave > length:
        return factor
    smooth = (length / wave - 1.0) / 3.0
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _floats(model: Model, name: str) -> list[float]:
    """A small float32 tensor's numbers, as the shortest decimals that mean them."""
    stored: Stored | None = model.stored.get(name)
    if stored is None or stored.dtype != "F32" or stored.nbytes > 4 * _MOST:
        return []
    data = np.empty(stored.nbytes, np.uint8)
    with open_source(stored.file.path) as file:
        open_raw(stored, file).read_into(0, data)
    return [float(str(x)) for x in data.view("<f4")]
