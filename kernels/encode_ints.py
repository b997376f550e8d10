"""compressed-tensors' integers, rounded to nearest from the least and the greatest of each group.

    symmetric      scale = max(|least|, |most|) / (2**bits - 1) * 2
    asymmetric     scale = (most - least) / (2**bits - 1),  zero = -2**(bits-1) - least / scale
    code = clamp(round(w / scale + zero), -2**(bits-1), 2**(bits-1) - 1)

with `least <= 0 <= most`, each step rounded to the weight's dtype, which is that of the scales; a
scale of 0 becomes the dtype's epsilon. A group is `group` elements of a row, or (0) the row.

| target | weight | zero points |
|---|---|---|
| `ct-pack-quantized` | I32 `X_packed`, streams of `code + 2**(bits-1)`; I64 `X_shape` | packed |
| `ct-int-quantized` | I8 `X`, the codes | I8 `X_zero_point` |

Packed zero points run down the rows: I32 `[ceil(rows * bits / 32), groups]`. Source:
compressed-tensors 0.20 `quantization/utils/helpers.py` `calculate_qparams`,
`compressors/pack_quantized` and `naive_quantized`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from anamnesis.kernels._extremes import ends, magnitudes
from anamnesis.kernels._narrow import EPSILON, KINDS, narrow, stored
from anamnesis.kernels._native import variants
from anamnesis.kernels._pack import pack, pack_rows
from anamnesis.kernels.config import Config, Kept, compressed_tensors
from anamnesis.kernels.encoders import Form, Part, Settings, Shape, Unfit, matrix_of
from anamnesis.kernels.ends import Ends, between, wide
from anamnesis.kernels.loss import Codes
from anamnesis.kernels.readback import Blocks, Facts, Parts, Stored, lines
from anamnesis.kernels.transcode_ints import zeros_down
from anamnesis.kernels.types import Array, Bytes, Floats, Outputs, Params

codes_of, _symmetric = variants("encode_ints:codes_of"), variants("encode_ints:symmetric")


def _group(columns: int, settings: Settings) -> int:
    return int(settings["group"]) or columns


def _scales(name: str, shape: Shape, dtype: str, groups: int) -> Part:
    return Part("scale", name + "_scale", dtype, (*shape[:-1], groups), 1, groups)


def form_packed(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Codes packed along the rows."""
    bits, group = int(settings["bits"]), int(settings["group"])
    rows, columns = matrix_of(shape, group or 1)
    groups = columns // _group(columns, settings)
    words = -(-columns * bits // 32)
    parts = [
        Part("weight", name + "_packed", "I32", (*shape[:-1], words), 1, words),
        _scales(name, shape, dtype, groups),
        Part("shape", name + "_shape", "I64", (len(shape),)),
    ]
    if settings["sym"]:
        return Form(columns, tuple(parts))
    if len(shape) > 2:
        raise Unfit(f"it is a stack of matrices, {list(shape)}, and zero points run down the rows")
    zeros = (-(-rows * bits // 32), groups)
    parts.append(Part("zero", name + "_zero_point", "I32", zeros, 32, bits * groups))
    return Form(columns, tuple(parts), multiple=32)


def form_bytes(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """A byte a code."""
    _, columns = matrix_of(shape, int(settings["group"]) or 1)
    groups = columns // _group(columns, settings)
    parts = [Part("weight", name, "I8", shape, 1, columns), _scales(name, shape, dtype, groups)]
    if not settings["sym"]:
        zeros = (*shape[:-1], groups)
        parts.append(Part("zero", name + "_zero_point", "I8", zeros, 1, groups))
    return Form(columns, tuple(parts))


def encode_packed(values: Array, params: Params, out: Outputs) -> None:
    """Codes, scales, and zero points when they are not all 0."""
    bits, columns = int(params["bits"]), params["columns"]
    packed, half = out["weight"], 1 << bits - 1
    if columns * bits % 32 == 0 and columns % 8 == 0:
        stream = packed.view(np.uint8)
        if bits == 4 and _group(columns, params) % 16 == 0:
            zeros = integers_of(values, params, out, half, stream, paired=True)
        else:
            codes = np.empty(len(values), np.uint8)
            zeros = integers_of(values, params, out, half, codes)
            pack(codes, bits, stream)
    else:
        # Rows that end within a word begin a new one.
        codes = np.empty((len(values) // columns, columns), np.uint8)
        zeros = integers_of(values, params, out, half, codes.reshape(-1))
        packed[:] = pack_rows(codes, bits).reshape(-1)
    out["shape"][:] = params["shape"][: len(out["shape"])]
    if "zero" in out:
        # Zero points are packed down the rows, 32 rows at a time, which are whole words.
        lines = (zeros.reshape(len(values) // columns, -1) + half).astype(np.uint8)
        out["zero"][:] = pack_rows(lines.T, bits).T.reshape(-1)


def encode_bytes(values: Array, params: Params, out: Outputs) -> None:
    """Codes as int8, scales, and zero points when they are not all 0."""
    zeros = integers_of(values, params, out, 0, out["weight"].view(np.uint8))
    if "zero" in out:
        out["zero"][:] = zeros.astype(np.int8)


def integers_of(
    values: Array,
    params: Params,
    out: Outputs,
    offset: int,
    codes: Bytes,
    *,
    paired: bool = False,
) -> Floats:
    """Store the scales, and `code + offset` in `codes`: bytes, or `paired`, two of four bits.

    Returns the zero points, float32, one a group.
    """
    dtype, bits = params["dtype"], int(params["bits"])
    group, half = _group(params["columns"], params), 1 << bits - 1
    if params["sym"] and group % 16 == 0:
        scales = np.empty(len(values) // group, np.float32)
        run, most = _symmetric(KINDS[dtype], paired), (1 << bits) - 1  # which every dtype has
        run(values, group, most / 2, EPSILON[dtype], half, offset, scales, codes)
        out["scale"][:] = stored(scales, dtype)
        return np.zeros_like(scales)
    with np.errstate(all="ignore"):
        if params["sym"]:
            levels = np.float32((1 << bits) - 1)  # which every dtype has
            scales = narrow(magnitudes(values, group) / (levels / np.float32(2)), dtype)
            zeros = np.zeros_like(scales)
        else:
            scales, zeros = _asymmetric(values, group, bits, dtype)
    scales = np.where(scales == 0, np.float32(EPSILON[dtype]), scales)
    out["scale"][:] = stored(scales, dtype)
    codes_of(KINDS[dtype], paired)(values, scales, zeros, group, half, offset, codes)
    return zeros


def _asymmetric(values: Array, group: int, bits: int, dtype: str) -> tuple[Any, Any]:
    least, most = ends(values, group)
    # torch's min and max keep NaNs, as numpy's do.
    least, most = np.minimum(least, np.float32(0)), np.maximum(most, np.float32(0))
    half = np.float32(1 << bits - 1)
    scales = narrow(narrow(most - least, dtype) / np.float32((1 << bits) - 1), dtype)
    zeros = narrow(-half - narrow(least / scales, dtype), dtype)
    zeros = np.rint(np.clip(zeros, -half, half - 1))
    return scales, np.nan_to_num(zeros, nan=0)


def _blocks(role: str, parts: Parts, facts: Facts, scalars: Params) -> Blocks:
    rows, columns = facts.rows, facts.columns
    group = _group(columns, facts.settings)
    given: dict[str, Any] = {
        "zero": "",
        "group_size": group,
        "groups": columns // group,
        "lines": rows,
        "block_rows": 1,
        "rows": rows,
        "matrices": 1,
        "unit_rows": 1,
        "in_features": columns,
        "act_order": False,
        "scale_dtype": facts.dtype,
        "rounding": "exact",
        **scalars,
    }
    views = {role: lines(parts["weight"], rows), "weight_scale": lines(parts["scale"], rows)}
    zeros = {"weight_zero_point": Stored("I32", parts["zero"])} if "zero" in parts else {}
    return Blocks(views, given, zeros, rows)


def blocks_packed(parts: Parts, facts: Facts) -> Blocks:
    """A row of words each; zero points run down the rows."""
    scalars = {"bits": int(facts.settings["bits"]), "padded": False}
    zero = {"zero": "dense"} if "zero" in parts else {}
    return _blocks("weight_packed", parts, facts, scalars | zero)


def blocks_bytes(parts: Parts, facts: Facts) -> Blocks:
    """A row of bytes each."""
    zero = {"zero": "plain"} if "zero" in parts else {}
    return _blocks("weight", parts, facts, {"bits": 8} | zero)


def _ends(parts: Parts, facts: Facts, zeros: Any) -> Ends:
    """By zero points from 0 on; half the codes where there are none."""
    bits, columns = int(facts.settings["bits"]), facts.columns
    scales = wide(parts["scale"])
    first, last = np.float32(-0.5) - zeros, np.float32((1 << bits) - 0.5) - zeros
    return between(first * scales, last * scales, columns, _group(columns, facts.settings))


def codes_packed(parts: Parts, facts: Facts) -> Codes | None:
    """Pairs of four bits without zero points."""
    if facts.settings["bits"] != 4 or not _is_plain(parts, facts):
        return None
    return _codes("pairs", (*range(-8, 8), -8.5, 7.5), parts, facts)


def codes_bytes(parts: Parts, facts: Facts) -> Codes | None:
    """Bytes without zero points."""
    if not _is_plain(parts, facts):
        return None
    half = float(_half(facts.settings))
    return _codes("int8", (-half - 0.5, half - 0.5, 1), parts, facts)


def _is_plain(parts: Parts, facts: Facts) -> bool:
    """Whether codes have no zero points, and lie in groups of whole runs of 16."""
    return "zero" not in parts and _group(facts.columns, facts.settings) % 16 == 0


def _codes(form: str, table: Sequence[float], parts: Parts, facts: Facts) -> Codes:
    codes, scales = parts["weight"].view(np.uint8), wide(parts["scale"]).reshape(-1)
    group = _group(facts.columns, facts.settings)
    return Codes(form, codes, group, scales, np.array(table, np.float32))


def _half(settings: Settings) -> np.float32:
    return np.float32(1 << int(settings["bits"]) - 1)


def ends_packed(parts: Parts, facts: Facts) -> Ends:
    """By packed zero points."""
    if "zero" not in parts:
        return _ends(parts, facts, _half(facts.settings))
    groups = facts.columns // _group(facts.columns, facts.settings)
    words, bits = parts["zero"].view(np.uint8), int(facts.settings["bits"])
    return _ends(parts, facts, zeros_down(words, groups, bits, facts.rows).reshape(-1))


def ends_bytes(parts: Parts, facts: Facts) -> Ends:
    """By zero points around 0."""
    zeros = parts["zero"].astype(np.float32) if "zero" in parts else np.float32(0)
    return _ends(parts, facts, zeros + _half(facts.settings))


def _config(form: str, settings: Settings, kept: Kept, dtype: str) -> Config:
    group = settings["group"]
    groups = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    bits, sym = settings["bits"], settings["sym"]
    inputs = "int" if settings.get("activations") == "dynamic" else ""
    weights = {"num_bits": bits, "type": "int", "symmetric": sym, **groups}
    return compressed_tensors(form, kept, inputs, **weights)


config_packed = partial(_config, "pack-quantized")
config_bytes = partial(_config, "int-quantized")
