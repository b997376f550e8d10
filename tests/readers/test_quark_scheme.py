"""Quark's tensors through the reader against Quark's own packing (tests/data/quark)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import assert_bits, read_ahead
from safetensors.numpy import load_file
from small_models import Parts, resolved

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

DATA = Path(__file__).resolve().parents[1] / "data" / "quark"


def config(*dtypes: str, order: Any = "reorder", **other: Any) -> dict[str, Any]:
    """As Quark writes it: the first dtype for all layers, the others for some."""
    weights: list[Any] = [{"weight": {"dtype": d, "qscheme": "per_group"}} for d in dtypes]
    return {
        "quant_method": "quark",
        "export": {"pack_method": order},
        "global_quant_config": weights[0] if weights else None,
        "layer_quant_config": {f"*{i}": layer for i, layer in enumerate(weights[1:])},
        "layer_type_quant_config": None,
    } | other


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize(("kind", "dtype"), [("signed", "int4"), ("unsigned", "uint4")])
@pytest.mark.parametrize("nbytes", [1 << 20, 700])
def test_golden(
    rounding: Any,
    kind: str,
    dtype: str,
    nbytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_ahead(monkeypatch, nbytes)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes((DATA / f"{kind}.safetensors").read_bytes())
    (model / "config.json").write_text(json.dumps({"quantization_config": config(dtype)}))
    anamnesis.remember(model, tmp_path / "out.safetensors", rounding=rounding, threads=1)
    wanted = load_file(DATA / "expected.safetensors")
    wanted = {name: bits for name, bits in wanted.items() if name.startswith(f"{kind}.")}
    assert_bits(tmp_path / "out.safetensors", wanted, {f"{kind}.norm.weight"})


def int8(qscheme: Any, **more: Any) -> dict[str, Any]:
    weight = {"dtype": "int8", "qscheme": qscheme, "ch_axis": 0, **more}
    return config(global_quant_config={"weight": weight})


@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_golden_int8(rounding: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes((DATA / "int8.safetensors").read_bytes())
    (model / "config.json").write_text(json.dumps({"quantization_config": int8("per_channel")}))
    anamnesis.remember(model, tmp_path / "out.safetensors", rounding=rounding, threads=1)
    wanted = load_file(DATA / "int8-expected.safetensors")
    assert_bits(tmp_path / "out.safetensors", wanted, {"int8.norm.weight"})


def floats() -> dict[str, Any]:
    """FP4 and FP6 chosen by patterns, as `floats.safetensors` has them; MXFP4 for the rest."""

    def spec(dtype: str, scales: Any) -> dict[str, Any]:
        return {"weight": {"dtype": dtype, "qscheme": "per_group", "scale_format": scales}}

    second = {"dtype": "fp8_e4m3", "is_scale_quant": True}
    return config(
        global_quant_config=spec("fp4", "e8m0"),
        layer_quant_config={
            "amdfp4*": spec("fp4", "e5m3"),
            "*e2m3.up_proj": spec("fp6_e2m3", "e8m0"),
            "*e3m2.up_proj": spec("fp6_e3m2", "e8m0"),
            "nvfp4*": {"weight": [spec("fp4", None)["weight"], second]},
        },
    )


@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_golden_floats(rounding: Any, tmp_path: Path) -> None:
    """Exponents and E5M3 of the same shapes are told apart by the entry of the layer."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes((DATA / "floats.safetensors").read_bytes())
    (model / "config.json").write_text(json.dumps({"quantization_config": floats()}))
    anamnesis.remember(model, tmp_path / "out.safetensors", rounding=rounding, threads=1)
    assert_bits(
        tmp_path / "out.safetensors", load_file(DATA / "floats-expected.safetensors"), set()
    )


def test_classes_of_layers_come_after_patterns() -> None:
    parts: Parts = {"m.weight": ("U8", (16, 32)), "m.weight_scale": ("U8", (16, 2))}
    e5m3 = {"weight": {"dtype": "fp4", "scale_format": "e5m3"}}
    about = config("fp4", layer_type_quant_config={"Linear": e5m3})
    (tensor,) = resolved(parts, about).tensors.values()
    assert tensor.params["scale_code"] == "e5m3"


@pytest.mark.parametrize(("dtype", "scales"), [("fp4", "e4m3"), ("fp6_e2m3", "e5m3")])
def test_other_numbers_under_u8_scales_are_refused(dtype: str, scales: str) -> None:
    parts: Parts = {"m.weight": ("U8", (16, 32)), "m.weight_scale": ("U8", (16, 2))}
    about = config(global_quant_config={"weight": {"dtype": dtype, "scale_format": scales}})
    with pytest.raises(UnsupportedError, match=f"Quark's '{dtype}' with scales of '{scales}'"):
        resolved(parts, about)
    entry = {"n": {"weight": {"dtype": "fp4", "scale_format": "e5m3"}}}
    about["layer_quant_config"] = entry  # of another layer, and the rest has no FP4 or FP6
    about["global_quant_config"] = {"weight": {"dtype": "fp8_e4m3"}}
    (tensor,) = resolved(parts, about).tensors.values()
    assert tensor.params["scale_code"] == "e5m3"
    about["layer_quant_config"]["o"] = {"weight": {"dtype": "fp4"}}
    with pytest.raises(UnsupportedError, match="of several kinds"):
        resolved(parts, about)


INT8: Parts = {"m.weight": ("I8", (16, 16)), "m.weight_scale": ("F32", (16,))}


@pytest.mark.parametrize(
    ("told", "parts", "error"),
    [
        (int8("per_group", group_size=8), {"m.weight_scale": ("F32", (2, 16))}, UnsupportedError),
        (int8("per_channel", ch_axis=1), {}, UnsupportedError),
        (int8("per_channel"), {"m.weight_zero_point": ("U8", (16,))}, UnsupportedError),
        (int8("per_channel"), {"m.weight_scale": ("F32", (15,))}, FormatError),
        (int8("per_channel"), {"m.weight_zero_point": ("I8", (1,))}, FormatError),
    ],
)
def test_other_int8_is_refused(told: dict[str, Any], parts: Parts, error: Any) -> None:
    assert resolved(INT8, int8("per_channel")).tensors["m.weight"].scheme == "quark-int8"
    with pytest.raises(error, match=r"'m\.weight"):
        resolved({**INT8, **parts}, told)


@pytest.mark.parametrize("shape", [(16, 2), (8, 2)])
def test_scales_of_rows_of_int4_are_refused_by_name(shape: tuple[int, int]) -> None:
    parts: Parts = {"m.weight": ("I32", shape), "m.weight_scale": ("F32", shape[:1])}
    with pytest.raises(UnsupportedError, match="a scale a channel"):
        resolved(parts, config("int4"))


INT4: Parts = {
    "m.weight": ("I32", (64, 2)),
    "m.weight_scale": ("BF16", (2, 16)),
    "m.weight_zero_point": ("I32", (2, 2)),
}


def test_signs_come_from_the_config() -> None:
    for dtype, encoding in (("int4", "quark-int4"), ("uint4", "awq-gemm")):
        for about in (config(dtype), config("fp8_e4m3", dtype), config(dtype, dtype)):
            (tensor,) = resolved(INT4, about).tensors.values()
            assert (tensor.shape, tensor.encoding) == ((16, 64), encoding)
            assert (tensor.scheme, tensor.orientation) == ("quark-int4", "transposed")
            assert tensor.params["group_size"] == 32


def test_several_quantisers_of_one_weight_are_looked_through() -> None:
    about = config(global_quant_config={"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]})
    (tensor,) = resolved(INT4, about).tensors.values()
    assert tensor.encoding == "quark-int4"


def test_fp8_and_mxfp4_are_read_by_their_tensors() -> None:
    parts: Parts = {
        "a.weight": ("F8_E4M3", (16, 64)),
        "a.weight_scale": ("F32", ()),
        "a.input_scale": ("F32", ()),
        "b.weight": ("F8_E4M3", (16, 64)),
        "b.weight_scale": ("BF16", (16,)),
        "c.weight": ("U8", (16, 32)),
        "c.weight_scale": ("U8", (16, 2)),
        "c.output_scale": ("F32", ()),
        "d.weight": ("BF16", (4, 4)),
    }
    ledger = resolved(parts, config("fp8_e4m3", "fp4"))
    schemes = {t.name: t.scheme for t in ledger.tensors.values()}
    assert schemes == {
        "a.weight": "fp8-tensor",
        "b.weight": "fp8-channel",
        "c.weight": "mxfp4",
        "d.weight": "passthrough",
    }
    assert {d.stored.name for d in ledger.dropped} == {"a.input_scale", "c.output_scale"}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"m.weight_scale": ("BF16", (2, 15))}, r"allowed: BF16, F16, F32 \[groups, 16\]"),
        ({"m.weight_scale": ("BF16", (3, 16))}, "groups that divide 64"),
        ({"m.weight_scale": ("BF16", (0, 16))}, "groups that divide 64"),
        ({"m.weight_scale": ("I8", (2, 16))}, "groups that divide 64"),
        ({"m.weight_zero_point": ("I32", (2, 16))}, r"allowed: I32 \[2, 2\]"),
        ({"m.weight_zero_point": ("I8", (2, 2))}, r"allowed: I32 \[2, 2\]"),
        ({"m.weight": ("I32", (2, 64, 2))}, "allowed: a matrix"),
    ],
)
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_misfits(parts: Any, words: str, dtype: str) -> None:
    with pytest.raises(FormatError, match=words):
        resolved({**INT4, **parts}, config(dtype))


def test_missing_parts() -> None:
    alone: Parts = {name: INT4[name] for name in ("m.weight", "n.weight_scale") if name in INT4}
    other: Parts = {"n.weight": ("I32", (64, 2)), "n.weight_scale": ("BF16", (2, 16))}
    with pytest.raises(FormatError, match=r"no 'm\.weight_scale' beside it"):
        resolved({**alone, **other}, config("int4"))
    assert resolved(other, config("int4")).tensors["n.weight"].encoding == "quark-int4"
    with pytest.raises(FormatError, match=r"no 'n\.weight_zero_point' beside it"):
        resolved(other, config("uint4"))


@pytest.mark.parametrize(
    ("parts", "about", "words"),
    [
        ({}, config("int4", order="order"), "pack_method 'order'"),
        ({}, config("int4", export=None), "pack_method None"),
        ({}, config("int4", "uint4"), "int4 and uint4"),
        ({}, config("fp8_e4m3"), "neither int4 nor uint4"),
        ({"m.weight_scale": ("BF16", (16,))}, config("int4"), "a scale a channel"),
        ({"m.weight_scale": ("BF16", ())}, config("int4"), "a scale a tensor"),
        ({"m.weight_scale_2": ("BF16", (16,))}, config("int4"), "rounded to FP8"),
        ({"m.weight_zero_point": ("F32", (2, 16))}, config("int4"), "zero points that are no"),
        ({"m.input_rotation": ("I8", (64, 64))}, config("int4"), "rotated"),
        ({}, {"quant_method": "other"}, r"\(other\): no such method is known"),
    ],
)
def test_refused_by_name(parts: Any, about: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        resolved({**parts, **{k: v for k, v in INT4.items() if k not in parts}}, about)
