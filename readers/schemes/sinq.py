"""SINQ: HQQ's codes along the inputs, and a second scale for each column.

| tensor | stored |
|---|---|
| `X.W_q` | HQQ's lines of codes (`hqq.py`), groups of `group_size` inputs |
| `X.meta.scale`, `X.meta.zero` | BF16, F16 or F32 `[groups, 1]` |
| `X.meta.scale2` | BF16, F16 or F32 `[1, in]` |

Where the groups are tiles (`tiling_mode: 2D`) the scales have three dimensions; `method` may also
name tables of numbers (`sinq_nf4`), which the tensors do not show, and quantised scales
(`quantAux`), which are `X.meta.scale.x` and so on. A-SINQ's scales of activations are part of
`scale2`. Sources: PyPI sinq 0.2.0 quantizer.py (`Quantizer.dequantize`), bitpack.py, dual_shift.py,
patch_model.py (`save_weights_safetensors`); https://github.com/huggingface/transformers
integrations/sinq.py.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.errors import UnsupportedError
from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import misfit, missing, unsupported, where
from anamnesis.readers.schemes._fold import folded
from anamnesis.readers.schemes._hqq_layer import Layer
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.hqq import layer_tensor

_METHODS = ("sinq", "asinq")
_BITS = (1, 2, 3, 4, 8)
_IMPLEMENTED = "SINQ and A-SINQ of 1, 2, 3, 4 and 8 bits with tiling_mode 1D"


def resolve(ledger: Ledger) -> None:
    """Claim layers that have codes and a second scale, under SINQ's configuration.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError by
    name for tiles, tables, quantised scales, and a configuration that does not say the method.
    """
    stated = next((one for one in ledger.stated if one.method == "sinq"), None)
    if stated is None:
        return
    for codes in list(ledger.free()):
        layer, dot, part = codes.name.rpartition(".")
        if part == "W_q":
            method = stated.block.get("method")
            if not isinstance(method, str) or method.lower() not in _METHODS:
                raise unsupported(codes, f"SINQ's method {method!r:.40}", _IMPLEMENTED)
            _claim(ledger, f"{layer}{dot}", codes, stated.block.get("nbits"))


def _claim(ledger: Ledger, layer: str, codes: Stored, bits: object) -> None:
    if type(bits) is not int or bits not in _BITS:  # True is 1, and 1.0 is, to Python
        raise unsupported(codes, f"SINQ of {bits!r:.20} bits", _IMPLEMENTED)
    scale, zero, columns = (
        _part(ledger, layer, codes, name) for name in ("scale", "zero", "scale2")
    )
    if len(scale.shape) == 3:
        raise unsupported(scale, "SINQ with tiling_mode 2D", _IMPLEMENTED)
    inputs = columns.shape[-1] if columns.shape else 0
    if columns.shape != (1, inputs) or not inputs or columns.dtype not in SCALE_BITS:
        raise misfit(columns, f"{', '.join(SCALE_BITS)} [1, in]")
    size = codes.shape[1] if len(codes.shape) == 2 else 0
    groups = scale.shape[0] if scale.shape else 0
    if scale.shape != (groups, 1) or not size or groups * size % inputs or inputs % size:
        raise misfit(scale, f"[groups, 1] of {size} of the {inputs:,} inputs of {columns.name!r}")
    shape = (groups * size // inputs, inputs)
    known = Layer(layer, codes, scale, zero, bits, shape, 1, size, "F32")
    tensor = replace(layer_tensor(ledger, known), scheme="sinq", unit_multiple=inputs // size)
    exact = {**tensor.params, "rounding": "exact"}  # its scales are kept as float32
    ledger.claim(folded(replace(tensor, params=exact), factor=columns))
    folded_in = ledger.get(f"{layer}meta.awq_scale")
    if folded_in is not None:
        ledger.drop(folded_in, "part of scale2")


def _part(ledger: Ledger, layer: str, codes: Stored, name: str) -> Stored:
    found = ledger.get(f"{layer}meta.{name}")
    if found is None:
        if f"{layer}meta.{name}.x" in ledger.container.stored:
            raise unsupported(codes, "SINQ with quantised scales (quantAux)", _IMPLEMENTED)
        if f"{layer}meta" in ledger.container.stored:
            raise UnsupportedError(f"{where(codes)}: SINQ's `meta` in one tensor is not known")
        raise missing(ledger, codes, f"{layer}meta.{name}")
    return found
