"""Quanto's bytes: int8 or E4M3 codes, and a scale for each output.

    scale = greatest magnitude of the row / 127 (qint8) or 448 (qfloat8)
    code = clamp(round(w / scale), -128, 127), or E4M3 of clamp(w / scale, -448, 448)

each step rounded to the weight's dtype, which is that of the scales. A row of zeros has the scale
0, and codes of 0 / 0: 0 as int8, NaN as E4M3.

| tensor | stored | content |
|---|---|---|
| `X._data` | I8 or F8_E4M3, the weight's shape | codes |
| `X._scale` | `[out, 1, …]`; of one output `[]` | |
| `M.input_scale`, `M.output_scale` | `[]` | 1: activations are not quantised |

`X` is `M.weight`. Source: https://github.com/huggingface/optimum-quanto 0.2.7
optimum/quanto/tensor/optimizers/absmax_optimizer.py, optimum/quanto/library/quantize.py, on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anamnesis.kernels import encode_fp8, encode_ints
from anamnesis.kernels._extremes import magnitudes
from anamnesis.kernels._narrow import KINDS, narrow, stored
from anamnesis.kernels.config import Config, Kept, quantization
from anamnesis.kernels.encoders import Form, Part, Settings, Shape, Unfit, matrix_of, sibling
from anamnesis.kernels.ends import Ends, between, wide
from anamnesis.kernels.loss import E4M3_END, Codes
from anamnesis.kernels.readback import Blocks, Facts, Parts, Stored, lines
from anamnesis.kernels.types import Array, Outputs, Params

_DTYPES = {"qint8": "I8", "qfloat8": "F8_E4M3"}
_LARGEST = {"qint8": np.float32(127), "qfloat8": encode_fp8.LARGEST}
_REACH = {"qint8": (-128.5, 127.5), "qfloat8": (-E4M3_END, E4M3_END)}  # in scales
_IN_MAP = {"qint8": "qint8", "qfloat8": "qfloat8_e4m3fn"}


def form_bytes(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """A scale an output, of a linear layer or a convolution."""
    matrix_of(shape)
    if len(shape) == 3:
        raise Unfit(f"it is a stack of matrices, {list(shape)}, or a convolution along a line")
    if not name.endswith(".weight"):
        raise Unfit("Quanto's quantised layers have a weight, and scales beside it")
    outputs, columns = shape[0], int(np.prod(shape[1:]))
    scales = (outputs, *[1] * (len(shape) - 1)) if outputs > 1 else ()
    parts = (
        Part("weight", name + "._data", _DTYPES[str(settings["type"])], shape, 1, columns),
        Part("scale", name + "._scale", dtype, scales, 1, 1),
        Part("input", sibling(name, "input_scale"), dtype, ()),
        Part("output", sibling(name, "output_scale"), dtype, ()),
    )
    return Form(columns, parts)


def encode_bytes(values: Array, params: Params, out: Outputs) -> None:
    """Scales of rows, and codes of quotients."""
    dtype, columns, kind = params["dtype"], params["columns"], params["type"]
    codes = out["weight"].view(np.uint8)
    with np.errstate(all="ignore"):
        scales = narrow(magnitudes(values, columns) / _LARGEST[kind], dtype)
    out["scale"][:] = stored(scales, dtype)
    for role in ("input", "output"):
        out[role][:] = stored(np.ones(len(out[role]), np.float32), dtype)
    if kind == "qint8":
        zeros, run = np.zeros_like(scales), encode_ints.codes_of(KINDS[dtype], False)
        run(values, scales, zeros, columns, 128, 0, codes)
    else:
        encode_fp8.codes_of(KINDS[dtype], False)(values, scales, columns, codes)


def blocks_bytes(parts: Parts, facts: Facts) -> Blocks:
    """A row of codes an output."""
    scalars: dict[str, Any] = {
        "data_dtype": _DTYPES[facts.settings["type"]],
        "rows": facts.rows,
        "columns": facts.columns,
        "rounding": "exact",
    }
    scales = {"_scale": Stored(facts.dtype, parts["scale"])}
    return Blocks({"payload": lines(parts["weight"], facts.rows)}, scalars, scales, facts.rows)


def ends_bytes(parts: Parts, facts: Facts) -> Ends:
    """Half a step past the last codes."""
    first, last = _REACH[facts.settings["type"]]
    scales = wide(parts["scale"]).reshape(-1)
    return between(
        scales * np.float32(first), scales * np.float32(last), facts.columns, facts.columns
    )


def codes_bytes(parts: Parts, facts: Facts) -> Codes | None:
    """A row's scale."""
    if facts.columns % 16:
        return None
    codes, scales = parts["weight"].view(np.uint8), wide(parts["scale"]).reshape(-1)
    if facts.settings["type"] == "qfloat8":
        return Codes("e4m3", codes, facts.columns, scales)
    return Codes("int8", codes, facts.columns, scales, np.array((*_REACH["qint8"], 1), np.float32))


def config_bytes(settings: Settings, kept: Kept, dtype: str) -> Config:
    """transformers' block, whose loader takes no codes: it says by name what this model is."""
    return quantization(
        quant_method="quanto",
        weights=str(settings["type"]).removeprefix("q"),
        activations=None,
        modules_to_not_convert=list(kept),
    )


def files_bytes(settings: Settings, modules: Sequence[str]) -> dict[str, Config]:
    """Quanto's map of quantised layers, which its own loader reads."""
    layer = {"weights": _IN_MAP[str(settings["type"])], "activations": "none"}
    return {"quanto_qmap.json": dict.fromkeys(modules, layer)}
