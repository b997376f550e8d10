"""GPTQ's and AWQ's containers of compressed-tensors' integers, which `encode_ints` has.

Both store matrices transposed, so that a window here is `group` inputs, or a multiple, of all
outputs: `values` are `[inputs, outputs]`, and units are inputs.

| target | codes, I32 `X.qweight` | zero points, I32 `X.qzeros` |
|---|---|---|
| `gptq` | `[in * b / 32, out]`, packed down | `[in / g, out * b / 32]`, across |
| `awq`, 4 bits | `[in, out / 8]`, packed across | `[in / g, out / 8]`, across |

`X.scales` is `[in / g, out]`, in the weight's dtype, and GPTQ's I32 `X.g_idx` `[in]` says which
group an input is of, in order. GPTQ's first version stores zero points less
1, which an asymmetric layer's zero of 0 has no room for: `version=2` stores them as they are. The
outputs of an AWQ word are in its order. Layouts and sources are in `gptq` and `awq`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from anamnesis.kernels._codes import read_zeros
from anamnesis.kernels._pack import pack_rows
from anamnesis.kernels.config import Config, Kept, quantization
from anamnesis.kernels.encode_ints import integers_of
from anamnesis.kernels.encoders import Form, Part, Settings, Shape, Unfit, sibling
from anamnesis.kernels.ends import Ends, between, wide
from anamnesis.kernels.readback import Blocks, Facts, Parts, lines
from anamnesis.kernels.types import Array, Floats, Outputs, Params

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the outputs in a word, lowest nibble first


def _group(shape: Shape, settings: Settings) -> tuple[int, int, int]:
    """Outputs, inputs and the group, of a matrix that has whole groups and words."""
    if len(shape) != 2 or not shape[0] * shape[1]:
        raise Unfit(f"it has the shape {list(shape)}, and is no matrix")
    outputs, inputs = shape
    group, bits = int(settings["group"]), int(settings["bits"])
    if inputs % group:
        raise Unfit(f"its rows of {inputs} elements are no whole number of groups of {group}")
    if outputs * bits % 32:
        raise Unfit(f"its {outputs} zero points of {bits} bits are no whole number of words")
    return outputs, inputs, group


def form_gptq(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Codes packed along the inputs."""
    outputs, inputs, group = _group(shape, settings)
    bits = int(settings["bits"])
    if not settings["sym"] and settings["version"] == 1:
        raise Unfit("its first version has no zero point of 0; version=2 has")
    parts = (
        Part(
            "weight",
            sibling(name, "qweight"),
            "I32",
            (inputs * bits // 32, outputs),
            32,
            bits * outputs,
        ),
        _zeros(name, outputs, inputs, group, bits),
        Part("scale", sibling(name, "scales"), dtype, (inputs // group, outputs), group, outputs),
        Part("g_idx", sibling(name, "g_idx"), "I32", (inputs,), 1, 1),
    )
    return Form(outputs, parts, multiple=group, transposed=True)


def form_awq(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Codes packed along the outputs."""
    outputs, inputs, group = _group(shape, settings)
    words = outputs // 8
    parts = (
        Part("weight", sibling(name, "qweight"), "I32", (inputs, words), 1, words),
        _zeros(name, outputs, inputs, group, 4),
        Part("scale", sibling(name, "scales"), dtype, (inputs // group, outputs), group, outputs),
    )
    return Form(outputs, parts, multiple=group, transposed=True)


def _zeros(name: str, outputs: int, inputs: int, group: int, bits: int) -> Part:
    words = outputs * bits // 32
    return Part("zero", sibling(name, "qzeros"), "I32", (inputs // group, words), group, words)


def _by_output(values: Array, params: Params, out: Outputs) -> tuple[Any, Any]:
    """Codes, uint8 `[outputs, inputs]`, and zero points `[outputs, groups]` from 0 on; scales."""
    outputs, group = params["columns"], int(params["group"])
    lines = np.ascontiguousarray(values.reshape(-1, outputs).T)
    inputs = lines.shape[1]
    scales = {"scale": np.empty(outputs * (inputs // group), out["scale"].dtype)}
    half, codes = 1 << int(params["bits"]) - 1, np.empty((outputs, inputs), np.uint8)
    lined = {**params, "columns": inputs}
    zeros = integers_of(lines.reshape(-1), lined, scales, half, codes.reshape(-1))
    out["scale"][:] = scales["scale"].reshape(outputs, -1).T.reshape(-1)
    return codes, (zeros.reshape(outputs, -1) + half).astype(np.uint8)


def encode_gptq(values: Floats, params: Params, out: Outputs) -> None:
    """A window of inputs."""
    bits = int(params["bits"])
    codes, zeros = _by_output(values, params, out)
    out["weight"][:] = pack_rows(codes, bits).T.reshape(-1)
    stored = zeros - np.uint8(params["version"] == 1)
    out["zero"][:] = pack_rows(np.ascontiguousarray(stored.T), bits).reshape(-1)
    first = params["first"]
    inputs = np.arange(first, first + len(out["g_idx"]), dtype=np.int32)
    out["g_idx"][:] = inputs // np.int32(params["group"])


def encode_awq(values: Floats, params: Params, out: Outputs) -> None:
    """A window of inputs."""
    codes, zeros = _by_output(values, params, out)
    out["weight"][:] = _words(codes.T).reshape(-1)
    out["zero"][:] = _words(zeros.T).reshape(-1)


def _words(codes: Array) -> Array:
    """Eight codes of a row, in AWQ's order, as an int32."""
    eights = codes.reshape(codes.shape[0], -1, 8)[..., list(_AWQ_ORDER)]
    pairs = eights[..., ::2] | eights[..., 1::2] << np.uint8(4)
    return np.ascontiguousarray(pairs).view("<i4")


def _blocks(parts: Parts, facts: Facts, code_lines: int) -> Blocks:
    """`facts.rows` inputs of `facts.columns` outputs; the decoder's rows are outputs."""
    settings, inputs = facts.settings, facts.rows
    group = int(settings["group"])
    scalars: dict[str, Any] = {
        "bits": int(settings["bits"]),
        "group_size": group,
        "groups": inputs // group,
        "in_features": inputs,
        "scale_dtype": facts.dtype,
        "rounding": "exact",
        "version": "gemm",
        "word_bits": 32,
        "zero_offset": int(settings.get("version", 0) == 1),
        "zero_carry": False,
    }
    views = {
        "qweight": lines(parts["weight"], code_lines),
        "scales": lines(parts["scale"], inputs // group),
        "qzeros": lines(parts["zero"], inputs // group),
    }
    return Blocks(views, scalars, {}, facts.columns, transposed=True)


def blocks_gptq(parts: Parts, facts: Facts) -> Blocks:
    """Lines of words, each of as many inputs as it has codes."""
    return _blocks(parts, facts, facts.rows * int(facts.settings["bits"]) // 32)


def blocks_awq(parts: Parts, facts: Facts) -> Blocks:
    """A line an input."""
    return _blocks(parts, facts, facts.rows)


def _ends(parts: Parts, facts: Facts, offset: int, nibbles: bool) -> Ends:
    """Of each number: groups run down the inputs."""
    settings, outputs = facts.settings, facts.columns
    group, bits = int(settings["group"]), int(settings["bits"])
    groups = facts.rows // group
    scales = wide(parts["scale"]).reshape(groups, outputs)
    stored = parts["zero"].view(np.uint8).reshape(groups, -1)
    zeros = read_zeros(stored, bits, offset, 0, nibbles, (groups, outputs))
    first = (np.float32(-0.5) - zeros) * scales
    last = (np.float32((1 << bits) - 0.5) - zeros) * scales
    return between(np.repeat(first, group, axis=0), np.repeat(last, group, axis=0), outputs, 1)


def ends_gptq(parts: Parts, facts: Facts) -> Ends:
    """By zero points as the version stores them."""
    return _ends(parts, facts, int(facts.settings["version"] == 1), nibbles=False)


def ends_awq(parts: Parts, facts: Facts) -> Ends:
    """By zero points in AWQ's order."""
    return _ends(parts, facts, 0, nibbles=True)


def config_gptq(settings: Settings, kept: Kept, dtype: str) -> Config:
    """gptqmodel's block."""
    found = quantization(
        quant_method="gptq",
        bits=settings["bits"],
        group_size=settings["group"],
        sym=settings["sym"],
        desc_act=False,
        checkpoint_format="gptq" if settings["version"] == 1 else "gptq_v2",
        pack_dtype="int32",
        lm_head=False,
    )
    if kept:
        # gptqmodel's rules: a minus leaves the modules alone that a pattern fits.
        rules: Config = {f"-:^{re.escape(module)}$": {} for module in kept}
        found["quantization_config"]["dynamic"] = rules
    return found


def config_awq(settings: Settings, kept: Kept, dtype: str) -> Config:
    """AutoAWQ's block."""
    return quantization(
        quant_method="awq",
        bits=4,
        version="gemm",
        group_size=settings["group"],
        zero_point=True,
        modules_to_not_convert=list(kept),
    )
