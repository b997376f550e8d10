"""Numbers of a GGUF, one a layer or of some kind of layers, out of a configuration.

Each takes the settings and the arguments of its source (`names.keys`); None is "not said".
"""

from __future__ import annotations

from typing import Any

from anamnesis.names.settings import Settings

_ATTENTION = ("attention", "full_attention", "*")


def windowed(settings: Settings, _: str) -> list[bool] | None:
    """Which layers look at a window."""
    kinds = settings.kinds()
    if not kinds or settings.get("sliding_window") is None:
        return None
    return [kind == "sliding_attention" for kind in kinds]


def windowed_unless(settings: Settings, period: str) -> list[bool] | None:
    """The same, where these are not all but the last of every so many, as llama.cpp takes it."""
    found = windowed(settings, "")
    every = int(period)
    usual = [(number + 1) % every != 0 for number in range(len(found or ()))]
    return None if found == usual else found


def attention_heads(settings: Settings, _: str) -> list[int] | None:
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


def kimi_heads(settings: Settings, _: str) -> list[int]:
    """One head of keys in layers with full attention, which the configuration counts from 1."""
    full = settings.get("linear_attn_config.full_attn_layers") or ()
    return [int(layer + 1 in full) for layer in range(settings.layers)]


def mixing_layers(settings: Settings, keys: str) -> list[int] | None:
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


def by_layer(settings: Settings, keys: str) -> list[Any] | None:
    """By layer, what layers that look at a window have, or what the others have."""
    windowed, full = settings.get(keys.split(",")[1]), of_full_layers(settings, keys)
    if windowed is None or full is None:
        return None
    return [windowed if kind == "sliding_attention" else full for kind in settings.kinds()] or None


def doubled(settings: Settings, _: str) -> list[int] | None:
    """Widths of feed-forward layers where those that share keys and values have twice as wide ones.

    (`use_double_wide_mlp` of Gemma 4.)
    """
    if not settings.get("use_double_wide_mlp"):
        return None
    own = settings.layers - settings.number("num_kv_shared_layers")
    width = settings.number("intermediate_size")
    return [width if layer < own else 2 * width for layer in range(settings.layers)]


def stepped(settings: Settings, arguments: str) -> list[int]:
    """Heads by layer, 0 in PLaMo 2's state-space layers: all but one of each `mamba_step`."""
    key, usual = arguments.split(",")
    step = int(settings.number("mamba_step") or 2)
    heads = int(settings.number(key) or usual)
    last = settings.layers - 1
    few = settings.layers <= step // 2
    return [
        heads if (layer == last if few else layer % step == step // 2) else 0
        for layer in range(settings.layers)
    ]


def all_attention(settings: Settings, _: str) -> bool:
    """Whether no layer is a state-space one."""
    heads = attention_heads(settings, "")
    return heads is not None and all(heads)


def leading_dense(settings: Settings, _: str) -> int | None:
    """Layers before the first one with experts."""
    kinds = settings.get("mlp_layer_types")
    if not isinstance(kinds, list):
        return None
    return next((i for i, kind in enumerate(kinds) if kind != "dense"), len(kinds))


def dense_layers(settings: Settings, _: str) -> int:
    """All layers, where none has experts."""
    return settings.layers if settings.get("n_routed_experts") is None else 0


def short_inner(settings: Settings, _: str) -> int | None:
    """The width of LFM2's feed-forward layers: two thirds of what is said, rounded up, or that.

    (`Lfm2MLP` of transformers; `block_ff_dim` is an older name of what is said.)
    """
    width = settings.first("block_ff_dim", "intermediate_size")
    if width is None or not settings.get("block_auto_adjust_ff_dim"):
        return None if width is None else int(width)
    multiplier, multiple = (
        settings.get("block_ffn_dim_multiplier"),
        settings.get("block_multiple_of"),
    )
    width = int(2 * width / 3)
    width = width if multiplier is None else int(multiplier * width)
    return int(-(width // -multiple) * multiple) if multiple else width


def multiplied_widths(settings: Settings, _: str) -> list[int] | None:
    """Widths of OpenELM's feed-forward layers: multiples of the hidden size, in whole divisors.

    (`make_divisible` of its configuration: to the nearest, and up where that loses a tenth.)
    """
    factors = settings.get("ffn_multipliers")
    hidden, unit = settings.number("model_dim"), int(settings.number("ffn_dim_divisor") or 1)
    if not isinstance(factors, list):
        return None
    found = []
    for factor in factors:
        wanted = factor * hidden
        nearest = max(1, int(wanted + unit / 2) // unit)
        found.append(unit * (nearest + (unit * nearest < 0.9 * wanted)))
    return found


def all_full(settings: Settings, _: str) -> int | None:
    """0, a window of none, where all layers look at everything."""
    kinds = settings.kinds()
    return 0 if kinds and set(kinds) == {"full_attention"} else None
