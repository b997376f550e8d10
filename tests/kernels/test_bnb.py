"""bitsandbytes kernels against values that the library's own C code gave (tests/data/bnb)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer

DATA = Path(__file__).resolve().parents[1] / "data" / "bnb"
TYPES = ["nf4", "fp4"]
NANS = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001], np.uint32).view(np.float32)


def load(name: str) -> dict[str, Any]:
    """Stored parts of a weight by role, and its expected values by dtype."""
    parts = {}
    with safe_open(DATA / "cases.safetensors", "np") as cases:
        for key in cases.keys():  # noqa: SIM118 - not a mapping
            if key == name or key.startswith(f"{name}."):
                parts[key[len(name) + 1 :].partition(".")[0] or "payload"] = cases.get_tensor(key)
    with safe_open(DATA / "expected.safetensors", "np") as expected:
        for key in expected.keys():  # noqa: SIM118
            if key.startswith(f"{name}."):
                parts[key[len(name) + 1 :]] = expected.get_tensor(key).reshape(-1)
    return parts


def same(found: Any, wanted: Any) -> None:
    """Bit for bit, but for the payloads of NaNs, which have to be quiet."""
    kind, bits = (np.float32, "u4") if found.dtype == np.float32 else (ml_dtypes.bfloat16, "u2")
    nan = np.isnan(wanted.view(kind))
    np.testing.assert_array_equal(np.isnan(found.view(kind)), nan)
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])
    quiet = 0x00400000 if found.dtype == np.float32 else 0x40
    assert np.all(found.view(bits)[nan] & quiet)


def four_bit(
    case: dict[str, Any], rounding: str = "exact", **more: Any
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Blocks of the whole tensor, the kernel's parameters, and the number of elements."""
    state = json.loads(bytes(case["quant_state"])) | more
    scalars = {
        "quant_type": state["quant_type"],
        "group_size": state["blocksize"],
        "dtype": state["dtype"],
        "absmax_dtype": "F32",
        "rounding": rounding,
        **{k: v for k, v in state.items() if k.startswith("nested_")},
    }
    wholes: dict[str, Any] = {
        role: SimpleNamespace(dtype="F32", array=case[role])
        for role in ("quant_map", "nested_absmax", "nested_quant_map")
        if role in case
    }
    prepare = preparer("bnb-4bit")
    assert prepare is not None
    count, width = case["absmax"].shape[0], state["blocksize"] // 2
    payload = np.zeros(count * width, np.uint8)
    payload[: case["payload"].size] = case["payload"].reshape(-1).view(np.uint8)
    blocks = {
        "payload": payload.reshape(count, width),
        "absmax": case["absmax"].view(np.uint8).reshape(count, case["absmax"].itemsize),
    }
    return blocks, prepare(scalars, wholes), int(np.prod(state["shape"]))


def decode(
    encoding: str,
    blocks: dict[str, Any],
    params: dict[str, Any],
    elems: int,
    dtype: Any = np.uint16,
    units: int = 1 << 30,
    *,
    read_only: bool = False,
) -> Any:
    """All elements, decoded in windows of `units` units."""
    count = blocks["payload"].shape[0]
    unit = params.get("blocksize", blocks["payload"].shape[1])
    out = np.full(elems, 77, dtype)
    for start in range(0, count, units):
        stop = min(start + units, count)
        window = {role: view[start:stop] for role, view in blocks.items()}
        if read_only:
            for view in window.values():
                view.flags.writeable = False
        target = out[start * unit : min(stop * unit, elems)]
        decoder(encoding)(window, params, Window(start, stop), target)
    return out


@pytest.mark.parametrize("units", [1, 7, 1 << 30])
@pytest.mark.parametrize("state", ["bfloat16", "float16"])
@pytest.mark.parametrize("quant_type", TYPES)
def test_every_byte_under_every_kind_of_scale(quant_type: str, state: str, units: int) -> None:
    case = load(f"{quant_type}.all_{state}.weight")
    blocks, params, elems = four_bit(case)
    assert len(np.unique(blocks["payload"])) == 256
    values = decode("bnb-4bit", blocks, params, elems, np.float32, units)
    same(values, case["float32"])
    same(decode("bnb-4bit", blocks, params, elems, np.uint16, units), bf16(case["float32"]))


@pytest.mark.parametrize("quant_type", TYPES)
def test_reference_rounds_through_the_dtype_of_the_state(quant_type: str) -> None:
    for state, view in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        case = load(f"{quant_type}.all_{state}.weight")
        blocks, params, elems = four_bit(case, "reference")
        native = case[state].view(view).astype(np.float32)
        same(decode("bnb-4bit", blocks, params, elems, np.float32), native)
        same(decode("bnb-4bit", blocks, params, elems), bf16(native))


def test_reference_share() -> None:
    """A stop at float16 moves the last bit of six BF16 values in a hundred, other dtypes of none.

    One value in eight is rounded to a tie, half of those to the wrong side.
    """
    case = load("nf4.float16.weight")
    rng = np.random.default_rng(0)
    count = 2000
    case["payload"] = rng.integers(0, 256, (count * 32, 1), np.uint8)
    case["absmax"] = (rng.random(count) * 0.1).astype(np.float32)
    differs = {}
    for dtype in ("float16", "bfloat16", "float32"):
        pair = []
        for rounding in ("exact", "reference"):
            blocks, params, _ = four_bit(case, rounding, dtype=dtype)
            pair.append(decode("bnb-4bit", blocks, params, count * 64))
        differs[dtype] = float(np.mean(pair[0] != pair[1]))
    assert differs["bfloat16"] == differs["float32"] == 0
    assert differs["float16"] == pytest.approx(1 / 16, abs=0.005)


def test_half_rounding() -> None:
    """float32 to binary16 and back as numpy does it, around every binary16 number's neighbours."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16)[::3].astype(np.float32)
    near = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2, [65519.996, 65520, 1e9, 1e-9]])
    bits = near.astype(np.float32).view(np.uint32).astype(np.int64)
    around = np.clip(bits[:, None] + np.arange(-1, 2), 0, 0x7F800000).astype(np.uint32).reshape(-1)
    absmax = np.concatenate([around, around | 0x80000000]).view(np.float32)
    case = load("nf4.float16.weight")
    case["quant_map"] = np.ones(16, np.float32)
    case["absmax"], case["payload"] = absmax, np.zeros(absmax.size * 32, np.uint8)
    blocks, params, _ = four_bit(case, "reference", dtype="float16")
    found = decode("bnb-4bit", blocks, params, absmax.size * 64, np.float32)[::64]
    with np.errstate(over="ignore"):
        same(found, absmax.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("units", [1, 5, 100, 1 << 30])
@pytest.mark.parametrize("quant_type", TYPES)
def test_quantised_statistics(quant_type: str, units: int) -> None:
    case = load(f"{quant_type}.nested.weight")
    assert case["absmax"].dtype == np.uint8
    assert case["nested_absmax"].size == 2
    blocks, params, elems = four_bit(case)
    assert elems % 32, "the last block is short"
    found = decode("bnb-4bit", blocks, params, elems, np.float32, units, read_only=True)
    same(found, case["float32"])
    found = decode("bnb-4bit", blocks, params, elems, np.uint16, units, read_only=True)
    same(found, bf16(case["float32"]))


@pytest.mark.parametrize(("dtype", "view"), [("F16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_half_precision_absmax(dtype: str, view: Any) -> None:
    case = load("nf4.float32.weight")
    half = case["absmax"].astype(view)
    case["absmax"] = half.astype(np.float32)
    blocks, params, elems = four_bit(case)
    wanted = decode("bnb-4bit", blocks, params, elems)
    blocks["absmax"] = half.view(np.uint8).reshape(-1, 2)
    same(decode("bnb-4bit", blocks, params | {"absmax_dtype": dtype}, elems), wanted)


@pytest.mark.parametrize("units", [1, 3, 1 << 30])
@pytest.mark.parametrize("module", ["int8.all", "int8.9x37", "int8.1x100", "int8.70x1"])
def test_int8(module: str, units: int) -> None:
    case = load(f"{module}.weight")
    with safe_open(DATA / "cases.safetensors", "np") as cases:
        scb = cases.get_tensor(f"{module}.SCB")
    blocks = {
        "payload": case["payload"].view(np.uint8),
        "SCB": scb.view(np.uint8).reshape(-1, 4),
    }
    elems = blocks["payload"].size
    for read_only in (False, True):
        found = decode("bnb-int8", blocks, {}, elems, np.float32, units, read_only=read_only)
        same(found, case["float32"])
        found = decode("bnb-int8", blocks, {}, elems, np.uint16, units, read_only=read_only)
        same(found, bf16(case["float32"]))


def test_nans_stay_nans() -> None:
    """Payloads that would overflow in a careless rounding, wherever a float32 is stored."""
    case = load("nf4.nested.weight")
    blocks, params, elems = four_bit(case)
    for role in ("quant_map", "nested_quant_map", "nested_absmax"):
        broken = case | {role: np.resize(NANS, case[role].shape)}
        blocks, params, elems = four_bit(broken)
        for dtype in (np.uint16, np.float32):
            found = decode("bnb-4bit", blocks, params, elems, dtype)
            same(found, np.full(elems, 0x7FC0, np.uint16) if dtype == np.uint16 else found * np.nan)
    case = load("nf4.float32.weight")
    case["absmax"] = np.resize(NANS, case["absmax"].shape)
    blocks, params, elems = four_bit(case)
    same(decode("bnb-4bit", blocks, params, elems), np.full(elems, 0x7FC0, np.uint16))
    rows = {"payload": np.full((4, 67), 3, np.uint8), "SCB": NANS.view(np.uint8).reshape(4, 4)}
    same(decode("bnb-int8", rows, {}, 268), np.full(268, 0x7FC0, np.uint16))


def test_empty() -> None:
    case = load("nf4.float32.weight")
    case["absmax"], case["payload"] = np.empty(0, np.float32), np.empty((0, 1), np.uint8)
    blocks, params, _ = four_bit(case)
    decoder("bnb-4bit")(blocks, params, Window(0, 0), np.empty(0, np.uint16))
    rows = {"payload": np.empty((0, 5), np.uint8), "SCB": np.empty((0, 4), np.uint8)}
    decoder("bnb-int8")(rows, {}, Window(0, 0), np.empty(0, np.uint16))


def test_arrays_that_do_not_fit() -> None:
    blocks, params, elems = four_bit(load("nf4.nested.weight"))
    last = Window(0, blocks["payload"].shape[0])
    run = decoder("bnb-4bit")
    for out in (elems - 32, elems + 32):
        with pytest.raises(ValueError, match="does not fit"):
            run(blocks, params, last, np.empty(out, np.uint16))
    with pytest.raises(ValueError, match="absmax"):
        run(blocks | {"absmax": blocks["absmax"][1:]}, params, last, np.empty(elems, np.uint16))
    with pytest.raises(ValueError, match="nested_absmax"):
        run(blocks, params, Window(300, 300 + last.stop), np.empty(elems, np.uint16))
    rows = {"payload": np.zeros((3, 5), np.uint8), "SCB": np.zeros((3, 4), np.uint8)}
    for change in ({"SCB": rows["SCB"][1:]}, {"payload": rows["payload"][1:]}):
        with pytest.raises(ValueError, match="SCB"):
            decoder("bnb-int8")(rows | change, {}, Window(0, 3), np.empty(15, np.uint16))
    with pytest.raises(ValueError, match="15 numbers in a map of 16"):
        four_bit(load("nf4.float32.weight") | {"quant_map": np.zeros(15, np.float32)})


@pytest.mark.skipif("BNB_INNER_RUN" in os.environ, reason="this is the inner run")
@pytest.mark.parametrize(
    ("setting", "which"),
    [
        ({"NUMBA_DISABLE_JIT": "1"}, "not half_rounding and not share"),
        # A machine that looks up bytes.
        ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, "every_byte and nf4-bfloat16-7"),
    ],
    ids=["python", "generic"],
)
def test_the_same_elsewhere(
    setting: dict[str, str], which: str, elsewhere: Callable[..., None]
) -> None:
    elsewhere(which, setting | {"BNB_INNER_RUN": "1"})
