"""The MLX kernel, and the four-bit and FP8 ones for MLX's modes, against MLX (tests/data/mlx)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import mlx_cases as cases
import numpy as np
import pytest
from numba import njit
from small_models import bf16

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels._native import variants
from anamnesis.kernels.bodies._round import through_bf16, through_f16
from anamnesis.kernels.bodies._vector import load32, store, to_f32

DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32}


def same(found: Any, wanted: Any) -> None:
    """Bit for bit; NaNs have to be quiet NaNs."""
    nan = wanted & 0x7FFF > 0x7F80
    np.testing.assert_array_equal(found[nan] & 0x7FC0, 0x7FC0)
    np.testing.assert_array_equal(found[~nan], wanted[~nan])


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("name", cases.names(""))
def test_golden(name: str, rounding: str) -> None:
    item = cases.tensor(name, rounding)
    wanted = cases.expected(name, rounding)
    assert item.shape == wanted.shape
    same(cases.decoded(item), wanted)
    same(cases.decoded(item, 1), wanted)
    # The last rounding of an output is no matter of the width; each pair compiles for seconds.
    if rounding == "exact" or "-w4" in name:
        same(bf16(cases.decoded(item, dtype=np.float32)), wanted)


def test_the_orders_differ() -> None:
    moved = {
        name
        for name in cases.names("")
        if not np.array_equal(cases.expected(name), cases.expected(name, "reference"))
    }
    every = {n for n in cases.names("affine", "experts") if not n.endswith("float32")}
    assert moved >= {n for n in every if "-w1-" not in n}
    assert {n.rpartition("-")[2] for n in moved if n.startswith("metal")} == {"float16"}
    assert not {n for n in moved if n.startswith(("mx", "nv"))}


def test_the_unit_of_a_global_scale() -> None:
    """In float32, where BF16 has too few digits to tell: MLX's `scale * (global / (448 * 6))`."""
    item, stored = cases.tensor("nvfp4-global"), cases.parts("nvfp4-global")
    e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    codes = stored["weight"].view(np.uint8)[..., None] >> np.array([0, 4], np.uint8) & 15
    values = (e2m1[codes & 7] * np.where(codes > 7, -1, 1)).reshape(4, 128).astype(np.float32)
    scales = stored["scales"].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    scales = scales * (stored["global_scale"] / np.float32(2688))
    wanted = values * np.repeat(scales, 16, 1)
    np.testing.assert_array_equal(cases.decoded(item, dtype=np.float32), wanted)


def packed(bits: int, codes: Any) -> Any:
    """Rows of codes as bytes of a stream, lowest bit first."""
    stream = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8)
    return np.packbits(stream.reshape(len(codes), -1), axis=1, bitorder="little")


def layer(bits: int, size: int, dtype: str, rows: int, groups: int) -> tuple[dict[str, Any], Any]:
    """Blocks of a random layer, and its values in float32 and in the scales' dtype."""
    rng = np.random.default_rng(bits * 1000 + size)
    codes = rng.integers(0, 1 << bits, (rows, groups * size))
    scales, biases = (
        (rng.standard_normal((rows, groups)) * by).astype(DTYPES[dtype]) for by in (0.01, 0.1)
    )
    blocks = {
        "payload": packed(bits, codes),
        "scales": scales.view(np.uint8).reshape(rows, -1),
        "biases": biases.view(np.uint8).reshape(rows, -1),
    }
    for array in blocks.values():
        array.setflags(write=False)
    each = [np.repeat(part, size, 1) for part in (scales, biases)]
    wide = codes.astype(np.float32) * each[0].astype(np.float32) + each[1].astype(np.float32)
    narrow = codes.astype(DTYPES[dtype]) * each[0] + each[1]
    return blocks, {"exact": wide, "reference": narrow.astype(np.float32)}


def prepared(bits: int, size: int, dtype: str = "BF16", rounding: str = "exact") -> dict[str, Any]:
    params = {"bits": bits, "group_size": size, "scale_dtype": dtype, "rounding": rounding}
    prepare = preparer("mlx-affine")
    assert prepare is not None
    params |= {"order": "mlx"}
    return params | prepare(params, {})


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [32, 96, 8192])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_groups_beyond_a_batch(bits: int, size: int, dtype: str, rounding: str) -> None:
    """More groups than the kernel takes at a time, and groups larger than that; any window."""
    rows, groups = (7, 45) if size < 4096 else (2, 1)
    blocks, values = layer(bits, size, dtype, rows, groups)
    params = prepared(bits, size, dtype, rounding)
    for step in (rows, 3):
        for start in range(0, rows, step):
            window = Window(start, min(start + step, rows))
            views = {role: array[start : window.stop] for role, array in blocks.items()}
            wanted = values[rounding][start : window.stop].reshape(-1)
            out = np.full(wanted.shape, 7, np.uint16)
            decoder("mlx-affine")(views, params, window, out)
            np.testing.assert_array_equal(out, bf16(wanted))
            if rounding == "exact" or bits == 4:
                single = np.full(wanted.shape, 7, np.float32)
                decoder("mlx-affine")(views, params, window, single)
                np.testing.assert_array_equal(single.view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_every_code_finds_its_place(bits: int) -> None:
    """One code set at a time, in every place of a stream of 32."""
    codes = np.zeros((32, 32), np.int64)
    np.fill_diagonal(codes, (1 << bits) - 1)
    one, zero = (np.full((32, 1), v, np.float32).view(np.uint8) for v in (1, 0))
    out = np.empty(32 * 32, np.float32)
    blocks = {"payload": packed(bits, codes), "scales": one, "biases": zero}
    decoder("mlx-affine")(blocks, prepared(bits, 32, "F32"), Window(0, 32), out)
    np.testing.assert_array_equal(out.reshape(32, 32), codes)


@pytest.mark.parametrize("role", ["payload", "scales", "biases"])
def test_shapes_are_checked_before_the_kernel(role: str) -> None:
    blocks, values = layer(3, 64, "F16", 4, 2)
    out = np.empty(values["exact"].size, np.uint16)
    for short in (blocks[role][:-1], np.ascontiguousarray(blocks[role][:, :2])):
        with pytest.raises(ValueError, match="payload"):
            decoder("mlx-affine")(blocks | {role: short}, prepared(3, 64, "F16"), Window(0, 4), out)
    for wrong in (out[:-1], np.empty(out.size + 1, np.uint16)):
        with pytest.raises(ValueError, match="out"):
            decoder("mlx-affine")(blocks, prepared(3, 64, "F16"), Window(0, 4), wrong)


@pytest.mark.parametrize(("bits", "size"), [(7, 64), (0, 64), (4, 48), (4, 0), (4, -32)])
def test_sizes_that_the_kernel_does_not_have(bits: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"{bits} bits in groups of {size}"):
        prepared(bits, size)


@njit
def _through(values: Any, half: Any, out: Any) -> None:
    zeros = np.zeros(32, np.uint8)
    for at in range(values.shape[0]):
        some = to_f32(load32(zeros, 0)) + values[at]
        if half:
            store(out, 32 * at, through_f16(some))
        else:
            store(out, 32 * at, through_bf16(some))


@pytest.mark.parametrize("half", [True, False])
def test_vectors_round_as_numpy_does(half: bool) -> None:
    """Around every boundary of binary16 and BF16, and where numbers turn subnormal or infinite."""
    rng = np.random.default_rng(2)
    halves = np.arange(0, 1 << 16, 37, dtype=np.uint16).view(np.float16).astype(np.float32)
    near = halves.view(np.uint32)[:, None] + np.array([-1, 0, 1, 0xFFF, 0x1000, 0x1001], np.int64)
    bits = np.concatenate([near.ravel().astype(np.uint32), rng.integers(0, 1 << 32, 2000)])
    values = bits.astype(np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    out = np.empty(32 * len(values), np.float32)
    _through(values, half, out)
    with np.errstate(all="ignore"):
        kind = np.float16 if half else ml_dtypes.bfloat16
        wanted = (values + np.float32(0)).astype(kind).astype(np.float32)
    np.testing.assert_array_equal(out.reshape(-1, 32), np.repeat(wanted[:, None], 32, 1))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_streams_of_any_length(bits: int) -> None:
    """Whole vectors, eights, and what is left; nothing is written past the last eight codes."""
    rng = np.random.default_rng(bits)
    for size in (*range(40), 127, 128, 129):
        stream = rng.integers(0, 256, size, np.uint8)
        stream.setflags(write=False)
        count, room = size * 8 // bits, -(-size // bits) * 8
        codes = np.full(room + 16, 0xEE, np.uint8)
        variants("_codes:spread")(bits)(stream, codes[:room])
        ones = np.unpackbits(stream, bitorder="little")[: count * bits].reshape(count, bits)
        np.testing.assert_array_equal(codes[:count], ones @ (1 << np.arange(bits)))
        assert (codes[room:] == 0xEE).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"NUMBA_DISABLE_JIT": "1"},  # the numpy twins
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+f16c,+fma"},
    ],
    ids=lambda settings: settings.get("NUMBA_CPU_NAME", "none"),
)
def test_elsewhere_and_without_the_compiler(
    settings: dict[str, str], elsewhere: Callable[..., None]
) -> None:
    """The same bits, without the compiler as well."""
    chosen = (
        "golden and (w3-g64 or w5-g64 or odd-w4 or metal-w8 or fp4) or every_code or any_length"
    )
    elsewhere(chosen, settings)
