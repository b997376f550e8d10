"""Cases of every encoder, and inputs of every class, for goldens and for the libraries alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from anamnesis.kernels.encoders import ENCODERS, encoder, former
from anamnesis.readers.dtypes import DTYPES

Settings = dict[str, Any]
NUMPY = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def cases() -> Iterator[tuple[str, Settings]]:
    """Targets with settings that go through all of their code."""
    for bits in (2, 3, 4, 5, 6, 8):
        yield "mlx-affine", {"bits": bits, "group": {2: 32, 8: 128}.get(bits, 64)}
    for bits in range(2, 9):
        for group, sym in ((128, True), (32, False), (0, bits % 2 == 0)):
            yield "ct-pack-quantized", {"bits": bits, "group": group, "sym": sym}
    for group, sym in ((0, True), (0, False), (32, True)):
        yield "ct-int-quantized", {"bits": 8, "group": group, "sym": sym}
    for target in ("fp8-channel", "fp8-tensor", "mxfp4", "mxfp8", "nvfp4"):
        yield target, {"style": "compressed-tensors"}
    for target in ("mxfp4", "mxfp8", "nvfp4"):
        yield target, {"style": "mlx"}
    yield "nvfp4", {"style": "modelopt"}
    yield "mxfp4", {"style": "gpt-oss"}
    for style in ("compressed-tensors", "deepseek", "transformers"):
        yield "fp8-block", {"block": 128, "style": style}
    yield "fp8-block", {"block": 32, "style": "deepseek"}
    yield "bnb-int8", {}
    for kind in ("qfloat8", "qint8"):
        yield "quanto", {"type": kind}
    for target in ("bnb-fp4", "bnb-nf4"):
        for block in (64, 128):
            for nested in (False, True):
                yield target, {"block": block, "nested": nested}


def label(case: tuple[str, Settings]) -> str:
    """The case as the command line has it."""
    target, settings = case
    pairs = ",".join(f"{key}={value}" for key, value in settings.items())
    return f"{target}:{pairs}" if pairs else target


def matrix(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """float32 numbers of one class: plain, zeros, ties, tiny, constant, outlier, positive."""
    rng = np.random.default_rng(seed)
    magnitudes = np.resize([1e-4, 0.02, 0.3, 4.0], rows)[:, None]
    values = (rng.standard_normal((rows, columns)) * magnitudes).astype(np.float32)
    if kind == "zeros":
        values[:: max(1, rows // 4)] = 0
        values[1, 1::3] = -0.0
    elif kind == "ties":
        values = (np.round(values * 8) / 8).astype(np.float32)
    elif kind == "tiny":
        values *= np.float32(1e-38)
    elif kind == "constant":
        values[:] = magnitudes * np.float32(-1.25)
    elif kind == "outlier":
        values[:, :: max(1, columns // 8)] = 300
    elif kind == "positive":
        values = np.abs(values)
    elif kind == "negative":
        values = -np.abs(values)
    return values


CLASSES = (
    "plain",
    "zeros",
    "ties",
    "tiny",
    "constant",
    "outlier",
    "positive",
    "negative",
)


# Numbers that libraries do not expect, all of them finite; and what is not.
EXTREMES = ("all zeros", "minus zeros", "subnormal", "one outlier", "largest halves")
SPOILED = ("nan", "infinity", "minus infinity", "several")


def extreme(kind: str, rows: int, columns: int) -> np.ndarray:
    """float32 numbers of one of EXTREMES or SPOILED; the latter lie in rows 5 and 70."""
    values = matrix("plain", rows, columns, seed=1)
    if kind == "all zeros":
        values[:] = 0
    elif kind == "minus zeros":
        values[:] = -0.0
    elif kind == "subnormal":
        values *= np.float32(1e-40)
    elif kind == "one outlier":
        values[3, 3] = 3e38
    elif kind == "largest halves":
        values[:] = np.sign(values) * np.float32(6e4)
    elif kind == "several":
        values[5, :3], values[70, 9] = (np.inf, -np.inf, np.nan), np.inf
    else:
        numbers = {"nan": np.nan, "infinity": np.inf, "minus infinity": -np.inf}
        values[5, 7] = numbers[kind]
    return values


def encoded(
    case: tuple[str, Settings], values: np.ndarray, dtype: str, step: int = 0
) -> dict[str, np.ndarray]:
    """The stored tensors of `X.weight`, by what follows `X.`, in windows of `step` multiples.

    gpt-oss has one expert, `X.gate_up_proj`, of the matrix transposed.
    """
    target, chosen = case
    settings = {key: row.default for key, row in ENCODERS[target].keys.items()} | chosen
    name, shape = "X.weight", values.shape
    if settings.get("style") == "gpt-oss":
        name, shape = "X.gate_up_proj", (1, *reversed(shape))
    form = former(target)(name, shape, dtype, settings)
    flat = values.astype(NUMPY[dtype]).astype(np.float32).reshape(-1)
    given = flat
    if dtype == "BF16" and ENCODERS[target].bf16:
        given = values.astype(NUMPY[dtype]).reshape(-1).view(np.uint16)
    out = {p.role: np.zeros(math.prod(p.shape), DTYPES[p.dtype].numpy) for p in form.parts}
    units = -(-flat.size // form.unit_elems)
    step = step * form.multiple or units
    params: dict[str, Any] = {**settings, "dtype": dtype, "columns": form.unit_elems}
    params |= {"shape": shape, **statistics(target, settings, flat)}
    for start in range(0, units, step):
        stop = min(units, start + step)
        window = given[start * form.unit_elems : stop * form.unit_elems]
        views = {p.role: out[p.role][slice(*p.span(start, stop))] for p in form.parts}
        encoder(target)(window, params | {"first": start}, views)
    return {p.name.removeprefix("X."): out[p.role].reshape(p.shape) for p in form.parts}


def rooms(form: Any, units: int) -> dict[str, np.ndarray]:
    """Arrays for the parts of the first `units` of a form, by role."""
    return {
        part.role: np.zeros(
            part.room(0, units) if part.units else math.prod(part.shape),
            np.uint8 if part.block_bytes else DTYPES[part.dtype].numpy,
        )
        for part in form.parts
    }


def statistics(target: str, settings: Settings, values: np.ndarray) -> dict[str, Any]:
    """What forms may ask for, of all values."""
    found: dict[str, Any] = {"least": values.min(), "most": values.max()}
    if settings.get("nested"):
        from anamnesis.kernels._cascade import Cascade
        from anamnesis.kernels.encode_bnb import block_maxima

        maxima = block_maxima(values, settings["block"])
        total = Cascade(len(maxima))
        total.add(maxima)
        with np.errstate(all="ignore"):
            found["absmax_mean"] = total.total() / np.float32(len(maxima))
    return found


def assert_same(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """The same tensors, bit for bit; a quant state as the JSON that it is."""
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        have = got[name]
        if "quant_state" in name:
            assert json.loads(have.tobytes()) == json.loads(want.tobytes()), name
            continue
        assert have.shape == want.shape, name
        assert have.itemsize == want.itemsize, name
        have, want = (np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in (have, want))
        wrong = np.flatnonzero(have != want)
        at = wrong[:6]
        assert not len(wrong), (
            f"{name}: {len(wrong)} of {len(want)} bytes differ, at {at}: "
            f"{have[at]}, expected {want[at]}"
        )


def golden_matrix() -> np.ndarray:
    """The matrix of `tests/data/encode`."""
    values = matrix("plain", 32, 128, seed=7)
    values[0], values[1] = 0, 0.25
    return values
