"""Weights in a rotated basis: refused, whatever method the configuration states."""

from __future__ import annotations

import json
from typing import Any

import pytest
from layer_parts import DENSE, FP8
from small_models import resolved

from anamnesis.errors import AnamnesisError, UnsupportedError


@pytest.mark.parametrize("part", ["R1", "had_K", "rotation", "channel_scales"])
def test_rotations_elsewhere_in_a_quantised_model_are_refused(part: str) -> None:
    with pytest.raises(AnamnesisError, match=part):
        resolved({**FP8, f"layers.0.self_attn.{part}": ("F32", (64, 64))})


ROTATIONS = (
    "rotation_config",
    "transform_config",
    "hadamard",
    "use_QuaRot",
    "r1_rotate",
    "transforms",
)


@pytest.mark.parametrize("key", ROTATIONS)
@pytest.mark.parametrize("method", ["fp8", "modelopt", "awq"])
def test_a_rotated_basis_is_refused_under_any_method(method: str, key: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"{key}.*rotated"):
        resolved(FP8, {"quant_method": method, key: {"size": 32}})
    for nothing in (None, {}, [], 0, False, {"config_groups": {}}):
        resolved(FP8, {"quant_method": method, key: nothing})


@pytest.mark.parametrize("key", ROTATIONS)
def test_a_rotated_basis_is_refused_beside_the_blocks(key: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"config.json: {key}.*rotated"):
        resolved(FP8, configs={"config.json": {key: True}})
    resolved(FP8, configs={"config.json": {key: "none"}})
    resolved(DENSE, configs={"config.json": {key: True}})  # a model of floats is as it is


NESTED = (
    {"algo_config": [{"name": "rotation", "r1": True}]},
    {"algo_config": {"type": "QuaRot"}},
    {"export": {"weight": {"layers": [{"online_rotation": {"r4": True}}]}}},
    {"algorithms": ["awq", "spinquant"]},
    {"preprocessing": "hadamard"},
    {"a": {"transforms": {"q": 1}}},
)


@pytest.mark.parametrize("more", NESTED, ids=json.dumps)
@pytest.mark.parametrize("method", ["fp8", "quark"])
def test_a_rotated_basis_is_found_at_any_depth(method: str, more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="rotated basis"):
        resolved(FP8, {"quant_method": method, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"algo_config": [{"name": "smooth"}, {"name": "gptq", "rotation": {"r1": False}}]},
        {"algo_config": [{"rotation_config": {"enabled": False, "block": 32}}]},
        {"layers": {"model.rotation.proj": {"bits": 4}}, "skip": ["rotation"]},
        {"algo_config": [{"name": "rotary"}]},
    ],
    ids=json.dumps,
)
def test_what_is_off_or_about_other_things_is_no_rotation(more: dict[str, Any]) -> None:
    resolved(FP8, {"quant_method": "fp8", **more})
    resolved(FP8, configs={"config.json": {"vision_config": {"transforms": ["resize"]}}})


@pytest.mark.parametrize("key", ["rotary_emb_base", "partial_rotary_factor", "rotate_half_rope"])
def test_rotary_positions_are_no_rotated_basis(key: str) -> None:
    resolved(FP8, {"quant_method": "fp8", key: 0.5})


@pytest.mark.parametrize(
    "config",
    [
        {"basis": "rotated"},
        {"text_config": {"weights_basis": "hadamard-r1"}},
        {"weight_preprocess": ["quarot", "scale"]},
    ],
    ids=json.dumps,
)
def test_a_basis_that_the_model_s_configuration_names_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"config.json: .*rotated basis"):
        resolved(FP8, configs={"config.json": config})
    resolved(DENSE, configs={"config.json": config})
    resolved(FP8, configs={"config.json": {"position_basis": "rotary", "basis": "none"}})


@pytest.mark.parametrize(
    "more",
    [
        {"shuffled": True},
        {"weight_layout": "column_major"},
        {"export": {"weight_format": "preshuffled"}},
        {"export": {"channel_permutation": "perm.npy"}},
        {"order_map": [0, 2, 1, 3]},
        {"layers": {"pack_order": "lsb"}},
        {"endianness": "big"},
        {"reversed_nibbles": True},
    ],
    ids=json.dumps,
)
def test_another_order_of_numbers_is_noted(more: dict[str, Any]) -> None:
    (note,) = resolved(FP8, {"quant_method": "quark", **more}).notes
    assert "order of numbers that is not known here" in note
    off: dict[str, Any] = {"shuffled": False, "export": {"pack_method": "reorder"}, "act_order": 1}
    off |= {"m.shuffle_proj": {"bits": 8}, "actorder": "group"}
    assert resolved(FP8, {"quant_method": "quark", **off}).notes == []


@pytest.mark.parametrize(
    "more",
    [
        {"weight_offset": 0.5},
        {"scale_multiplier": 448},
        {"a": {"scale_inverse": True}},
        {"signed": True},
        {"low_rank": 32},
        {"weight_encryption": "aes"},
        {"entropy_coding": "huffman"},
        {"exponent_bias": 7},
        {"outlier_fraction": 0.01},
        {"scale_formula": "amax / 6"},
    ],
)
def test_another_meaning_of_numbers_is_noted(more: dict[str, Any]) -> None:
    (note,) = resolved(FP8, {"quant_method": "fp8", **more}).notes
    assert "meaning of numbers that is not known here" in note
    off = {"scale_inverse": False, "input_offset": 3, "lut": None, "m.weight_offset": 1}
    assert resolved(FP8, {"quant_method": "fp8", **off}).notes == []
