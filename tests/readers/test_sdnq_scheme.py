"""SDNQ's layers through the reader, against its own values (tests/data/sdnq)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import assert_bits, assert_other_outputs, read_ahead
from safetensors.numpy import load_file
from small_models import ledger_of

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes._sdnq_config import settings_of
from anamnesis.readers.schemes.base import Options

DATA = Path(__file__).resolve().parents[1] / "data" / "sdnq"
MODEL = DATA / "model"


def expected(turned: bool) -> dict[str, Any]:
    """BF16 bits by name, or the float32 values of what was rotated."""
    return {
        name: values
        for name, values in load_file(DATA / "expected.safetensors").items()
        if name.startswith("turned") == turned
    }


def others() -> set[str]:
    return {"norm.scale", *expected(turned=True)}


@pytest.mark.parametrize("nbytes", [1 << 20, 700])
def test_golden(nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_ahead(monkeypatch, nbytes)
    anamnesis.remember(MODEL, tmp_path / "out.safetensors", threads=1)
    assert_bits(tmp_path / "out.safetensors", expected(turned=False), others())


def test_other_outputs_and_rotations(tmp_path: Path) -> None:
    """What is rotated back are sums: their order is this program's."""
    assert_other_outputs(MODEL, tmp_path, expected(turned=False))
    found = load_file(tmp_path / "f32.safetensors")
    for name, values in expected(turned=True).items():
        assert np.abs(found[name] - values).max() <= 2**-20 * np.abs(values).max()
    model = anamnesis.open_model(MODEL)
    assert any("rotated back" in note for note in model.model.notes)
    for name in ("layer.uint5.weight", "svd.b.weight"):
        part = model[name][5:9, 10:50].view(np.uint16)
        np.testing.assert_array_equal(part, expected(turned=False)[name][5:9, 10:50])


def test_names_as_sdnq_matches_them() -> None:
    for rules, kind, name, wanted in json.loads((DATA / "names.json").read_bytes()):
        block = {"weights_dtype": kind, "modules_dtype_dict": rules}
        assert settings_of(block, name)["weights_dtype"] == wanted, (rules, name)


def test_settings_of_a_module() -> None:
    own = {"to_q": {"weights_dtype": "fp4", "use_codebook": True}}
    block = {"weights_dtype": "int8", "modules_quant_config": own}
    assert settings_of(block, "a.to_q.weight")["weights_dtype"] == "float4_e2m1fn"
    assert settings_of(block, "a.to_q.weight")["use_codebook"]
    assert settings_of(block, "a.to_k.weight")["weights_dtype"] == "int8"


Parts = dict[str, tuple[str, tuple[int, ...]]]
NONE = ("U8", (0,))
GOOD: dict[str, tuple[str, tuple[int, ...]]] = {
    "weight": ("U8", (512,)),
    "scale": ("F32", (16, 2, 1)),
    "zero_point": ("F32", (16, 2, 1)),
}


ACROSS: Parts = {
    "weight": ("I8", (64, 32)),
    "scale": ("F32", (1, 32)),
    "zero_point": NONE,
}
CONVOLUTION: Parts = dict.fromkeys(("scale", "zero_point"), ("F32", (16, 1, 2)))


def only(parts: Parts, options: Options | None = None, **settings: Any) -> Tensor:
    have = {f"m.{role}": part for role, part in {**GOOD, **parts}.items() if part[1] != (0,)}
    block = {"quant_method": "sdnq", "weights_dtype": "uint4", **settings}
    config = {"config.json": {"quantization_config": block}}
    ledger = ledger_of(have, configs=config, options=options or Options())
    resolve(ledger)
    return ledger.tensors["m.weight"]


def test_what_is_made_for_a_quantised_product_is_transposed() -> None:
    assert only(ACROSS, weights_dtype="int8").shape == (32, 64)
    across: Parts = {"svd_up": ("BF16", (4, 16)), "svd_down": ("BF16", (64, 4))}
    assert only(across).params["across"]
    square: Parts = dict.fromkeys(("svd_up", "svd_down"), ("BF16", (16, 16)))
    grid = dict.fromkeys(("scale", "zero_point"), ("F32", (16, 1)))
    for turned in (False, True):  # shapes do not tell: the configuration does
        tensor = only(square | grid | {"weight": ("U8", (128,))}, use_quantized_matmul=turned)
        assert tensor.params["across"] == turned


def test_what_is_taken() -> None:
    tensor = only({})
    assert only(CONVOLUTION).shape == (16, 32, 2)
    assert (tensor.scheme, tensor.shape) == ("sdnq", (16, 64))
    assert only({}, use_hadamard=True).params["rotation"] == 64
    assert "rotation" not in only({}, use_hadamard=True, hadamard_group_size=2).params


@pytest.mark.parametrize(
    ("parts", "settings", "words"),
    [
        ({"zero_point": ("F32", (0,))}, {}, "uint4 has one"),
        ({"zero_point": ("F32", (16, 1, 1))}, {}, r"F32 \[16, 2, 1\]"),
        ({"zero_point": ("F16", (16, 2, 1))}, {}, r"F32 \[16, 2, 1\]"),
        ({"weight": ("U8", (512, 1))}, {}, r"U8 \[bytes\] of packed uint4"),
        ({"weight": ("I8", (16, 64))}, {}, "uint4"),
        ({"weight": ("U8", (513,))}, {}, "16 rows in 2 groups"),
        ({"weight": ("U8", (128, 3))}, {"weights_dtype": "uint5"}, r"U8 \[packs, 5\]"),
        ({"weight": ("U8", (16, 64))}, {"weights_dtype": "uint8"}, r"U8 \[16, 2, 32\]"),
        ({"weight": ("F8_E4M3", (32, 32))}, {"weights_dtype": "float8_e4m3fn"}, r"\[16, 2, 32\]"),
        ({"weight": ("I16", (16, 64))}, {"weights_dtype": "uint16"}, "U16 codes of uint16"),
        ({"scale": ("I32", (16, 2, 1))}, {}, "BF16"),
        ({"svd_up": ("BF16", (16, 4))}, {}, "svd_down"),
        ({"svd_up": ("BF16", (16, 4)), "svd_down": ("BF16", (4, 65))}, {}, "same rank"),
        ({"svd_up": ("BF16", (4, 16)), "svd_down": ("BF16", (64, 5))}, {}, "same rank"),
        ({"scale": ("F32", (16, 1, 3))}, {}, "16 rows in 1 groups"),
        (ACROSS | {"scale": ("F32", (32, 1))}, {"weights_dtype": "int8"}, r"I8 \[32, 64\]"),
        ({}, {"use_hadamard": True, "hadamard_group_size": "a"}, "hadamard_group_size above 0"),
    ],
)
def test_misfits(parts: Parts, settings: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        only(parts, **settings)


@pytest.mark.parametrize(
    ("parts", "settings", "words"),
    [
        ({}, {"weights_dtype": "uint1"}, "'uint1'"),
        ({}, {"weights_dtype": "int12"}, "'int12'"),
        ({}, {"weights_dtype": None}, "weights_dtype"),
        ({}, {"use_codebook": True}, "a codebook"),
        ({"scale_2": ("F32", (1,))}, {}, "a scale of scales"),
        ({"scale": ("F32", (1, 16, 3))}, {}, "transposed convolutions"),
        ({"scale": ("F32", (1, 16))}, {}, "an order that is not known"),
        (ACROSS, {"weights_dtype": "int8", "quant_conv": True}, "of which no shape is left"),
        (CONVOLUTION, {"use_hadamard": True}, "a convolution that is rotated"),
        ({"weight": ("U8", (528,)), "scale": ("F32", (16, 1))}, {}, "no whole eights"),
        ({"scale": ("F32", (1, 1))}, {"group_size": -2}, "one scale for a tensor"),
    ],
)
def test_refused_by_name(parts: Parts, settings: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        only(parts, **settings)


def test_floats_beside_a_scale_are_codes_where_the_kind_is_theirs() -> None:
    parts: Parts = {"weight": ("F16", (16, 64)), "scale": ("F32", (16, 1)), "zero_point": NONE}
    assert only(parts, weights_dtype="fp16").scheme == "sdnq"
    with pytest.raises(FormatError, match="no scheme consumed"):
        only(parts, weights_dtype="int8")
    parts = parts | {"scale": ("F32", (16,))}
    assert only(parts, weights_dtype="int8").scheme == "passthrough"  # a layer left alone


def test_narrow_scales_have_no_reference() -> None:
    parts: Parts = {"scale": ("BF16", (16, 2, 1)), "zero_point": ("BF16", (16, 2, 1))}
    assert only(parts).encoding == "sdnq"
    with pytest.raises(UnsupportedError, match="BF16 scales in reference order"):
        only(parts, Options(rounding="reference"))


def test_without_the_configuration() -> None:
    """A `scale` beside codes is any tool's."""
    with pytest.raises((FormatError, UnsupportedError)):
        resolve(ledger_of({f"m.{role}": part for role, part in GOOD.items()}))
