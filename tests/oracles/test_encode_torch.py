"""Encoders against the libraries on this machine, over dtypes, shapes and classes of input."""

from __future__ import annotations

import encode_cases as ours
import numpy as np
import pytest
from loaded import loaded

from anamnesis.kernels.encoders import Unfit

torch = pytest.importorskip("torch")
pytest.importorskip("compressed_tensors")
pytest.importorskip("bitsandbytes")
pytest.importorskip("mlx.core")

pytestmark = pytest.mark.oracle
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
libraries = loaded("oracles/encode_libraries.py")


def _need(case) -> None:  # type: ignore[no-untyped-def]
    """Skip a case whose library, which is installed by hand, is not there."""
    if case[1].get("style") in ("modelopt", "gpt-oss"):
        pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor")
    if case[0] == "quanto":
        pytest.importorskip("optimum.quanto")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("case", list(ours.cases()), ids=ours.label)
def test_bytes_are_the_librarys(case, dtype) -> None:  # type: ignore[no-untyped-def]
    _need(case)
    for number, kind in enumerate(ours.CLASSES):
        values = ours.matrix(kind, 128, 256, seed=number)
        weight = torch.from_numpy(values).to(TORCH[dtype])
        expected = libraries.written(*case, weight)
        try:
            ours.assert_same(ours.encoded(case, values, dtype, step=1), expected)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("case", list(ours.cases()), ids=ours.label)
def test_bytes_are_the_librarys_for_extremes(case, dtype) -> None:  # type: ignore[no-untyped-def]
    _need(case)
    for kind in ours.EXTREMES:
        if kind == "one outlier" and dtype == "F16":
            continue  # it is infinite in binary16
        found, expected = _both(case, dtype, kind)
        try:
            ours.assert_same(found, expected)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error


# What has one scale for all rows here, or for 128 of them.
WHOLE = ("fp8-tensor", "fp8-block")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("case", list(ours.cases()), ids=ours.label)
def test_what_is_not_finite_stays_in_its_row(case, dtype) -> None:  # type: ignore[no-untyped-def]
    """Other rows have the library's bytes; of those rows, the codes of integers are defined."""
    target, settings = case
    style = settings.get("style")
    _need(case)
    if target in WHOLE or settings.get("nested") or (target == "nvfp4" and style != "mlx"):
        pytest.skip("one number is for all of it")
    for kind in ours.SPOILED:
        found, expected = _both(case, dtype, kind)
        for name in expected:
            # A word of zero points has bits of many rows, and one number is of no row.
            if name.startswith(("weight.quant_", "weight_shape", "weight_zero_point")):
                continue
            if np.size(expected[name]) == 1:
                continue
            have, want = (side[name].reshape(128, -1) for side in (found, expected))
            rows = np.arange(128)
            if not target.startswith("ct-") or name.endswith("scale"):
                rows = np.delete(rows, [5, 70])
            assert have[rows].tobytes() == want[rows].tobytes(), f"{kind}: {name}"


def _both(case, dtype, kind):  # type: ignore[no-untyped-def]
    """What is encoded here of 128 rows, and by the library."""
    with np.errstate(all="ignore"):
        weight = torch.from_numpy(ours.extreme(kind, 128, 256)).to(TORCH[dtype])
        expected = libraries.written(*case, weight)
        return ours.encoded(case, weight.float().numpy(), dtype, step=1), expected


SHAPES = ((1, 256), (3, 128), (130, 384), (257, 160), (2, 1024), (64, 72), (7, 64))


@pytest.mark.parametrize("case", list(ours.cases()), ids=ours.label)
def test_bytes_are_the_librarys_for_other_shapes(case) -> None:  # type: ignore[no-untyped-def]
    """One row, rows of no whole blocks; what a layout cannot hold is kept, as by the library."""
    target, settings = case
    _need(case)
    compared = 0
    for number, shape in enumerate(SHAPES):
        weight = torch.from_numpy(ours.matrix("plain", *shape, seed=number)).bfloat16()
        try:
            found = ours.encoded(case, weight.float().numpy(), "BF16", step=1)
        except Unfit:
            continue
        ours.assert_same(found, libraries.written(*case, weight))
        compared += 1
    # transformers' formula keeps what is no whole blocks, which is all of these.
    assert compared or settings.get("style") == "transformers", target
