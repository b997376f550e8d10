"""bitsandbytes: NF4 and FP4 blocks, their statistics quantised or not, and INT8 rows.

Four bits, elements flat in row-major order, `block` of them under one number:

    absmax = greatest magnitude of the block
    code = the number of midpoints between neighbours of the map that are below clamp(w / absmax)

where `w / absmax` is `w * (1 / max(absmax, 1e-38))`, but for a last block that is short; FP4's map
is not in order, and the count is looked up. Element 2k is in the high half of byte k. Nested:

    offset = mean of all absmax, in the order of `cascade_sum`
    X.absmax = code of the dynamic map for (absmax - offset) / nested_absmax, 256 blocks under one

INT8, of the numbers as binary16: code = round(w * (127 / SCB)), SCB the row's greatest magnitude.
Source: bitsandbytes 0.50.2 `functional.quantize_4bit`, `backends/default/ops.py`,
`csrc/cpu_ops.cpp`, on a CPU. The quant state is its JSON, filled up with spaces.
"""

from __future__ import annotations

import json
from functools import cache, partial
from typing import Any

import numpy as np

from anamnesis.kernels._extremes import magnitudes
from anamnesis.kernels._narrow import narrow
from anamnesis.kernels._native import kernel, variants
from anamnesis.kernels.config import Config, Kept, quantization
from anamnesis.kernels.encoders import Form, Part, Settings, Shape, Unfit, matrix_of, sibling
from anamnesis.kernels.ends import Ends, around, between
from anamnesis.kernels.loss import Codes
from anamnesis.kernels.readback import Blocks, Facts, Parts, Stored, lines
from anamnesis.kernels.types import Array, Bytes, Floats, Outputs, Params, Real

_NESTED = 256  # blocks under one number
_PLACES = 65536
_OFFSET_CHARS = 26  # more than any float's repr
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)  # fmt: skip
_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
_LEAST = np.float32(1e-38)
_ENDS = {"fp4": (-7 / 6, 7 / 6), "nf4": (-1.1519036, 1.1385216)}  # of the maps, in absmax
# INT8: half a step beyond both ends, and 1 / 127 as the library has it.
_BYTES = np.array([-127.5 / 127, 127.5 / 127, 7.874015718698502e-3], np.float32)
_four_bits = variants("encode_bnb:four_bits")
_last_four_bits = kernel("encode_bnb:last_four_bits")
_rows_of_bytes = kernel("encode_bnb:rows_of_bytes")


def quant_map(kind: str) -> Array:
    """The sixteen numbers that codes stand for, float32."""
    if kind == "nf4":
        return np.array(_NF4, np.float32)
    values = np.array([*_FP4, 0.0, *(-value for value in _FP4[1:])], np.float32)
    return values / np.float32(12)


@cache
def _order(kind: str) -> tuple[Any, Any]:
    """Midpoints of the sorted map, filled up to 32, and the codes in that order, int32."""
    values = quant_map(kind)
    order = np.argsort(values, kind="stable").astype(np.int32)
    ordered, bounds = values[order], np.zeros(32, np.float32)
    # Between two neighbours of the map the nearer one wins.
    bounds[:15] = (ordered[:-1] + ordered[1:]) / np.float32(2)
    return bounds, order


@cache
def dynamic_map() -> Array:
    """bitsandbytes' `create_dynamic_map`: 256 float32, sorted; the map of nested statistics."""
    numbers = [0.0, 1.0]
    for i in range(7):
        count = 2**i + 1
        step = float(np.float32((np.float32(1) - np.float32(0.1)) / np.float32(count - 1)))
        places = np.arange(count)
        # torch's linspace goes from both ends, and rounds a product and its sum once.
        from_start = (float(np.float32(0.1)) + step * places).astype(np.float32)
        from_end = (1 - step * (count - 1 - places)).astype(np.float32)
        bounds = np.where(places < count // 2, from_start, from_end)
        means = (bounds[:-1] + bounds[1:]) / np.float32(2)
        numbers += [
            float(sign * x) for x in np.float32(10.0 ** (i - 6)) * means for sign in (1, -1)
        ]
    return np.array(sorted(numbers), np.float32)


@cache
def _nearest_of_places() -> Array:
    """The code of the dynamic map for each of 65,536 places from -1 to 1, uint8."""
    numbers = dynamic_map()
    midpoints = np.float32(0.5) * (numbers[:-1] + numbers[1:])
    steps = np.float32(2) * np.arange(_PLACES, dtype=np.float32) / np.float32(_PLACES - 1)
    return np.searchsorted(midpoints, np.float32(-1) + steps, side="left").astype(np.uint8)


def _dynamic_codes(values: Array, absmax: Floats) -> Array:
    """`quantize_blockwise`: the code of the place of each number; 0 for what is none.

    A place's product and sum are rounded once, as the library is compiled. The inverse of a block
    of zeros is infinite, and that of subnormals: their products are NaN, or an end of the map.
    """
    inverse = np.repeat(np.float32(1) / absmax, _NESTED)[: len(values)]
    values = np.clip(values * inverse, np.float32(-1), np.float32(1))
    # From -1 .. 1 to 0 .. 1, then to one of 65,536 places.
    halves = (values + np.float32(1)) * np.float32(0.5)
    places = (halves.astype(np.float64) * (_PLACES - 1) + 0.5).astype(np.float32)
    codes: Bytes = _nearest_of_places()[np.nan_to_num(places).astype(np.uint16)]
    return codes


def _form_four(kind: str, name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    matrix_of(shape)
    block, nested = int(settings["block"]), bool(settings["nested"])
    count = int(np.prod(shape, dtype=np.int64))
    if count % 2:
        raise Unfit(f"its {count} elements are no whole number of bytes")
    blocks = -(-count // block)
    unit = block * (_NESTED if nested else 1)
    parts = [Part("weight", name, "U8", (count // 2, 1), 1, unit // 2)]
    if nested:
        parts += [
            Part("absmax", f"{name}.absmax", "U8", (blocks,), 1, _NESTED),
            Part("nested", f"{name}.nested_absmax", "F32", (-(-blocks // _NESTED),), 1, 1),
            Part("nested_map", f"{name}.nested_quant_map", "F32", (256,)),
        ]
    else:
        parts.append(Part("absmax", f"{name}.absmax", "F32", (blocks,), 1, 1))
    state = len(quant_state(kind, shape, _DTYPES[dtype], settings, None))
    parts += [
        Part("map", f"{name}.quant_map", "F32", (16,)),
        Part("state", f"{name}.quant_state.bitsandbytes__{kind}", "U8", (state,)),
    ]
    return Form(unit, tuple(parts), statistics=("absmax_mean",) if nested else ())


def quant_state(
    kind: str, shape: Shape, dtype: str, settings: Settings, offset: Real | None
) -> bytes:
    """The quant state, `dtype` as torch has it, in a length that the offset does not change."""
    state: dict[str, Any] = {"quant_type": kind, "blocksize": int(settings["block"])}
    state |= {"dtype": dtype, "shape": list(shape)}
    if settings["nested"]:
        state |= {"nested_blocksize": _NESTED, "nested_dtype": "float32"}
        state["nested_offset"] = 0.0 if offset is None else float(offset)
        length = len(json.dumps(state | {"nested_offset": 0})) + _OFFSET_CHARS
        return json.dumps(state).encode().ljust(length)
    return json.dumps(state).encode()


def form_nf4(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Codes of the quantiles of a normal distribution."""
    return _form_four("nf4", name, shape, dtype, settings)


def form_fp4(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """Codes of a four-bit float."""
    return _form_four("fp4", name, shape, dtype, settings)


def _encode_four(kind: str, values: Array, params: Params, out: Outputs) -> None:
    block, nested = int(params["block"]), bool(params["nested"])
    bounds, order = _order(kind)
    full = len(values) // block
    absmax, codes = np.empty(-(-len(values) // block), np.float32), out["weight"]
    _four_bits(kind == "nf4")(
        values[: full * block],
        block,
        _LEAST,
        bounds,
        order,
        absmax[:full],
        codes[: full * block // 2],
    )
    with np.errstate(all="ignore"):
        if full < len(absmax):
            rest = values[full * block :]
            absmax[full:] = block_maxima(rest, block)  # which is 1e-38 at least
            _last_four_bits(rest, absmax[-1], bounds, order, codes[full * block // 2 :])
        if nested:
            _nest(absmax - np.float32(params["absmax_mean"]), out)
        else:
            out["absmax"][:] = absmax
    if len(out["map"]):
        out["map"][:] = quant_map(kind)
        offset = params["absmax_mean"] if nested else None
        dtype = _DTYPES[params["dtype"]]
        text = quant_state(kind, params["shape"], dtype, params, offset)
        out["state"][:] = np.frombuffer(text, np.uint8)


def _nest(left: Floats, out: Outputs) -> None:
    """Quantise what is left of the statistics, 256 at a time; NaN is never the greatest."""
    padded = np.zeros(-(-len(left) // _NESTED) * _NESTED, np.float32)
    padded[: len(left)] = np.where(np.isnan(left), np.float32(0), left)
    nested = magnitudes(padded, _NESTED)
    out["nested"][:] = nested
    out["absmax"][:] = _dynamic_codes(left, nested)
    if len(out["nested_map"]):
        out["nested_map"][:] = dynamic_map()


def block_maxima(values: Array, block: int) -> Array:
    """The greatest magnitude of each block; that of a short last one is 1e-38 at least."""
    full = len(values) // block * block
    absmax = magnitudes(values[:full], block)
    if full == len(values):
        return absmax
    last = np.maximum(magnitudes(values[full:], len(values) - full), _LEAST)
    return np.concatenate([absmax, last])


def encode_nf4(values: Array, params: Params, out: Outputs) -> None:
    """`quantize_4bit(…, quant_type="nf4")`."""
    _encode_four("nf4", values, params, out)


def encode_fp4(values: Array, params: Params, out: Outputs) -> None:
    """`quantize_4bit(…, quant_type="fp4")`."""
    _encode_four("fp4", values, params, out)


def _blocks_four(kind: str, parts: Parts, facts: Facts) -> Blocks:
    size, absmax = int(facts.settings["block"]), parts["absmax"]
    nested = {}
    scalars: dict[str, Any] = {
        "quant_type": kind,
        "group_size": size,
        "dtype": "float32",
        "absmax_dtype": "F32",
        "rounding": "exact",
    }
    if "nested" in parts:
        scalars |= {"nested_blocksize": _NESTED, "nested_offset": facts.settings["absmax_mean"]}
        nested = {
            "nested_absmax": Stored("F32", parts["nested"]),
            "nested_quant_map": Stored("F32", parts["nested_map"]),
        }
    payload = parts["weight"]
    if len(payload) * 2 != size * len(absmax):
        whole = np.zeros(size * len(absmax) // 2, np.uint8)
        whole[: len(payload)] = payload
        payload = whole
    views = {"payload": payload.reshape(len(absmax), -1), "absmax": lines(absmax, len(absmax))}
    return Blocks(views, scalars, nested, len(absmax))


def _absmax(parts: Parts, facts: Facts) -> Floats:
    """The statistics as float32, also those that are quantised."""
    absmax = parts["absmax"]
    if "nested" not in parts:
        return absmax
    nested = np.repeat(parts["nested"], _NESTED)[: len(absmax)]
    with np.errstate(all="ignore"):
        left = parts["nested_map"][absmax] * nested
        return left + np.float32(facts.settings["absmax_mean"])


def _ends_four(kind: str, parts: Parts, facts: Facts) -> Ends:
    absmax, size = _absmax(parts, facts), int(facts.settings["block"])
    low, high = map(np.float32, _ENDS[kind])
    return between(absmax * low, absmax * high, size, size)


@cache
def _table(kind: str) -> Floats:
    """The numbers of codes, and the ends."""
    return np.concatenate([quant_map(kind), np.array(_ENDS[kind], np.float32)])


def _codes_four(kind: str, parts: Parts, facts: Facts) -> Codes | None:
    """Pairs, the first in the high half, under the statistics of their blocks."""
    if len(parts["weight"]) % 8:
        return None
    size, absmax = int(facts.settings["block"]), _absmax(parts, facts)
    return Codes("pairs-back", parts["weight"], size, absmax, _table(kind))


def _config_four(kind: str, settings: Settings, kept: Kept, dtype: str) -> Config:
    return quantization(
        quant_method="bitsandbytes",
        load_in_4bit=True,
        load_in_8bit=False,
        llm_int8_skip_modules=list(kept),
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=settings["nested"],
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage="uint8",
    )


blocks_nf4, blocks_fp4 = partial(_blocks_four, "nf4"), partial(_blocks_four, "fp4")
ends_nf4, ends_fp4 = partial(_ends_four, "nf4"), partial(_ends_four, "fp4")
codes_nf4, codes_fp4 = partial(_codes_four, "nf4"), partial(_codes_four, "fp4")
config_nf4, config_fp4 = partial(_config_four, "nf4"), partial(_config_four, "fp4")


def form_int8(name: str, shape: Shape, dtype: str, settings: Settings) -> Form:
    """A byte an element and a number a row."""
    rows, columns = matrix_of(shape)
    if len(shape) > 2:
        raise Unfit(f"it is a stack of matrices, {list(shape)}")
    parts = (
        Part("weight", name, "I8", shape, 1, columns),
        Part("scale", sibling(name, "SCB"), "F32", (rows,), 1, 1),
    )
    return Form(columns, parts)


def encode_int8(values: Array, params: Params, out: Outputs) -> None:
    """`int8_vectorwise_quant` of the numbers as binary16, on the CPU."""
    columns = params["columns"]
    with np.errstate(all="ignore"):
        out["scale"][:] = narrow(magnitudes(values, columns), "F16")
        factors = np.float32(1) / out["scale"] * np.float32(127)  # torch's order for 127 / scale
    bf16 = values.dtype == np.uint16
    _rows_of_bytes(values, bf16, factors, columns, out["weight"].view(np.uint8))


def blocks_int8(parts: Parts, facts: Facts) -> Blocks:
    """A row of codes and a number each."""
    rows = facts.rows
    views = {"payload": lines(parts["weight"], rows), "SCB": lines(parts["scale"], rows)}
    return Blocks(views, {"bits": 8}, {}, rows)


def ends_int8(parts: Parts, facts: Facts) -> Ends:
    """Half a step beyond 127."""
    return around(parts["scale"] * _BYTES[1], facts.columns, facts.columns)


def codes_int8(parts: Parts, facts: Facts) -> Codes | None:
    """A number a row."""
    if facts.columns % 16:
        return None
    return Codes("int8", parts["weight"].view(np.uint8), facts.columns, parts["scale"], _BYTES)


def config_int8(settings: Settings, kept: Kept, dtype: str) -> Config:
    """bitsandbytes' block."""
    return quantization(
        quant_method="bitsandbytes",
        load_in_4bit=False,
        load_in_8bit=True,
        llm_int8_skip_modules=list(kept),
    )
