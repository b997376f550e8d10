"""SINQ: HQQ's codes along the inputs, and a second scale for each column.

| tensor | stored |
|---|---|
| `X.W_q` | HQQ's lines of codes (`hqq.py`), groups of `group_size` inputs |
| `X.meta.scale`, `X.meta.zero` | BF16, F16 or F32 `[groups, 1]` |
| `X.meta.scale2` | BF16, F16 or F32 `[1, in]` |

`quantization_config` says method and bits of all layers; SINQ's own `save_quantized_safetensors`
says them of each, in `model.safetensors.index.json.meta.json`: `{"X": {"meta": {"nbits": 4, …}}}`.
Where the groups are tiles (`tiling_mode: 2D`) the scales have three dimensions; `method` may also
name tables of numbers (`sinq_nf4`), which the tensors do not show: both are refused by name. Scales
and zeros that are codes themselves (`sinq_quantAux`, what SINQ's own classes make of `sinq`) are
`X.meta.scale.x`, `.s` and `.m`, and so on (`kernels/sinq.py`). A-SINQ's scales of activations are
part of `scale2`. Sources: PyPI sinq 0.2.0 quantizer.py (`Quantizer.dequantize`), bitpack.py,
dual_shift.py, patch_model.py (`save_weights_safetensors`); https://github.com/huggingface/transformers
integrations/sinq.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Planar
from anamnesis.readers.schemes._errors import misfit, missing, need, unsupported, where
from anamnesis.readers.schemes._fold import folded
from anamnesis.readers.schemes._hqq_layer import SINQ_SIDECAR, Layer
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.hqq import layer_tensor

# Others (`sinq_nf4`, …) have tables of numbers.
_METHODS = re.compile("a?sinq(_awq(_l[12])?)?(_quantaux)?", re.IGNORECASE)
_BITS = (1, 2, 3, 4, 5, 6, 8)
_IN_WORDS = (5, 6)
_IMPLEMENTED = "SINQ and A-SINQ of 1 to 6 and 8 bits with tiling_mode 1D"


def resolve(ledger: Ledger) -> None:
    """Claim layers that have codes and a second scale, under SINQ's configuration or sidecar.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for tiles, tables, quantised scales, and a configuration that does not say the method.
    """
    stated = next((one for one in ledger.stated if one.method == "sinq"), None)
    block = {} if stated is None else stated.block
    layers = ledger.configs.get(SINQ_SIDECAR, {})
    for codes in list(ledger.free()):
        layer, dot, part = codes.name.rpartition(".")
        about = _about(layers.get(layer), block)
        if part == "W_q" and about is not None:
            method = about.get("method")
            if not isinstance(method, str) or not _METHODS.fullmatch(method):
                raise unsupported(codes, f"SINQ's method {method!r:.40}", _IMPLEMENTED)
            _claim(ledger, f"{layer}{dot}", codes, about.get("nbits"))


def _about(layer: object, block: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the sidecar says of a layer, or else the configuration; None where neither does."""
    own = layer.get("meta") if isinstance(layer, Mapping) else None
    if isinstance(own, Mapping):
        return own
    return block or None


def _claim(ledger: Ledger, layer: str, codes: Stored, bits: object) -> None:
    if type(bits) is not int or bits not in _BITS:  # True is 1, and 1.0 is, to Python
        raise unsupported(codes, f"SINQ of {bits!r:.20} bits", _IMPLEMENTED)
    scale, zero, columns = (
        _part(ledger, layer, codes, name) for name in ("scale", "zero", "scale2")
    )
    if 3 in (len(scale.shape), len(columns.shape)):
        raise unsupported(scale, "SINQ with tiling_mode 2D", _IMPLEMENTED)
    inputs = columns.shape[-1] if columns.shape else 0
    if columns.shape != (1, inputs) or not inputs or columns.dtype not in SCALE_BITS:
        raise misfit(columns, f"{', '.join(SCALE_BITS)} [1, in]")
    size = codes.shape[1] if len(codes.shape) == 2 else 0
    aux = [_aux(ledger, one) for one in (scale, zero)]
    groups = math.prod(scale.shape) if aux[0] else (*scale.shape, 0)[0]
    lies = scale.shape == (groups, 1) or aux[0]
    if not lies or not size or not groups or groups * size % inputs or inputs % size:
        raise misfit(scale, f"[groups, 1] of {size} of the {inputs:,} inputs of {columns.name!r}")
    shape = (groups * size // inputs, inputs)
    plain = [
        replace(one, dtype="F32", shape=(groups, 1)) if aux[0] else one for one in (scale, zero)
    ]
    if bool(aux[0]) != bool(aux[1]) or (aux[0] and math.prod(zero.shape) != groups):
        raise misfit(zero, f"{groups:,} codes, as the scales have")
    words = bits in _IN_WORDS
    bytes_ = replace(codes, dtype="U8", shape=(groups, size)) if words else codes
    packing = 8 if words else bits
    known = Layer(layer, bytes_, plain[0], plain[1], packing, shape, 1, size, "F32")
    tensor = replace(layer_tensor(ledger, known), scheme="sinq", unit_multiple=inputs // size)
    exact = {**tensor.params, "rounding": "exact"}  # its scales are kept as float32
    tensor = folded(replace(tensor, params=exact), factor=columns)
    if aux[0]:
        tensor = _with_aux(tensor, [(scale, *aux[0]), (zero, *aux[1])])
    ledger.claim(_in_words(tensor, codes, bits, groups) if words else tensor)
    folded_in = ledger.get(f"{layer}meta.awq_scale")
    if folded_in is not None:
        ledger.drop(folded_in, "part of scale2")


def _in_words(tensor: Tensor, codes: Stored, bits: int, groups: int) -> Tensor:
    """The tensor of codes of eight bits, as one of several to a word (`kernels/sinq_words.py`)."""
    size, lines = codes.shape[1], -(-groups // (32 // bits))
    if codes.dtype != "I32" or codes.shape != (lines, size):
        raise misfit(codes, f"I32 {[lines, size]}, of {groups:,} groups of {bits} bits")
    payload = Component("W_q", codes, Planar(32 * size, lines))
    others = [one for one in tensor.components if one.role != "W_q"]
    params = {**tensor.params, "word_bits": bits, "lines": lines, "of_bytes": tensor.encoding}
    return replace(tensor, encoding="sinq-words", components=(payload, *others), params=params)


def _aux(ledger: Ledger, codes: Stored) -> tuple[Stored, ...]:
    """Steps and minima beside the codes of scales or zeros; nothing beside plain ones."""
    if not codes.name.endswith(".x"):
        return ()
    step, least = (need(ledger, codes, codes.name[:-1] + part) for part in "sm")
    count = codes.shape[1] if len(codes.shape) == 2 else 0
    if codes.dtype != "U8" or not count:
        raise misfit(codes, "U8 [t, groups / t]")
    for one in (step, least):
        if one.dtype not in SCALE_BITS or one.shape != (1, count):
            raise misfit(one, f"{', '.join(SCALE_BITS)} {[1, count]}, for {codes.name!r}")
    return step, least


def _with_aux(tensor: Tensor, sides: list[tuple[Stored, ...]]) -> Tensor:
    """The same tensor with codes in the place of its scales and zeros."""
    components = [one for one in tensor.components if one.role not in ("scale", "zero")]
    for side, (codes, step, least) in zip(("scale", "zero"), sides, strict=True):
        components += [
            Component(f"{side}_x", codes, Contiguous(8)),
            Component(side, step),
            Component(f"{side}_m", least),
        ]
    params = {**tensor.params, "numbers": tensor.encoding}
    return replace(tensor, encoding="sinq-aux", components=tuple(components), params=params)


def _part(ledger: Ledger, layer: str, codes: Stored, name: str) -> Stored:
    found = ledger.get(f"{layer}meta.{name}") or ledger.get(f"{layer}meta.{name}.x")
    if found is None:
        if f"{layer}meta" in ledger.container.stored:
            raise UnsupportedError(f"{where(codes)}: SINQ's `meta` in one tensor is not known")
        raise missing(ledger, codes, f"{layer}meta.{name}")
    return found
