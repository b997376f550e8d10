"""Numbers of a GGUF that follow from several settings: the `@name` sources of `names.keys`.

Each takes the settings and the arguments of its source; None is "not said".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

from anamnesis.names import deci, layers
from anamnesis.names.settings import Settings, padding_rows, split_width

Derived = Callable[[Settings, str], Any]

_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}  # llama_expert_gating_func_type
_SCORES = (
    "score_function scoring_func score_func moe_router_activation moe_router_activation_func "
    "expert_selection_fn"
).split()
_INNER = (
    "prefix_dense_intermediate_size dense_intermediate_size intermediate_size n_inner hidden_dim"
).split()


def _rotary(settings: Settings, usual: str) -> float:
    part = settings.rope.get("partial_rotary_factor")
    return float(usual if part is None else part)


def _rotary_split(settings: Settings, arguments: str) -> int:
    key, usual = arguments.split(",")
    stated = settings.first(key)
    part = _rotary(settings, usual) if stated is None else float(stated)
    return int(part * split_width(settings))


def _rotary_hidden(settings: Settings, usual: str) -> int | None:
    heads = settings.heads
    return int(_rotary(settings, usual) * settings.hidden) // heads if heads else None


def _scaled(settings: Settings, key: str) -> Any:
    factor = settings.rope.get("factor")
    kinds = ("linear", "yarn")
    return settings.rope.get(key) if settings.scaling in kinds and factor is not None else None


def _base_unless(settings: Settings, usual: str) -> Any:
    """The base of rotary embeddings, unless it is what llama.cpp takes where a file says none."""
    base = settings.rope.get("rope_theta")
    return None if base == float(usual) else base


def _alpha_base(settings: Settings, usual: str) -> float | None:
    """The base that Hunyuan's scaling by `alpha` comes to: that of a context longer by so much."""
    if settings.scaling not in ("dynamic", "xdrope"):
        return None
    base = float(settings.rope.get("rope_theta") or 10000.0)
    alpha = settings.rope.get("alpha")
    return float(
        base * (int(usual) if alpha is None else alpha) ** (settings.width / (settings.width - 2))
    )


def _when(settings: Settings, arguments: str) -> Any:
    """A value, where rotary embeddings are scaled in one of some ways: `KIND/KIND,VALUE`."""
    kinds, value = arguments.split(",")
    return json.loads(value) if settings.scaling in kinds.split("/") else None


def _scaling_type(settings: Settings, _: str) -> str | None:
    if settings.scaling in ("longrope", "su"):
        return "longrope"
    return settings.scaling if _scaled(settings, "factor") is not None else None


def _long_factor(settings: Settings, _: str) -> float | None:
    """What attention is scaled with, by how much longer the context became."""
    original = settings.rope.get("original_max_position_embeddings")
    length = settings.number("max_position_embeddings")
    if settings.scaling not in ("longrope", "su") or not original or not length:
        return None
    scale = length / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _sections(settings: Settings, _: str) -> list[int] | None:
    """The parts of a head that turn with time, height, width, and one more."""
    found = settings.rope.get("mrope_section")
    return [*found, 0, 0, 0, 0][:4] if isinstance(found, list) else None


def _four_positions(settings: Settings, key: str) -> Any:
    """What Hunyuan's rotary embeddings of four positions a token say; None where they have one."""
    sections = settings.rope.get("xdrope_section") or settings.rope.get("mrope_section")
    if settings.scaling not in ("dynamic", "xdrope") or not isinstance(sections, list):
        return None
    said = {
        "alpha": float(settings.rope.get("alpha") or 1.0),
        "base": settings.rope.get("rope_theta"),
        "factor": float(settings.rope.get("factor") or 1.0),
        "length": settings.get("max_position_embeddings"),
        "sections": sections,
        "type": "none",
    }
    return said[key]


def _window_unless_one(settings: Settings, _: str) -> Any:
    return None if settings.get("sliding_window_pattern") == 1 else settings.get("sliding_window")


def _with(settings: Settings, keys: str) -> Any:
    """One setting, where another is there."""
    other, key = keys.split(",")
    return None if settings.get(other) is None else settings.get(key)


def _ssm_heads(settings: Settings, _: str) -> int | None:
    inner = settings.number("mamba_d_ssm", "intermediate_size", "d_inner") or settings.hidden * (
        settings.number("mamba_expand", "expand") or 2
    )
    width = settings.number("mamba_d_head", "head_dim") or 64
    if settings.get("mamba_d_ssm") is None:
        inner = settings.hidden * (settings.number("mamba_expand", "expand") or 2)
    return int(inner) // int(width)


def _gating(settings: Settings, _: str) -> int | None:
    return _GATING.get(str(settings.first(*_SCORES)))


def _alibi(settings: Settings, _: str) -> float:
    on = settings.get("attn_config.alibi")
    return float(settings.number("attn_config.alibi_bias_max")) if on else 0.0


def _deviations(settings: Settings, _: str) -> list[float] | None:
    """How many standard deviations above the mean a share of a normal distribution lies."""
    shares = settings.get("activation_sparsity_pattern")
    if not isinstance(shares, list):
        return None
    return [NormalDist().inv_cdf(share) if share > 0 else -math.inf for share in shares]


def _shared_part(settings: Settings, _: str) -> int | None:
    kv = settings.number("num_key_value_heads")
    shared = settings.number("moe_num_shared_experts")
    return settings.number("intermediate_size") // kv if kv and shared > 0 else None


def _positions_after_padding(settings: Settings, _: str) -> int | None:
    most = settings.get("max_position_embeddings")
    return most - padding_rows(settings.values) if isinstance(most, int) else None


def _trained_positions(settings: Settings, _: str) -> int | None:
    """Positions that Nomic's encoder was trained with, rather than those it extrapolates to."""
    trained = settings.number("max_trained_positions") or 2048
    return {(8192, 2048): 2048, (2048, 2048): 512}.get((settings.number("n_positions"), trained))


def _ratio(settings: Settings, arguments: str) -> float | None:
    above, below = map(settings.number, arguments.split(","))
    return above / below if below else None


def _over_root(settings: Settings, arguments: str) -> float | None:
    above, below = map(settings.number, arguments.split(","))
    return float(above / below**0.5) if below else None


def _is(settings: Settings, arguments: str) -> bool:
    key, text = arguments.split(",")
    return bool(settings.get(key) == text)


def _pooling(settings: Settings, _: str) -> int | None:
    """How one vector is made of a text's (llama_pooling_type)."""
    for number, kind in ((1, "mean_tokens"), (2, "cls_token"), (3, "lasttoken")):
        if settings.get(f"pooling.pooling_mode_{kind}"):
            return number
    return {"mean": 1, "cls": 2, "lasttoken": 3}.get(str(settings.get("pooling.pooling_mode")))


def _labels(settings: Settings, _: str) -> list[str] | None:
    """The names of a classifier's labels, unless they are the two that transformers makes up."""
    found = settings.get("id2label")
    if not isinstance(found, Mapping) or not found:
        return None
    names = [str(found[key]) for key in sorted(found, key=int)]
    return None if len(names) == 2 and names[0] == "LABEL_0" else names


def _log_multiplier(settings: Settings, _: str) -> float | None:
    scale = settings.rope.get("mscale_all_dim")
    return None if scale is None else 0.1 * scale


def _linear_or_none(settings: Settings, _: str) -> str:
    factor = settings.get("factor") or settings.rope.get("factor")
    return "none" if factor is None else "linear"


DERIVED: dict[str, Derived] = {
    "after-padding": _positions_after_padding,
    "alpha-base": _alpha_base,
    "alibi": _alibi,
    "all-attention": layers.all_attention,
    "all-full": layers.all_full,
    "attention-heads": layers.attention_heads,
    "block-heads": deci.heads,
    "block-key-heads": deci.key_heads,
    "block-widths": deci.widths,
    "by-layer": layers.by_layer,
    "count": lambda s, key: len(s.get(key)) if isinstance(s.get(key), (list, str)) else None,
    "dense-layers": layers.dense_layers,
    "deviations": _deviations,
    "doubled": layers.doubled,
    "four-positions": _four_positions,
    "gating": _gating,
    "inner": lambda s, _: s.first(*_INNER),
    "is": _is,
    "kimi-heads": layers.kimi_heads,
    "labels": _labels,
    "lacks": lambda s, key: True if s.get(key) is None else None,
    "leading-dense": layers.leading_dense,
    "linear-or-none": _linear_or_none,
    "log-multiplier": _log_multiplier,
    "long-factor": _long_factor,
    "longest": lambda s, _: s.first("max_length", "max_sequence_length", "model_max_length"),
    "mixing-layers": layers.mixing_layers,
    "no-first-word": lambda s, size: False if s.get("vocab_size") == int(size) else None,
    "multiplied-widths": layers.multiplied_widths,
    "nonzero": lambda s, key: s.get(key) or None,
    "not-causal": lambda s, _: False if s.get("is_causal") is False else None,
    "of-full": layers.of_full_layers,
    "over-root": _over_root,
    "pooling": _pooling,
    "ratio": _ratio,
    "real": lambda s, key: None if s.get(key) is None else float(s.get(key)),
    "rope": lambda s, key: s.rope.get(key),
    "rope-base-unless": _base_unless,
    "scaled": _scaled,
    "scaling-type": _scaling_type,
    "sections": _sections,
    "shared-part": _shared_part,
    "sixteenths": lambda s, _: -(s.number("hidden_size", "d_model") // -16),
    "softmax-or-sigmoid": lambda s, key: _GATING["softmax" if s.get(key) else "sigmoid"],
    "some": lambda s, keys: (
        s.get(keys.split(",")[1]) if any(s.get(keys.split(",")[0]) or ()) else None
    ),
    "some-mixers": lambda s, length: None if layers.all_attention(s, "") else int(length),
    "split-width": lambda s, _: split_width(s) or None,
    "ssm-heads": _ssm_heads,
    "trained-positions": _trained_positions,
    "short-inner": layers.short_inner,
    "stepped": layers.stepped,
    "two-thirds": lambda s, key: int(2 * s.number(key) / 3),
    "true": lambda s, key: True if s.get(key) else None,
    "rotary": lambda s, usual: int(s.width * _rotary(s, usual)),
    "rotary-hidden": _rotary_hidden,
    "rotary-split": _rotary_split,
    "width": lambda s, _: s.width or None,
    "when": _when,
    "window": lambda s, key: s.window.get(key),
    "window-unless-one": _window_unless_one,
    "windowed": layers.windowed,
    "windowed-unless": layers.windowed_unless,
    "with": _with,
    "with-temperature": lambda s, key: (
        s.rope.get(key) if s.rope.get("llama_4_scaling_beta") is not None else None
    ),
    "yarn": lambda s, key: _scaled(s, key) if s.scaling == "yarn" else None,
}
