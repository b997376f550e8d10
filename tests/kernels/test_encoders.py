"""Encoders write what the libraries write, whatever the windows; their table is in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encode_cases as ours
import numpy as np
import pytest
from safetensors.numpy import load_file

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import ENCODERS, Key, Unfit, former, function_of

DATA = Path(__file__).resolve().parents[1] / "data" / "encode" / "expected.safetensors"


KEPT = [case for case in ours.cases() if case[1].get("style") != "transformers"]


def _expected() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for name, array in load_file(DATA).items():
        label, _, part = name.partition("/")
        found[label][part] = array
    return found


EXPECTED = _expected()


@pytest.mark.parametrize("case", KEPT, ids=ours.label)
def test_bytes_are_the_librarys(case: Any) -> None:
    ours.assert_same(ours.encoded(case, ours.golden_matrix(), "BF16"), EXPECTED[ours.label(case)])


@pytest.mark.parametrize("case", KEPT, ids=ours.label)
@pytest.mark.parametrize("shape", [(160, 256), (70, 384)], ids=str)
def test_windows_do_not_show(case: Any, shape: tuple[int, int]) -> None:
    values = ours.matrix("outlier", *shape, seed=3)
    whole = ours.encoded(case, values, "BF16")
    ours.assert_same(ours.encoded(case, values, "BF16", step=1), whole)


def test_blocks_whose_scale_would_be_zero() -> None:
    """Numbers of up to 2**-142 over 448 are 0 in float32: nothing is divided by that."""
    values = np.resize(np.float32([0, 2**-149, -(2**-149), 2**-142]), (32, 64))
    found = ours.encoded(("fp8-block", {"block": 32, "style": "deepseek"}), values, "F32")
    assert (found["weight_scale_inv"] == 1).all()
    assert set(found["weight"].reshape(-1).tolist()) == {0, 0x80}


@pytest.mark.parametrize("columns", [24, 40, 333])
@pytest.mark.parametrize(
    "case",
    [
        ("fp8-channel", {}),
        ("fp8-block", {"block": 21}),
        ("fp8-block", {"block": 1000000}),
        ("ct-int-quantized", {"group": 0}),
        ("bnb-int8", {}),
    ],
    ids=ours.label,
)
def test_rows_that_vectors_do_not_fill(case: Any, columns: int) -> None:
    """Zeros behind a row change none of its codes: they are no row's greatest number."""
    values = ours.matrix("plain", 6, columns, seed=5)
    longer = np.zeros((6, -(-columns // 336) * 336), np.float32)
    longer[:, :columns] = values
    for dtype in ("BF16", "F16", "F32"):
        short, whole = (ours.encoded(case, some, dtype) for some in (values, longer))
        codes, wanted = short["weight"].view(np.uint8), whole["weight"].view(np.uint8)
        assert np.array_equal(codes, wanted[:, :columns])


def test_mlx_takes_the_first_of_distances_that_float32_has_alike() -> None:
    """Words of `mx.quantize(…, mode="nvfp4")`, MLX 0.32.4: numbers far past 448 times 6."""
    wanted = {25.1: 0x7C4, 25.975: 0x7C4, 26.225: 0x4F7, 26.475: 0x4E6, 26.85: 0x6E6, 27.6: 0}
    for power, word in wanted.items():
        q = 2.0**power
        values = np.zeros((1, 32), np.float32)
        values[0, :3] = q * 448, -q * 448, q * 448 * 0.7
        found = ours.encoded(("nvfp4", {"style": "mlx"}), values, "F32")
        assert int(found["weight"].view(np.uint32)[0, 0]) & 0xFFF == word, power
    # Between 2**25 and 2**27 times the scale, the last place of a quotient decides.
    values[0] = np.resize(np.array([251865, 301048, 490401, 447801], np.float32) * 1e5, 32)
    found = ours.encoded(("nvfp4", {"style": "mlx"}), values, "F32")
    assert (found["weight"].view(np.uint16) == 0x7764).all()


@pytest.mark.parametrize(
    ("most", "scales", "codes"),
    [
        (3, [0x7E, 0x7F, 0x7E], "f7f7777777777777 7777777777777777 f777777777777777"),
        (3000, [0x7E, 0x38, 0x23], "8780000000000000 0000000000000000 f777777777777777"),
    ],
)
def test_modelopt_gives_6_for_0_over_0(most: int, scales: list[int], codes: str) -> None:
    """Bytes of `NVFP4QTensor.quantize`, ModelOpt 0.47, where the scales of groups underflow."""
    values = np.zeros((1, 48), np.float32)
    values[0, :4], values[0, 32:34] = (most, -2, 0, -1), (1, -1)
    found = ours.encoded(("nvfp4", {"style": "modelopt"}), values * np.float32(2.0**-149), "F32")
    assert (found["weight_scale"] & 0x7F)[0].tolist() == scales
    assert found["weight"].tobytes() == bytes.fromhex(codes)


@pytest.mark.parametrize(("bits", "zero"), [(4, 0x88), (2, 0xAA), (8, 0x80)])
def test_integers_of_what_is_not_finite_are_0(bits: int, zero: int) -> None:
    """As torch casts NaN: an infinity over its own scale, and all beside a NaN."""
    values = np.ones((3, 64), np.float32)
    values[0, 5], values[1, 7], values[2, :2] = np.inf, np.nan, (np.nan, -np.inf)
    settings = {"bits": bits, "group": 64}
    packed = ours.encoded(("ct-pack-quantized", settings), values, "BF16")["weight_packed"]
    assert (packed.view(np.uint8) == zero).all()
    if bits == 8:
        assert not ours.encoded(("ct-int-quantized", settings), values, "F32")["weight"].any()


def test_plain_python_gives_the_same(elsewhere: Callable[..., None]) -> None:
    elsewhere("test_bytes_are_the_librarys or vectors_do_not_fill or test_mlx or not_finite")


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_of_the_table(name: str) -> None:
    row = ENCODERS[name]
    ggml = ENCODINGS[row.reads_back].ggml_type >= 0  # whose files say what blocks are
    for kind in ("form", "encode", "blocks", "ends", *(["config"] if not ggml else [])):
        assert callable(function_of(name, kind)), kind
    for key in row.keys.values():
        assert not key.allowed or key.default in key.allowed
    for style in row.keys.get("style", Key("")).allowed if not ggml else ():
        settings = {key: item.default for key, item in row.keys.items()} | {"style": style}
        assert "quantization_config" in function_of(name, "config")(settings, [], "bfloat16")


@pytest.mark.parametrize("name", ENCODERS)
def test_what_has_no_rows_is_unfit(name: str) -> None:
    settings = {key: row.default for key, row in ENCODERS[name].keys.items()}
    for shape in ((), (64,), (0, 64)):
        with pytest.raises(Unfit):
            former(name)("X.weight", shape, "BF16", settings)


def test_rows_of_other_lengths_are_unfit() -> None:
    for name in ("mxfp4", "mxfp8", "nvfp4", "mlx-affine", "ct-pack-quantized"):
        settings = {key: row.default for key, row in ENCODERS[name].keys.items()}
        with pytest.raises(Unfit, match="whole number"):
            former(name)("X.weight", (64, 40), "BF16", settings)
