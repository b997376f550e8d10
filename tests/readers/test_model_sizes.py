"""A layer of floats that has a part of its inputs, as codes would, is not dense by its dtype."""

from __future__ import annotations

from typing import Any

import pytest
from clock import within
from hypothesis import given
from hypothesis import strategies as st
from small_models import ledger_of

from anamnesis.errors import UnsupportedError
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes._model_sizes import ModelSizes

HIDDEN, INNER, HEADS, KEYS, HEAD, WORDS = 512, 1536, 10, 5, 64, 1152
CONFIG = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "head_dim": HEAD,
    "vocab_size": WORDS,
}
METHODS = ("awq", "bitsandbytes", "fp8", "gptq", "hqq", "modelopt", "torchao")
# The shapes of layers, outputs first.
LAYERS = {
    "lm_head": (WORDS, HIDDEN),
    "model.embed_tokens": (WORDS, HIDDEN),
    "model.layers.0.mlp.down_proj": (HIDDEN, INNER),
    "model.layers.0.mlp.up_proj": (INNER, HIDDEN),
    "model.layers.0.self_attn.k_proj": (KEYS * HEAD, HIDDEN),
    "model.layers.0.self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "model.layers.0.self_attn.q_proj": (HEADS * HEAD, HIDDEN),
}
EXPERTS = {
    "model.layers.0.mlp.experts.down_proj": (HIDDEN, INNER),
    "model.layers.0.mlp.experts.gate_up_proj": (2 * INNER, HIDDEN),
    "model.layers.0.mlp.experts.w2_weight": (HIDDEN, INNER),
    "model.layers.0.mlp.experts.w13.weight": (2 * INNER, HIDDEN),
}


def resolved(parts: Any, method: str | None, **more: Any) -> Any:
    about = {} if method is None else {"quantization_config": {"quant_method": method, **more}}
    book = ledger_of(parts, configs={"config.json": {**CONFIG, **about}})
    resolve(book)
    return book


@given(
    layer=st.sampled_from(sorted(LAYERS | EXPERTS)),
    dtype=st.sampled_from(["BF16", "F16", "F32", "F64"]),
    code_bits=st.integers(1, 8),
    method=st.sampled_from(METHODS),
    form=st.sampled_from(["inputs", "outputs", "columns", "flat", "turned"]),
)
def test_codes_in_a_container_of_floats_are_never_dense(
    layer: str, dtype: str, code_bits: int, method: str, form: str
) -> None:
    """Codes along the inputs or, of a quarter at most, along the outputs, or without any shape."""
    outputs, inputs = (LAYERS | EXPERTS)[layer]
    bits = DTYPES[dtype].bits
    if form in ("outputs", "turned"):
        code_bits = min(code_bits, bits // 4)
        shape = (-(-outputs * code_bits // bits), inputs)
        if shape[0] * bits != outputs * code_bits:
            return
        shape = shape[::-1] if form == "turned" else shape
    else:
        width, rest = divmod(inputs * code_bits, bits)
        assert not rest
        flat = {"inputs": (outputs, width), "columns": (outputs * width, 1)}
        shape = flat.get(form, (outputs * width,))
    name, module = f"{layer}.weight", layer
    if layer in EXPERTS:
        shape = (4, *shape)
        name, module = layer, layer.rpartition(".")[0]
    parts = {name: (dtype, shape)}
    with pytest.raises(UnsupportedError):
        resolved(parts, method)
    book = resolved(parts, None)  # nothing says that anything is quantised
    assert [t.scheme for t in book.tensors.values()] == ["passthrough"]
    book = resolved(parts, method, modules_to_not_convert=[module])
    assert [t.scheme for t in book.tensors.values()] == ["passthrough"]


@pytest.mark.parametrize("layer", sorted(LAYERS | EXPERTS))
def test_layers_of_the_sizes_that_they_must_have_are_dense(layer: str) -> None:
    outputs, inputs = (LAYERS | EXPERTS)[layer]
    for shape in ((outputs, inputs), (inputs, outputs), (outputs, 2 * inputs)):
        name = layer if layer in EXPERTS else f"{layer}.weight"
        stacked = (4, *shape) if layer in EXPERTS else shape
        assert resolved({name: ("BF16", stacked)}, "fp8").notes == []


def test_the_error_names_the_inputs_and_the_way_out() -> None:
    with pytest.raises(UnsupportedError) as caught:
        resolved({"lm_head.weight": ("BF16", (640, 128))}, "gptq")
    for text in (
        "lm_head.weight' (BF16 [640, 128])",
        "512 inputs or outputs",
        "(gptq)",
        "left alone",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("config", "layer", "width"),
    [
        ({"moe_intermediate_size": 384}, "model.layers.0.mlp.experts.3.down_proj", 384),
        (
            {"moe_intermediate_size": 192, "n_shared_experts": 2},
            "model.layers.0.mlp.shared_experts.down_proj",
            384,
        ),
        ({"moe_latent_size": 128}, "backbone.layers.0.mixer.experts.0.up_proj", 128),
        ({"vision_config": {"hidden_size": 128}}, "visual.blocks.0.attn.q_proj", 128),
        ({"vision_config": {"model_type": "siglip"}}, "vision_tower.layers.0.attn.q_proj", 128),
        ({"mm_hidden_size": 128}, "model.layers.0.self_attn.q_proj", 128),
        ({"intermediate_size": [1536, 384]}, "model.layers.1.mlp.down_proj", 384),
        ({"block_configs": [{"ffn": {"ffn_mult": 0.5}}]}, "model.layers.1.mlp.down_proj", 384),
        ({}, "model.layers.0.self_attn.q_a_proj", 128),
        ({}, "model.layers.0.mlp.gate", 128),
    ],
)
def test_other_sizes_that_a_model_has_explain_a_width(config: Any, layer: str, width: int) -> None:
    sizes = ModelSizes({"config.json": CONFIG | config})
    assert sizes.packed(f"{layer}.weight", (HIDDEN, width), 16) == 0


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_the_layer_before_says_how_many_inputs_there_are(dtype: str) -> None:
    """Griffin has half of `intermediate_size` there (RecurrentGemmaMlp of transformers)."""
    down = {"m.down_proj.weight": ("BF16", (HIDDEN, INNER // 2))}
    up: dict[str, Any] = {"m.up_proj.weight": (dtype, (INNER // 2, HIDDEN))}
    if dtype != "BF16":
        up["m.up_proj.weight_scale"] = ("F32", (1,))
    assert resolved(down | up, "fp8").notes == []
    for shape in ((INNER, HIDDEN), (INNER // 2, HIDDEN // 2)):
        with pytest.raises(UnsupportedError):
            resolved(down | {"m.up_proj.weight": ("BF16", shape)}, "fp8")
    decoded = {"m.down_proj.weight": ("F8_E4M3", (HIDDEN, INNER // 2))}
    decoded |= {"m.down_proj.weight_scale": ("F32", (1,))}
    noted = any("1,536" in note for note in resolved(decoded, "fp8").notes)
    assert noted
    assert resolved(decoded | up, "fp8").notes == []


@pytest.mark.parametrize("key", ["head_dim", "hidden_size", "num_heads", "vocab_size"])
def test_a_long_list_of_sizes_takes_no_time_and_says_nothing(key: str) -> None:
    """Heads are multiplied by their sizes, and every pair of these is added."""
    sizes = ModelSizes({"config.json": {"num_heads": 4, key: [n * n for n in range(1, 2_000)]}})
    assert sizes.packed("m.q_proj.weight", (HEADS * HEAD, HIDDEN // 2), 16) == 0
    many = {"head_dim": [n * n for n in range(1, 400)], "num_heads": list(range(1, 400))}
    with within(1):
        ModelSizes({"config.json": many})


def test_a_tower_has_the_size_of_its_own_part() -> None:
    sizes = ModelSizes({"config.json": CONFIG | {"vision_config": {"hidden_size": 768}}})
    assert sizes.packed("visual.blocks.0.attn.q_proj.weight", (768, 144), 16) == 768
    assert sizes.packed("model.layers.0.attn.q_proj.weight", (768, 144), 16) == 0
    mistral = ModelSizes({"params.json": {"dim": 512, "hidden_dim": 1536}})
    assert mistral.packed("layers.0.feed_forward.w2.weight", (512, 384), 16) == 1536


def test_decoded_layers_of_other_inputs_than_the_model_s_are_noted() -> None:
    """Symmetric GPTQ without zero points: the product of width and group size alone is known."""
    parts = {"q_proj.qweight": ("I32", (64, 32)), "q_proj.scales": ("F16", (8, 32))}
    for bits, group, said in ((4, 64, False), (8, 32, True)):
        book = resolved(parts, "gptq", bits=bits, group_size=group, sym=True)
        assert book.tensors["q_proj.weight"].shape == (32, 64 * 32 // bits)
        assert any("decoded with 256 inputs" in note for note in book.notes) == said
