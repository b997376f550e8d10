"""ModelSlim's static W8A8 whose scales are in those of the integer product.

What is expected is the formula of vllm-ascend's pull request 16728 and the bits of msmodelslim's
`deqscale2int64`, written again here: no library of Ascend runs on another machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import Parts, resolved

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

Write = Callable[[Path, Any], Path]
ROWS, COLUMNS = 48, 40
rng = np.random.default_rng(16728)
CODES = rng.integers(-128, 128, (ROWS, COLUMNS), np.int8)
PRODUCT = rng.uniform(1e-5, 1e-3, ROWS).astype(np.float32)
PRODUCT[:4] = [0, 3e38, 1e-44, np.inf]
SIDE = {"m.quant_bias": ("I32", (ROWS,), bytes(4 * ROWS)), "m.input_offset": ("I8", (1,), b"\3")}


def deqscale2int64(scale: Any) -> Any:
    """As msmodelslim's: the bits of each float32 as an int32, and that as an int64."""
    return np.frombuffer(scale.tobytes(), np.int32).astype(np.int64)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("dtype", "inputs"),
    [
        ("F32", np.float32(0.0371)),
        ("F16", np.float16(0.0371)),
        ("BF16", ml_dtypes.bfloat16(0.0371)),
    ],
)
@pytest.mark.parametrize("stored", ["F32", "I64"])
def test_scales_are_recovered_from_those_of_the_product(
    write_safetensors: Write, tmp_path: Path, stored: str, dtype: str, inputs: Any, sign: int
) -> None:
    product = PRODUCT * np.float32(sign)
    numbers = deqscale2int64(product) if stored == "I64" else product
    parts = {
        "m.weight": ("I8", CODES.shape, CODES.tobytes()),
        "m.deq_scale": (stored, (ROWS,), numbers.tobytes()),
        "m.input_scale": (dtype, (1,), np.array([inputs]).tobytes()),
        **SIDE,
    }
    path = write_safetensors(tmp_path / "m.safetensors", parts)
    with np.errstate(all="ignore"):
        wanted = CODES * (product / np.float32(inputs))[:, None]
    model = anamnesis.open_model(path)
    assert [(t.name, t.scheme) for t in model.model.tensors] == [("m.weight", "modelslim-int8")]
    anamnesis.remember(path, tmp_path / "f32.safetensors", dtype="f32")
    found = load_file(tmp_path / "f32.safetensors")["m.weight"].view(np.uint32)
    nan = np.isnan(wanted)
    np.testing.assert_array_equal(found[~nan], wanted.view(np.uint32)[~nan])
    assert np.isnan(found.view(np.float32)[nan]).all()
    with np.errstate(all="ignore"):
        rounded = wanted.astype(ml_dtypes.bfloat16).view(np.uint16)
    found = model["m.weight"].to_numpy().view(np.uint16)
    np.testing.assert_array_equal(found[~nan], rounded[~nan])


def test_other_integers_are_no_bits_of_floats(write_safetensors: Write, tmp_path: Path) -> None:
    numbers = deqscale2int64(PRODUCT)
    numbers[7] += 1 << 40
    parts = {
        "m.weight": ("I8", CODES.shape, CODES.tobytes()),
        "m.deq_scale": ("I64", (ROWS,), numbers.tobytes()),
        "m.input_scale": ("F32", (1,), np.float32(0.5).tobytes()),
    }
    path = write_safetensors(tmp_path / "m.safetensors", parts)
    with pytest.raises(FormatError, match="deq_scale: I64 whose upper halves"):
        anamnesis.open_model(path)["m.weight"].to_numpy()


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("deq_scale", ("F32", (ROWS - 1,))),
        ("deq_scale", ("I32", (ROWS,))),
        ("input_scale", ("F32", (ROWS,))),
        ("input_scale", ("I64", (1,))),
        ("weight", ("I8", (2, ROWS, 4))),
    ],
)
def test_parts_that_do_not_fit(part: str, entry: Any) -> None:
    parts: Parts = {
        "m.weight": ("I8", (ROWS, COLUMNS)),
        "m.deq_scale": ("F32", (ROWS,)),
        "m.input_scale": ("F32", (1,)),
    }
    assert resolved(parts).tensors["m.weight"].encoding == "int8-product"
    with pytest.raises(FormatError):
        resolved({**parts, f"m.{part}": entry})


def test_a_scale_of_its_own_comes_first() -> None:
    parts: Parts = {
        "m.weight": ("I8", (ROWS, COLUMNS)),
        "m.weight_scale": ("F32", (ROWS, 1)),
        "m.deq_scale": ("F32", (ROWS,)),
        "m.input_scale": ("F32", (1,)),
    }
    configs = {"config.json": {"quantize": "w8a8"}}
    assert resolved(parts, configs=configs).tensors["m.weight"].encoding == "ct-int8"


def test_the_range_of_scales_is_that_of_the_floats(
    write_safetensors: Write, tmp_path: Path
) -> None:
    for stored, numbers in (("F32", PRODUCT), ("I64", deqscale2int64(PRODUCT))):
        parts = {
            "m.weight": ("I8", CODES.shape, CODES.tobytes()),
            "m.deq_scale": (stored, (ROWS,), numbers.tobytes()),
            "m.input_scale": ("F32", (1,), np.float32(0.5).tobytes()),
        }
        (row,) = anamnesis.stats(write_safetensors(tmp_path / f"{stored}.safetensors", parts))
        finite = PRODUCT[np.isfinite(PRODUCT)]
        assert (row.scale_min, row.scale_max) == (finite.min(), finite.max())


@pytest.mark.parametrize("name", ["quant_model_description", "quant_model_description_w8a8"])
@pytest.mark.parametrize(("part", "kind"), [("weight", "W4A8_DYNAMIC"), ("weight_scale", "LOG2")])
def test_types_of_any_description_are_heeded(name: str, part: str, kind: str) -> None:
    parts: Parts = {"m.weight": ("I8", (ROWS, COLUMNS)), "m.weight_scale": ("F32", (ROWS, 1))}
    types = {"model_quant_type": "W8A8", "m.weight": "W8A8", "m.weight_scale": "W8A8"}
    book = resolved(parts, configs={f"{name}.json": types})
    assert book.tensors["m.weight"].scheme == "modelslim-int8"
    with pytest.raises(UnsupportedError, match=f"ModelSlim's {kind}"):
        resolved(parts, configs={f"{name}.json": {**types, f"m.{part}": kind}})
