"""FP4 weights with a scale for each block of a row, two codes a byte: NVFP4 and MXFP4; and MXFP6.

| format | tool | codes | block scales | global scale |
|---|---|---|---|---|
| NVFP4 | compressed-tensors | `X.weight_packed` U8 | `X.weight_scale` | `X.weight_global_scale` |
| NVFP4 | ModelOpt | `X.weight` U8 | `X.weight_scale` | `X.weight_scale_2` |
| NVFP4, E5M3 scales | AutoRound | `X.weight_packed` U8 | `X.weight_scale` | |
| MXFP4 | compressed-tensors | `X.weight_packed` U8 | `X.weight_scale` | |
| MXFP4 | ModelOpt | `X.weight` U8 | `X.weight_scale` | |
| MXINT4 | AutoRound | `X.weight_packed` U8 | `X.weight_scale` | |
| MXFP6 | compressed-tensors | `X.weight_packed` U8 | `X.weight_scale` | |
| MXFP4, MXFP6 (E2M3, E3M2), NVFP4 | Quark | `X.weight` U8 | `X.weight_scale` | `X.weight_scale_2` |
| MXFP4 | DeepSeek-V4 | `X.weight` I8 | `X.scale` or `X.weight_scale_inv` | |

MXINT4 has the tensors of MXFP4: only AutoRound's config tells, by a `data_type` of `mx_int`. The
scales of its `nvfp4_v2` (formats `…nvfp4_e5m3`, also under compressed-tensors) are U8, one for 16
elements, and there is no global scale; Quark's, one for 16 or 32, are told by `scale_format`.

The parameter of stacked experts is `X` instead of `X.weight`, and its parts are `X_packed`,
`X_scale`, `X_global_scale`, `X_scale_2`, `X_scale_inv`; ModelOpt also writes `X_weight_scale` and
`X_weight_scale_2`.

ModelOpt packs the experts of Llama-4 and gpt-oss, `[experts, in, out]`, along their inputs, too:
codes `[experts, in / 2, out]`, of rows 2r and 2r + 1, and scales `[experts, in / 16, out]`; of one
expert alone scales have lost the first dimension. Everything else is along rows: codes are
`[..., out, in / 2]`, MXFP6's `[..., out, in * 3 / 4]`. NVFP4's scales are F8_E4M3
`[..., out, in / 16]`, or `[..., out, in / 32]` of ModelOpt's W4A8_NVFP4_FP8, the others'
U8 or F8_E8M0 `[..., out, in / 32]`. The global scale is a float32 for the tensor, for each of
stacked matrices, or two of them: for the gate's half of its rows and for the other half.
compressed-tensors divides by it, ModelOpt multiplies. ModelOpt's NVFP4_AWQ and NVFP4_SVD have a
`pre_quant_scale` and a low-rank part besides (`_fold.py`). Sources:
https://github.com/vllm-project/compressed-tensors compressors/nvfp4, mxfp4; nvidia-modelopt
torch/export/unified_export_hf.py; https://github.com/huggingface/transformers
integrations/finegrained_fp8.py (`Fp8Dequantize`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._comfy import Mark, marks
from anamnesis.readers.schemes._errors import missing, need, unsupported, where
from anamnesis.readers.schemes._fold import smoothed
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes._quark_config import FP6, floats_of, specs_of
from anamnesis.readers.schemes.base import Ledger

_E8M0 = ("F8_E8M0", "U8")
_E5M3 = re.compile("e5m3|nv_?fp4?_v2")
_FP6_BLOCK = 24  # bytes of 32 codes
_CODES = {"weight_global_scale": "weight_packed", "weight_scale_2": "weight"}  # by their scales
_IMPLEMENTED = "NVFP4, MXFP4 and MXFP6 with linear block scales along the inputs"


@dataclass(frozen=True, slots=True)
class Layer:
    """Codes, what becomes of their name, and the names that stand beside them."""

    codes: Stored
    name: str  # of the weight that comes out
    stem: str = ""  # what the names of the parts begin with, up to `scale`; by default `NAME_`

    def part(self, ledger: Ledger, name: str) -> Stored:
        """A tensor beside the codes; raises FormatError where there is none."""
        return need(ledger, self.codes, (self.stem or f"{self.name}_") + name)

    @property
    def module(self) -> str:
        """What the names of parts that are not of the codes alone begin with."""
        base = self.name.removesuffix("weight")
        return base if base != self.name else f"{self.name}_"

    def unsupported(self, what: str) -> UnsupportedError:
        return unsupported(self.codes, what, _IMPLEMENTED)


def resolve(ledger: Ledger) -> None:
    """Claim FP4 codes with their scales; ComfyUI's layers are left alone: theirs are in tiles.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for scales in tiles and weights that have to be folded with more.
    """
    foreign = marks(ledger)
    for stored in ledger.free() if not ledger.dtypes.isdisjoint(("I8", "U8")) else ():
        if stored.dtype == "U8":
            _claim_u8(ledger, stored, foreign)
        elif stored.dtype == "I8":
            _claim_i8(ledger, stored)
    for stored in ledger.free() if ledger.endings.any(*_CODES) else ():
        _refuse_orphan(ledger, stored)


def _claim_u8(ledger: Ledger, stored: Stored, foreign: dict[str, Mark]) -> None:
    stem, _, part = stored.name.rpartition(".")
    if stem in foreign or stored.name in foreign:
        return
    name = stored.name.removesuffix("_packed")
    if name != stored.name and (part == "weight_packed" or _stacked(ledger, stored, f"{name}_")):
        layer = Layer(stored, name)
        scale = layer.part(ledger, "scale")
        if scale.dtype == "U8" and _has_e5m3(ledger, layer, scale):
            _claim_e5m3(ledger, layer, scale)
        elif scale.dtype in _E8M0:
            _claim_mx(ledger, layer, scale)
        else:
            _claim_nv(ledger, layer, scale, "global_scale", "divide")
        return
    for stem in (f"{stored.name}_weight_", f"{stored.name}_"):
        layer, beside = Layer(stored, stored.name, stem), ledger.get(f"{stem}scale")
        if beside is not None and beside.dtype in SCALE_BITS:
            continue  # integers
        if ledger.get(f"{stem}scale_2") is not None:
            _claim_nv(ledger, layer, layer.part(ledger, "scale"), "scale_2", "multiply")
            return
        if beside is None or not (part == "weight" or _stacked(ledger, stored, stem)):
            continue
        if beside.dtype in _E8M0 and len(beside.shape) > 1:
            _claim_exponents(ledger, layer, beside)
            return
        if beside.dtype == "F8_E4M3":
            layer.part(ledger, "scale_2")


def _stacked(ledger: Ledger, stored: Stored, stem: str) -> bool:
    """Whether codes are of stacked experts, and have a scale."""
    return len(stored.shape) == 3 and ledger.get(f"{stem}scale") is not None


def _claim_i8(ledger: Ledger, stored: Stored) -> None:
    """DeepSeek's codes; integers have scales of other dtypes, or one for each 32 bytes.

    Exponents may be called U8, by tools that have no E8M0: then their number has to fit.
    """
    if not stored.shape:
        return
    stem, dot, part = stored.name.rpartition(".")
    names = [f"{stored.name}_scale_inv"]
    if part == "weight":
        names.append(f"{stem}{dot}scale")
    elif len(stored.shape) == 3:
        names.append(f"{stored.name}_scale")
    for name in names:
        scale = ledger.get(name)
        fits = scale is not None and scale.shape == (*stored.shape[:-1], stored.shape[-1] // 16)
        if scale is not None and (scale.dtype == "F8_E8M0" or (scale.dtype == "U8" and fits)):
            _claim_mx(ledger, Layer(stored, stored.name), scale)
            return


def _refuse_orphan(ledger: Ledger, stored: Stored) -> None:
    """A global scale whose codes are in no file."""
    for part, codes in _CODES.items():
        stem = stored.name.removesuffix(part)
        if stem == stored.name or (stem and not stem.endswith(".")):
            continue
        there = ledger.container.stored
        dense = there.get(f"{stem}weight")  # whose codes were not written: the rest is refused
        if stem + codes not in there and (dense is None or DTYPES[dense.dtype].kind != "float"):
            raise missing(ledger, stored, stem + codes)


def _claim_exponents(ledger: Ledger, layer: Layer, scale: Stored) -> None:
    """Codes under U8 scales, whose numbers only Quark's configuration tells from MXFP4's."""
    found = floats_of(ledger.quantization(), layer.module.rstrip("."))
    if len(found) > 1:
        raise layer.unsupported("Quark's FP4 and FP6 of several kinds, none of them by this name")
    dtype, scales = found.pop() if found else ("fp4", "e8m0")
    if scales == "e5m3" and dtype == "fp4":
        _claim_e5m3(ledger, layer, scale)
    elif scales == "e8m0":
        _claim_mx(ledger, layer, scale, dtype)
    else:
        raise layer.unsupported(f"Quark's {dtype!r} with scales of {scales!r:.20}")


def _claim_mx(ledger: Ledger, layer: Layer, scale: Stored, dtype: str = "") -> None:
    _refuse(ledger, layer)
    scale = _unsqueezed(layer, scale)
    if dtype in FP6 or _is_fp6(layer.codes, scale):
        columns = layer.codes.shape[-1] * 4 // 3
        _fit(layer, scale, 24 * 2, "one E8M0 exponent for 32 elements")
        params: dict[str, object] = {"e3m2": True} if dtype == "fp6_e3m2" else {}
        tensor = _tensor(layer, scale, "mxfp6", "fp6-mx", params=params, columns=columns)
    else:
        _fit(layer, scale, 32, "one E8M0 exponent for 32 elements")
        tensor = _tensor(layer, scale, "mxfp4", "fp4-mx")
        if _are_quarters(ledger, layer):
            tensor = replace(tensor, scheme="mxint4", params={"quarters": True})
    ledger.claim(smoothed(ledger, layer.module, tensor))


def _has_e5m3(ledger: Ledger, layer: Layer, scale: Stored) -> bool:
    """Whether U8 scales are E5M3: by their number, where a configuration names the format."""
    *lead, packed = layer.codes.shape or (0,)
    if packed % 8 or scale.shape != (*lead, packed // 8):
        return False
    texts = [text.lower().replace("-", "_") for one in ledger.stated for text in _texts(one.block)]
    return any(_E5M3.search(text) for text in texts)


def _texts(block: Mapping[str, object]) -> Iterator[str]:
    """What names a format in a block of configuration, in it and in its entries for layers."""
    for key, value in block.items():
        if key in ("data_type", "format", "packing_format") and isinstance(value, str):
            yield value[:200]
        elif key in ("config_groups", "extra_config") and isinstance(value, Mapping):
            for entry in value.values():
                if isinstance(entry, Mapping):
                    yield from _texts(entry)


def _claim_e5m3(ledger: Ledger, layer: Layer, scale: Stored) -> None:
    _refuse(ledger, layer)
    *_, packed = layer.codes.shape or (0,)
    size = 32 if packed == 16 * scale.shape[-1] else 16
    _fit(layer, scale, size, "one E5M3 scale for 16 or 32 elements")
    params: dict[str, object] = {"scale_code": "e5m3", "minus_zero": True, "block_elems": size}
    ledger.claim(_tensor(layer, scale, "nvfp4", "fp4-nv", params=params))


def _are_quarters(ledger: Ledger, layer: Layer) -> bool:
    """Whether AutoRound says MXINT4 of a layer: by its own entry, or for all that have none.

    Entries are names or regular expressions, which are never run: where they say something else
    than the rest, a layer that no name is of is refused.
    """
    config = ledger.quantization()
    own = config.get("extra_config")
    entries = own if isinstance(own, Mapping) else {}
    said = {name: _says_int(one) for name, one in entries.items()}
    general = bool(_says_int(config))
    found = said.get(layer.name.removesuffix(".weight"))
    if found is None and any(one not in (None, general) for one in said.values()):
        raise layer.unsupported("MXFP4 beside MXINT4, chosen by regular expressions")
    return general if found is None else found


def _says_int(block: object) -> bool | None:
    """Whether `data_type`, or else `packing_format`, is of MX integers; None where none is."""
    if not isinstance(block, Mapping):
        return None
    for key in ("data_type", "packing_format"):
        kind = block.get(key)
        if isinstance(kind, str):
            name = kind.lower().rpartition(":")[2]
            return name.replace("_", "").replace("-", "").startswith("mxint")
    return None


def _is_fp6(codes: Stored, scale: Stored) -> bool:
    """Whether 24 bytes share an exponent; other tools' FP6 may be of other kinds."""
    if len(codes.shape) not in (2, 3) or not codes.name.endswith("weight_packed"):
        return False
    *lead, packed = codes.shape
    return packed > 0 == packed % _FP6_BLOCK and scale.shape == (*lead, packed // _FP6_BLOCK)


def _claim_nv(ledger: Ledger, layer: Layer, scale: Stored, name: str, how: str) -> None:
    _refuse(ledger, layer)
    if scale.dtype == "U8" and len(scale.shape) == 1:
        raise layer.unsupported(f"NVFP4 with block scales in tiles ({where(scale)})")
    if scale.dtype != "F8_E4M3":
        raise FormatError(
            f"{where(scale, layer.codes)}: allowed are F8_E4M3 scales, or U8 and F8_E8M0 exponents"
        )
    scale = _unsqueezed(layer, scale)
    shape, codes = scale.shape, layer.codes.shape
    if len(codes) not in (2, 3):
        raise FormatError(f"{where(layer.codes)}: allowed is a matrix, or a stack of matrices")
    if len(codes) == 3 and shape == (codes[0], codes[1] // 8, codes[2]) and codes[1] % 8 == 0:
        _claim_pairs(ledger, layer, scale, layer.part(ledger, name))
        return
    wide = how == "multiply" and bool(shape) and 2 * codes[-1] == 32 * shape[-1] > 0
    size = 32 if wide else 16
    _fit(layer, scale, size, f"one E4M3 scale for {size} elements")
    factor = layer.part(ledger, name)
    quark = bool(specs_of(ledger.quantization(), layer.module.rstrip(".")))
    if factor.dtype != "F32" and not (quark and factor.dtype in SCALE_BITS):
        raise FormatError(f"{where(factor, layer.codes)}: allowed is F32")
    matrices = codes[0] if len(codes) == 3 else 1
    count, rows = math.prod(factor.shape), codes[-2]
    if len(codes) == 3 and factor.shape == (matrices, 2) and rows % 2 == 0:
        rows //= 2  # gate and up
    elif count not in (1, matrices):
        if len(codes) == 2 and len(factor.shape) == 1:
            raise layer.unsupported(f"{count} global scales for the shards of a fused module")
        raise FormatError(
            f"{where(factor, layer.codes)}: allowed is one number, or {matrices} or "
            f"{[matrices, 2]} in a stack"
        )
    params = {
        "global": how,
        "rows": max(1, rows),
        "block_elems": size,
        "narrow": how == "divide" and not factor.shape,
        "minus_zero": quark or how == "divide",
        "rounding": ledger.options.rounding,
    }
    whole = Component("global", factor)
    tensor = _tensor(layer, scale, "nvfp4", "fp4-nv", (whole,), params)
    ledger.claim(smoothed(ledger, layer.module, tensor))


def _unsqueezed(layer: Layer, scale: Stored) -> Stored:
    """Scales of a stack of one matrix, whose first dimension ModelOpt leaves out."""
    alone = len(layer.codes.shape) == 3 and layer.codes.shape[0] == 1
    return replace(scale, shape=(1, *scale.shape)) if alone and len(scale.shape) == 2 else scale


def _claim_pairs(ledger: Ledger, layer: Layer, scale: Stored, factor: Stored) -> None:
    """NVFP4 packed along the rows of each matrix of a stack (`kernels/fp4_pairs.py`)."""
    matrices, packed, columns = layer.codes.shape
    if factor.dtype != "F32" or math.prod(factor.shape) not in (1, matrices):
        raise FormatError(f"{where(factor, layer.codes)}: allowed is F32, one number or {matrices}")
    blocks = packed // 8
    ledger.claim(
        Tensor(
            name=layer.name,
            shape=(matrices, 2 * packed, columns),
            scheme="nvfp4",
            encoding="fp4-nv-pairs",
            components=(
                Component("payload", layer.codes, Contiguous(64 * max(1, columns))),
                Component("scale", scale, Contiguous(8 * max(1, columns))),
                Component("global", factor),
            ),
            unit_elems=max(1, 16 * columns),
            params={
                "global": "multiply",
                "columns": columns,
                "rows": max(1, blocks * columns),
                "minus_zero": False,
            },
        )
    )


def _refuse(ledger: Ledger, layer: Layer) -> None:
    if f"{layer.name}_zero_point" in ledger.container.stored:
        raise layer.unsupported("FP4 with zero points")


def _fit(layer: Layer, scale: Stored, size: int, what: str) -> None:
    """Hold the shape of block scales against that of the codes."""
    *lead, packed = layer.codes.shape or (0,)
    if len(lead) not in (1, 2):
        raise FormatError(f"{where(layer.codes)}: a matrix, or a stack of matrices, is expected")
    if 2 * packed % size or scale.shape != (*lead, 2 * packed // size):
        each = f"{2 * packed / size:g}".removesuffix(".0")
        raise FormatError(
            f"{where(scale, layer.codes)}: the scale does not fit; allowed: {what}, "
            f"{[*lead]} x {each}"
        )


def _tensor(
    layer: Layer,
    scale: Stored,
    scheme: str,
    encoding: str,
    more: tuple[Component, ...] = (),
    params: dict[str, object] | None = None,
    columns: int = 0,
) -> Tensor:
    *lead, packed = layer.codes.shape
    columns = columns or 2 * packed
    payload = Component("payload", layer.codes, Contiguous(8 * max(1, packed)))
    each = Component("scale", scale, Contiguous(8 * max(1, scale.shape[-1])))
    return Tensor(
        name=layer.name,
        shape=(*lead, columns),
        scheme=scheme,
        encoding=encoding,
        components=(payload, each, *more),
        unit_elems=max(1, columns),
        params=params or {},
    )
