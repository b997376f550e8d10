"""What `config.json` says, in one level, and the numbers of a GGUF that follow from several of it.

The functions are the `@name` sources of `names.keys`; each gives None for "not said".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

Derived = Callable[["Settings", str], Any]

_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}  # llama_expert_gating_func_type
_SCORES = (
    "score_function scoring_func score_func moe_router_activation moe_router_activation_func "
    "expert_selection_fn"
).split()
_INNER = (
    "prefix_dense_intermediate_size dense_intermediate_size intermediate_size n_inner hidden_dim"
).split()
_ATTENTION = ("attention", "full_attention", "*")
_MIRRORED = {
    "rope_theta": (
        "global_rope_theta rope_global_theta rope_theta_global rope_theta rotary_emb_base"
    ),
    "partial_rotary_factor": "partial_rotary_factor rope_pct rope_percent",
    "original_max_position_embeddings": "original_max_position_embeddings",
}
_LOCAL = (
    "local_rope_theta rope_local_theta rope_theta_local swa_rope_theta rope_local_base_freq"
).split()


class Settings:
    """A configuration with its text model's block, and rotary settings wherever they stand.

    `rope` are those of layers with full attention, `window` of those with a sliding window.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        text = config.get("text_config")
        self.values = {**config, **text} if isinstance(text, Mapping) else dict(config)
        found = self.values.get("rope_parameters") or self.values.get("rope_scaling")
        rope = dict(found) if isinstance(found, Mapping) else {}
        full, window = rope.get("full_attention"), rope.get("sliding_attention")
        if full is None and window is None:
            for key, names in _MIRRORED.items():
                if rope.get(key) is None:
                    rope[key] = self.first(*names.split())
            base = self.first(*_LOCAL)
            window = None if base is None else {"rope_theta": base}
        self.rope: Mapping[str, Any] = full if isinstance(full, Mapping) else rope
        self.window: Mapping[str, Any] = window if isinstance(window, Mapping) else {}

    def get(self, path: str) -> Any:
        """The value at a path, with dots between blocks and items; None where it is not there."""
        found: Any = self.values
        for key in path.split("."):
            if isinstance(found, list) and key.isdigit():
                found = found[int(key)] if int(key) < len(found) else None
            else:
                found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def first(self, *paths: str) -> Any:
        """The first of several that is there."""
        return next((v for v in map(self.get, paths) if v is not None), None)

    def number(self, *paths: str) -> Any:
        """The first number of several, 0 where there is none."""
        found = self.first(*paths)
        return found if isinstance(found, (int, float)) else 0

    @property
    def scaling(self) -> str:
        """The kind of the rotary embeddings' scaling; "" where there is none."""
        kind = self.rope.get("rope_type") or self.rope.get("type")
        return "" if kind in (None, "default") else str(kind)

    @property
    def hidden(self) -> int:
        return int(self.number("hidden_size", "n_embd"))

    @property
    def heads(self) -> int:
        return int(self.number("num_attention_heads", "n_head"))

    @property
    def layers(self) -> int:
        return int(self.number("n_layers", "num_hidden_layers", "n_layer", "num_layers"))

    @property
    def width(self) -> int:
        """Of a head."""
        return int(self.number("head_dim")) or split_width(self)

    def kinds(self) -> list[str]:
        """What each layer is, in words or in Nemotron-H's letters; empty where it is not said."""
        found = self.first("layer_types", "hybrid_override_pattern", "layers_block_type")
        return [str(kind) for kind in found] if isinstance(found, (list, str)) else []


def split_width(settings: Settings) -> int:
    """The width of a head that is an equal part of the hidden size."""
    return settings.hidden // settings.heads if settings.heads else 0


def _turned(settings: Settings, usual: str) -> float:
    part = settings.rope.get("partial_rotary_factor")
    return float(usual if part is None else part)


def _turned_split(settings: Settings, arguments: str) -> int:
    key, usual = arguments.split(",")
    stated = settings.first(key)
    part = _turned(settings, usual) if stated is None else float(stated)
    return int(part * split_width(settings))


def _turned_hidden(settings: Settings, usual: str) -> int | None:
    heads = settings.heads
    return int(_turned(settings, usual) * settings.hidden) // heads if heads else None


def _scaled(settings: Settings, key: str) -> Any:
    factor = settings.rope.get("factor")
    kinds = ("linear", "yarn")
    return settings.rope.get(key) if settings.scaling in kinds and factor is not None else None


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


def _windowed(settings: Settings, _: str) -> list[bool] | None:
    kinds = settings.kinds()
    if not kinds or settings.get("sliding_window") is None:
        return None
    return [kind == "sliding_attention" for kind in kinds]


def _window_unless_one(settings: Settings, _: str) -> Any:
    return None if settings.get("sliding_window_pattern") == 1 else settings.get("sliding_window")


def _attention_heads(settings: Settings, _: str) -> list[int] | None:
    """Heads of keys by layer, 0 where a layer has no attention."""
    kv = settings.get("num_key_value_heads")
    kinds = settings.kinds()
    if kinds:
        return [kv if kind in _ATTENTION else 0 for kind in kinds]
    listed = settings.get("attn_layer_indices")
    if isinstance(listed, list) and listed:
        return [kv if i in listed else 0 for i in range(settings.layers)]
    period, offset = settings.number("attn_layer_period"), settings.number("attn_layer_offset")
    if not period:
        return None
    return [kv if i % period == offset else 0 for i in range(settings.layers)]


def _mixing_layers(settings: Settings, keys: str) -> list[int] | None:
    """Widths of feed-forward layers, 0 for others; those of experts where the model has some."""
    experts, dense = keys.split(",")
    mixture = settings.get("num_experts_per_tok") is not None
    kinds = ("E", "moe") if mixture else ("-", "mlp")
    width = settings.get(experts if mixture else dense)
    return [width if kind in kinds else 0 for kind in settings.kinds()] or None


def of_full_layers(settings: Settings, keys: str) -> Any:
    """What layers that look at everything have, where it is not what the others have (Gemma 4).

    `keys` are the setting that says so, and the usual one, of which
    transformers saves the exceptions by layer, in `per_layer_config`.
    """
    stated, usual = keys.split(",")
    numbers = [str(i) for i, kind in enumerate(settings.kinds()) if kind == "full_attention"]
    return settings.first(stated, *(f"per_layer_config.{number}.{usual}" for number in numbers))


def _by_layer(settings: Settings, keys: str) -> list[Any] | None:
    """By layer, what layers that look at a window have, or what the others have."""
    windowed, full = settings.get(keys.split(",")[1]), of_full_layers(settings, keys)
    if windowed is None or full is None:
        return None
    return [windowed if kind == "sliding_attention" else full for kind in settings.kinds()] or None


def _doubled(settings: Settings, _: str) -> list[int] | None:
    """Widths of feed-forward layers where those that share keys and values have twice as wide ones.

    (`use_double_wide_mlp` of Gemma 4.)
    """
    if not settings.get("use_double_wide_mlp"):
        return None
    own = settings.layers - settings.number("num_kv_shared_layers")
    width = settings.number("intermediate_size")
    return [width if layer < own else 2 * width for layer in range(settings.layers)]


def _with(settings: Settings, keys: str) -> Any:
    """One setting, where another is there."""
    other, key = keys.split(",")
    return None if settings.get(other) is None else settings.get(key)


def _all_attention(settings: Settings, _: str) -> bool:
    """Whether no layer is a state-space one."""
    heads = _attention_heads(settings, "")
    return heads is not None and all(heads)


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


def padding_rows(config: Mapping[str, Any]) -> int:
    """Rows of RoBERTa's positions before the first one: the padding's number and one more."""
    number = config.get("pad_token_id")
    return number + 1 if isinstance(number, int) else 0


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


def _leading_dense(settings: Settings, _: str) -> int | None:
    """Layers before the first one with experts."""
    kinds = settings.get("mlp_layer_types")
    if not isinstance(kinds, list):
        return None
    return next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))


def _labels(settings: Settings, _: str) -> list[str] | None:
    """The names of a classifier's labels, unless they are the two that transformers makes up."""
    found = settings.get("id2label")
    if not isinstance(found, Mapping) or not found:
        return None
    names = [str(found[key]) for key in sorted(found, key=int)]
    return None if len(names) == 2 and names[0] == "LABEL_0" else names


def _dense_layers(settings: Settings, _: str) -> int:
    return settings.layers if settings.get("n_routed_experts") is None else 0


def _log_multiplier(settings: Settings, _: str) -> float | None:
    scale = settings.rope.get("mscale_all_dim")
    return None if scale is None else 0.1 * scale


def _all_full(settings: Settings, _: str) -> int | None:
    kinds = settings.kinds()
    return 0 if kinds and set(kinds) == {"full_attention"} else None


def _linear_or_none(settings: Settings, _: str) -> str:
    factor = settings.get("factor") or settings.rope.get("factor")
    return "none" if factor is None else "linear"


DERIVED: dict[str, Derived] = {
    "after-padding": _positions_after_padding,
    "alibi": _alibi,
    "all-attention": _all_attention,
    "all-full": _all_full,
    "attention-heads": _attention_heads,
    "by-layer": _by_layer,
    "count": lambda s, key: len(s.get(key)) if isinstance(s.get(key), (list, str)) else None,
    "dense-layers": _dense_layers,
    "deviations": _deviations,
    "doubled": _doubled,
    "gating": _gating,
    "inner": lambda s, _: s.first(*_INNER),
    "is": _is,
    "labels": _labels,
    "lacks": lambda s, key: True if s.get(key) is None else None,
    "leading-dense": _leading_dense,
    "linear-or-none": _linear_or_none,
    "log-multiplier": _log_multiplier,
    "long-factor": _long_factor,
    "longest": lambda s, _: s.first("max_length", "max_sequence_length", "model_max_length"),
    "mixing-layers": _mixing_layers,
    "nonzero": lambda s, key: s.get(key) or None,
    "not-causal": lambda s, _: False if s.get("is_causal") is False else None,
    "of-full": of_full_layers,
    "over-root": _over_root,
    "pooling": _pooling,
    "ratio": _ratio,
    "real": lambda s, key: None if s.get(key) is None else float(s.get(key)),
    "rope": lambda s, key: s.rope.get(key),
    "scaled": _scaled,
    "scaling-type": _scaling_type,
    "sections": _sections,
    "shared-part": _shared_part,
    "sixteenths": lambda s, _: -(s.number("hidden_size", "d_model") // -16),
    "some-mixers": lambda s, length: None if _all_attention(s, "") else int(length),
    "split-width": lambda s, _: split_width(s) or None,
    "ssm-heads": _ssm_heads,
    "trained-positions": _trained_positions,
    "true": lambda s, key: True if s.get(key) else None,
    "turned": lambda s, usual: int(s.width * _turned(s, usual)),
    "turned-hidden": _turned_hidden,
    "turned-split": _turned_split,
    "width": lambda s, _: s.width or None,
    "window": lambda s, key: s.window.get(key),
    "window-unless-one": _window_unless_one,
    "windowed": _windowed,
    "with": _with,
    "yarn": lambda s, key: _scaled(s, key) if s.scaling == "yarn" else None,
}
