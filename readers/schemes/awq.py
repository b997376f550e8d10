"""AWQ of 4 bits as AutoAWQ, GPTQModel and AutoRound (`auto_round:auto_awq`) write it.

| | `qweight` | `qzeros` | `scales` | output |
|---|---|---|---|---|
| GEMM | I32 `[in, out / 8]` | I32 `[groups, out / 8]` | `[groups, out]` | transposed |
| GEMV | I32 `[out, in / 8]` | I32 `[out, zw]` | `[out, 8 * zw]` | as stored |
| GEMV-fast | I16 `[out / 4, in]` | F16 `[8 * zw, out]` | F16 `[8 * zw, out]` | as stored |

`zw` holds the groups of a row, eight a word, rounded up to whole words and then to a multiple of
1, 2 or 4 words for groups of 128, 64 or 32. GEMV-fast and llm-awq interleave rows in I16 words.
The shapes tell all of these apart, from each other and from GPTQ. Sources:
https://github.com/casper-hansen/AutoAWQ awq/modules/linear/gemm.py, gemv.py, gemv_fast.py.
"""

from __future__ import annotations

from anamnesis.readers.base import Access, Component, Tensor
from anamnesis.readers.schemes._packed_linear import (
    SCALE_BITS,
    Module,
    Settings,
    check_scales,
    group_size,
    modules,
    settings,
)
from anamnesis.readers.schemes.base import Ledger

_IMPLEMENTED = "AWQ GEMM, GEMV and GEMV-fast of 4 bits"
_REPACKED = {
    "exllama": "AWQ for ExLlama",
    "exllamav2": "AWQ for ExLlamaV2",
    "ipex": "AWQ for IPEX",
    "llm-awq": "llm-awq",
    "marlin": "AWQ for Marlin",
}
_PER_WORD = 8
_FAST_ROWS, _FAST_COLUMNS = 4, 64  # that GEMV-fast interleaves


def resolve(ledger: Ledger) -> None:
    """Claim modules packed along their outputs (GEMM) or by output rows (GEMV, GEMV-fast).

    Raises UnsupportedError for repacked versions by name and for other bits. Shapes that fit
    none are left to GPTQ, which comes after.
    """
    _refuse_llm_awq(ledger)
    stated = settings(ledger)
    for module in modules(ledger):
        if stated.method == "awq":
            _refuse(module, stated)
        version = _version(module, stated)
        if version == "gemm":
            ledger.claim(_gemm(ledger, module, stated))
        elif version == "gemv":
            ledger.claim(_gemv(ledger, module, stated))
        elif version == "gemv_fast":
            ledger.claim(_gemv_fast(ledger, module, stated))


def _version(module: Module, stated: Settings) -> str:
    """What the tensors say: gemm, gemv, gemv_fast, or "" for a module that is not AWQ's."""
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
        if bits == 32 // _PER_WORD and columns * _PER_WORD == scale_columns:
            found.append("gemm")
        elif bits in (2, 3, 5, 6, 7, 8) and 32 * columns == bits * scale_columns:
            raise module.unsupported(f"AWQ of {bits} bits", _IMPLEMENTED)
    # GPTQ's shapes are these too, for groups of eight inputs; it has a g_idx and a config.
    padded = zero_words * _PER_WORD == scale_columns and rows == groups == scale_rows
    if padded and stated.method in ("awq", "") and module.g_idx is None:
        found.append("gemv")
    if not scale_columns and stated.method == "awq":
        return "gemm"  # nothing is stored; only the shape matters
    hinted = stated.formats.get("version", "")
    return hinted if hinted in found else "".join(found[:1])


def _gemm(ledger: Ledger, module: Module, stated: Settings) -> Tensor:
    groups, outputs = check_scales(module)
    inputs, words = module.qweight.shape
    size = group_size(module, stated.group_size, inputs, groups)
    line = max(1, words * 4)
    bits = SCALE_BITS[module.scales.dtype]
    components = (
        Component("qweight", module.qweight, Access("columns", 4, line)),
        Component("scales", module.scales, Access("columns", bits, max(1, outputs * bits // 8))),
        Component("qzeros", module.qzeros, Access("columns", 4, line)),
    )
    return Tensor(
        name=f"{module.prefix}.weight",
        shape=(outputs, inputs),
        scheme="awq",
        encoding="awq-gemm",
        components=components,
        unit_elems=max(1, inputs),
        unit_multiple=_PER_WORD,
        params=_params(ledger, module, "gemm", inputs, size, groups),
        orientation="transposed",
    )


def _gemv(ledger: Ledger, module: Module, stated: Settings) -> Tensor:
    _, padded = check_scales(module)
    outputs, words = module.qweight.shape
    inputs = words * _PER_WORD
    size = _gemv_size(module, stated.group_size, inputs, module.qzeros.shape[1])
    groups = -(-inputs // (size if size > 0 else max(1, inputs)))
    bits = SCALE_BITS[module.scales.dtype]
    components = (
        Component("qweight", module.qweight, Access("rows", words * 32)),
        Component("scales", module.scales, Access("rows", padded * bits)),
        Component("qzeros", module.qzeros, Access("rows", module.qzeros.shape[1] * 32)),
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
    shapes = module.scales.dtype == "F16" and module.qzeros.shape == module.scales.shape
    if not shapes or outputs != _FAST_ROWS * fours or inputs % _FAST_COLUMNS or padded % _PER_WORD:
        raise module.error(
            f"{module.shapes()}; allowed for GEMV-fast are I16 [out / 4, in], in a multiple of "
            f"{_FAST_COLUMNS}, and F16 [8 * words, out] twice"
        )
    size = _gemv_size(module, stated.group_size, inputs, padded // _PER_WORD)
    groups = -(-inputs // (size if size > 0 else max(1, inputs)))
    line = Access("columns", 16 * _FAST_ROWS, max(1, 2 * outputs))
    components = (
        Component("qweight", module.qweight, Access("rows", 16 * max(1, inputs))),
        Component("scales", module.scales, line),
        Component("qzeros", module.qzeros, line),
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


def _refuse_llm_awq(ledger: Ledger) -> None:
    """Rows interleaved by four in I16 words, with zeros of another name."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "qweight" or stored.dtype != "I16":
            continue
        zeros = ledger.get(f"{prefix}{dot}scaled_zeros")
        if zeros is not None and zeros.dtype in SCALE_BITS:
            module = Module(prefix, stored, zeros, zeros, None)
            raise module.unsupported("llm-awq", _IMPLEMENTED)
