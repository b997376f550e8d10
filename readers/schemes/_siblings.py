"""What stands beside a decoded weight and no scheme read: harmless by this table, or refused.

A decoder that does not know a tensor of its layer cannot know what the tensor does to the weight:
rotations (`theta`, `pairs`), scales of the inputs (`channel_scales`, `pre_quant_scale`), offsets
(`weight_offset`), permutations and low-rank parts all change its value or its basis, under names
that no list could hold. So the list is of what is known to leave the weight alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from anamnesis.readers.base import Stored

# Scales of activations and of the key/value cache: they have no part in the weights.
ACTIVATION_SCALES = frozenset(
    "act_scale activation_scale activation_scales input_activation_scale input_amax "
    "input_global_scale input_scale input_scale_2 input_scale_ub k_cache_scale k_scale "
    "kv_cache_scale kv_cache_scales kv_scale output_activation_scale output_amax output_scale "
    "p_scale prob_scale q_scale qinput_scale qscale_act scale_input v_cache_scale v_scale".split()
)

ACTIVATION_ZEROS = frozenset(
    "act_quant_zero_point input_zero_point k_cache_zero_point k_zero_point output_zero_point "
    "q_zero_point v_cache_zero_point v_zero_point".split()
)

_NORMS = ("layer_norm", "layernorm", "norm", "rms_norm")
_NORM = "of a norm inside of the layer, which is a module of its own"
LORA = "an adapter's: PEFT keeps it beside the weight"


class Harmless(NamedTuple):
    """Names relative to the layer, and why the weight does not depend on the tensor."""

    pattern: str
    dropped: bool  # whether the tensor has no use once the weights are dense
    reason: str


HARMLESS: tuple[Harmless, ...] = (
    *(Harmless(name, True, "activation scale") for name in sorted(ACTIVATION_SCALES)),
    *(Harmless(f"{norm}.{part}", False, _NORM) for norm in _NORMS for part in ("bias", "weight")),
    *(Harmless(name, True, "activation zero point") for name in sorted(ACTIVATION_ZEROS)),
    Harmless("act_quant_scale", True, "activation scale"),
    Harmless("bias", False, "the layer's own: added to its output"),
    Harmless("deq_scale", True, "activation scale times the weight's"),
    Harmless("e_score_correction_bias", False, "a router's: added to its output"),
    *(
        Harmless(f"{of}_{end}", False, "Gemma 4's: what goes in or comes out is cut there")
        for of in ("input", "output")
        for end in ("max", "min")
    ),
    Harmless("input_offset", True, "activation zero point"),
    *(Harmless(name, False, LORA) for name in ("lora_A.*", "lora_B.*", "lora_embedding_[AB]*")),
    Harmless("lora_magnitude_vector*", False, LORA),
    Harmless("num_batches_tracked", False, "a counter of a batch norm"),
    Harmless("running_mean", False, "a statistic of a batch norm"),
    Harmless("running_var", False, "a statistic of a batch norm"),
)
# Behind the name of a module and `_`: what is a parameter of its own, as `gate_up_proj` is.
_OWN = re.compile(r"(.*_)?(embeddings?|embeds?|experts|kernel|proj|projs|tokens?)(_bias)?")
# Modules beside a module, called after it, that turn or permute its inputs.
_ROTATION = re.compile(
    r"(.*_)?(hadamard|perm|permutation|rotate|rotations?|smooth|smoothing)(_.*)?"
)
# Modules anywhere in a model that turn what layers read.
_ROTATED_MODULE = re.compile(
    r"((act|activation|in|inp|input|offline|online|out|output|weight)_)?"
    r"(had_?k|hadamards?|quarot|r[1-4]|rotat(e|es|ions?|ors?)|spinquant)"
    r"(_(in|input|matrix|out|output|weight))?",
    re.IGNORECASE,
)
# Wherever it stands in a quantised model: applied to activations, so that weights are not theirs.
_OF_INPUTS = frozenset(
    "R1 R2 R3 R4 _pre_quant_scale channel_scales had_K hadamard hadamard_matrix input_rotation "
    "left_trans pre_quant_scale right_trans rotation rotation_matrix smooth_factor "
    "smooth_scale".split()
)
# A part of each of these names, in lower case, but for R1 to R4.
_MOVING = ("had", "perm", "quant_scale", "channel_scales", "quarot", "_trans", "rotat", "smooth",
           "spinquant")  # fmt: skip
_MOVING_R = re.compile(r"(?<![a-z0-9])r[1-4](?![a-z0-9])")
# Of codes, which floats beside them called `weight` are, too.
SCALES = frozenset(("scale_inv", "scales", "zero_point", "zero_points", "zeros"))
_ACTIVATION = re.compile(r"(.*[._])?act(ivation)?(_fn|_func|_layer)?")
_EXACT = {row.pattern: row for row in HARMLESS if not set(row.pattern) & set("*[")}
_PATTERNS = tuple(row for row in HARMLESS if row.pattern not in _EXACT)


def is_own(rest: str) -> bool:
    """Whether `X_rest` is no part of the module `X`, but a parameter beside it."""
    return _OWN.fullmatch(rest) is not None


@lru_cache(4096)  # a million tensors share few parts of their names
def is_rotation(name: str) -> bool:
    """Whether the last part of a name, or its module's, is that of a rotation or a permutation."""
    return _ROTATION.fullmatch(name) is not None


def rotates_all(module: str) -> bool:
    """Whether a module, or one that it is in, rotates the inputs of layers by its name."""
    return any(map(_rotates, module.split(".")))


@lru_cache(4096)
def _rotates(part: str) -> bool:
    return _ROTATED_MODULE.fullmatch(part) is not None


def moves_inputs(name: str) -> bool:
    """Whether a tensor by its name scales, permutes or rotates what layers read."""
    module, _, part = name.rpartition(".")
    return part in _OF_INPUTS or is_rotation(part) or rotates_all(module)


def may_move(names: str) -> bool:
    """Whether `moves_inputs` may be true of any of the names in a text of lines, or of none."""
    lower = names.lower()
    return any(word in lower for word in _MOVING) or _MOVING_R.search(lower) is not None


def is_activation(module: str) -> bool:
    """Whether a module is of an activation function, whose scales AWQ folds into weights."""
    return _ACTIVATION.fullmatch(module) is not None


def harmless(rest: str) -> Harmless | None:
    """The row for a tensor called `rest` inside of its layer."""
    row = _EXACT.get(rest)
    return row or next((row for row in _PATTERNS if fnmatchcase(rest, row.pattern)), None)


_OBSERVED_ROW = Harmless("*", True, "activation scale, or what an observer saw")
_CALIBRATED = Harmless("*_quantizer._amax", True, "what ModelOpt's calibration saw of it")


def calibration(name: str, quantised: bool) -> Harmless | None:
    """The row for the largest number that ModelOpt saw of activations; of weights that stay dense.

    Names are `X.input_quantizer._amax`, `attn.v_bmm_quantizer._amax` and the like.
    """
    module, _, part = name.rpartition(".")
    quantizer = module.rpartition(".")[2]
    if part != "_amax" or not quantizer.endswith("_quantizer"):
        return None
    return None if quantised and quantizer.startswith("weight") else _CALIBRATED


# Parts of quantisers and observers of activations, which are modules of their own, and the names of
# these: PyTorch's `activation_post_process`, ModelSlim's `fa_q`, `k_cache`, `act_quant`, ….
_OBSERVED = frozenset(
    "_amax amax eps fake_quant_enabled max_val min_val observer_enabled offset scale "
    "zero_point".split()
)
_OBSERVERS = re.compile(
    r"(.*_)?(act|activation|input|output|softmax|[qkv]|kv|qkv|query|key|value)"
    r"_(cache|fake_quant|observer|post_process|quant|quantizer)|(fa|quant)_[qkv]|[kv]_cache"
)
# Behind the name of a parameter of experts (`w13_input_scale`), or of the cache.
_OF_ACTIVATIONS = re.compile(
    r".*_(act|activation|input)(_global)?_scale(_inv|_2)?|.*_input_amax|"
    r"kv?_(cache_offset|scale_cache)|v_scale_cache|kv_scales"
)


def known_scale(name: str) -> Harmless | None:
    """The row for a tensor that is of activations by its name, wherever it is in such a model."""
    module, _, part = name.rpartition(".")
    row = harmless(part)
    if row is not None and row.dropped:
        return row
    observed = part in _OBSERVED and _OBSERVERS.fullmatch(module.rpartition(".")[2])
    return _OBSERVED_ROW if observed or _OF_ACTIVATIONS.fullmatch(part) else None


class Stems:
    """Decoded weights by what the names of the tensors beside them begin with.

    Those of `X.weight` begin with `X.`, or are called `X_…` and stand where `X` does, without a
    module of their own; those of a parameter without that ending, such as `experts.gate_up_proj`,
    with its name and a dot or an underscore.
    """

    def __init__(self) -> None:
        self._weights: dict[str, str] = {}
        self._joined: dict[str, str] = {}  # `X_` of `X.weight`

    def __bool__(self) -> bool:
        return bool(self._weights)

    def add(self, weight: str) -> None:
        """A weight's name; one without a module, `weight`, has no layer that others could be of."""
        stem, dot, last = weight.rpartition(".")
        if last != "weight":
            self._weights[weight + "."] = self._weights[weight + "_"] = weight
        elif dot:
            self._weights[stem + "."] = self._joined[stem + "_"] = weight
        else:
            self._weights["weight_"] = weight

    def beside(self, stored: Stored) -> tuple[str, str] | None:
        """`(weight, rest of the name)` for a tensor beside a decoded weight."""
        name = stored.name
        for end in _ends(name):
            rest = name[end:]
            weight = self._weights.get(name[:end])
            if weight is None:
                weight = self._joined.get(name[:end])
                if weight is None or is_own(rest):
                    continue
            if name[end - 1] == "." or "." not in rest or is_rotation(rest.partition(".")[0]):
                return weight, rest
        return None


def _ends(name: str) -> Iterator[int]:
    """Where a stem of `name` may end, the longest first."""
    for at in range(len(name) - 1, 0, -1):
        if name[at - 1] in "._":
            yield at
