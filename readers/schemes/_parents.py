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
from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes._integers import is_buffer, is_many
from anamnesis.readers.schemes._siblings import (
    ACTIVATION_SCALES,
    SCALES,
    is_activation,
    is_own,
    may_move,
    moves_inputs,
    rotates_all,
)
from anamnesis.readers.schemes.base import Ledger

# transformers 5.23 and diffusers: `self.X = nn.Parameter(…)`, and registered buffers.
_ORDINARY = frozenset(
    "A_log absolute_pos_embed alpha attention_biases attention_sinks attn_sink balancing_biases "
    "beta bias_u bias_v bos_latent cap_pad_token class_embedding class_pos_emb class_token "
    "cls_token D diagonal_decay dist_token dt_bias e_score_correction_bias emb_rel_k emb_rel_v "
    "embeddings ffn_gamma gain gamma gamma_1 gamma_2 global_scale gru_rel_pos_const image_begin "
    "image_end image_newline image_sep index_kpool_compress_ape input_max input_min "
    "input_residual inv_freq key_decay kv_sink lambda_1 lambda_2 lambda_k1 lambda_k2 lambda_q1 "
    "lambda_q2 latent_query latents latents_1d latents_2d layer_scalar layer_scale logit_scale "
    "logit_scale_a logit_scale_t mask_emb mask_token memory_temporal_positional_encoding "
    "modulation n_points_scale no_memory_positional_encoding no_object_pointer norm_gate "
    "num_points_scale occlusion_spatial_embedding_parameter output_max output_min pad_token "
    "per_dim_scale per_expert_scale pos_bias_u pos_bias_v pos_embed pos_embed_window "
    "pos_embedding position_embedding position_embeddings positional_embedding "
    "post_attention_residual post_scale probe query query_decay query_tokens reg_scale "
    "register_tokens rel_pos_h rel_pos_w relative_position_bias_table rotary_emb "
    "router_states_scale running_mean running_var scale scale_shift_table sink sinks slope_rate "
    "summary_idxs temperature text_audio_logit_scale text_param text_prompt time_decay time_faaaa "
    "time_first time_maa_k time_maa_r time_maa_v time_maa_w time_mix_key time_mix_receptance "
    "time_mix_value tokens view_separator view_seperator vision_param x_pad_token "
    # DeepSeek-V4's hyper-connections, as it stores them itself and as transformers does.
    "hc_attn_base hc_attn_fn hc_attn_scale hc_base hc_ffn_base hc_ffn_fn hc_ffn_scale hc_fn "
    "hc_head_base hc_head_fn hc_head_scale hc_scale".split()
)
_OF_CODES = frozenset(("alpha", "beta", "scale"))  # where they stand right beside a matrix
_LETTERS = tuple("HPQRT")
_BASES = tuple(f"{letter}.weight" for letter in _LETTERS)
_SCALAR = re.compile(r"scale|amax|offset|zero_?point")  # of one number, and not a counter
# Of numbers that are rounded while the model runs: Brevitas, PyTorch, pytorch-quantization.
_ROUNDS = re.compile(r"(^|\.)weight_(fake_)?quant(izer)?\.")
_ENDINGS = ("bias", "embed", "embedding", "gate", "norm", "token", "weight")


def note_parents(ledger: Ledger) -> None:
    """Add a note on such parameters, if any layer was decoded or a method is stated.

    Beside matrices that stayed dense as well: these may be in another basis, too. Where nothing is
    quantised by anyone's word that is all that is looked at, with what moves inputs by its name.
    """
    kind = ledger.container.kind
    if kind == "gguf":
        return
    weights = [tensor.name for tensor in ledger.tensors.values() if tensor.quantised]
    if weights or ledger.stated:
        any_dense = len(weights) < len(ledger.tensors)
        around = _around(weights) if any_dense else set()
        layers = {_layer(weight) for weight in weights} if any_dense else set()
        unknown = (t for t in ledger.tensors.values() if _unknown(ledger, t, around, layers))
        if kind == "onnx":  # whose graph says what inputs are multiplied by
            values = ledger.container.values
            unknown = (t for t in unknown if f"{t.name}.moves" in values)
        _note(ledger, list(unknown), "decoded")
    elif kind in ("pth", "safetensors"):  # others hold arrays of anything
        # In which a word is found faster than name by name.
        names = "\n".join(ledger.tensors) + "\n"
        moving, any_weight = may_move(names), "weight\n" in names
        speaking = (t for t in ledger.tensors.values() if _speaks(ledger, t, moving, any_weight))
        _note(ledger, list(speaking), "dense")


def _speaks(ledger: Ledger, tensor: Tensor, moving: bool, any_weight: bool) -> bool:
    """Whether a parameter of a model that is dense may be of codes, or move what layers read.

    `moving` and `any_weight` say whether any name of the model does by itself, or is a weight's.
    """
    name = tensor.name
    at = name.rfind(".") + 1
    part = name[at:]
    if part in ("bias", "weight"):  # nearly all, of whom there may be a million
        leaf = name[name.rfind(".", 0, max(at - 1, 0)) + 1 : max(at - 1, 0)]
        return part == "weight" and (rotates_all(leaf) or _is_basis(ledger, tensor))
    kind = DTYPES[tensor.out_dtype].kind
    wide = kind == "bool" and len(tensor.shape) > 1
    if wide or (kind == "int" and is_many(tensor.components[0].stored)):
        return False  # noted as integers
    alone = part in SCALES or (part == "scale" and is_activation(name[: at - 1]))
    if (alone and math.prod(tensor.shape) > 1) or (moving and moves_inputs(name)):
        return True
    if "weight_" in name and _ROUNDS.search(name):
        return True
    return any_weight and (_is_basis(ledger, tensor) or _unknown(ledger, tensor, set(), set()))


def _is_basis(ledger: Ledger, tensor: Tensor) -> bool:
    """Whether it is a square matrix called by one letter, as rotations are: `model.Q.weight`.

    Not where keys and values are called so as well.
    """
    if not tensor.name.endswith(_BASES) or len(tensor.shape) != 2:
        return False
    above, dot, letter = tensor.name.removesuffix(".weight").rpartition(".")
    if letter not in _LETTERS:
        return False
    others = any(f"{above}{dot}{one}.weight" in ledger.tensors for one in "KVO")
    return tensor.shape[0] == tensor.shape[1] and not others


def _note(ledger: Ledger, found: list[Tensor], layers: str) -> None:
    if found:
        ledger.note(
            f"{first_of(found)}: a parameter beside {layers} layers "
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
        scales, weights = zip(*found, strict=True)
        ledger.note(
            f"{first_of(scales)}: left out as a scale of activations by its name; it has a "
            f"number for each input of {weights[0]!r}, and if its tool multiplies the inputs by "
            "them, that weight is in another basis"
        )


def _layer(weight: str) -> str:
    """The name of the layer of a weight; stacked experts are parameters, called after theirs."""
    return weight.removesuffix("weight").removesuffix(".")


def _around(weights: Iterable[str]) -> set[str]:
    """The modules that hold the layers of these weights, at any depth; "" is the model."""
    modules: set[str] = set()
    for name in weights:
        layer = _layer(name)
        module = layer.rpartition(".")[0] if layer else None
        while module is not None and module not in modules:
            modules.add(module)
            module = module.rpartition(".")[0] if module else None
    return modules


def _unknown(ledger: Ledger, tensor: Tensor, modules: set[str], layers: set[str]) -> bool:
    """Whether nobody is known to have such a parameter in one of `modules`, or beside a matrix.

    `layers` are the modules of decoded weights.
    """
    if tensor.quantised:
        return _is_basis(ledger, tensor)
    module, dot, part = tensor.name.rpartition(".")
    if part == "weight" and _is_called_after(module, layers):
        return True
    if part not in ("bias", "weight") and _is_inside(module, layers):
        return True
    weight = ledger.tensors.get(f"{module}{dot}weight")
    beside = weight is not None and weight is not tensor and _is_dense_matrix(weight)
    if not (beside or module in modules):
        return _is_basis(ledger, tensor)
    stored, kind = tensor.components[0].stored, DTYPES[tensor.out_dtype].kind
    one = math.prod(tensor.shape) < 2 and _SCALAR.search(part) is None
    if kind not in ("bool", "float", "int") or one or is_buffer(stored):
        return False
    if part in _ORDINARY and not (beside and part in _OF_CODES):
        return False
    # `theta_up_proj` beside a decoded `up_proj`; `gate_up_proj` alone is a parameter of its own.
    joined = (part[at + 1 :] for at, letter in enumerate(part) if letter == "_")
    prefix = f"{module}." if module else ""
    if any(f"{prefix}{layer}" in layers for layer in joined):
        return True
    return not part.endswith(_ENDINGS) and not is_own(part)


def _is_called_after(module: str, layers: set[str]) -> bool:
    """Whether a module is called after a decoded layer beside it: `q_proj_adapter`.

    Norms are, and modules of their own as parameters are: `gate_up_proj` beside `gate`.
    """
    start = module.rfind(".") + 1
    for at in range(start + 1, len(module)):
        if module[at] == "_" and module[:at] in layers:
            rest = module[at + 1 :]
            if not is_own(rest) and not rest.endswith(_ENDINGS):
                return True
    return False


def _is_inside(module: str, layers: set[str]) -> bool:
    """Whether a module is called as a decoded layer is, inside of another one beside that.

    `self_attn.lowrank.q_proj` is, beside `self_attn.q_proj`.
    """
    parts = module.split(".")
    return any(
        ".".join((*parts[:start], parts[end])) in layers
        for end in range(len(parts) - 1, 0, -1)
        for start in range(end)
    )


def _is_dense_matrix(tensor: Tensor) -> bool:
    return len(tensor.shape) > 1 and not tensor.quantised
