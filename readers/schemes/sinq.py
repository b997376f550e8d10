"""SINQ: HQQ's codes along the inputs, and a second scale for each column.

| tensor | stored |
|---|---|
| `X.W_q` | HQQ's lines of codes (`hqq.py`), groups of `group_size` inputs |
| `X.meta.scale`, `X.meta.zero` | floats `[groups, 1]`, or of tiles `[tiles, group_size, 1]` |
| `X.meta.scale2` | floats `[1, in]`, or of tiles `[tiles, 1, group_size]` |

Floats are BF16, F16 or F32. `quantization_config` says method and bits of all layers; SINQ's own
`save_quantized_safetensors` says them of each, in `model.safetensors.index.json.meta.json`:
`{"X": {"meta": {"nbits": 4, …}}}`.
Square tiles (`tiling_mode: 2D`) are seen in the dimensions of `scale2` (`kernels/sinq_tiles.py`);
the sidecar's `shape` or the length of `X.bias` says how many rows they make. A method with `nf4` or
`nf3` in its name has codes of a table (`kernels/sinq_table.py`). Scales and zeros that are codes
themselves (`quantAux`, what SINQ's own classes make of `sinq`) are `X.meta.scale.x`, `.s` and `.m`,
and so on (`kernels/sinq.py`). A-SINQ's scales of activations are part of `scale2`. Sources: PyPI
sinq 0.2.0 quantizer.py (`Quantizer.dequantize`), bitpack.py, dual_shift.py, patch_model.py
(`save_weights_safetensors`); https://github.com/huggingface/transformers integrations/sinq.py.
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

# Others have no zeros of groups (`noz`), or steps in another order.
_METHODS = re.compile("a?sinq(_awq(_l[12])?|_nf[34]|_quantaux)*", re.IGNORECASE)
_BITS = (1, 2, 3, 4, 5, 6, 8)
_IN_WORDS = (5, 6)
_IMPLEMENTED = "SINQ and A-SINQ of 1 to 6 and 8 bits, with codes of numbers, nf4 or nf3"
_SIDES = ("scale", "zero")


def resolve(ledger: Ledger) -> None:
    """Claim layers that have codes and a second scale, under SINQ's configuration or sidecar.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for methods that are not known, a configuration that does not say the method, and tiles of
    which nothing says the shape.
    """
    stated = next((one for one in ledger.stated if one.method == "sinq"), None)
    block = {} if stated is None else stated.block
    layers = ledger.configs.get(SINQ_SIDECAR, {})
    for codes in list(ledger.free()):
        layer, dot, part = codes.name.rpartition(".")
        about = _about(layers.get(layer), block)
        if part == "W_q" and about is not None:
            _claim(ledger, f"{layer}{dot}", codes, about)


def _about(layer: object, block: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the sidecar says of a layer, or else the configuration; None where neither does."""
    own = layer.get("meta") if isinstance(layer, Mapping) else None
    if isinstance(own, Mapping):
        return own
    return block or None


def _claim(ledger: Ledger, layer: str, codes: Stored, about: Mapping[str, Any]) -> None:
    table, bits = _method(codes, about)
    scale, zero, columns = (_part(ledger, layer, codes, name) for name in (*_SIDES, "scale2"))
    aux = [_aux(ledger, one) for one in (scale, zero)]
    size = codes.shape[1] if len(codes.shape) == 2 else 0
    tiled = 3 in (len(columns.shape), len(scale.shape))
    groups = math.prod(scale.shape if aux[0] or tiled else scale.shape[:1])
    if columns.dtype not in SCALE_BITS or not size or not groups:
        raise misfit(columns, f"{', '.join(SCALE_BITS)}, beside groups of codes and their scales")
    if tiled:
        shape = _shape_of_tiles(ledger, columns, groups, size, about)
    else:
        shape = _shape_of_rows(codes, scale, columns, groups)
    sides = (groups // size, size, 1) if tiled else (groups, 1)
    if bool(aux[0]) != bool(aux[1]) or (aux[0] and math.prod(zero.shape) != groups):
        raise misfit(zero, f"{groups:,} codes, as the scales have")
    for one in () if aux[0] else (scale, zero):
        if one.shape != sides:
            raise misfit(one, f"{list(sides)}, for codes in groups of {size}")
        if table and one.dtype != "F32":  # its table is rounded to the dtype of the scales
            raise unsupported(one, f"SINQ's {table} with {one.dtype} beside it", "F32")
    flat_scale, flat_zero = (
        replace(one, shape=(groups, 1), dtype="F32" if aux[0] else one.dtype)
        for one in (scale, zero)
    )
    words = bits in _IN_WORDS
    bytes_ = replace(codes, dtype="U8", shape=(groups, size)) if words else codes
    packing = 8 if words else bits
    known = Layer(layer, bytes_, flat_scale, flat_zero, packing, shape, 1, size, "F32")
    tensor = _numbers(layer_tensor(ledger, known), (scale, zero), shape[1] // size, table)
    tensor = _in_tiles(tensor, columns, size) if tiled else folded(tensor, factor=columns)
    if aux[0]:
        tensor = _with_aux(tensor, [(scale, *aux[0]), (zero, *aux[1])])
    ledger.claim(_in_words(tensor, codes, bits, groups) if words else tensor)
    folded_in = ledger.get(f"{layer}meta.awq_scale")
    if folded_in is not None:
        ledger.drop(folded_in, "part of scale2")


def _method(codes: Stored, about: Mapping[str, Any]) -> tuple[str, int]:
    """The table of the codes, "" where they are numbers, and their bits."""
    method, bits = about.get("method"), about.get("nbits")
    known = isinstance(method, str) and _METHODS.fullmatch(method)
    tables = re.findall("nf[34]", str(method).lower())
    if not known or len(tables) > 1:
        raise unsupported(codes, f"SINQ's method {method!r:.40}", _IMPLEMENTED)
    if type(bits) is not int or bits not in _BITS:  # True is 1, and 1.0 is, to Python
        raise unsupported(codes, f"SINQ of {bits!r:.20} bits", _IMPLEMENTED)
    return "".join(tables), bits


def _shape_of_rows(codes: Stored, scale: Stored, columns: Stored, groups: int) -> tuple[int, int]:
    """`[out, in]` of groups that are parts of rows, of which `scale2` says the inputs."""
    inputs, size = columns.shape[-1] if columns.shape else 0, codes.shape[1]
    if columns.shape != (1, inputs) or not inputs:
        raise misfit(columns, f"{', '.join(SCALE_BITS)} [1, in]")
    if groups * size % inputs or inputs % size:
        raise misfit(scale, f"[groups, 1] of {size} of the {inputs:,} inputs of {columns.name!r}")
    return groups * size // inputs, inputs


def _shape_of_tiles(
    ledger: Ledger, columns: Stored, groups: int, size: int, about: Mapping[str, Any]
) -> tuple[int, int]:
    """`[out, in]` of square tiles: the parts do not say how many are beside one another."""
    if groups % size or columns.shape != (groups // size, 1, size):
        raise misfit(columns, f"[tiles, 1, {size}], of {groups:,} groups of {size}")
    shape = about.get("shape")
    bias = ledger.get(columns.name.removesuffix("meta.scale2") + "bias")
    if shape is None and bias is not None and len(bias.shape) == 1 and bias.shape[0]:
        shape = [bias.shape[0], groups * size // bias.shape[0]]
    if shape is None:
        why = f"tiling_mode 2D, of which neither a bias nor {SINQ_SIDECAR} says the shape"
        raise unsupported(columns, f"SINQ with {why}", "layers of which one does")
    whole = isinstance(shape, list) and len(shape) == 2
    if not whole or any(type(n) is not int or n < 1 or n % size for n in shape):
        raise misfit(columns, f"tiles of {size} by {size} that fill [out, in], not {shape!r:.60}")
    if math.prod(shape) != groups * size:
        raise misfit(columns, f"as many tiles as the shape {shape} has")
    return shape[0], shape[1]


def _numbers(tensor: Tensor, sides: tuple[Stored, Stored], across: int, table: str) -> Tensor:
    """HQQ's tensor as SINQ's: its scales as stored, kept as float32, and the codes' table."""
    beside = dict(zip(_SIDES, sides, strict=True))
    components = [
        replace(one, stored=beside.get(one.role, one.stored)) for one in tensor.components
    ]
    params = {**tensor.params, "rounding": "exact"}
    if table:
        params |= {"table": table}
    return replace(
        tensor,
        scheme="sinq",
        encoding="sinq-table" if table else tensor.encoding,
        components=tuple(components),
        params=params,
        unit_multiple=across,
    )


def _in_tiles(tensor: Tensor, columns: Stored, size: int) -> Tensor:
    """The tensor of groups, as one of square tiles of `size` (`kernels/sinq_tiles.py`)."""
    across = tensor.shape[1] // size
    components = (
        *tensor.components,
        Component("scale2", columns, Contiguous(SCALE_BITS[columns.dtype])),
    )
    params = {"of_groups": tensor.encoding, "tile": size, "across": across}
    params |= {**tensor.params, "scale2_dtype": columns.dtype}
    return replace(
        tensor,
        encoding="sinq-2d",
        components=components,
        params=params,
        unit_multiple=size * across,
    )


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
    components = [one for one in tensor.components if one.role not in _SIDES]
    for side, (codes, step, least) in zip(_SIDES, sides, strict=True):
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
