"""Codes under a method that has no layout for them, and tensors that are the model itself."""

from __future__ import annotations

import pytest
from layer_parts import DENSE, FP8
from small_models import Parts, resolved

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.schemes.base import Options

INTEGERS = ("I8", "U8", "I16", "I32", "I64")


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("method", ["gptq", "fp8", "bitsandbytes", "compressed-tensors", "hqq", ""])
def test_integers_are_never_dense_under_a_method(dtype: str, method: str) -> None:
    for shape in ((8, 8), (2, 8, 8)):
        for name in ("m.weight", "m.anything", "m.experts.down_proj"):
            about = {"quant_method": method} if method else {"some": "thing"}
            with pytest.raises(AnamnesisError):
                resolved({**DENSE, name.replace("m.", "x."): (dtype, shape)}, about)


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("bitsandbytes", {"x.weight": ("BF16", (2048, 1))}),
        ("bitsandbytes", {"x.weight": ("U8", (4096,))}),
        ("hqq", {"x.weight": ("BOOL", (32, 64))}),
        ("gptq", {"x.weight_mask": ("BOOL", (32, 64))}),
    ],
)
def test_codes_under_other_names_are_never_dense_under_a_method(method: str, parts: Parts) -> None:
    with pytest.raises(UnsupportedError, match=rf"\({method}\)"):
        resolved({**DENSE, **parts}, {"quant_method": method})


def test_heads_of_one_output_are_dense() -> None:
    parts: Parts = {**DENSE, "score.weight": ("BF16", (1, 4096)), "gate.scale": ("F32", (64, 1))}
    assert len(resolved(parts, {"quant_method": "bitsandbytes"}).tensors) == 4


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"])
def test_small_floats_are_never_dense(dtype: str) -> None:
    for about in (None, {"quant_method": "fp8"}, {"quant_method": "gptq"}):
        with pytest.raises(AnamnesisError):
            resolved({"m.anything": (dtype, (8, 8))}, about)


@pytest.mark.parametrize(
    "parts",
    [
        {"m.codes": ("I32", (32, 8)), "m.grid": ("F16", (16, 2))},
        {"m.codes": ("I64", (32, 8)), "m.grid": ("F16", (16, 2))},
        {"m.weight": ("BF16", (32, 8)), "m.weight_residual": ("I8", (32, 8))},
        {"m.weight": ("I8", (32, 8)), "m.shift": ("F16", (32,))},
        {"m.indices": ("U8", (256,)), "m.values": ("F16", (16,))},
        {"weight": ("I8", (32, 8)), "weight_range": ("F16", (32,))},
        {"x.experts.w1": ("I8", (2, 32, 8)), "x.experts.w1_s": ("F16", (2, 32))},
        {"a.weight": ("I8", (32, 64)), "a_step": ("F32", (32,))},
    ],
)
def test_integers_that_need_their_neighbours_are_refused_without_a_method(parts: Parts) -> None:
    with pytest.raises(UnsupportedError, match="are codes of a layout that is not known"):
        resolved(parts)


@pytest.mark.parametrize(
    "parts",
    [
        {"labels": ("I64", (100, 2)), "images": ("F32", (100, 4))},
        {"weight": ("I8", (32, 8))},
        {"m.attn.relative_position_index": ("I64", (49, 49)), "m.attn.table": ("F32", (169, 3))},
        {"m.embeddings.position_ids": ("I64", (1, 512)), "m.embeddings.w": ("F32", (2, 2))},
        {"h.0.attn.bias": ("U8", (1, 1, 16, 16)), "h.0.attn.c_attn.weight": ("F32", (4, 4))},
        {"bn.num_batches_tracked": ("I64", ()), "bn.running_mean": ("F32", (4,)), **DENSE},
        {"gate.tid2eid": ("I32", (100, 6)), "gate.weight": ("F32", (4, 4))},
        {
            "model.table": ("I32", (4, 4)),
            "model.cls": ("F32", (4,)),
            "model.n.weight": ("F32", (4,)),
        },
    ],
)
def test_integers_of_the_model_itself_stay(parts: Parts) -> None:
    assert all(not t.quantised for t in resolved(parts).tensors.values())


def test_buffers_stay_under_a_method_too() -> None:
    parts: Parts = {
        **FP8,
        "layers.0.ffn.gate.tid2eid": ("I32", (100, 6)),
        "layers.0.ffn.gate.bias": ("F32", (4,)),
        "e.position_ids": ("I64", (1, 512)),
        "bn.num_batches_tracked": ("I64", ()),
        "mask": ("BOOL", (4, 4)),
    }
    assert set(resolved(parts, {"quant_method": "fp8"}).tensors) == set(parts) - {"m.weight_scale"}


@pytest.mark.parametrize("entry", ["x.table", "x", "table", "*.table", "x.*"])
@pytest.mark.parametrize("key", ["ignore", "modules_to_not_convert", "exclude_modules"])
def test_what_the_configuration_left_alone_stays(key: str, entry: str) -> None:
    parts: Parts = {**FP8, "x.table": ("I32", (4, 4))}
    about = {"quant_method": "fp8", key: [entry]}
    assert "x.table" in resolved(parts, about).tensors
    with pytest.raises(UnsupportedError):
        resolved(parts, {"quant_method": "fp8", key: ["re:.*", "other", 7, None]})


def test_an_unquantised_model_with_a_known_method_is_dense() -> None:
    assert not resolved(DENSE, {"quant_method": "fp8"}).tensors["m.weight"].quantised


def test_assume_unit_scale_is_offered_where_no_scale_is() -> None:
    with pytest.raises(UnsupportedError, match="--assume-unit-scale"):
        resolved({"m.weight": ("F8_E4M3", (8, 8)), "m.norm.scale": ("F32", (8,))})
    with pytest.raises(UnsupportedError, match="--assume-unit-scale"):
        resolved({"m.weight": ("F8_E4M3", (8, 8)), "m.bias": ("F32", (8,))})
    odd = ("m.weight_inverse_scale", "m.dequant_scale", "m.w_scl")
    for name in ("m.weight_scale_2", "x.weight_scale", "m.input_scale", "m.scales", *odd):
        with pytest.raises(AnamnesisError) as caught:
            resolved({"m.weight": ("F8_E4M3", (8, 8)), name: ("F32", (7, 3))})
        assert "--assume-unit-scale" not in str(caught.value)


def test_not_implemented_is_said_of_what_is_not() -> None:
    with pytest.raises(UnsupportedError) as caught:
        resolved({"m.weight": ("I8", (8, 8))}, {"quant_method": "gptq"})
    assert "gptq is recognised and not implemented" not in str(caught.value)
    assert "(gptq)" in str(caught.value)
    with pytest.raises(FormatError, match="no scheme consumed"):
        resolved({"m.weight_scale_inv": ("F32", ())}, {"quant_method": "fp8"})


def test_weights_that_were_rounded_and_stored_as_floats_are_dense() -> None:
    """AutoRound's `fake` export of a method that it has no layout for."""
    about = {"quant_method": "auto-round", "bits": 8, "packing_format": "auto_round:fake"}
    assert resolved(DENSE, about).tensors["m.weight"].scheme == "passthrough"
    with pytest.raises(AnamnesisError):
        resolved({"m.weight": ("I8", (64, 64))}, about)


def test_a_model_saved_without_being_compressed_is_refused_by_name() -> None:
    """compressed-tensors: floats beside the scales that the layer rounds them by as it runs."""
    parts = {"m.weight": ("BF16", (16, 64)), "m.weight_scale": ("BF16", (16, 2))}
    parts |= {"m.weight_zero_point": ("I8", (16, 2))}
    about = {"quant_method": "compressed-tensors", "quantization_status": "frozen"}
    with pytest.raises(UnsupportedError, match="saved without being compressed"):
        resolved(parts, about)
    nvfp4: Parts = {"m.weight": ("BF16", (16, 64)), "m.weight_scale": ("F8_E4M3", (16, 4))}
    nvfp4 |= {"m.weight_global_scale": ("F32", (1,))}
    with pytest.raises(UnsupportedError, match="saved without being compressed"):
        resolved(nvfp4, about)
    with pytest.raises(FormatError, match="no scheme consumed"):
        resolved({"m.weight_scale": ("BF16", (16, 2))}, about)
    with pytest.raises(FormatError, match="no scheme consumed"):
        resolved({"m.weight": ("BF16", (16, 64)), "weight_scale": ("BF16", (16, 2))}, about)


@pytest.mark.parametrize("unit", [False, True])
def test_codes_of_transformer_engine_are_no_plain_cast(unit: bool) -> None:
    """Its scales are among the bytes of a module's state, which nothing here reads."""
    codes: Parts = {"m.weight": FP8["m.weight"]}
    options = Options(assume_unit_scale=unit)
    with pytest.raises(UnsupportedError, match=r"in bytes such as 'm._extra_state'"):
        resolved({**codes, "m._extra_state": ("U8", (512,))}, options=options)
    empty: Parts = {**codes, "m._extra_state": ("U8", (0,))}
    assert resolved(empty, options=Options(assume_unit_scale=True)).tensors["m.weight"].quantised
