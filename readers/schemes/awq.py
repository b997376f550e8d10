"""AWQ of 4 bits as AutoAWQ, GPTQModel and AutoRound write it, and of 5 to 7 as AutoRound does.

| | `qweight` | `qzeros` | `scales` | output |
|---|---|---|---|---|
| GEMM | I32 `[in, out / 8]` | I32 `[groups, out / 8]` | `[groups, out]` | transposed |
| of b bits | I32 `[in, out * b / 32]` | the same of `[groups, …]` | `[groups, out]` | transposed |
| GEMV | I32 `[out, in / 8]` | I32 `[out, zw]` | `[out, 8 * zw]` | as stored |
| GEMV-fast | I16 `[out / 4, in]` | F16 `[8 * zw, out]` | F16 `[8 * zw, out]` | as stored |
| llm-awq | the same | `scaled_zeros`, the same | the same | as stored |

`zw` holds the groups of a row, eight a word, rounded up to whole words and then to a multiple of
1, 2 or 4 words for groups of 128, 64 or 32. GEMV-fast and llm-awq interleave rows in I16 words,
and their zero points are multiplied by the scales already, with their sign reversed.
The shapes tell all of these apart, from each other and from GPTQ. Where a layer's input comes from
an activation, AutoAWQ divides that by `X.act.scales` (MPT, Falcon, GPT-J, GPTBigCode, StarCoder2;
Bloom: `X.gelu_impl.scales`) and multiplies the columns of the layer by them: they are divided by
them here, since the output has no such activation. ParoQuant's layers are GEMM layers whose input
is multiplied by `X.channel_scales` and rotated, a pair of columns at a time, by `X.theta` and
`X.pairs` (for experts: `gate_up_weight_theta` and so on above them). Sources:
https://github.com/casper-hansen/AutoAWQ awq/modules/linear/gemm.py, gemv.py, gemv_fast.py,
awq/modules/act.py, and `get_act_for_scaling` of awq/models; PyPI paroquant 0.1.16 cli/convert.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, missing, unsupported, where
from anamnesis.readers.schemes._fold import folded
from anamnesis.readers.schemes._packed_linear import (
    SCALE_BITS,
    Module,
    Settings,
    check_scales,
    group_size,
    modules,
    note_group_sizes,
    settings,
)
from anamnesis.readers.schemes.base import Ledger

_IMPLEMENTED = "AWQ GEMM of 4 to 7 bits, GEMV and GEMV-fast of 4 bits"
_REPACKED = {
    "exllama": "AWQ for ExLlama",
    "exllamav2": "AWQ for ExLlamaV2",
    "ipex": "AWQ for IPEX",
    "llm-awq": "llm-awq",
    "marlin": "AWQ for Marlin",
}
_PER_WORD = 8
_STREAMED = (5, 6, 7)  # bits of AutoRound's streams, of which 32 codes fill whole words
_FAST_ROWS, _FAST_COLUMNS = 4, 64  # that GEMV-fast interleaves
_ACTIVATIONS = (".act.scales", ".gelu_impl.scales")
_AFTER_ACTIVATIONS = ("c_proj", "dense_4h_to_h", "down_proj", "fc_out")


def resolve(ledger: Ledger) -> None:
    """Claim modules packed along their outputs (GEMM) or by output rows (GEMV, GEMV-fast).

    Raises UnsupportedError for repacked versions by name and for other bits. Shapes that fit
    none are left to GPTQ, which comes after.
    """
    stated = settings(ledger)
    _claim_llm_awq(ledger, stated)
    divisors = _divisors(ledger) if stated.method == "awq" else {}
    contradictions: dict[str, Module] = {}  # each with the first layer of it
    for module in modules(ledger, stated):
        if stated.method == "awq":
            _refuse(module, stated)
        version = _version(module, stated)
        if version == "gemm" and _order(ledger) == "order":
            raise module.unsupported("Quark's AWQ with pack_method 'order'", _IMPLEMENTED)
        divisor = divisors.get(module.prefix)
        if version:
            tensor = _TENSORS[version](ledger, module, stated)
            ledger.claim(_unfolded(ledger, module.prefix, tensor, divisor))
            contradictions.setdefault(_contradiction(ledger, module, stated, version), module)
    for said, module in contradictions.items():
        if said:
            ledger.note(f"{where(module.qweight)}: {said}")
    note_group_sizes(ledger, "awq", stated)


def _contradiction(ledger: Ledger, module: Module, stated: Settings, version: str) -> str:
    """What the configuration says of a layer that its tensors do not; the tensors are followed."""
    packing = stated.formats.get("packing_format", "")
    if stated.method == "auto-round" and packing not in ("", "auto") and "awq" not in packing:
        return (
            "in AWQ's layout, and decoded as such, while the configuration says packing_format "
            f"{packing!r:.80}"
        )
    said = stated.formats.get("version", "")
    if said in _TENSORS and said != version:
        return f"in the layout of version {version!r}, while the configuration says {said!r}"
    if module.qzeros is not None and ledger.quantization().get("zero_point") is False:
        return "used with the zero points beside it, while the configuration says zero_point: false"
    return ""


def _unfolded(ledger: Ledger, prefix: str, tensor: Tensor, divisor: Stored | None) -> Tensor:
    """In the basis of the layer's input: divided by an activation's scales, or rotated back."""
    if divisor is not None:
        return folded(tensor, factor=divisor, divide=True)
    givens = _givens(ledger, prefix)
    if givens is None:
        if ledger.method() == "paroquant":
            names = [f"{prefix}.{part}" for part in ("theta", "pairs", "channel_scales")]
            why = "the configuration says paroquant, whose layers are rotated"
            raise missing(ledger, tensor.components[0].stored, *names, why=why)
        return tensor
    theta, pairs, factor = givens
    if ledger.options.rounding != "reference":
        raise UnsupportedError(
            f"{where(theta)}: ParoQuant rotates pairs of columns by learned angles (paroquant), "
            "and cosines of these are no exact numbers; --rounding reference undoes the rotations "
            "in double precision"
        )
    ledger.note(
        "ParoQuant: the rotations of pairs of columns were undone in double precision, and "
        "rounded once"
    )
    size = tensor.params["group_size"]
    tensor = replace(tensor, params={**tensor.params, "rounding": "exact"})  # of the codes' values
    group = size if size > 0 else tensor.shape[1]
    tensor = folded(tensor, factor=factor, givens=(theta, pairs), group=group)
    stated = ledger.quantization().get("krot")
    if stated is not None and stated != theta.shape[0]:
        raise misfit(theta, f"{stated!r:.20} rotations, as krot of the configuration says")
    return tensor


def _givens(ledger: Ledger, prefix: str) -> tuple[Stored, Stored, Stored] | None:
    """ParoQuant's `theta`, `pairs` and `channel_scales`; those of experts stand above them."""
    stored = ledger.container.stored
    experts, _, kind = prefix.rpartition(".")
    shared = {"gate_proj": "gate_up", "up_proj": "gate_up", "down_proj": "down"}.get(kind, "")
    above = f"{experts.rpartition('.')[0]}.{shared}_weight_"
    for head in (f"{prefix}.", above):
        theta = stored.get(f"{head}theta")
        if theta is not None and (head != above or shared):
            names = (f"{head}pairs", f"{head}channel_scales")
            beside = [stored.get(name) for name in names]
            pairs, factor = beside
            if pairs is None or factor is None:
                raise missing(ledger, theta, *(n for n in names if n not in stored))
            return theta, pairs, factor
    return None


def _divisors(ledger: Ledger) -> dict[str, Stored]:
    """Scales of activations, by the layer that comes next; raises UnsupportedError for none."""
    found = {}
    for stored in ledger.free():
        block = next((stored.name[: -len(e)] for e in _ACTIVATIONS if stored.name.endswith(e)), "")
        if not block:
            continue
        after = [f"{block}.{name}" for name in _AFTER_ACTIVATIONS]
        layers = [name for name in after if ledger.get(f"{name}.qweight") is not None]
        if len(layers) != 1:
            what = f"AWQ's scales of an activation before {' or '.join(layers) or 'no known layer'}"
            raise unsupported(stored, what, f"those before one of {', '.join(_AFTER_ACTIVATIONS)}")
        found[layers[0]] = stored
    return found


def _version(module: Module, stated: Settings) -> str:
    """What the tensors say: a key of `_TENSORS`, or "" for a module that is not AWQ's."""
    if module.qzeros is None:
        return _symmetric_version(module, stated)
    parts = (module.qweight, module.qzeros, module.scales)
    if module.qweight.dtype == "I16" and module.qzeros.dtype == "F16":
        return "gemv_fast"
    words = all(s.dtype in ("I32", "U32") for s in parts[:2])
    if any(len(s.shape) != 2 for s in parts) or not words:
        return ""
    (rows, columns), (groups, zero_words), (scale_rows, scale_columns) = (s.shape for s in parts)
    found = []
    if columns == zero_words and groups == scale_rows and columns != scale_columns:
        bits = 32 * columns // scale_columns if scale_columns else 0
        whole = 32 * columns == bits * scale_columns
        if whole and (bits == 4 or (bits in _STREAMED and not columns % bits)):
            found.append("gemm")
        elif whole and bits in (2, 3, 5, 6, 7, 8):
            raise module.unsupported(f"AWQ of {bits} bits", _IMPLEMENTED)
    # GPTQ's shapes are these too, for groups of eight inputs; it has a g_idx and a config.
    padded = zero_words * _PER_WORD == scale_columns and rows == groups == scale_rows
    if padded and stated.method in ("awq", "") and module.g_idx is None:
        found.append("gemv")
    if not scale_columns and stated.method == "awq":
        return "gemm"  # nothing is stored; only the shape matters
    hinted = stated.formats.get("version", "")
    return hinted if hinted in found else "".join(found[:1])


def _symmetric_version(module: Module, stated: Settings) -> str:
    """Without zero points: gemm, where words hold eight outputs each, or ""."""
    parts = (module.qweight, module.scales)
    if any(len(s.shape) != 2 for s in parts) or module.qweight.dtype not in ("I32", "U32"):
        return ""
    columns, outputs = module.qweight.shape[1], module.scales.shape[1]
    if columns != outputs and columns * _PER_WORD == outputs:
        return "gemm"
    if stated.method == "awq":
        raise module.unsupported(f"AWQ without qzeros ({module.shapes()})", _IMPLEMENTED)
    return ""


def _gemm(ledger: Ledger, module: Module, stated: Settings) -> Tensor:
    groups, outputs = check_scales(module)
    inputs, words = module.qweight.shape
    bits = 32 * words // outputs if outputs else 4
    size = group_size(module, stated.group_size, inputs, groups)
    line = max(1, words * 4)
    scale_bits = SCALE_BITS[module.scales.dtype]
    components = [
        Component("qweight", module.qweight, Strided(bits, line)),
        Component("scales", module.scales, Strided(scale_bits, max(1, outputs * scale_bits // 8))),
    ]
    if module.qzeros is not None:
        components.append(Component("qzeros", module.qzeros, Strided(bits, line)))
    return Tensor(
        name=f"{module.prefix}.weight",
        shape=(outputs, inputs),
        scheme="awq",
        encoding="awq-stream" if bits in _STREAMED else "awq-gemm",
        components=tuple(components),
        unit_elems=max(1, inputs),
        unit_multiple=32 if bits in _STREAMED else _PER_WORD,  # outputs that fill whole words
        params={**_params(ledger, module, "gemm", inputs, size, groups), "bits": bits},
        orientation="transposed",
    )


def _gemv(ledger: Ledger, module: Module, stated: Settings) -> Tensor:
    _, padded = check_scales(module)
    outputs, words = module.qweight.shape
    inputs = words * _PER_WORD
    size = _gemv_size(module, stated.group_size, inputs, module.zeros.shape[1])
    groups = -(-inputs // (size if size > 0 else max(1, inputs)))
    bits = SCALE_BITS[module.scales.dtype]
    components = (
        Component("qweight", module.qweight, Contiguous(words * 32)),
        Component("scales", module.scales, Contiguous(padded * bits)),
        Component("qzeros", module.zeros, Contiguous(module.zeros.shape[1] * 32)),
    )
    return Tensor(
        name=f"{module.prefix}.weight",
        shape=(outputs, inputs),
        scheme="awq",
        encoding="awq-gemv",
        components=components,
        unit_elems=max(1, inputs),
        params=_params(ledger, module, "gemv", inputs, size, groups),
    )


def _gemv_fast(ledger: Ledger, module: Module, stated: Settings) -> Tensor:
    padded, outputs = check_scales(module)
    fours, inputs = module.qweight.shape
    shapes = module.zeros.shape == module.scales.shape
    shapes = shapes and module.scales.dtype == module.zeros.dtype == "F16"
    if not shapes or outputs != _FAST_ROWS * fours or inputs % _FAST_COLUMNS or padded % _PER_WORD:
        raise module.error(
            f"{module.shapes()}; allowed for GEMV-fast are I16 [out / 4, in], in a multiple of "
            f"{_FAST_COLUMNS}, and F16 [8 * words, out] twice"
        )
    size = _gemv_size(module, stated.group_size, inputs, padded // _PER_WORD)
    groups = -(-inputs // (size if size > 0 else max(1, inputs)))
    line = Strided(16 * _FAST_ROWS, max(1, 2 * outputs))
    components = (
        Component("qweight", module.qweight, Contiguous(16 * max(1, inputs))),
        Component("scales", module.scales, line),
        Component("qzeros", module.zeros, line),
    )
    return Tensor(
        name=f"{module.prefix}.weight",
        shape=(outputs, inputs),
        scheme="awq",
        encoding="awq-gemv-fast",
        components=components,
        unit_elems=max(1, _FAST_ROWS * inputs),
        params=_params(ledger, module, "gemv_fast", inputs, size, groups),
    )


_TENSORS = {"gemm": _gemm, "gemv": _gemv, "gemv_fast": _gemv_fast}


def _gemv_size(module: Module, declared: int | None, inputs: int, width: int) -> int:
    """The group size that gives the stored `width` of zeros; the config's if it does."""
    for size in (declared, 128, 64, 32, -1):
        if size is None:
            continue
        whole = size if size > 0 else max(1, inputs)
        unit = 1 if whole >= 128 else 2 if whole >= 64 else 4
        groups = -(-inputs // whole)
        words = -(-groups // _PER_WORD)
        if -(-words // unit) * unit == width:
            return size
    raise module.error(
        f"{width} words of zeros a row for {inputs:,} inputs, and group_size {declared}: "
        "allowed are 128, 64, 32 and -1",
        module.qzeros,
    )


def _params(
    ledger: Ledger, module: Module, version: str, inputs: int, size: int, groups: int
) -> dict[str, object]:
    return {
        "bits": 4,
        "group_size": size,
        "act_order": False,
        "version": version,
        "groups": groups,
        "in_features": inputs,
        "scale_dtype": module.scales.dtype,
        "rounding": ledger.options.rounding,
    }


def _refuse(module: Module, stated: Settings) -> None:
    for field, value in stated.formats.items():
        if value in _REPACKED:
            raise module.unsupported(f"{_REPACKED[value]} ({field})", _IMPLEMENTED)


def _order(ledger: Ledger) -> object:
    """Quark's word for the order of nibbles; that of AWQ is `reorder`."""
    config = ledger.quantization()
    export = config.get("export")
    inner = export.get("pack_method") if isinstance(export, Mapping) else None
    return config.get("pack_method", inner)


def _claim_llm_awq(ledger: Ledger, stated: Settings) -> None:
    """llm-awq's own layers: GEMV-fast's, whose zero points are called `scaled_zeros`."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "qweight" or stored.dtype != "I16":
            continue
        scales, zeros = (ledger.get(f"{prefix}{dot}{name}") for name in ("scales", "scaled_zeros"))
        if scales is not None and zeros is not None:
            module = Module(prefix, stored, zeros, scales, None)
            ledger.claim(_gemv_fast(ledger, module, stated))
