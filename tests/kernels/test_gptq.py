"""The GPTQ kernel against what GPTQModel and AutoRound read (tests/data/gptq)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import read_cases as cases
from numba import njit
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels.bodies._codes import to_half

NAMES = cases.names("gptq", "auto-round")


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, rounding: str) -> None:
    item = cases.tensor(name, rounding)
    assert item.orientation == "transposed"
    wanted = cases.expected(name, rounding)
    np.testing.assert_array_equal(cases.decoded(item), wanted)
    np.testing.assert_array_equal(cases.decoded(item, 1), wanted)
    # The last rounding of an output is no matter of the width; each pair compiles for seconds.
    if rounding == "exact" or "w4" in name:
        np.testing.assert_array_equal(bf16(cases.decoded(item, dtype=np.float32)), wanted)


def whole(name: str, copies: int, rounding: str = "exact") -> tuple[Any, dict[str, Any], Any]:
    """A case stacked `copies` times along the inputs: blocks, parameters, expected values."""
    stored, params = cases.parts(name), dict(cases.tensor(name, rounding).params)
    groups, inputs = params["groups"], params["in_features"]
    g_idx = np.concatenate([stored["g_idx"] + groups * copy for copy in range(copies)])
    stored = {
        role: np.concatenate([stored[role]] * copies) for role in ("qweight", "qzeros", "scales")
    }
    params |= {"groups": groups * copies, "in_features": inputs * copies}
    prepare = preparer("gptq")
    assert prepare is not None
    params |= prepare(params, {"g_idx": SimpleNamespace(dtype="I32", array=g_idx)})
    blocks = {role: array.view(np.uint8) for role, array in stored.items()}
    return blocks, params, np.tile(cases.expected(name, rounding), (1, copies))


def columns(blocks: Any, params: Any, window: Window) -> dict[str, Any]:
    """The read-only views of a window that a strip of lines is cut into."""
    words, scale = params["word_bits"], 8 * len(blocks["scales"][0]) // params["rows"]
    cut = {}
    for role, bits in (("qweight", words), ("qzeros", params["bits"]), ("scales", scale)):
        view = blocks[role][:, window.start * bits // 8 : -(-window.stop * bits // 8)]
        view.setflags(write=False)
        cut[role] = view
    return cut


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("order", ["v1", "act-order"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_inputs_beyond_a_tile_and_strided_windows(bits: int, order: str, rounding: str) -> None:
    copies = 97 if order == "v1" else 49  # more than 8192 inputs, and than 4096
    blocks, params, wanted = whole(f"gptq-w{bits}-{order}", copies, rounding)
    rows, inputs = wanted.shape
    params["rows"] = rows
    for step in (32, rows):
        for start in range(0, rows, step):
            window = Window(start, min(start + step, rows))
            out = np.empty((window.stop - start) * inputs, np.uint16)
            decoder("gptq")(columns(blocks, params, window), params, window, out)
            np.testing.assert_array_equal(out.reshape(-1, inputs), wanted[start : window.stop])


def test_one_group_across_tiles() -> None:
    copies, stored = 90, cases.parts("gptq-channel")
    params = {**cases.tensor("gptq-channel").params, "in_features": 96 * copies}
    prepare = preparer("gptq")
    assert prepare is not None
    params |= prepare(params, {})
    assert len(params["groups_of"].of_run) == 2  # cut where a tile ends
    blocks = {role: stored[role].view(np.uint8) for role in ("qweight", "qzeros", "scales")}
    blocks["qweight"] = np.tile(blocks["qweight"], (copies, 1))
    out = np.empty(40 * 96 * copies, np.uint16)
    decoder("gptq")(blocks, params, Window(0, 40), out)
    wanted = np.tile(cases.expected("gptq-channel"), (1, copies))
    np.testing.assert_array_equal(out.reshape(wanted.shape), wanted)


@pytest.mark.parametrize(("bits", "share"), [(4, 0.030), (8, 0.060)])
def test_rounding_shares(bits: int, share: float) -> None:
    """F16 scales: how many elements the library's order gives other bits than one rounding."""
    rng = np.random.default_rng(bits)
    rows, inputs, groups = 64, 1024, 8
    params = {
        **cases.tensor(f"gptq-w{bits}-v1").params,
        "groups": groups,
        "group_size": 128,
        "in_features": inputs,
    }
    prepare = preparer("gptq")
    assert prepare is not None
    blocks = {
        "qweight": rng.integers(0, 256, (inputs * bits // 32, rows * 4), dtype=np.uint8),
        "qzeros": np.full((groups, rows * bits // 8), 0x77 if bits == 4 else 0x7F, np.uint8),
        "scales": rng.uniform(0.001, 0.02, (groups, rows)).astype(np.float16).view(np.uint8),
    }
    found = []
    for rounding in ("exact", "reference"):
        out = np.empty(rows * inputs, np.uint16)
        params["rounding"] = rounding
        decoder("gptq")(blocks, params | prepare(params, {}), Window(0, rows), out)
        found.append(out)
    assert np.mean(found[0] != found[1]) == pytest.approx(share, abs=0.005)


@njit
def halved(values: Any, out: Any) -> None:
    for i in range(values.shape[0]):
        out[i] = to_half(values[i])


def test_half_rounding_is_the_hardware_s() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2**32, 1 << 14, dtype=np.uint32).view(np.float32)
    near = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)[::7]
    ties = (near[:-1] + near[1:]) / 2  # 65520 is one: it rounds to infinity
    odd = np.array([0, -0.0, 65504, 65519.996, 65520, 2.0**-25, 2.0**-24, 1e-30, np.inf], "f4")
    for part in (values, near, ties, odd, -odd, np.nextafter(ties, np.float32(0))):
        part = np.ascontiguousarray(part, np.float32)
        out = np.empty_like(part)
        with np.errstate(all="ignore"):
            halved(part, out)
            wanted = part.astype(np.float16).astype(np.float32)
        nan = np.isnan(wanted)
        np.testing.assert_array_equal(np.isnan(out), nan)
        np.testing.assert_array_equal(out.view("u4")[~nan], wanted.view("u4")[~nan])


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_scales_that_are_no_numbers(bits: int, dtype: str, rounding: str) -> None:
    kind = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}[dtype]
    scale = np.array([np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 1, 6e4], kind)
    if dtype == "F32":
        scale[0] = np.uint32(0x7FFFFFFF).view(np.float32)  # rounding carries past the exponent
    params = {
        **cases.tensor(f"gptq-w{bits}-v2").params,
        "groups": 1,
        "group_size": -1,
        "in_features": 32,
        "scale_dtype": dtype,
        "rounding": rounding,
    }
    prepare = preparer("gptq")
    assert prepare is not None
    params |= prepare(params, {})
    blocks = {
        "qweight": np.full((bits, 32), 0x55, np.uint8),
        "qzeros": np.full((1, bits), 0x55, np.uint8),
        "scales": scale.view(np.uint8).reshape(1, -1),
    }
    blocks["qweight"][0] = 0x66
    out = np.empty(8 * 32, np.uint16)
    decoder("gptq")(blocks, params, Window(0, 8), out)
    found = out.reshape(8, 32).view(ml_dtypes.bfloat16).astype(np.float32)
    difference = 1 if bits == 4 else 0x66 - 0x55
    assert np.isnan(found[:2]).all()
    assert np.isinf(found[2:4, 0]).all()
    assert np.isnan(found[2:4, 8:]).all()  # zero times infinity
    assert not found[4:6].any()
    assert found[6, 0] == difference
    assert not found[6, 8:].any()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0] * 31 + [2], "input 31 is of group 2; allowed is 0 to 1"),
        ([-1] + [0] * 31, "input 0 is of group -1"),
        ([0] * 31, "31 entries for 32 inputs"),
        ([2**31 - 1] * 32, "group 2,147,483,647"),
    ],
)
def test_index_outside_the_groups(index: list[int], message: str) -> None:
    prepare = preparer("gptq")
    assert prepare is not None
    scalars = {"bits": 4, "in_features": 32, "groups": 2, "group_size": 16}
    g_idx = SimpleNamespace(dtype="I32", array=np.array(index, np.int32))
    with pytest.raises(ValueError, match=message):
        prepare(scalars, {"g_idx": g_idx})


@pytest.mark.parametrize("role", ["qweight", "qzeros", "scales"])
def test_shapes_are_checked_before_the_kernel(role: str) -> None:
    blocks, params, wanted = whole("gptq-w4-v1", 1)
    for short in (blocks[role][:-2], blocks[role][:, :-4]):
        out = np.empty(wanted.size, np.uint16)
        with pytest.raises(ValueError, match=r"qweight|qzeros|scales"):
            decoder("gptq")(blocks | {role: short}, params, Window(0, wanted.shape[0]), out)


def test_without_the_compiler(elsewhere: Callable[..., None]) -> None:
    """The numpy twins give the same bits."""
    chosen = "golden and (w3 or w4-act or padded or int16 or carry or w6)"
    elsewhere(chosen)
