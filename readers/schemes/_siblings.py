"""What stands beside a decoded weight and no scheme read: harmless by this table, or refused.

A decoder that does not know a tensor of its layer cannot know what the tensor does to the weight:
rotations (`theta`, `pairs`), scales of the inputs (`channel_scales`, `pre_quant_scale`), offsets
(`weight_offset`), permutations and low-rank parts all change its value or its basis, under names
that no list could hold. So the list is of what is known to leave the weight alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from anamnesis.readers.base import Stored

# Scales of activations and of the key/value cache: they have no part in the weights.
ACTIVATION_SCALES = frozenset(
    "act_scale activation_scale activation_scales input_activation_scale input_amax "
    "input_global_scale input_scale input_scale_2 input_scale_ub k_cache_scale k_scale "
    "kv_cache_scale kv_cache_scales kv_scale output_activation_scale output_amax output_scale "
    "p_scale prob_scale q_scale qinput_scale qscale_act scale_input v_cache_scale v_scale".split()
)

_ACTIVATION_ZEROS = frozenset(
    "act_quant_zero_point input_zero_point k_cache_zero_point k_zero_point output_zero_point "
    "q_zero_point v_cache_zero_point v_zero_point".split()
)

_NORMS = ("layer_norm", "layernorm", "norm", "rms_norm")
_NORM = "of a norm inside of the layer, which is a module of its own"
_LORA = "an adapter's: PEFT keeps it beside the weight"


class Harmless(NamedTuple):
    """Names relative to the layer, and why the weight does not depend on the tensor."""

    pattern: str
    dropped: bool  # whether the tensor has no use once the weights are dense
    reason: str


HARMLESS: tuple[Harmless, ...] = (
    *(Harmless(name, True, "activation scale") for name in sorted(ACTIVATION_SCALES)),
    *(Harmless(f"{norm}.{part}", False, _NORM) for norm in _NORMS for part in ("bias", "weight")),
    *(Harmless(name, True, "activation zero point") for name in sorted(_ACTIVATION_ZEROS)),
    Harmless("act_quant_scale", True, "activation scale"),
    Harmless("act_quantizer._amax", True, "activation scale"),
    Harmless("bias", False, "the layer's own: added to its output"),
    Harmless("deq_scale", True, "activation scale times the weight's"),
    Harmless("e_score_correction_bias", False, "a router's: added to its output"),
    Harmless("input_quantizer._amax", True, "activation scale"),
    Harmless("input_offset", True, "activation zero point"),
    *(Harmless(name, False, _LORA) for name in ("lora_A.*", "lora_B.*", "lora_embedding_[AB]*")),
    Harmless("lora_magnitude_vector*", False, _LORA),
    Harmless("num_batches_tracked", False, "a counter of a batch norm"),
    Harmless("output_quantizer._amax", True, "activation scale"),
    Harmless("running_mean", False, "a statistic of a batch norm"),
    Harmless("running_var", False, "a statistic of a batch norm"),
)
_EXACT = {row.pattern: row for row in HARMLESS if not set(row.pattern) & set("*[")}
_PATTERNS = tuple(row for row in HARMLESS if row.pattern not in _EXACT)


def harmless(rest: str) -> Harmless | None:
    """The row for a tensor called `rest` inside of its layer."""
    row = _EXACT.get(rest)
    return row or next((row for row in _PATTERNS if fnmatchcase(rest, row.pattern)), None)


class Stems:
    """Decoded weights by what the names of the tensors beside them begin with.

    Those of `X.weight` begin with `X.`; those of a parameter without that ending, such as
    `experts.gate_up_proj`, with its name and a dot or an underscore.
    """

    def __init__(self) -> None:
        self._weights: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._weights)

    def add(self, weight: str) -> None:
        """A weight's name; one without a module, `weight`, has no layer that others could be of."""
        stem, dot, last = weight.rpartition(".")
        if last == "weight":
            self._weights[stem + dot if dot else "weight_"] = weight
        else:
            self._weights[weight + "."] = self._weights[weight + "_"] = weight

    def beside(self, stored: Stored) -> tuple[str, str] | None:
        """`(weight, rest of the name)` for a tensor beside a decoded weight."""
        name = stored.name
        for end in _ends(name):
            weight = self._weights.get(name[:end])
            if weight is not None and (name[end - 1] == "." or "." not in name[end:]):
                return weight, name[end:]
        return None


def _ends(name: str) -> Iterator[int]:
    """Where a stem of `name` may end, the longest first."""
    for at in range(len(name) - 1, 0, -1):
        if name[at - 1] in "._":
            yield at
