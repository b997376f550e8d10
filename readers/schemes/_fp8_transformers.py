"""What transformers' FP8 quantiser writes otherwise than other tools: experts, and dense weights.

A model of experts that transformers (5.x) quantises while it loads is saved with the codes of each
expert by themselves and the scales of all of them in one tensor, as its modules hold them:

| codes F8_E4M3 | scales F32 or F8_E8M0, `[experts, block rows, block columns]` |
|---|---|
| `X.experts.N.gate_proj.weight`, `X.experts.N.w1.weight` | the upper half of the block rows of
`X.experts.gate_up_proj_scale_inv[N]` |
| `X.experts.N.up_proj.weight`, `X.experts.N.w3.weight` | the lower half; with one block row for
both, that one |
| `X.experts.N.down_proj.weight`, `X.experts.N.w2.weight` | `X.experts.down_proj_scale_inv[N]` |

Experts without a gate have `X.experts.up_proj_scale_inv` in the place of the first.
A matrix that `weight_block_size` does not divide stays dense, and beside it the scale that its
module allocates is saved: nobody computed it, and dense weights are multiplied without it.
Source: https://github.com/huggingface/transformers 5.23 integrations/finegrained_fp8.py
(`Fp8Quantize._quantize_one`, `FP8Linear.forward`, `FP8Experts.linear`), conversion_mapping.py.
"""

from __future__ import annotations

import re
from dataclasses import replace

from anamnesis.errors import FormatError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import first_of, where
from anamnesis.readers.schemes._scale_grid import declared_blocks, stack
from anamnesis.readers.schemes.base import Ledger

_EXPERT = re.compile(r"(.*\bexperts)\.([0-9]{1,6})\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_FUSED = {
    "gate_proj": ("gate_up_proj", 0),
    "w1": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "w3": ("gate_up_proj", 1),
    "down_proj": ("down_proj", 0),
    "w2": ("down_proj", 0),
}
_DENSE = ("BF16", "F16", "F32")
_ENDING = "_scale_inv"


def fused_layer(ledger: Ledger, name: str) -> str:
    """The layer of all experts whose scales hold those of the expert's weight `name`, or ''."""
    found = _EXPERT.fullmatch(name)
    if found is None:
        return ""
    stem, _, part = found.groups()
    layers = [_FUSED[part][0], *(("up_proj",) if part == "up_proj" else ())]
    stored = ledger.container.stored
    there = [f"{stem}.{layer}" for layer in layers if f"{stem}.{layer}{_ENDING}" in stored]
    return there[0] if there else ""


def expert_scale(ledger: Ledger, weight: Stored) -> Stored | None:
    """The part of the fused scales that is the weight's, as a stored tensor of its own.

    Raises FormatError for scales of fewer experts, and for blocks that lie over gate and up.
    """
    layer = fused_layer(ledger, weight.name)
    if not layer:
        return None
    scale = ledger.container.stored[f"{layer}{_ENDING}"]
    found = _EXPERT.fullmatch(weight.name)
    if found is None or scale.view is not None or not all(scale.shape):
        return None
    number, (fused, half) = int(found[2]), _FUSED[found[3]]
    halved = layer.endswith("gate_up_proj") and fused == "gate_up_proj"
    experts, rows, columns = scale.shape if len(scale.shape) == 3 else (0, 0, 0)
    if number >= experts or (halved and rows > 1 and rows % 2):
        raise FormatError(
            f"{where(scale, weight)}: the scale does not fit; allowed are [experts, block rows, "
            f"block columns] with an expert {number}"
            + (" and an even number of block rows, or one, for gate and up" if halved else "")
        )
    share = 2 if halved and rows > 1 else 1
    nbytes = scale.nbytes // experts
    start = number * nbytes + (half * nbytes // 2 if share == 2 else 0)
    return replace(
        scale,
        shape=(rows // share, columns),
        offset=scale.offset + start,
        nbytes=nbytes // share,
    )


def drop_unused_scales(ledger: Ledger) -> set[str]:
    """Drop the scales of weights that stayed dense, with a note; returns the layers of these.

    Only where the configuration's blocks do not divide the matrix that the quantiser saw, and the
    scale has the grid that its module allocates: any other scale beside a dense weight is left.
    """
    block = declared_blocks(ledger.quantization())[:1]
    if ledger.method() != "fp8" or not block:
        return set()
    stored, layers, dropped = ledger.container.stored, set(), []
    fused: dict[str, list[Stored]] = {}
    for tensor in ledger.free():
        layer = fused_layer(ledger, tensor.name) if tensor.dtype in _DENSE else ""
        if layer:
            fused.setdefault(layer, []).append(tensor)
    for scale in list(ledger.free()):
        layer = scale.name.removesuffix(_ENDING)
        own = stored.get(layer)
        weights = [own] if own is not None else fused.get(layer, [])
        if (
            layer != scale.name
            and weights
            and all(_stayed(w, layer, scale, block[0]) for w in weights)
        ):
            ledger.drop(scale, "scale of a weight that stayed dense")
            dropped.append(scale)
            layers.add(layer.removesuffix(".weight"))
    if dropped:
        ledger.note(
            f"{first_of(dropped)}: scales of weights that stayed dense, since blocks of "
            f"{block[0][0]}x{block[0][1]} do not divide them: left out, since transformers, which "
            "allocates them, computes none for such weights"
        )
    return layers


def _stayed(weight: Stored, layer: str, scale: Stored, block: tuple[int, int]) -> bool:
    """Whether transformers' quantiser passes the weight by, and its module has such a scale."""
    _, rows, columns = stack(weight)
    if layer.endswith("gate_up_proj") and weight.name.endswith(".weight"):
        rows *= 2  # gate and up as the quantiser saw them
    grid = -(-rows // block[0]), -(-columns // block[1])
    whole = not (rows % block[0] or columns % block[1])
    return weight.dtype in _DENSE and not whole and scale.shape[-2:] == grid
