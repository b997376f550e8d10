"""Parameters of the modules around decoded layers, under names that say nothing: noted.

What stands in a decoded layer and no scheme read is refused (`_siblings`). One module further out
that cannot be: attention and blocks have parameters of their own. But a tool may put there what its
layers share, a rotation or scales of their inputs, under a name that no list could hold. So the
list is of what models are known to have there, and what is not in it is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from anamnesis.readers.base import Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._integers import is_buffer
from anamnesis.readers.schemes._siblings import ACTIVATION_SCALES, is_own
from anamnesis.readers.schemes.base import Ledger

# transformers 5.23 and diffusers: `self.X = nn.Parameter(…)`, and registered buffers.
_ORDINARY = frozenset(
    "A_log D absolute_pos_embed alpha attention_sinks attn_sink beta cap_pad_token class_embedding "
    "class_token cls_token dist_token dt_bias e_score_correction_bias embeddings gain gamma "
    "image_newline input_max input_min inv_freq kv_sink lambda_1 lambda_2 lambda_k1 lambda_k2 "
    "lambda_q1 lambda_q2 latents layer_scalar layer_scale logit_scale mask_token modulation "
    "norm_gate output_max output_min pad_token per_dim_scale per_expert_scale pos_embed "
    "pos_embedding position_embedding position_embeddings positional_embedding post_scale probe "
    "query query_tokens register_tokens relative_position_bias_table rotary_emb running_mean "
    "running_var scale scale_shift_table sink sinks temperature time_decay time_faaaa time_maa_k "
    "time_maa_r time_maa_v time_maa_w tokens view_seperator x_pad_token".split()
)
_SCALAR = re.compile(r"scale|amax|offset|zero_?point")  # of one number, and not a counter
_ENDINGS = ("bias", "embed", "embedding", "gate", "norm", "token", "weight")


def note_parents(ledger: Ledger) -> None:
    """Add a note on such parameters, if any layer was decoded or a method is stated.

    Beside matrices that stayed dense as well: these may be in another basis, too.
    """
    if ledger.container.kind == "gguf":
        return
    weights = [tensor.name for tensor in ledger.tensors.values() if tensor.quantised]
    modules, layers = _around(weights), {weight.rpartition(".")[0] for weight in weights}
    if weights or ledger.stated:
        modules |= {
            tensor.name.rpartition(".")[0]
            for tensor in ledger.tensors.values()
            if tensor.name.endswith(".weight") and len(tensor.shape) > 1 and not tensor.quantised
        }
    found = [t for t in ledger.tensors.values() if modules and _unknown(t, modules, layers)]
    if found:
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        ledger.note(
            f"{where(found[0].components[0].stored)}{others}: a parameter beside decoded layers "
            "under a name that is not known here, kept as it is; if its tool multiplies the "
            "layers' weights or inputs by it, these weights are not the whole of them"
        )


def note_input_scales(ledger: Ledger) -> None:
    """Add a note on dropped scales of activations that have a number for each input of a layer.

    By their names they say how inputs are rounded, which is no matter of the weight; but a tool
    that multiplies inputs by such numbers, one a channel, has divided the weight by them.
    """
    found = []
    for one in ledger.dropped:
        module, dot, part = one.stored.name.rpartition(".")
        weight = ledger.tensors.get(f"{module}{dot}weight")
        if weight is None or not weight.quantised or part not in ACTIVATION_SCALES:
            continue
        if len(weight.shape) > 1 and one.stored.shape[-1:] == (weight.shape[-1],) != (1,):
            found.append((one.stored, weight.name))
    if found:
        stored, name = found[0]
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        ledger.note(
            f"{where(stored)}{others}: left out as a scale of activations by its name; it has a "
            f"number for each input of {name!r}, and if its tool multiplies the inputs by them, "
            "that weight is in another basis"
        )


def _around(weights: Iterable[str]) -> set[str]:
    """The modules that hold the layers of these weights, at any depth; "" is the model."""
    modules: set[str] = set()
    for name in weights:
        module = name.rpartition(".")[0].rpartition(".")[0] if "." in name else None
        while module is not None and module not in modules:
            modules.add(module)
            module = module.rpartition(".")[0] if module else None
    return modules


def _unknown(tensor: Tensor, modules: set[str], layers: set[str]) -> bool:
    module, _, part = tensor.name.rpartition(".")
    kind = DTYPES[tensor.out_dtype].kind
    one = math.prod(tensor.shape) < 2 and _SCALAR.search(part) is None
    if module not in modules or tensor.quantised or one:
        return False
    stored = tensor.components[0].stored
    if kind not in ("float", "int") or part in _ORDINARY or is_buffer(stored):
        return False
    # `theta_up_proj` beside a decoded `up_proj`; `gate_up_proj` alone is a parameter of its own.
    joined = (part[at + 1 :] for at, letter in enumerate(part) if letter == "_")
    prefix = f"{module}." if module else ""
    if any(f"{prefix}{layer}" in layers for layer in joined):
        return True
    return not part.endswith(_ENDINGS) and not is_own(part)
