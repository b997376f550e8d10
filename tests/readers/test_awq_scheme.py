"""How AWQ modules are told from GPTQ's and from each other: by shapes, the config is a hint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_models import ledger_of

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes import resolve

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "awq"
Shapes = dict[str, tuple[str, tuple[int, ...]]]
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}


def gemm(inputs: int = 256, outputs: int = 96, group: int = 64, **other: Any) -> Shapes:
    groups = -(-inputs // group)
    parts: Shapes = {
        "qweight": ("I32", (inputs, outputs // 8)),
        "qzeros": ("I32", (groups, outputs // 8)),
        "scales": ("F16", (groups, outputs)),
    }
    return {role: part for role, part in (parts | other).items() if part}


def gemv(inputs: int, outputs: int, width: int, **other: Any) -> Shapes:
    parts: Shapes = {
        "qweight": ("I32", (outputs, inputs // 8)),
        "qzeros": ("I32", (outputs, width)),
        "scales": ("F16", (outputs, 8 * width)),
    }
    return {role: part for role, part in (parts | other).items() if part}


def resolved(parts: Shapes, config: Any = None) -> Tensor:
    book = ledger_of(parts, config or None, prefix="model.q_proj.")
    resolve(book)
    assert not list(book.free())
    return book.tensors["model.q_proj.weight"]


@pytest.mark.parametrize("config", [None, AWQ, AWQ | {"version": "GEMM"}, {"quant_method": "gptq"}])
def test_gemm(config: Any) -> None:
    tensor = resolved(gemm(), config)
    assert (tensor.shape, tensor.scheme, tensor.encoding) == ((96, 256), "awq", "awq-gemm")
    assert (tensor.orientation, tensor.unit_elems, tensor.unit_multiple) == ("transposed", 256, 8)
    assert {c.role: c.placement for c in tensor.components} == {
        "qweight": Strided(4, 48),
        "scales": Strided(16, 192),
        "qzeros": Strided(4, 48),
    }
    assert tensor.params["group_size"] == 64
    assert tensor.params["act_order"] is False


def test_a_square_weight_is_transposed_all_the_same() -> None:
    assert resolved(gemm(128, 128), AWQ).orientation == "transposed"
    assert resolved(gemv(128, 128, 2), AWQ | {"version": "gemv"}).orientation == "as-stored"


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_scale_dtypes(dtype: str) -> None:
    tensor = resolved(gemm(scales=(dtype, (4, 96))), AWQ)
    assert tensor.components[1].placement.line_bytes == 96 * (4 if dtype == "F32" else 2)
    with pytest.raises(FormatError, match=r"scales.*dtype I32"):
        resolved(gemm(scales=("I32", (4, 96))), AWQ)


@pytest.mark.parametrize(
    ("inputs", "width", "declared", "groups"),
    [
        (576, 2, 64, 9),
        (576, 2, None, 9),
        (576, 2, 128, 9),  # the config lies: 128 would make one word
        (576, 4, 32, 18),
        (1536, 2, 128, 12),
        (4096, 4, 128, 32),
        (4096, 8, 64, 64),
        (256, 1, -1, 1),
    ],
)
def test_gemv(inputs: int, width: int, declared: int | None, groups: int) -> None:
    config = AWQ | {"version": "gemv", "group_size": declared}
    tensor = resolved(gemv(inputs, 40, width), config)
    assert (tensor.shape, tensor.encoding, tensor.orientation) == (
        (40, inputs),
        "awq-gemv",
        "as-stored",
    )
    assert tensor.params["groups"] == groups
    assert {type(c.placement) for c in tensor.components} == {Contiguous}


def test_gemv_of_a_width_that_no_group_size_makes() -> None:
    with pytest.raises(FormatError, match="5 words of zeros a row for 576 inputs"):
        resolved(gemv(576, 40, 5), AWQ | {"version": "gemv"})


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"version": "exllama"}, "ExLlama"),
        ({"version": "exllamav2"}, "ExLlamaV2"),
        ({"version": "marlin"}, "Marlin"),
        ({"version": "ipex"}, "IPEX"),
        ({"backend": "llm-awq"}, "llm-awq"),
    ],
    ids=str,
)
def test_repacked_versions_are_refused_by_name(config: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        resolved(gemm(), AWQ | config)


def test_quarks_export_has_other_names_and_may_have_another_order() -> None:
    parts = gemm()
    named = {"qweight": parts["qweight"], "qqzeros": parts["qzeros"], "qscales": parts["scales"]}
    for order in ({}, {"pack_method": "reorder"}, {"export": {"pack_method": "reorder"}}):
        found, wanted = (resolved(some, AWQ | order) for some in (named, parts))
        assert (found.encoding, found.params) == (wanted.encoding, wanted.params)
    for order in ({"pack_method": "order"}, {"export": {"pack_method": "order"}}):
        for some in (parts, named):
            with pytest.raises(UnsupportedError, match="pack_method 'order'"):
                resolved(some, AWQ | order)


def fast(inputs: int, outputs: int, width: int, **other: Any) -> Shapes:
    parts: Shapes = {
        "qweight": ("I16", (outputs // 4, inputs)),
        "qzeros": ("F16", (8 * width, outputs)),
        "scales": ("F16", (8 * width, outputs)),
    }
    return {role: part for role, part in (parts | other).items() if part}


@pytest.mark.parametrize("config", [None, AWQ, AWQ | {"version": "gemv_fast"}, {"bits": 4}])
def test_gemv_fast_is_told_by_its_tensors(config: Any) -> None:
    tensor = resolved(fast(256, 96, 1), config)
    assert (tensor.encoding, tensor.shape, tensor.units) == ("awq-gemv-fast", (96, 256), 24)
    assert (tensor.params["groups"], tensor.orientation) == (2, "as-stored")


@pytest.mark.parametrize(
    "parts",
    [
        fast(256, 96, 1, scales=("F16", (8, 92))),
        fast(256, 96, 1, scales=("BF16", (8, 96))),
        fast(256, 96, 1, qzeros=("F16", (16, 96))),
        fast(256, 96, 1, scales=("F16", (7, 96)), qzeros=("F16", (7, 96))),
        fast(256, 96, 1, qweight=("I16", (23, 256))),
        fast(224, 96, 1),
        fast(256, 96, 3),
    ],
    ids=str,
)
def test_gemv_fast_that_does_not_fit(parts: Shapes) -> None:
    with pytest.raises(FormatError, match=r"GEMV-fast|words of zeros a row"):
        resolved(parts, AWQ)


def test_empty_gemv_fast() -> None:
    assert resolved(fast(0, 96, 0), AWQ).elems == 0
    assert resolved(fast(256, 0, 1), AWQ).elems == 0


def test_llm_awq_has_another_name_for_its_zeros() -> None:
    parts = fast(256, 96, 1, qzeros=(), scaled_zeros=("F16", (8, 96)))
    for config in (None, {"quant_method": "awq", "bits": 4}):
        tensor = resolved(parts, config)
        assert (tensor.encoding, tensor.shape) == ("awq-gemv-fast", (96, 256))
    for wrong in ({"scales": ("BF16", (8, 96))}, {"scaled_zeros": ("I16", (8, 96))}):
        with pytest.raises(FormatError, match="GEMV-fast"):
            resolved({**parts, **wrong}, None)


def gemm_of(bits: int, outputs: int = 96) -> Shapes:
    words = outputs * bits // 32
    return gemm(outputs=outputs, qweight=("I32", (256, words)), qzeros=("I32", (4, words)))


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_streams_of_autoround(bits: int) -> None:
    packed = {"quant_method": "auto-round", "bits": bits, "packing_format": "auto_round:auto_awq"}
    for config in (None, packed, {"quant_method": "awq", "bits": bits, "version": "gemm"}):
        tensor = resolved(gemm_of(bits), config)
        assert (tensor.shape, tensor.encoding) == ((96, 256), "awq-stream")
        assert (tensor.orientation, tensor.unit_multiple) == ("transposed", 32)
        assert (tensor.params["bits"], tensor.params["group_size"]) == (bits, 64)
        assert tensor.components[0].placement == Strided(bits, 96 * bits // 8)


@pytest.mark.parametrize(("bits", "outputs"), [(2, 96), (3, 96), (8, 96), (6, 80)])
def test_other_bits_are_refused(bits: int, outputs: int) -> None:
    parts = gemm_of(bits, outputs)
    config = {"quant_method": "auto-round", "bits": bits, "packing_format": "auto_round:auto_awq"}
    with pytest.raises(UnsupportedError, match=f"AWQ of {bits} bits"):
        resolved(parts, config)


def test_auto_round_s_awq() -> None:
    config = {"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_awq"}
    assert resolved(gemm(), config).encoding == "awq-gemm"


def test_names_of_old_configs() -> None:
    old = {"quant_method": "awq", "w_bit": 4, "q_group_size": 128}
    assert resolved(gemm(576, group=128), old).params["group_size"] == 128


@pytest.mark.parametrize(
    "bad",
    [{"bits": 9}, {"bits": 0}, {"group_size": 0}, {"group_size": -5}, {"group_size": 3}],
    ids=str,
)
def test_impossible_configs(bad: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        resolved(gemm(), AWQ | bad)


@pytest.mark.parametrize(
    "other",
    [
        {"qweight": ("I32", (256, 13))},
        {"qweight": ("I64", (256, 12))},
        {"qweight": ("I32", (256 * 12,))},
        {"qzeros": ("I32", (4, 11))},
        {"qzeros": ("I32", (3, 12))},
        {"scales": ("F16", (4, 95))},
        {"scales": ("F16", (4,))},
    ],
    ids=str,
)
def test_shapes_that_disagree(other: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"model\.safetensors: tensor 'model\.q_proj"):
        resolved(gemm(**other), AWQ)


@pytest.mark.parametrize("shape", [(0, 96), (256, 0)], ids=str)
def test_empty(shape: tuple[int, int]) -> None:
    tensor = resolved(gemm(*shape), AWQ)
    assert tensor.shape == shape[::-1]
    assert tensor.elems == 0


def test_beside_gptq_in_one_file(tmp_path: Path) -> None:
    """Two schemes and a dense layer in one checkpoint, each told by its own tensors."""
    rng = np.random.default_rng(4)

    def words(*shape: int) -> Any:
        return rng.integers(-(2**31), 2**31, shape, dtype=np.int32)

    scales = np.full((2, 32), 0.5, np.float16)
    tensors = {
        "a.qweight": words(64, 4),
        "a.qzeros": words(2, 4),
        "a.scales": scales,
        "b.qweight": words(8, 32),
        "b.qzeros": words(2, 4),
        "b.scales": scales,
        "b.g_idx": np.arange(64, dtype=np.int32) // 32,
        "c.weight": np.ones((32, 64), np.float16),
    }
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    found = {t.name: t.scheme for t in load_model(str(tmp_path)).tensors}
    assert found == {"a.weight": "awq", "b.weight": "gptq", "c.weight": "passthrough"}
    anamnesis.remember(tmp_path, tmp_path / "out.safetensors", threads=1)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the checkout")
def test_corpus_settings() -> None:
    for folder in sorted(CORPUS.iterdir()):
        if "fast" in folder.name:
            continue
        quantised = [t for t in load_model(str(folder)).tensors if t.scheme == "awq"]
        assert quantised
        for tensor in quantised:
            assert tensor.params["group_size"] == 64
            assert tensor.params["version"] in folder.name
