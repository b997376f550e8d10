"""Configurations that contradict the tensors: the tensors are followed, and a note says so."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import ledger_of

from anamnesis.readers.schemes import resolve

AWQ: Any = {
    "l.q.qweight": ("I32", (64, 4)),
    "l.q.qzeros": ("I32", (2, 4)),
    "l.q.scales": ("F16", (2, 32)),
}
MXFP4: Any = {"l.q.weight": ("U32", (64, 8)), "l.q.scales": ("U8", (64, 2))}
MXFP8: Any = {"l.q.weight": ("U32", (64, 16)), "l.q.scales": ("U8", (64, 2))}
PACKED: Any = {
    "experts.down_proj_packed": ("I32", (4, 64, 8)),
    "experts.down_proj_scale": ("BF16", (4, 64, 2)),
}
ZEROS: Any = {"experts.down_proj_zero_point": ("I32", (4, 8, 2))}


def ct(*, symmetric: bool) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}
    group = {"weights": {**weights, "symmetric": symmetric}, "targets": ["Linear"]}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": group},
    }


def awq(**more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": 32, **more}


def notes(parts: Any, config: dict[str, Any]) -> list[str]:
    book = ledger_of(parts, configs={"config.json": config})
    resolve(book)
    return book.notes


@pytest.mark.parametrize(
    ("parts", "about", "said"),
    [
        (AWQ, awq(version="gemv"), "layout of version 'gemm', while the configuration says 'gemv'"),
        (AWQ, awq(version="gemm"), ""),
        (AWQ, awq(zero_point=False), "while the configuration says zero_point: false"),
        (AWQ, awq(zero_point=True), ""),
        ({**PACKED, **ZEROS}, ct(symmetric=True), "says that all weights are symmetric"),
        ({**PACKED, **ZEROS}, ct(symmetric=False), ""),
        (PACKED, ct(symmetric=True), ""),
    ],
)
def test_zero_points_and_versions_are_the_tensors(parts: Any, about: Any, said: str) -> None:
    found = notes(parts, {"quantization_config": about})
    assert [said in note for note in found] == [True] * bool(said)


@pytest.mark.parametrize(
    ("parts", "block", "said"),
    [
        (MXFP4, {"bits": 4, "group_size": 32, "mode": "mxfp4"}, ""),
        (MXFP4, {"bits": 4, "group_size": 32, "mode": "affine"}, "mode affine"),
        (MXFP4, {"bits": 4, "group_size": 32}, "mode affine, or none"),
        (MXFP8, {"bits": 4, "group_size": 32, "mode": "mxfp4"}, "taken as mlx-mxfp8"),
        (MXFP8, {"bits": 4, "mode": "mxfp4", "l.q": {"bits": 8, "mode": "mxfp8"}}, ""),
    ],
)
def test_modes_of_mlx_are_the_tensors(parts: Any, block: Any, said: str) -> None:
    found = notes(parts, {"quantization": block})
    assert [said in note for note in found] == [True] * bool(said)


@pytest.mark.parametrize("hidden", [128, 64])
def test_inputs_of_which_the_model_has_a_part_are_noted(hidden: int) -> None:
    """Four bits in groups of 64, or eight in groups of 32: the tensors hold either."""
    parts = {"l.q_proj.qweight": ("I32", (16, 32)), "l.q_proj.scales": ("F16", (2, 32))}
    about = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}
    found = notes(parts, {"hidden_size": hidden, "quantization_config": about})
    assert ["has 64: the width of its codes" in n for n in found] == [True] * (hidden == 64)


@pytest.mark.parametrize("name", ["h.attn.mixed", "l.attention.probe", "b.attn.to_q", "l.ff1"])
@pytest.mark.parametrize("width", [16, 32, 64, 48, 96])
def test_floats_of_any_name_with_a_part_of_the_inputs_are_noted(name: str, width: int) -> None:
    parts = {f"{name}.weight": ("BF16", (128, width)), "n.weight": ("BF16", (96,))}
    config = {"hidden_size": 64, "other_size": 48, "quantization_config": {"quant_method": "fp8"}}
    said = [f"'{name}.weight'" in note and "(64)" in note for note in notes(parts, config)]
    assert said == [True] * (width in (16, 32))
    assert notes(parts, {"hidden_size": 64}) == []
    config["quantization_config"]["ignore"] = [name]  # type: ignore[index]
    assert notes(parts, config) == []


def test_a_scale_of_a_shard_s_own_beside_that_of_the_table_is_noted() -> None:
    shards = {f"t.shard_{i}.weight": ("F8_E4M3", (8, 16)) for i in range(2)}
    shared = {**shards, "t.weight_scale": ("F32", (1,))}
    config = {"quantization_config": {"quant_method": "fp8"}}
    assert notes(shared, config) == []
    (note,) = notes({**shared, "t.shard_1.weight_scale": ("F32", (1,))}, config)
    assert "'t.shard_1.weight' (F8_E4M3 [8, 16]): decoded with the scale of its own" in note


@pytest.mark.parametrize(
    ("order", "more", "said"),
    [
        ("group", {}, True),
        (True, {}, True),
        ("group", {"l.q.weight_g_idx": ("I32", (64,))}, False),
        ("weight", {}, False),
        (None, {}, False),
    ],
)
def test_an_order_of_inputs_that_nothing_holds_is_noted(order: Any, more: Any, said: bool) -> None:
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "group"}
    group = {"targets": ["Linear"], "weights": {**weights, "group_size": 32, "actorder": order}}
    parts = {"l.q.weight": ("I8", (32, 64)), "l.q.weight_scale": ("BF16", (32, 2)), **more}
    about = {"quant_method": "compressed-tensors", "config_groups": {"g": group}}
    found = notes(parts, {"quantization_config": {**about, "format": "int-quantized"}})
    assert ["no weight_g_idx beside it" in note for note in found] == [True] * said


@pytest.mark.parametrize(
    ("bits", "size", "said"), [(4, 64, False), (8, 32, True), (None, 64, False)]
)
def test_two_blocks_of_mlx_that_differ_are_noted(bits: Any, size: int, said: bool) -> None:
    parts = {f"l.q.{part}": ("F16", (32, 2)) for part in ("scales", "biases")}
    parts["l.q.weight"] = ("U32", (32, 16))
    first, other = {"bits": 4, "group_size": 64}, {"group_size": size}
    config = {
        "quantization": first,
        "quantization_config": {"bits": bits, **other} if bits else other,
    }
    assert [str(first) in note for note in notes(parts, config)] == [True] * said
