"""The AWQ kernels against what AutoAWQ reads (tests/data/gptq)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import read_cases as cases

from anamnesis.kernels import Window, decoder, preparer

NAMES = cases.names("awq")


def prepared(params: dict[str, Any]) -> dict[str, Any]:
    prepare = preparer("awq-gemm")
    assert prepare is not None
    return {**params, **prepare(params, {})}


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str, rounding: str) -> None:
    item = cases.tensor(name, rounding)
    assert item.orientation == ("as-stored" if "gemv" in name else "transposed")
    wanted = cases.expected(name, rounding)
    np.testing.assert_array_equal(cases.decoded(item), wanted)
    np.testing.assert_array_equal(cases.decoded(item, 1), wanted)
    with np.errstate(over="ignore"):
        singles = cases.decoded(item, dtype=np.float32).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(singles.view(np.uint16), wanted)


@pytest.mark.parametrize("copies", [(1, 5), (43, 1), (50, 3)])
@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_gemm_beyond_a_tile(copies: tuple[int, int], rounding: str) -> None:
    """Stacked along the inputs (more than 4096) and the outputs (more than 64), strided views."""
    stored, item = cases.parts("awq-gemm"), cases.tensor("awq-gemm", rounding)
    params = prepared(
        {
            **item.params,
            "in_features": item.params["in_features"] * copies[0],
            "groups": item.params["groups"] * copies[0],
        }
    )
    wanted = np.tile(cases.expected("awq-gemm", rounding), copies[::-1])
    lines = {role: np.tile(array, copies).view(np.uint8) for role, array in stored.items()}
    rows, inputs = wanted.shape
    for step in (rows, 72, 8):
        for start in range(0, rows, step):
            window = Window(start, min(start + step, rows))
            blocks = {}
            for role, bits in (("qweight", 4), ("qzeros", 4), ("scales", 16)):
                blocks[role] = lines[role][:, start * bits // 8 : window.stop * bits // 8]
                blocks[role].setflags(write=False)
            out = np.empty((window.stop - start) * inputs, np.uint16)
            decoder("awq-gemm")(blocks, params, window, out)
            np.testing.assert_array_equal(out.reshape(-1, inputs), wanted[start : window.stop])


@pytest.mark.parametrize(
    ("name", "copies"), [("awq-stream-w5", (45, 3)), ("awq-stream-w7", (65, 2))]
)
def test_streams_beyond_a_tile(name: str, copies: tuple[int, int]) -> None:
    """Stacked along the inputs (more than 4096) and the outputs, in windows that are views."""
    stored, item = cases.parts(name), cases.tensor(name)
    bits, inputs = item.params["bits"], item.params["in_features"] * copies[0]
    params = prepared(
        {**item.params, "in_features": inputs, "groups": copies[0] * item.params["groups"]}
    )
    wanted = np.tile(cases.expected(name), copies[::-1])
    lines = {role: np.tile(array, copies).view(np.uint8) for role, array in stored.items()}
    for start in range(0, len(wanted), 32):
        blocks = {}
        for role, width in (("qweight", bits), ("qzeros", bits), ("scales", 16)):
            blocks[role] = lines[role][:, start * width // 8 : (start + 32) * width // 8]
            blocks[role].setflags(write=False)
        out = np.empty(32 * inputs, np.uint16)
        decoder("awq-stream")(blocks, params, Window(start, start + 32), out)
        np.testing.assert_array_equal(out.reshape(32, -1), wanted[start : start + 32])
    for role in blocks:
        short = {**blocks, role: blocks[role][:, :-2]}
        with pytest.raises(ValueError, match=role):
            decoder("awq-stream")(short, params, Window(start, start + 32), out)
    with pytest.raises(ValueError, match="out"):
        decoder("awq-stream")(blocks, params, Window(start, start + 32), out[1:])


def test_one_group_across_tiles() -> None:
    copies, stored = 60, cases.parts("awq-channel")
    params = {**cases.tensor("awq-channel").params, "in_features": 72 * copies}
    blocks = {role: array.view(np.uint8) for role, array in stored.items()}
    blocks["qweight"] = np.tile(blocks["qweight"], (copies, 1))
    out = np.empty(136 * 72 * copies, np.uint16)
    decoder("awq-gemm")(blocks, prepared(params), Window(0, 136), out)
    wanted = np.tile(cases.expected("awq-channel"), (1, copies))
    np.testing.assert_array_equal(out.reshape(wanted.shape), wanted)


def test_every_nibble_finds_its_output() -> None:
    """One code set at a time: nibble k of a word is output (0, 2, 4, 6, 1, 3, 5, 7)[k]."""
    params = prepared({**cases.tensor("awq-square").params, "in_features": 64, "groups": 1})
    for nibble, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        words = np.zeros((64, 8), np.uint32)
        words[37, 5] = 9 << 4 * nibble
        blocks = {
            "qweight": words.view(np.uint8),
            "qzeros": np.zeros((1, 32), np.uint8),
            "scales": np.ones((1, 64), np.float16).view(np.uint8),
        }
        out = np.empty(64 * 64, np.float32)
        decoder("awq-gemm")(blocks, params, Window(0, 64), out)
        assert np.argwhere(out.reshape(64, 64)).tolist() == [[5 * 8 + output, 37]]
        assert out.max() == 9


def test_groups_have_to_cover_the_inputs() -> None:
    prepare = preparer("awq-gemm")
    assert prepare is not None
    with pytest.raises(ValueError, match="2 groups of 16 do not cover 40 inputs"):
        prepare({"in_features": 40, "groups": 2, "group_size": 16}, {})


@pytest.mark.parametrize("name", ["awq-gemm", "awq-gemv-g32", "awq-gemv-fast-g32"])
@pytest.mark.parametrize("role", ["qweight", "qzeros", "scales"])
def test_shapes_are_checked_before_the_kernel(name: str, role: str) -> None:
    item, stored = cases.tensor(name), cases.parts(name)
    blocks = {r: array.view(np.uint8) for r, array in stored.items()}
    for short in (blocks[role][:-2], blocks[role][:, :4]):
        out, params = np.empty(item.elems, np.uint16), prepared(dict(item.params))
        with pytest.raises(ValueError, match=r"qweight|qzeros|scales"):
            decoder(item.encoding)(blocks | {role: short}, params, Window(0, item.units), out)


def test_without_the_compiler(elsewhere: Callable[..., None]) -> None:
    """The numpy twins give the same bits."""
    chosen = "golden and exact and (awq-gemm or g32 or eight)"
    elsewhere(chosen)
