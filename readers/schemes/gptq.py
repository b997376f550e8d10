"""GPTQ v1 and v2, and AutoRound's packings of the same bytes.

| `quant_method`, field | zero points | codes |
|---|---|---|
| gptq, `checkpoint_format` (or `format`) gptq or absent | stored - 1 | 2, 3, 4, 8 bits |
| gptq, gptq_v2 | as stored | 2, 3, 4, 8 bits |
| gptq, gptq_p | as stored | 2 to 8 bits; 3, 5, 6 and 7 in planes |
| auto-round, `packing_format` auto_round, auto_round:gptqmodel | as stored | 2 to 8 bits |
| auto-round, auto_round:auto_gptq, :gptq or absent | stored - 1 | 2 to 8 bits |

Layout of the tensors: `kernels/gptq.py`. Sources: https://github.com/ModelCloud/GPTQModel
quantization/config.py (`FORMAT`), utils/planar_packing.py; https://github.com/intel/auto-round
auto_round/inference/convert_model.py, export/export_to_autoround/export.py.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.placement import Placement, Strided
from anamnesis.readers.schemes._packed_linear import (
    SCALE_BITS,
    WORD_BITS,
    Module,
    Settings,
    check_scales,
    group_size,
    modules,
    note_group_sizes,
    refuse_incomplete,
    settings,
)
from anamnesis.readers.schemes.base import Ledger

_IMPLEMENTED = (
    "gptq, gptq_v2, gptq_p, and AutoRound's auto_round, auto_gptq, gptqmodel and auto_awq"
)
# Repacked for one kernel: only the name tells, the tensors are called the same.
_REPACKED = {
    "bitblas": "BitBLAS",
    "gemm": "AWQ's GEMM",
    "ipex": "IPEX",
    "marlin": "Marlin",
    "qqq": "QQQ",
}
_PLAIN = ("auto_round", "auto_round:gptqmodel")
_MINUS_ONE = ("auto_round:auto_gptq", "auto_round:gptq", "auto", "")
# Embedding tables are packed along the vocabulary and looked up as stored: not transposed.
_EMBEDDINGS = ("embed_tokens", "embeddings", "word_embeddings", "tok_embeddings", "wte")


def resolve(ledger: Ledger) -> None:
    """Claim every module packed along its inputs; whatever of it is a bias is passed through.

    Raises UnsupportedError for repacked formats by name, FormatError for shapes that disagree.
    """
    settled = settings(ledger)
    refuse_incomplete(ledger, settled)
    stated = _of_gptq(settled)
    for module in modules(ledger, stated):
        ledger.claim(_tensor(ledger, module, stated.of(module.prefix)))
    note_group_sizes(ledger, "gptq", stated)
    if stated.sym or not stated.method:
        ledger.later.append(_settle_zeros)


def _of_gptq(stated: Settings) -> Settings:
    """Of another method's configuration the sizes alone, which are hints; not how zeros are stored.

    GPTQ's layers under AWQ's name have words that only the configuration of GPTQ would explain.
    """
    if stated.method in ("auto-round", "gptq", ""):
        return stated
    return replace(stated, method="", sym=stated.sym or None, formats={}, desc_act=False)


def _settle_zeros(ledger: Ledger) -> None:
    from anamnesis.readers.schemes._gptq_zeros import settle  # noqa: PLC0415 - it reads payload

    settle(ledger)


def _tensor(ledger: Ledger, module: Module, stated: Settings) -> Tensor:
    _refuse(module, stated)
    groups, outputs = check_scales(module)
    bits, inputs = _bits(module, stated)
    planar = _planar(module, stated, bits)
    size = group_size(module, stated.group_size, inputs, groups)
    if stated.desc_act and module.g_idx is None and groups > 1 and stated.method == "gptq":
        raise module.error("desc_act is set, and there is no g_idx to say which input is where")
    word_bits = WORD_BITS[module.qweight.dtype]
    scale_bits = SCALE_BITS[module.scales.dtype]
    offset = _zero_offset(module, stated)
    components = [
        Component("qweight", module.qweight, _columns(module.qweight.shape[1], word_bits, 0)),
        Component("scales", module.scales, _columns(outputs, scale_bits, 0)),
    ]
    if module.qzeros is not None:
        access = _columns(module.qzeros.shape[1], word_bits, bits)
        components.append(Component("qzeros", module.qzeros, access))
    if module.g_idx is not None:
        components.append(Component("g_idx", module.g_idx))
    return Tensor(
        name=f"{module.prefix}.weight",
        shape=(outputs, inputs),
        scheme="gptq",
        encoding="gptq-planar" if planar else "gptq",
        components=tuple(components),
        unit_elems=max(1, inputs),
        unit_multiple=32 // bits if bits in (2, 4, 8) else 32,  # codes that fill whole words
        params={
            "bits": bits,
            "group_size": size,
            "act_order": stated.desc_act and module.g_idx is not None,
            "sym": stated.sym,
            "groups": groups,
            "in_features": inputs,
            "word_bits": word_bits,
            "scale_dtype": module.scales.dtype,
            "zero_offset": offset,
            "zero_carry": bool(offset)
            and bits in (2, 4, 8)
            and stated.sym is False
            and "gptqmodel" in stated.quantizer,
            "rounding": ledger.options.rounding,
        },
        orientation="transposed",
    )


def _columns(columns: int, bits: int, code_bits: int) -> Placement:
    """Lines of `columns` numbers of `bits`; a unit is one of them, or a code inside."""
    return Strided(code_bits or bits, max(1, columns * bits // 8))


def _bits(module: Module, stated: Settings) -> tuple[int, int]:
    """`(bits, inputs)` from the shapes; the config decides where they leave a choice."""
    (rows, columns), zeros = module.qweight.shape, module.qzeros
    outputs, word = module.scales.shape[1], WORD_BITS.get(module.qweight.dtype)
    if word is None or (zeros is not None and zeros.dtype != module.qweight.dtype):
        beside = f", zeros in {zeros.dtype}" if zeros is not None else ""
        raise module.error(
            f"packed in {module.qweight.dtype}{beside}; allowed is one of {', '.join(WORD_BITS)} "
            "for both"
        )
    known = None
    if module.g_idx is not None:
        if len(module.g_idx.shape) != 1 or module.g_idx.dtype not in ("I32", "I64"):
            raise module.error("a g_idx is I32 or I64 of rank 1", module.g_idx)
        known = module.g_idx.shape[0]
    fitting = [
        bits
        for bits in ((2, 3, 4, 5, 6, 7, 8) if word == 32 else (2, 4, 8))
        if (zeros is None or zeros.shape == (module.scales.shape[0], -(-outputs * bits // word)))
        and (rows * word % bits == 0 if known is None else rows == -(-known * bits // word))
    ]
    if zeros is None and known is None:  # nothing but the config tells, and the groups agree
        size, groups = stated.group_size or 0, module.scales.shape[0]
        inputs = rows * word // (stated.bits or 1)
        agree = -(-inputs // (size if size > 0 else max(1, inputs))) == groups if size else False
        fitting = [bits for bits in fitting if bits == stated.bits and agree]
    if columns != outputs or not fitting:
        raise module.error(
            "the shapes fit neither GPTQ (qweight [in * b / 32, out], qzeros [groups, "
            "out * b / 32], scales [groups, out]; of a symmetric layer without qzeros the config "
            "states bits and group_size) nor AWQ (qweight [in, out / 8], qzeros "
            f"[groups, out / 8], scales [groups, out]); found {module.shapes()}"
        )
    bits = min(fitting, key=lambda b: (b != stated.bits, b not in (2, 3, 4, 8), b != 4))
    return bits, rows * word // bits if known is None else known


def _planar(module: Module, stated: Settings, bits: int) -> bool:
    """Whether codes lie in planes: their shapes are those of the plain stream, and names tell."""
    if bits in (2, 4, 8) or stated.method == "auto-round":
        return False
    planar = "gptq_p" in stated.formats.values()
    if bits != 3 and not planar:
        raise module.unsupported(f"GPTQ of {bits} bits that is not called gptq_p", _IMPLEMENTED)
    words, outputs = module.qweight.shape
    if planar and (WORD_BITS[module.qweight.dtype] != 32 or words % bits or outputs % 32):
        raise module.error("planes of words that are not of 32 bits, or that are not filled")
    return planar


def _zero_offset(module: Module, stated: Settings) -> int:
    if stated.method == "auto-round":
        packing = stated.formats.get("packing_format") or stated.formats.get("backend", "")
        if packing in _PLAIN:
            return 0
        if packing in _MINUS_ONE:
            return 1
        raise module.unsupported(f"AutoRound packing {packing!r}", _IMPLEMENTED)
    return 0 if {"gptq_v2", "gptq_p"} & set(stated.formats.values()) else 1


def _refuse(module: Module, stated: Settings) -> None:
    for field, value in stated.formats.items():
        if field == "rotation_config" or (field != "backend" and value in _REPACKED):
            raise module.unsupported(f"{_REPACKED.get(value, value)} ({field})", _IMPLEMENTED)
    # The name of a kernel to run on: it counts when the tensors are not plain GPTQ.
    name = _REPACKED.get(stated.formats.get("backend", ""))
    if name:
        try:
            check_scales(module)
            _bits(module, stated)
        except FormatError:
            raise module.unsupported(f"{name} (backend)", _IMPLEMENTED) from None
    if module.prefix.rpartition(".")[2] in _EMBEDDINGS:
        raise module.unsupported("a quantised embedding table", "linear layers, lm_head included")
