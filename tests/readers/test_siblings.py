"""What stands beside a decoded weight is read, harmless by the table, or the model is refused."""

from __future__ import annotations

from typing import Any

import pytest
from layer_parts import LAYERS, STEMS, about, within
from small_models import Parts, ledger_of, resolved

from anamnesis.errors import AnamnesisError, UnsupportedError
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes._siblings import HARMLESS, harmless
from anamnesis.readers.schemes.base import Options


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_layer_by_itself_is_decoded(layer: str) -> None:
    method, parts = LAYERS[layer]
    book = resolved(parts, about(method))
    assert all(t.quantised for t in book.tensors.values())
    assert book.notes == []


SIDE = {
    "act.scales": ("F16", (64,)),
    "channel_scales": ("F16", (1, 64)),
    "had_K": ("F16", (4, 4)),
    "input_rotation.weight": ("F16", (64, 64)),
    "lora_down.weight": ("BF16", (8, 64)),
    "outer_lora_A": ("BF16", (8, 64)),
    "pairs": ("I16", (8, 64)),
    "perm": ("I32", (64,)),
    "pre_quant_scale": ("BF16", (64,)),
    "quant_bias": ("I32", (32,)),
    "smooth_factor": ("F32", (64,)),
    "svdquant_lora_a": ("BF16", (8, 64)),
    "theta": ("F16", (8, 32)),
    "weight_offset": ("F32", (32, 1)),
    "zz": ("F64", ()),
}


READ = {("ct-int8", "weight_offset"), ("nvfp4", "pre_quant_scale")}  # by their schemes


@pytest.mark.parametrize("side", sorted(SIDE))
@pytest.mark.parametrize("layer", sorted(LAYERS))
@pytest.mark.parametrize("configured", [True, False], ids=["config", "bare"])
def test_a_tensor_that_no_scheme_read_refuses_the_model(
    layer: str, side: str, configured: bool
) -> None:
    method, parts = LAYERS[layer]
    stem = STEMS.get(layer, "m.")
    if stem.endswith("_") and "." in side:
        stem = stem[:-1] + "."
    parts, about_it = {**parts, stem + side: SIDE[side]}, about(method) if configured else None
    if (layer, side) in READ:
        book = resolved(parts, about_it)
        assert any(
            c.stored.name == stem + side for t in book.tensors.values() for c in t.components
        )
        return
    with pytest.raises(AnamnesisError):
        resolved(parts, about_it)


def test_the_error_names_both_and_the_method() -> None:
    method, parts = LAYERS["fp8"]
    with pytest.raises(UnsupportedError) as caught:
        resolved({**parts, "m.theta": SIDE["theta"]}, about(method))
    for text in ("'m.theta' (F16 [8, 32])", "'m.weight'", "fp8-tensor", "(fp8)"):
        assert text in str(caught.value)


@pytest.mark.parametrize("row", HARMLESS, ids=lambda row: row.pattern)
def test_what_the_table_calls_harmless_stays_or_is_dropped(row: Any) -> None:
    method, parts = LAYERS["ct-int8"]
    name = "m." + row.pattern.replace("[AB]", "A").replace("*", "x")
    assert harmless(name[2:]) is not None
    book = resolved({**parts, name: ("F32", (4,))}, about(method))
    assert (name in book.tensors) != row.dropped
    assert row.reason
    if row.dropped:
        assert {d.stored.name: d.why for d in book.dropped}[name] == row.reason


@pytest.mark.parametrize(
    "others",
    [
        {"m.bias": ("F32", (32,)), "n.weight": ("BF16", (4, 4)), "n.theta": ("F32", (4,))},
        {"self_attn.sinks": ("BF16", (8,)), "self_attn.q_norm.weight": ("BF16", (8,))},
        {"m_norm.weight": ("BF16", (8,)), "mm.scale": ("F32", ()), "layer_scale": ("F32", (8,))},
        {"m.lora_A.default.weight": ("F32", (4, 4)), "m.lora_B.default.weight": ("F32", (4, 4))},
        {"gate.weight": ("F32", (4, 4)), "gate.e_score_correction_bias": ("F32", (4,))},
        {"mixer.A_log": ("F32", (4,)), "mixer.D": ("F32", (4,)), "mixer.dt_bias": ("F32", (4,))},
    ],
)
@pytest.mark.parametrize("layer", ["awq", "fp8", "mlx"])
def test_other_modules_are_left_alone(layer: str, others: Parts) -> None:
    method, parts = LAYERS[layer]
    book = resolved({**parts, **others}, about(method))
    assert set(others) <= set(book.tensors)


@pytest.mark.parametrize(
    "name",
    [
        *("m_rotation", "m_offset", "m_zz", "m_scale", "m_lora_down", "m_perm"),
        *("m_rotation.weight", "m_online_hadamard.weight", "m_permutation.index"),
        *("rotation", "online_rotation", "hadamard_matrix"),
    ],
)
@pytest.mark.parametrize("module", ["", "l.0.mlp."])
@pytest.mark.parametrize("layer", ["awq", "ct-int8", "fp8", "mxfp4", "nvfp4"])
def test_a_tensor_called_after_a_module_is_beside_it(layer: str, module: str, name: str) -> None:
    method, parts = LAYERS[layer]
    if layer == "mxfp4":
        name = name.replace("m_", "m.down_proj_")
    for about_it in (about(method), None):
        with pytest.raises(AnamnesisError, match=name.replace(".", r"\.")):
            resolved({module + n: v for n, v in {**parts, name: ("F32", (4, 4))}.items()}, about_it)


@pytest.mark.parametrize(
    "others",
    [
        {"m_up_proj": ("BF16", (4, 4, 4)), "m_proj.weight": ("BF16", (4, 4))},
        {"m_norm.weight": ("BF16", (8,)), "m_bias": ("BF16", (32,)), "mm_x": ("F32", ())},
        {"m_embed": ("BF16", (4, 4)), "m_tokens": ("BF16", (4, 4)), "m_token": ("F32", (4,))},
        {
            "m_up_proj_bias": ("BF16", (4, 4)),
            "n.m_x": ("BF16", (4,)),
            "rotary_emb.x": ("F32", (4,)),
        },
        {"m_shared.weight": ("BF16", (4, 4)), "m_shared.bias": ("BF16", (4,))},
    ],
)
@pytest.mark.parametrize("module", ["", "l.0.mlp."])
@pytest.mark.parametrize("layer", ["awq", "fp8", "mlx", "nvfp4"])
def test_modules_and_parameters_of_a_like_name_are_left_alone(
    layer: str, module: str, others: Parts
) -> None:
    method, parts = LAYERS[layer]
    parts = {module + name: what for name, what in {**parts, **others}.items()}
    assert {module + name for name in others} <= set(resolved(parts, about(method)).tensors)


def test_scales_of_activations_are_no_module_s() -> None:
    """`k_scale` beside the module `k` is of the cache, `k_input_scale` of the inputs."""
    parts = {f"a.k{name[1:]}": what for name, what in LAYERS["fp8"][1].items()}
    others: Parts = {"a.k_scale": ("F32", ()), "a.k_input_scale": ("F32", ())}
    book = resolved({**parts, **others}, about("fp8"))
    assert {one.stored.name for one in book.dropped} == set(others)


AMAX = ("m.input_quantizer", "m.output_quantizer", "a.v_bmm_quantizer", "a.softmax_quantizer")


def test_what_calibration_saw_is_dropped() -> None:
    """ModelOpt's, whose names a loader without its quantizers would call unexpected."""
    parts: Parts = {f"{name}._amax": ("F32", ()) for name in AMAX}
    for method, layer in (LAYERS["fp8"], ("", {"m.weight": ("BF16", (4, 4))})):
        book = resolved({**layer, **parts}, about(method) if method else None)
        assert {one.stored.name for one in book.dropped} == set(parts)
    weights: Parts = {"m.weight_quantizer._amax": ("F32", ())}
    assert resolved({"m.weight": ("BF16", (4, 4)), **weights}).dropped
    with pytest.raises(AnamnesisError):
        resolved({**LAYERS["fp8"][1], **weights})


def test_parameters_of_stacked_experts_are_each_other_s_neighbours() -> None:
    parts: Parts = {
        "e.gate_up_proj": ("F8_E4M3", (2, 32, 64)),
        "e.gate_up_proj_scale": ("F32", (2, 1, 1)),
        "e.gate_up_proj_bias": ("BF16", (2, 32)),
        "e.down_proj": ("BF16", (2, 4, 4)),
        "e.router": ("F32", (4,)),
    }
    assert set(resolved(parts).tensors) == set(parts) - {"e.gate_up_proj_scale"}
    with pytest.raises(UnsupportedError, match=r"'e\.gate_up_proj_theta'"):
        resolved({**parts, "e.gate_up_proj_theta": ("F32", (4,))})


def test_a_plain_cast_has_no_layout_to_be_part_of() -> None:
    parts: Parts = {"m.weight": ("F8_E4M3", (32, 64)), "m.freqs": ("F32", (4,))}
    book = resolved(parts, options=Options(assume_unit_scale=True))
    assert set(book.tensors) == set(parts)


@pytest.mark.parametrize(
    "name",
    [
        *("R1.weight", "spinquant.R1.weight", "rotation.weight", "l.0.online_rotation.weight"),
        *("rotations.l.0.mlp.m", "l.0.mlp.input_hadamard.matrix", "quarot.0", "Rotators.0.weight"),
    ],
)
def test_a_module_that_turns_inputs_is_refused_anywhere(name: str) -> None:
    method, parts = LAYERS["fp8"]
    with pytest.raises(AnamnesisError):
        resolved({**within("l.0.mlp", parts), name: ("F32", (64, 64))}, about(method))
    kept = {"l.0.rotary_emb.inv_freq": ("F32", (8,)), "rotary.weight": ("F32", (8, 8))}
    assert resolved({**within("l.0.mlp", parts), **kept}, about(method)).notes == []


def test_a_parameter_called_after_a_layer_is_noted() -> None:
    method, parts = LAYERS["fp8"]
    book = resolved({**within("l.0", parts), "l.0.theta_m": ("F32", (4,))}, about(method))
    assert ["'l.0.theta_m'" in note for note in book.notes] == [True]


@pytest.mark.parametrize("dtype", ["I8", "I32", "U8"])
def test_a_bias_of_integers_is_no_bias(dtype: str) -> None:
    method, parts = LAYERS["ct-int8"]
    with pytest.raises(UnsupportedError, match=r"'m\.bias'"):
        resolved({**parts, "m.bias": (dtype, (32,))}, about(method))


def test_adapters_that_stay_are_said() -> None:
    method, parts = LAYERS["fp8"]
    book = resolved({**parts, "m.lora_A.weight": ("BF16", (8, 64))}, about(method))
    assert ["not merged" in note for note in book.notes] == [True]


@pytest.mark.parametrize(("shape", "said"), [((), 0), ((1,), 0), ((64,), 1), ((1, 64), 1)])
def test_a_scale_for_each_input_is_left_out_with_a_note(shape: Any, said: int) -> None:
    method, parts = LAYERS["ct-int8"]
    book = resolved({**parts, "m.input_scale": ("F32", shape)}, about(method))
    assert [one.stored.name for one in book.dropped] == ["m.input_scale"]
    assert ["'m.input_scale'" in note for note in book.notes] == [True] * said


@pytest.mark.parametrize(
    "name",
    [
        *("m.act_quant.scale", "l.activation_post_process.zero_point", "l.attn.fa_k.offset"),
        *("l.attn.kv_cache.scale", "l.attn.k_cache.scale", "l.attn.k_proj.kv_cache_offset"),
        *("l.experts.w13_input_scale", "l.experts.gate_up_proj_input_scale", "l.kv_scales"),
        *("l.input_observer.min_val", "l.k_scale_cache", "l.x_activation_scale"),
    ],
)
@pytest.mark.parametrize("shape", [(), (8,)])
def test_scales_and_observers_of_activations_are_dropped(name: str, shape: Any) -> None:
    method, parts = LAYERS["fp8"]
    book = resolved({**parts, name: ("F32", shape)}, about(method))
    assert [one.stored.name for one in book.dropped] == [name]
    plain = ledger_of({name: ("F32", shape)})
    resolve(plain)
    assert name in plain.tensors  # a model that has nothing quantised may call its own so


@pytest.mark.parametrize("name", ["l.x_scale", "l.softmax_scale", "l.bmm1_amax", "l.y_offset"])
def test_a_scale_of_one_number_around_a_layer_is_noted(name: str) -> None:
    method, parts = LAYERS["fp8"]
    book = resolved({**within("l", parts), name: ("F32", ())}, about(method))
    assert [name in note for note in book.notes] == [True]


@pytest.mark.parametrize("part", ["scale", "zero", "offset"])
def test_a_scale_whose_weight_is_missing_is_refused(part: str) -> None:
    method, parts = LAYERS["fp8"]
    with pytest.raises(AnamnesisError):
        resolved({**within("l", parts), f"l.k_proj.{part}": ("F32", ())}, about(method))
    assert f"l.norm.{part}" in resolved({**parts, f"l.norm.{part}": ("F32", (8,))}).tensors


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("m.pre_quant_scale", ("F32", (64,))),
        ("m.scales", ("F32", (32, 1))),
        ("m.zeros", ("F32", (32, 1))),
        ("m.sign", ("BOOL", (32, 64))),
        ("m.weight_residual", ("I8", (32, 64))),
        ("smooth_scale", ("F32", (64,))),
        ("m.rotation", ("F32", (64, 64))),
    ],
)
@pytest.mark.parametrize("method", ["awq", "fp8", "modelopt"])
def test_what_stands_beside_dense_weights_counts_under_a_method(
    method: str, name: str, entry: Any
) -> None:
    """A method is stated and no layer has its codes: the weights may still be in its basis."""
    dense = {"m.weight": ("BF16", (32, 64))}
    with pytest.raises(AnamnesisError):
        resolved({**dense, name: entry}, about(method))
    kept = {"m.attention_mask": ("BOOL", (8, 8)), "m.bias": ("BF16", (32,))}
    assert resolved({**dense, **kept}, about(method)).notes == []
    dropped = resolved({**dense, "m.input_scale": ("F32", ())}, about(method)).dropped
    assert [one.stored.name for one in dropped] == ["m.input_scale"]


def test_an_unknown_parameter_beside_a_dense_weight_is_noted() -> None:
    method, parts = LAYERS["fp8"]
    more: Parts = {"d.weight": ("BF16", (32, 64)), "d.theta": ("F32", (64,))}
    for layers, config in (({**parts, **more}, None), (more, about(method)), (more, None)):
        assert ["'d.theta'" in note for note in resolved(layers, config).notes] == [True]


def test_scales_of_products_of_activations_are_not_dropped() -> None:
    method, parts = LAYERS["nvfp4"]
    name = "l.q_bmm_quantizer._pre_quant_scale"
    with pytest.raises(AnamnesisError):
        resolved({**within("l", parts), name: ("F32", (64,))}, about(method))
