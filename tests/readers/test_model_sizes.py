"""A layer of floats that has a part of its inputs, as codes would, is not dense by its dtype."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import ledger_of

from anamnesis.errors import UnsupportedError
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes._model_sizes import ModelSizes

HIDDEN, INNER = 512, 1536
CONFIG = {"hidden_size": HIDDEN, "intermediate_size": INNER}
METHODS = ("awq", "bitsandbytes", "fp8", "gptq", "hqq", "modelopt", "torchao")
LAYERS = {
    "lm_head": HIDDEN,
    "model.embed_tokens": HIDDEN,
    "model.layers.0.mlp.down_proj": INNER,
    "model.layers.0.mlp.up_proj": HIDDEN,
    "model.layers.0.self_attn.q_proj": HIDDEN,
}


def resolved(parts: Any, method: str | None, **more: Any) -> Any:
    about = {} if method is None else {"quantization_config": {"quant_method": method, **more}}
    book = ledger_of(parts, configs={"config.json": {**CONFIG, **about}})
    resolve(book)
    return book


@settings(deadline=None)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    dtype=st.sampled_from(["BF16", "F16", "F32", "F64"]),
    code_bits=st.integers(1, 8),
    method=st.sampled_from(METHODS),
    flat=st.booleans(),
)
def test_codes_in_a_container_of_floats_are_never_dense(
    layer: str, dtype: str, code_bits: int, method: str, flat: bool
) -> None:
    width, rest = divmod(LAYERS[layer] * code_bits, DTYPES[dtype].bits)
    assert not rest
    shape = (640 * width, 1) if flat else (640, width)
    parts = {f"{layer}.weight": (dtype, shape)}
    with pytest.raises(UnsupportedError):
        resolved(parts, method)
    book = resolved(parts, None)  # nothing says that anything is quantised
    assert [t.scheme for t in book.tensors.values()] == ["passthrough"]
    book = resolved(parts, method, modules_to_not_convert=[layer])
    assert [t.scheme for t in book.tensors.values()] == ["passthrough"]


@pytest.mark.parametrize(("layer", "inputs"), sorted(LAYERS.items()))
def test_layers_of_the_inputs_that_they_must_have_are_dense(layer: str, inputs: int) -> None:
    for width in (inputs, 2 * inputs):
        resolved({f"{layer}.weight": ("BF16", (64, width))}, "fp8")


def test_the_error_names_the_inputs_and_the_way_out() -> None:
    with pytest.raises(UnsupportedError) as caught:
        resolved({"lm_head.weight": ("BF16", (640, 128))}, "gptq")
    for text in ("lm_head.weight' (BF16 [640, 128])", "512 inputs", "(gptq)", "left alone"):
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
    assert ModelSizes({"config.json": CONFIG | config}).packed(layer, width, 16) == 0


def test_a_tower_has_the_size_of_its_own_part() -> None:
    sizes = ModelSizes({"config.json": CONFIG | {"vision_config": {"hidden_size": 768}}})
    assert sizes.packed("visual.blocks.0.attn.q_proj", 144, 16) == 768
    assert sizes.packed("model.layers.0.attn.q_proj", 144, 16) == 0
    mistral = ModelSizes({"params.json": {"dim": 512, "hidden_dim": 1536}})
    assert mistral.packed("layers.0.feed_forward.w2", 384, 16) == 1536


def test_decoded_layers_of_other_inputs_than_the_model_s_are_noted() -> None:
    """Symmetric GPTQ without zero points: the product of width and group size alone is known."""
    parts = {"q_proj.qweight": ("I32", (64, 32)), "q_proj.scales": ("F16", (8, 32))}
    for bits, group, said in ((4, 64, False), (8, 32, True)):
        book = resolved(parts, "gptq", bits=bits, group_size=group, sym=True)
        assert book.tensors["q_proj.weight"].shape == (32, 64 * 32 // bits)
        assert any("decoded with 256 inputs" in note for note in book.notes) == said
