"""What an encoder's parts decode to: a window of them, as a tensor of its own.

A row of `_FORMS`, by the encoding that reads a target back, makes the blocks and parameters of a
decoder from the arrays that `encode` filled. A window is whole rows (of bitsandbytes' blocks, a run
of elements), which is what a tensor of as many rows would be: so the decoders need to know nothing
of encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import ENCODINGS, Window, decoder, preparer
from anamnesis.kernels.encoders import ENCODERS
from anamnesis.kernels.types import Array

Parts = Mapping[str, Any]
TRANSPOSED = ("awq", "gptq")  # whose units are columns of the matrix


class Stored(NamedTuple):
    """A whole component, as `prepare` functions take it."""

    dtype: str
    array: Array


class Blocks(NamedTuple):
    """The arguments of a decoder: views by role, scalars and wholes of `prepare`, and units."""

    views: dict[str, Any]
    scalars: dict[str, Any]
    wholes: dict[str, Stored]
    units: int


class Facts(NamedTuple):
    """What a form needs besides the parts: the target and its settings, and the window's shape.

    `dtype` is the one that scales are stored in, `columns` the elements of an encoder's unit, of
    which there are `rows`.
    """

    target: str
    settings: Mapping[str, Any]
    dtype: str
    columns: int
    rows: int


class Readback:
    """Decodes the windows of one encoded tensor."""

    def __init__(self, facts: Facts) -> None:
        """`facts` of any number of rows."""
        self._facts = facts
        self._encoding = ENCODERS[facts.target].reads_back
        self._decode, self._prepare = decoder(self._encoding), preparer(self._encoding)
        row = ENCODINGS[self._encoding]
        self._form = _blocks_of(self._encoding) if row.ggml_type >= 0 else _FORMS[self._encoding]

    def into(self, parts: Parts, out: Array) -> None:
        """What `parts` hold, into a flat array of the window's elements: float32 or BF16 bits."""
        rows = -(-len(out) // self._facts.columns)
        with np.errstate(all="ignore"):
            blocks = self._form(parts, self._facts._replace(rows=rows))
            params = dict(blocks.scalars)
            if self._prepare is not None:
                params |= self._prepare(blocks.scalars, blocks.wholes)
            window = Window(0, blocks.units)
            if self._facts.target not in TRANSPOSED:
                self._decode(blocks.views, params, window, out)
                return
            turned = np.empty(len(out), out.dtype)
            self._decode(blocks.views, params, window, turned)
            out.reshape(rows, -1)[:] = turned.reshape(-1, rows).T


Form = Callable[[Parts, Facts], Blocks]


def _lines(array: Array, rows: int) -> Any:
    return array.view(np.uint8).reshape(rows, -1)


def _blocks_of(encoding: str) -> Form:
    size = ENCODINGS[encoding].block_bytes

    def form(parts: Parts, facts: Facts) -> Blocks:
        data = parts["blocks"].reshape(-1, size)
        return Blocks({"payload": data}, {}, {}, len(data))

    return form


def _fp8(parts: Parts, facts: Facts) -> Blocks:
    rows, columns = facts.rows, facts.columns
    size = facts.settings.get("block")
    kind = facts.target.removeprefix("mlx-")
    blocks = {"fp8-tensor": (rows, columns), "fp8-channel": (1, columns), "mxfp8": (1, 32)}
    high, wide = blocks.get(kind) or (min(int(size or 1), rows), min(int(size or 1), columns))
    grid = (1, -(-rows // high), -(-columns // wide))
    scalars: dict[str, Any] = {"block": (high, wide), "grid": grid, "rows": rows}
    scale = parts["scale"]
    dtype = "U8" if kind == "mxfp8" else "F32" if scale.dtype == np.float32 else facts.dtype
    return Blocks(
        {"payload": _lines(parts["weight"], rows)}, scalars, {"scale": Stored(dtype, scale)}, rows
    )


def _micro(parts: Parts, facts: Facts) -> Blocks:
    rows = facts.rows
    views = {"payload": _lines(parts["weight"], rows), "scale": _lines(parts["scale"], rows)}
    divide = facts.settings.get("style") == "compressed-tensors"
    scalars: dict[str, Any] = {"rows": rows, "global": "divide" if divide else "multiply"}
    scalars["minus_zero"] = facts.settings.get("style") != "modelopt"
    wholes = {"global": Stored("F32", parts["global"])} if "global" in parts else {}
    return Blocks(views, scalars, wholes, rows)


def _integers(parts: Parts, facts: Facts) -> Blocks:
    rows, columns, settings = facts.rows, facts.columns, facts.settings
    group = int(settings["group"]) or columns
    packed = facts.target == "ct-pack-quantized"
    scalars: dict[str, Any] = {
        "bits": int(settings["bits"]) if packed else 8,
        "zero": ("dense" if packed else "plain") if "zero" in parts else "",
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
    }
    if packed:
        scalars["padded"] = False
    role = "weight_packed" if packed else "weight"
    views = {role: _lines(parts["weight"], rows), "weight_scale": _lines(parts["scale"], rows)}
    zeros = {"weight_zero_point": Stored("I32", parts["zero"])} if "zero" in parts else {}
    return Blocks(views, scalars, zeros, rows)


def _affine(parts: Parts, facts: Facts) -> Blocks:
    rows = facts.rows
    scalars: dict[str, Any] = {
        "bits": int(facts.settings["bits"]),
        "group_size": int(facts.settings["group"]),
        "scale_dtype": facts.dtype,
        "rounding": "exact",
        "order": "mlx",
    }
    roles = {"payload": "weight", "scales": "scale", "biases": "bias"}
    views = {role: _lines(parts[part], rows) for role, part in roles.items()}
    return Blocks(views, scalars, {}, rows)


def _transposed(parts: Parts, facts: Facts) -> Blocks:
    """GPTQ and AWQ: `facts.rows` inputs of `facts.columns` outputs."""
    settings, inputs = facts.settings, facts.rows
    group, bits = int(settings["group"]), int(settings["bits"])
    scalars: dict[str, Any] = {
        "bits": bits,
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
    lines = inputs * bits // 32 if facts.target == "gptq" else inputs
    views = {
        "qweight": _lines(parts["weight"], lines),
        "scales": _lines(parts["scale"], inputs // group),
        "qzeros": _lines(parts["zero"], inputs // group),
    }
    return Blocks(views, scalars, {}, facts.columns)


def _four_bits(parts: Parts, facts: Facts) -> Blocks:
    size, absmax = int(facts.settings["block"]), parts["absmax"]
    kind = facts.target.removeprefix("bnb-")
    nested = {}
    scalars: dict[str, Any] = {
        "quant_type": kind,
        "group_size": size,
        "dtype": "float32",
        "absmax_dtype": "F32",
        "rounding": "exact",
    }
    if "nested" in parts:
        scalars |= {"nested_blocksize": 256, "nested_offset": facts.settings["absmax_mean"]}
        nested = {
            "nested_absmax": Stored("F32", parts["nested"]),
            "nested_quant_map": Stored("F32", parts["nested_map"]),
        }
    payload = parts["weight"]
    if len(payload) * 2 != size * len(absmax):
        whole = np.zeros(size * len(absmax) // 2, np.uint8)
        whole[: len(payload)] = payload
        payload = whole
    views = {"payload": payload.reshape(len(absmax), -1), "absmax": _lines(absmax, len(absmax))}
    return Blocks(views, scalars, nested, len(absmax))


def _int8(parts: Parts, facts: Facts) -> Blocks:
    views = {
        "payload": _lines(parts["weight"], facts.rows),
        "SCB": _lines(parts["scale"], facts.rows),
    }
    return Blocks(views, {"bits": 8}, {}, facts.rows)


_FORMS: dict[str, Form] = {
    "awq-gemm": _transposed,
    "bnb-4bit": _four_bits,
    "bnb-int8": _int8,
    "ct-int8": _integers,
    "ct-packed": _integers,
    "fp4-mx": _micro,
    "fp4-nv": _micro,
    "fp8-e4m3": _fp8,
    "gptq": _transposed,
    "mlx-affine": _affine,
}
