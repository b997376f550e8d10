"""The compressed-tensors kernels against what the library recovers (tests/data/ct)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ct_cases as cases
import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels import Window, decoder, preparer


def same(found: Any, wanted: Any) -> None:
    """Bit for bit; NaNs have to be NaNs."""
    nan = wanted & 0x7FFF > 0x7F80
    np.testing.assert_array_equal(found & 0x7FFF > 0x7F80, nan)
    np.testing.assert_array_equal(found[~nan], wanted[~nan])


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("name", cases.NAMES)
def test_golden(name: str, rounding: str) -> None:
    """Whole and a unit at a time, BF16 and float32, which holds what the library returned."""
    item, wanted = cases.tensor(name, rounding), cases.expected(name, rounding)
    same(cases.decoded(item), wanted)
    same(cases.decoded(item, 1), wanted)
    native = cases.EXPECTED.get(f"{name}.native")
    # The last rounding of an output is no matter of the width; each pair compiles for seconds.
    if rounding == "reference" and native is None and not name.startswith(("w4", "int8")):
        return
    singles = cases.decoded(item, dtype=np.float32)
    with np.errstate(all="ignore"):
        same(singles.astype(ml_dtypes.bfloat16).view(np.uint16), wanted)
    if rounding == "reference" and native is not None:
        np.testing.assert_array_equal(singles, native.astype(np.float32))
    if rounding == "reference" and item.params["scale_dtype"] == "BF16":
        np.testing.assert_array_equal(singles.view(np.uint32) & 0xFFFF, 0)


def test_reference_moves_what_the_library_rounds_twice() -> None:
    for name in ("w4-f16", "w5-f16", "int8-group-24"):
        assert (cases.expected(name) != cases.expected(name, "reference")).any()


def made(bits: int, padded: bool, **other: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of a matrix of 3 rows and one scale, and those that were prepared."""
    params: dict[str, Any] = {
        "bits": bits, "padded": padded, "zero": "", "group_size": 96, "groups": 1, "lines": 3,
        "block_rows": 1, "rows": 3, "matrices": 1, "unit_rows": 1, "in_features": 96,
        "scale_dtype": "F32", "rounding": "exact", **other,
    }  # fmt: skip
    prepare = preparer("ct-packed")
    assert prepare is not None
    return params, {**params, **prepare(params, {})}


PACKINGS = [(b, False) for b in range(1, 9)] + [(b, True) for b in (3, 5, 6, 7)]


@pytest.mark.parametrize(("bits", "padded"), PACKINGS, ids=str)
def test_every_code_is_where_its_bits_are(bits: int, padded: bool) -> None:
    """Streams made by shifts of whole numbers: each code of a row by its place."""
    _, params = made(bits, padded)
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 96))
    each = 32 // bits
    words = -(-96 // each) if padded else 3 * bits
    data = np.zeros((3, words), np.uint32)
    for row in range(3):
        number = 0
        for k, code in enumerate(codes[row].tolist()):
            number |= code << (k // each * 32 + k % each * bits if padded else k * bits)
        data[row] = np.frombuffer(number.to_bytes(4 * words, "little"), np.uint32)
    blocks = {
        "weight_packed": data.view(np.uint8),
        "weight_scale": np.ones((3, 1), np.float32).view(np.uint8),
    }
    for array in blocks.values():
        array.setflags(write=False)
    out = np.empty(3 * 96, np.float32)
    decoder("ct-packed")(blocks, params, Window(0, 3), out)
    np.testing.assert_array_equal(out.reshape(3, 96) + (1 << (bits - 1)), codes)


@pytest.mark.parametrize("name", ["w4-asym", "w3-asym", "w8-channel-asym", "int8-group"])
def test_sizes_are_checked_before_the_kernel(name: str) -> None:
    item = cases.tensor(name)
    prepare = preparer(item.encoding)
    assert prepare is not None
    params = {**item.params, **prepare(item.params, {})}
    units, unit = item.units, item.params["unit_rows"]
    blocks = {}
    for part in item.components:
        blocks[part.role] = np.zeros((units, part.placement.unit_bits // 8), np.uint8)
    out = np.empty(item.elems, np.uint16)
    decoder(item.encoding)(blocks, params, Window(0, units), out)
    for role, array in blocks.items():
        with pytest.raises(ValueError, match=r"payload|weight_scale|weight_zero_point"):
            decoder(item.encoding)(blocks | {role: array[:0]}, params, Window(0, units), out)
    for window, part in (
        (Window(0, units), out[:-1]),
        (Window(0, units + 1), out),
        (Window(units, 2 * units), np.empty(units * unit * item.shape[-1], np.uint16)),
    ):
        with pytest.raises(ValueError, match=r"out|past the tensor's end"):
            decoder(item.encoding)(blocks, params, window, part)


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F16"])
def test_a_group_index_beside_packed_zero_points(dtype: str) -> None:
    """Which compressed-tensors 0.9.4 wrote, and could not read."""
    rng, groups = np.random.default_rng(7), 6
    codes, zeros = rng.integers(0, 16, (16, 96)), rng.integers(0, 16, (16, groups))
    index = rng.integers(0, groups, 96).astype(np.int32)
    kind = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}[dtype]
    scales = rng.uniform(-0.1, 0.1, (16, groups)).astype(kind)
    shifts = np.arange(0, 32, 4)
    down = (zeros.reshape(2, 8, groups).transpose(0, 2, 1) << shifts).sum(-1).astype("<u4")
    blocks = {
        "weight_packed": (codes.reshape(16, 12, 8) << shifts).sum(-1).astype("<u4"),
        "weight_scale": scales,
        "weight_zero_point": down,
    }
    settings = {"groups": groups, "group_size": 16, "zero": "dense", "scale_dtype": dtype}
    params = made(4, False)[0] | settings | {"rows": 16, "lines": 16, "unit_rows": 8}
    prepare = preparer("ct-packed")
    assert prepare is not None
    params |= prepare(params, {"weight_g_idx": _Whole(index)})
    views = {role: array.view(np.uint8).reshape(2, -1) for role, array in blocks.items()}
    out = np.empty(16 * 96, np.float32)
    decoder("ct-packed")(views, params, Window(0, 2), out)
    each = scales.astype(np.float32)[:, index]
    wanted = (codes - zeros[:, index]).astype(np.float32) * each
    np.testing.assert_array_equal(out.reshape(16, 96), wanted)


class _Whole:
    dtype = "I32"

    def __init__(self, array: Any) -> None:
        self.array = array


@pytest.mark.parametrize(
    ("wholes", "other", "message"),
    [
        ({"weight_g_idx": np.zeros(95, np.int32)}, {}, "95 entries for 96 columns"),
        ({"weight_g_idx": np.full(96, 1, np.int32)}, {}, "column 0 is of group 1"),
        ({"weight_g_idx": np.full(96, -2, np.int32)}, {}, "column 0 is of group -2"),
        ({}, {"group_size": 48}, "column 48 is of group 1"),
        ({}, {"lines": 2}, "2 lines of 1 rows do not cover 3"),
        ({"weight_scale": np.ones(2, np.float32)}, {}, "2 numbers where 3 are needed"),
        ({"weight_zero_point": np.ones(2, np.int32)}, {"zero": "dense"}, "2 numbers where 1 "),
    ],
    ids=str,
)
def test_grids_and_groups_are_checked(
    wholes: dict[str, Any], other: dict[str, Any], message: str
) -> None:
    prepare = preparer("ct-packed")
    assert prepare is not None
    params = {**made(4, False)[0], **other}
    with pytest.raises(ValueError, match=message):
        prepare(params, {role: _Whole(array) for role, array in wholes.items()})


def test_without_the_compiler(elsewhere: Callable[..., None]) -> None:
    """The numpy twins give the same bits."""
    elsewhere("golden and exact or every_code")
