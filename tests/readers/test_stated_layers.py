"""Methods and layouts that a block names for single layers, or beside its own."""

from __future__ import annotations

from typing import Any

import pytest
from layer_parts import AWQ, DENSE, FP8
from small_models import resolved

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes._stated import stated

LAYER = "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize("method", ["awq", "fp8", "compressed-tensors", "modelopt"])
@pytest.mark.parametrize(
    "more",
    [
        {"overrides": {LAYER: {"method": "foo-bits"}}},
        {"modules": {LAYER: {"quant_algo": "foo-bits"}}},
        {"layers": [{"which": LAYER, "algorithm": "foo-bits"}]},
        {"extra_config": {LAYER: {"scheme": "foo-bits", "bits": 4}}},
        {"groups": {"a": {"b": [{"quantType": "foo-bits"}]}}},
        {"layer_methods": {LAYER: "foo-bits"}},
        {LAYER: "foo-bits"},
        {"methods": ["fp8", "foo-bits"]},
        {"algorithm": "foo-bits"},
        {"quantization_scheme": "foo-bits"},
    ],
)
def test_an_unknown_method_of_a_layer_is_refused(method: str, more: dict[str, Any]) -> None:
    parts = AWQ if method == "awq" else FP8
    resolved(parts, {"quant_method": method})
    with pytest.raises(UnsupportedError, match=r"\(foo-bits\): no such method"):
        resolved(parts, {"quant_method": method, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"config_groups": {"g": {"weights": {"method": "minmax", "observer": "mse"}}}},
        {"layers": {LAYER: {"algorithm": "percentile", "scheme": "per_channel"}}},
        {"layers": {LAYER: {"method": "memoryless_minmax", "quant_type": "float8_e4m3"}}},
        {"calibration": {"method": "foo-bits"}, "input_activations": {"method": "foo-bits"}},
        {"algorithm": "signround", LAYER: False, "algorithms": ["minmax"], "schemes": ["W4A16"]},
        {"meta": {"quantizer": "gptqmodel:7.7.0"}, "producer": {"method": "foo-bits"}},
        {"layers": {LAYER: "int8", "lm_head.x": "bf16", "model.y": "skip"}},
        {"quantized_layers": {LAYER: {"quant_algo": "NVFP4", "group_size": 16}}},
        {"extra_config": {LAYER: {"bits": 16, "data_type": "float"}}},
        {"export": {"pack_method": "reorder", "kv_cache_group": []}},
    ],
)
def test_observers_widths_and_what_was_left_alone_are_no_method(more: dict[str, Any]) -> None:
    (one,) = stated({"config.json": {"quantization_config": {"quant_method": "fp8", **more}}}, {})
    assert one.method == "fp8"
    resolved(FP8, {"quant_method": "fp8", **more})


def test_a_known_method_of_a_layer_that_has_not_its_layout_is_noted() -> None:
    (note,) = resolved(FP8, {"quant_method": "fp8", "layers": {LAYER: {"method": "gptq"}}}).notes
    assert f"layers.{LAYER}.method (gptq) states a method too" in note


def test_kinds_that_a_scheme_knows_are_no_other_method() -> None:
    for kind, count in (("asinq", 1), ("foo-bits", 2)):
        block = {"quant_method": "sinq", "method": kind}
        assert len(stated({"config.json": {"quantization_config": block}}, {})) == count


@pytest.mark.parametrize("field", ["data_type", "fmt", "format", "mode", "quant_algo", "scale_fmt"])
def test_an_unknown_layout_of_a_layer_is_refused(field: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{LAYER}.{field}.*zorp"):
        resolved(FP8, {"quant_method": "fp8", "layers": {LAYER: {field: "zorp"}}})
    resolved(FP8, {"quant_method": "fp8", "input_activations": {field: "zorp"}})


@pytest.mark.parametrize(
    ("block", "label"),
    [
        ({"name": "run-17", "bits": 8}, True),
        ({"type": "our first try", "bits": 8}, True),
        ({"type": "turboquant_v1"}, False),
        ({"quant_name": "foo-bits", "bits": 8}, False),
        ({"quant_method": "run-17"}, False),
    ],
)
def test_a_name_may_be_a_label_and_a_type_is_a_method(block: dict[str, Any], label: bool) -> None:
    if label:
        (note,) = resolved(FP8, block).notes
        assert "taken for a label" in note
        return
    with pytest.raises(UnsupportedError, match="no such method is known"):
        resolved(FP8, block)


def test_a_name_that_is_a_method_s_counts() -> None:
    assert resolved(AWQ, {"name": "AWQ", "bits": 4}).notes == []
    (note,) = resolved(FP8, {"name": "AWQ", "bits": 4}).notes
    assert "(AWQ) speaks of another method" in note


@pytest.mark.parametrize("method", ["jang", "jang-importance", "jang-affine-mixed"])
def test_methods_of_jang_are_known(method: str) -> None:
    """As jang-tools writes them into `jang_config.json`; what else is called so is not."""
    about = {"quantization": {"method": method, "profile": "JANG_4M", "block_size": 64}}
    (one,) = stated({"jang_config.json": about}, {})
    assert one.method == "jang"
    (one,) = stated({"jang_config.json": {"quantization": {"method": "jang-foo"}}}, {})
    assert one.method == "jang-foo"


@pytest.mark.parametrize(
    "more",
    [
        {"weight_dtype": "zq8"},
        {"scale_dtype": "zorp"},
        {"weight_packing": "planar"},
        {"pack_format": "zorp"},
        {"qscheme_weight": "zorp"},
        {"number_format": "posit8"},
        {"layers": {LAYER: {"weight": {"dtype": "zq4"}}}},
    ],
)
def test_a_format_that_nobody_has_is_noted(more: dict[str, Any]) -> None:
    (note,) = resolved(FP8, {"quant_method": "fp8", **more}).notes
    assert "speaks of a format of numbers that is not known here" in note


def test_formats_of_tools_are_no_note() -> None:
    known: dict[str, Any] = {"pack_dtype": "int32", "weights_dtype": "float5_e4m1fnu"}
    known |= {"scale_dtype": "torch.float16", "forward_dtype": "nvfp4", "qscheme": "per_tensor"}
    known |= {"weight_format": "real_quantized", "scale_format": "e8m0", "zp_dtype": None}
    known |= {"act_data_type": "zorp", "kv_cache_dtype": "zorp", "compute_dtype": "bfloat16"}
    assert resolved(FP8, {"quant_method": "fp8", **known}).notes == []


def test_layers_of_another_algorithm_than_they_have_are_noted() -> None:
    """A mixture that names those of its layers says no more by its own name."""
    layers = {LAYER: {"quant_algo": "NVFP4"}}
    block = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
    (note,) = resolved(FP8, {**block, "quantized_layers": layers}).notes
    assert "taken as fp8-tensor by its tensors" in note
    layers = {LAYER: {"quant_algo": "FP8"}}
    assert resolved(FP8, {**block, "quantized_layers": layers}).notes == []


@pytest.mark.parametrize(
    "more",
    [
        {"kernel": "zorp_tiles"},
        {"preset": "zorp"},
        {"pipeline": ["smoothquant", "zorp"]},
        {"passes": [{"name": "zorp"}]},
        {"layer_class": "zorp.ZorpLinear"},
        {"layers": {"down": {"weight_loader": "zorp"}}},
    ],
)
def test_a_word_for_what_decodes_that_nobody_has_is_noted(more: dict[str, Any]) -> None:
    (note,) = resolved(FP8, {"quant_method": "fp8", **more}).notes
    assert "zorp" in note
    assert "is not known here and was not heeded" in note


def test_words_of_tools_for_what_decodes_are_no_note() -> None:
    known: dict[str, Any] = {
        "backend": "auto_round:exllamav2",
        "kernel": "marlin",
        "preset": "W4A16",
    }
    known |= {
        "quantization_backend": "mx.quantize",
        "profile": "JANG_4M",
        "quant_backend": "torchao",
    }
    known |= {
        "quantization_status": "compressed",
        "pipeline": ["smoothquant", "gptq"],
        "steps": 200,
    }
    known |= {"activation_kernel": "zorp", "kv_cache": {"kernel": "zorp"}}
    assert resolved(FP8, {"quant_method": "fp8", **known}).notes == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight_format", "zorp"),
        ("storage", {"codec": "zorp"}),
        ("weight_compression", {"method": "zorp"}),
        ("text_config", {"torch_dtype": "zorp4"}),
        ("serving", {"weights": {"encoding": "zorp"}}),
    ],
)
@pytest.mark.parametrize("parts", [DENSE, FP8])
def test_what_a_model_says_of_its_weights_outside_of_a_block_is_noted(
    parts: Any, key: str, value: Any
) -> None:
    (note,) = resolved(parts, configs={"config.json": {key: value}}).notes
    assert "its config.json: " in note
    assert "zorp" in note


def test_what_models_say_of_their_weights_is_no_note() -> None:
    config: dict[str, Any] = {"torch_dtype": "bfloat16", "dtype": "float16", "weight_dtype": "auto"}
    config |= {"vision_config": {"dtype": "np.float32"}, "storage": "local", "weights": "V2"}
    config |= {"weights_format": "safetensors", "rope_scaling": {"type": "zorp"}, "name": "zorp"}
    assert resolved(DENSE, configs={"config.json": config}).notes == []
