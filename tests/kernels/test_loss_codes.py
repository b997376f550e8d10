"""The report compares codes in registers as it compares what they decode to: the same bits."""

from __future__ import annotations

from typing import Any

import encode_cases as ours
import ml_dtypes
import numpy as np
import pytest

from anamnesis.kernels.encoders import ENCODERS, encoder, former, function_of, has
from anamnesis.kernels.ends import ends_of
from anamnesis.kernels.loss import Losses
from anamnesis.kernels.readback import Facts, Readback

NAMES = [name for name in ENCODERS if has(name, "codes")]
ROWS, COLUMNS = 130, 512
KINDS = ("plain", "zeros", "tiny", "huge", "heavy", "not finite")


def _values(kind: str) -> Any:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((ROWS, COLUMNS)) * 0.02
    if kind == "zeros":
        values[::2] = 0
        values[1, ::3] = -0.0
    elif kind == "heavy":
        values = rng.standard_cauchy((ROWS, COLUMNS))
    elif kind == "not finite":
        values[3, 5], values[70, 9], values[99, 99] = np.nan, np.inf, -np.inf
    scale = {"tiny": 1e-30, "huge": 1e28}.get(kind, 1.0)
    return (values * scale).astype(ml_dtypes.bfloat16)


def test_some_have_codes() -> None:
    assert {"bnb-int8", "bnb-nf4", "ct-int-quantized", "ct-pack-quantized", "gguf-q4-1"} <= set(
        NAMES
    )
    assert {"fp8-block", "fp8-tensor", "gguf-q8-0", "mxfp8", "nvfp4"} <= set(NAMES)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_sums_are_those_of_decoded_numbers(name: str, kind: str, dtype: str) -> None:
    _compare(name, {}, kind, dtype)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("bnb-fp4", {"nested": True}),
        ("ct-int-quantized", {"group": 32, "bits": 5}),
        ("ct-pack-quantized", {"group": 16}),
        ("bnb-nf4", {"nested": True, "block": 128}),
        ("nvfp4", {"style": "mlx"}),
        ("nvfp4", {"style": "modelopt"}),
    ],
)
def test_other_settings_give_the_same_sums(name: str, setting: dict[str, Any]) -> None:
    for kind in ("heavy", "zeros"):
        _compare(name, setting, kind, "BF16")


def _compare(name: str, setting: dict[str, Any], kind: str, dtype: str) -> None:
    values = _values(kind)
    settings = {key: row.default for key, row in ENCODERS[name].keys.items()} | setting
    form = former(name)("X.weight", values.shape, dtype, settings)
    units = -(-values.size // form.unit_elems)
    parts = ours.rooms(form, units)
    wide = values.astype(np.float32)
    extent = {"least": np.nanmin(wide), "most": np.nanmax(wide), "absmax_mean": 0.01}
    given = values.view(np.uint16) if dtype == "BF16" and ENCODERS[name].bf16 else wide
    params = {**settings, **extent, "dtype": dtype, "columns": form.unit_elems}
    encoder(name)(given.reshape(-1), {**params, "shape": values.shape, "first": 0}, parts)
    facts = Facts(name, {**settings, **extent}, dtype, form.unit_elems, units)
    again = np.empty(values.size, np.float32)
    Readback(facts).into(parts, again)
    plain, coded = Losses(), Losses()
    for _ in range(2):
        plain.add(given.reshape(-1), again, ends_of(parts, facts))
        codes = function_of(name, "codes")(parts, facts)
        coded.add_codes(given.reshape(-1), codes, lambda: again)
    # As text, in which a NaN is one.
    assert str(coded.result()) == str(plain.result())
    assert coded.result().sums.elems == 2 * values.size


def test_other_groups_are_decoded() -> None:
    facts = Facts("fp8-block", {"block": 100, "style": "deepseek"}, "BF16", 1000, 7)
    assert function_of("fp8-block", "codes")({}, facts) is None


@pytest.mark.parametrize("setting", [{"bits": 8}, {"sym": False}, {"group": 8}])
def test_other_integers_are_decoded(setting: dict[str, Any]) -> None:
    settings = {"bits": 4, "group": 32, "sym": True} | setting
    parts = {"weight": np.zeros(64, np.int32), "scale": np.ones(4, np.float32)}
    if not settings["sym"]:
        parts["zero"] = np.zeros(4, np.int32)
    facts = Facts("ct-pack-quantized", settings, "F32", 128, 1)
    assert function_of("ct-pack-quantized", "codes")(parts, facts) is None
