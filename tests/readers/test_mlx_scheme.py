"""How MLX's layers are told: by words and scales, and by a config where those leave a choice."""

from __future__ import annotations

import json
import re
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
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "mlx"
Shapes = dict[str, tuple[str, tuple[int, ...]]]
FIT = {
    32: [(1, 32)],
    64: [(2, 32), (1, 64)],
    96: [(3, 32)],
    128: [(4, 32), (2, 64), (1, 128)],
    160: [(5, 32)],
    192: [(6, 32), (3, 64)],
    256: [(8, 32), (4, 64), (2, 128)],
    320: [(5, 64)],
    384: [(6, 64), (3, 128)],
    512: [(8, 64), (4, 128)],
    640: [(5, 128)],
    768: [(6, 128)],
    1024: [(8, 128)],
}


def affine(bits: int = 4, size: int = 64, groups: int = 3, *lead: int, **other: Any) -> Shapes:
    lead = lead or (40,)
    parts: Shapes = {
        "weight": ("U32", (*lead, groups * size * bits // 32)),
        "scales": ("BF16", (*lead, groups)),
        "biases": ("BF16", (*lead, groups)),
    }
    return {role: part for role, part in (parts | other).items() if part}


def floats(words: int, groups: int, *lead: int, **other: Any) -> Shapes:
    lead = lead or (40,)
    parts: Shapes = {"weight": ("U32", (*lead, words)), "scales": ("U8", (*lead, groups))}
    return parts | other


def ledger(parts: Shapes, config: Any = None, layer: str = "model.layers.0.q_proj.") -> Ledger:
    configs = {"config.json": config} if config else {}
    return ledger_of(parts, prefix=layer, configs=configs)


def test_auto_round_writes_mlx_s_layout() -> None:
    """AutoRound 0.16.1's `auto_round:mlx`: MLX's block, and its own beside it."""
    own = {"quant_method": "auto-round", "packing_format": "mlx", "bits": 8, "group_size": 32}
    block = {"group_size": 32, "bits": 8, "model.layers.0.q_proj": {"group_size": 32, "bits": 8}}
    book = ledger(affine(8, 32), {"quantization": block, "quantization_config": own})
    resolve(book)
    (tensor,) = book.tensors.values()
    assert (tensor.scheme, tensor.params["bits"]) == ("mlx-affine", 8)
    assert book.notes == []


def resolved(parts: Shapes, config: Any = None, layer: str = "model.layers.0.q_proj.") -> Tensor:
    book = ledger(parts, config, layer)
    resolve(book)
    assert not list(book.free())
    return book.tensors[f"{layer}weight"]


def quantization(size: Any, bits: Any, **more: Any) -> dict[str, Any]:
    block = {"group_size": size, "bits": bits, "mode": "affine", **more}
    return {"quantization": block, "quantization_config": block}


def sizes(tensor: Tensor) -> tuple[Any, Any]:
    return tensor.params["bits"], tensor.params["group_size"]


@pytest.mark.parametrize("product", FIT)
def test_shapes_alone(product: int) -> None:
    for bits, size in FIT[product]:
        if len(FIT[product]) == 1:
            tensor = resolved(affine(bits, size))
            assert (tensor.shape, sizes(tensor)) == ((40, 3 * size), (bits, size))
        else:
            with pytest.raises(FormatError) as caught:
                resolved(affine(bits, size))
            assert f"may be {bits} bits in groups of {size}" in str(caught.value) or (
                f"or {bits} bits in groups of {size}" in str(caught.value)
            )
            assert "put a config.json beside the file" in str(caught.value)


@pytest.mark.parametrize("product", FIT)
def test_with_a_config(product: int) -> None:
    for bits, size in FIT[product]:
        tensor = resolved(affine(bits, size), quantization(size, bits))
        assert (tensor.name, tensor.shape) == ("model.layers.0.q_proj.weight", (40, 3 * size))
        assert (tensor.scheme, tensor.encoding) == ("mlx-affine", "mlx-affine")
        assert (tensor.orientation, tensor.unit_elems) == ("as-stored", 3 * size)
        assert sizes(tensor) == (bits, size)
        assert {c.role: c.placement for c in tensor.components} == {
            "payload": Contiguous(3 * product),
            "scales": Contiguous(48),
            "biases": Contiguous(48),
        }


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (quantization(64, 4), (4, 64)),
        (quantization(32, 4), None),  # does not fit, and several do
        ({"quantization_config": {"group_size": 64, "bits": 4}}, (4, 64)),
        ({"quantization_config": {"quant_method": "metal", "group_size": 32, "bits": 8}}, (8, 32)),
        ({"quantization_config": {"quant_method": "gptq", "group_size": 64, "bits": 4}}, None),
        ({"text_config": {"quantization": {"group_size": 128, "bits": 2}}}, (2, 128)),
        ({"quantization": {"bits": 4}}, (4, 64)),
        ({"quantization": {"group_size": 128}}, (2, 128)),
        ({"quantization": {"mode": "affine"}}, None),
        ({"model_type": "llama"}, None),
        (quantization(64, 8, **{"model.layers.0.q_proj": {"group_size": 64, "bits": 4}}), (4, 64)),
        (quantization(64, 8, **{"layers.0.q_proj": {"group_size": 32, "bits": 8}}), (8, 32)),
        (quantization(64, 4, **{"model.layers.0.q_proj": {"group_size": 64, "bits": 8}}), (4, 64)),
        (quantization(64, 4, **{"model.layers.0.q_proj": False}), (4, 64)),
        (quantization(64, 8, **{"model.layers.1.q_proj": {"group_size": 64, "bits": 4}}), None),
    ],
    ids=str,
)
def test_what_the_config_decides(config: Any, found: tuple[int, int] | None) -> None:
    if found:
        assert sizes(resolved(affine(4, 64), config)) == found
    else:
        with pytest.raises(FormatError, match="8 bits in groups of 32"):
            resolved(affine(4, 64), config)


def test_unusual_group_sizes_need_the_config() -> None:
    assert sizes(resolved(affine(4, 96), quantization(96, 4))) == (4, 96)
    assert sizes(resolved(affine(3, 1024, 1), quantization(1024, 3))) == (3, 1024)
    for size, config in ((16, quantization(16, 5)), (96, None), (48, quantization(48, 6))):
        with pytest.raises(FormatError, match="groups of"):
            resolved(affine(5 if size == 16 else 6, size, 4), config)


def test_a_config_that_fits_nothing_gives_way_to_the_tensors() -> None:
    assert sizes(resolved(affine(5, 64), quantization(64, 4))) == (5, 64)


@pytest.mark.parametrize(
    "bad",
    [(0, 4), (-64, 4), ("64", 4), (True, 4), (64, 7), (64, 0), (64, "4"), (64, 16), (64, 4.0)],
    ids=str,
)
def test_configs_that_no_tool_writes(bad: tuple[Any, Any]) -> None:
    for config in (
        quantization(*bad),
        quantization(64, 4, lm_head={"group_size": bad[0], "bits": bad[1]}),
    ):
        with pytest.raises(FormatError, match=r"config\.json.*(group_size|bits): "):
            resolved(affine(), config)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("biases", ["biases", "qbiases"])
def test_dtypes_and_both_kinds_of_biases(dtype: str, biases: str) -> None:
    parts = affine(scales=(dtype, (40, 3)), biases=None)
    parts[biases] = (dtype, (40, 3))
    tensor = resolved(parts, quantization(64, 4))
    assert tensor.params["order"] == ("mlx" if biases == "biases" else "metal")
    assert tensor.params["scale_dtype"] == dtype
    assert tensor.components[1].placement.unit_bits == 3 * (32 if dtype == "F32" else 16)


@pytest.mark.parametrize("layer", ["", "embed_tokens.", "a.b.switch_mlp.up_proj."])
def test_names(layer: str) -> None:
    assert resolved(affine(5), layer=layer).name == f"{layer}weight"


def test_experts_and_a_linear_s_own_bias() -> None:
    parts = affine(4, 64, 3, 8, 40) | {"bias": ("BF16", (8, 40))}
    book = ledger(parts, quantization(64, 4))
    resolve(book)
    assert book.tensors["model.layers.0.q_proj.weight"].shape == (8, 40, 192)
    assert book.tensors["model.layers.0.q_proj.bias"].scheme == "passthrough"


@pytest.mark.parametrize(
    ("mode", "words", "groups", "inputs", "encoding"),
    [
        ("mxfp4", 8, 2, 64, "fp4-mx"),
        ("nvfp4", 8, 4, 64, "fp4-nv"),
        ("mxfp8", 16, 2, 64, "fp8-e4m3"),
    ],
)
def test_modes(mode: str, words: int, groups: int, inputs: int, encoding: str) -> None:
    for lead in ((40,), (3, 40)):
        for config in (None, quantization(64, 4), quantization(32, 4, mode="mxfp8")):
            tensor = resolved(floats(words, groups, *lead), config)
            assert (tensor.shape, tensor.unit_elems) == ((*lead, inputs), inputs)
            assert (tensor.scheme, tensor.encoding) == (f"mlx-{mode}", encoding)
            assert [c.role for c in tensor.components] == ["payload", "scale"]
            assert tensor.params["rows"] == 40
            assert tensor.components[1].placement.windowed is (mode != "mxfp8")
            if mode == "mxfp8":
                assert tensor.params["grid"] == (3 if len(lead) > 1 else 1, 40, 2)
                assert tensor.params["block"] == (1, 32)


def test_global_scales() -> None:
    fitting: list[Any] = [((40,), ()), ((40,), (1,)), ((3, 40), (3,)), ((3, 40), ())]
    for lead, shape in fitting:
        tensor = resolved(floats(8, 4, *lead, global_scale=("F32", shape)))
        assert [c.role for c in tensor.components] == ["payload", "scale", "global"]
        assert tensor.params["global_unit"] == 2688
    others: list[Any] = [
        (8, 2, "F32", (1,)),  # mxfp4
        (8, 4, "F16", (1,)),
        (8, 4, "F32", (2,)),
        (8, 4, "F32", (1, 1, 1, 1)),
    ]
    for words, groups, dtype, shape in others:
        with pytest.raises(FormatError, match="global_scale"):
            resolved(floats(words, groups, global_scale=(dtype, shape)))
    with pytest.raises(FormatError, match="global_scale, which only nvfp4 has"):
        resolved(affine(5, global_scale=("F32", (1,))))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"scales": None}, "no 'model.layers.0.q_proj.scales' beside it"),
        ({"biases": None}, "no biases (MLX) and no qbiases (Metal)"),
        ({"weight": None}, "no 'model.layers.0.q_proj.weight' beside it"),
        ({"qbiases": ("BF16", (40, 3))}, "allowed is one of the two"),
        ({"weight": ("I32", (40, 30))}, "dtype I32; allowed beside scales and biases is U32"),
        ({"weight": ("U32", (1200,))}, "scales are [rows, groups]"),
        ({"weight": ("U32", (39, 30))}, "scales are [rows, groups]"),
        ({"weight": ("U32", (40, 1, 30))}, "scales are [rows, groups]"),
        ({"weight": ("U32", (40, 31))}, "31 words of 32 bits do not divide into 3 groups"),
        ({"weight": ("U32", (40, 0))}, "0 words of 32 bits"),
        ({"weight": ("U32", (40, 21))}, "no bits of 1, 2, 3, 4, 5, 6, 8 in groups of 32, 64, 128"),
        ({"scales": ("BF16", (40, 0)), "biases": ("BF16", (40, 0))}, "divide into 0 groups"),
        ({"scales": ("I32", (40, 3))}, "dtype I32; allowed is BF16, F16, F32, U8"),
        ({"scales": ("F8_E4M3", (40, 3))}, "dtype F8_E4M3; allowed"),
        ({"scales": ("F16", (40, 3))}, "biases have the dtype and the shape of scales"),
        ({"biases": ("BF16", (40, 2))}, "biases have the dtype and the shape of scales"),
        ({"scales": ("U8", (40, 3))}, "biases beside scales of U8"),
        ({"scales": ("U8", (40, 3)), "biases": None}, "groups of 320 bits under U8 scales"),
    ],
    ids=str,
)
def test_incomplete_and_misfitting_layers(other: dict[str, Any], what: str) -> None:
    for config in (None, quantization(64, 5)):
        with pytest.raises(FormatError, match=re.escape(what)) as caught:
            resolved(affine(5, 64, **other), config)
        assert str(caught.value).startswith("model.safetensors: tensor 'model.layers.0.q_proj.")


def test_words_without_scales_are_dense_where_nothing_speaks_of_mlx() -> None:
    parts: Shapes = {"weight": ("U32", (40, 30))}
    assert resolved(parts).scheme == "passthrough"
    with pytest.raises(FormatError, match=r"no 'model.layers.0.q_proj.scales' beside it"):
        resolved(parts, quantization(64, 4))
    with pytest.raises((FormatError, UnsupportedError)):
        resolved({"qbiases": ("BF16", (40, 3))})


@pytest.mark.parametrize("shape", [(0, 3), (40, 0)], ids=str)
def test_empty(shape: tuple[int, int]) -> None:
    rows, groups = shape
    for parts in (affine(5, 64, groups, rows), floats(4 * groups, groups, rows)):
        tensor = resolved(parts)
        assert tensor.shape[0] == rows
        assert tensor.elems == 0


def test_sizes_that_overflow() -> None:
    tensor = resolved(affine(5, 64, 1 << 40, 1 << 40))
    assert tensor.elems == 64 << 80


def test_empty_layers_convert(tmp_path: Path) -> None:
    tensors = {
        "a.weight": np.zeros((0, 10), np.uint32),
        "a.scales": np.zeros((0, 1), np.float16),
        "a.biases": np.zeros((0, 1), np.float16),
        "b.weight": np.zeros((0, 8), np.uint32),
        "b.scales": np.zeros((0, 1), np.uint8),
        "c.weight": np.zeros((3, 0), np.uint32),
        "c.scales": np.zeros((3, 0), np.uint8),
        "d.weight": np.zeros((0, 2), np.uint32),
        "d.scales": np.zeros((0, 1), np.uint8),
        "norm.weight": np.ones(3, np.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    out = tmp_path / "out.safetensors"
    anamnesis.remember(tmp_path / "model.safetensors", out, threads=1)
    model = anamnesis.open_model(out)
    assert {
        name: model[name].to_numpy().shape for name in "abcd" for name in [f"{name}.weight"]
    } == {
        "a.weight": (0, 64),
        "b.weight": (0, 32),
        "c.weight": (3, 0),
        "d.weight": (0, 16),
    }


def test_beside_other_schemes_in_one_file(tmp_path: Path) -> None:
    """MLX, AWQ, its own dense layers and a router called `scales`, each told by its tensors."""
    rng = np.random.default_rng(4)

    def words(*shape: int) -> Any:
        return rng.integers(0, 2**32, shape, dtype=np.uint32)

    grid = np.full((32, 2), 0.5, np.float16)
    tensors = {
        "a.weight": words(32, 16),
        "a.scales": grid,
        "a.biases": grid,
        "b.weight": words(32, 8),
        "b.scales": np.full((32, 2), 127, np.uint8),
        "c.qweight": words(64, 4).view(np.int32),
        "c.qzeros": words(2, 4).view(np.int32),
        "c.scales": np.full((2, 32), 0.5, np.float16),
        "d.weight": np.ones((32, 64), np.float16),
        "d.bias": np.ones(32, np.float16),
        "router.scales": np.ones(3, np.float16),
        "router.biases": np.ones(3, np.float16),
    }
    (tmp_path / "config.json").write_text(json.dumps(quantization(64, 4)))
    save_file(tensors, tmp_path / "model.safetensors")
    found = {t.name: t.scheme for t in load_model(str(tmp_path)).tensors}
    assert found == {
        "a.weight": "mlx-affine",
        "b.weight": "mlx-mxfp4",
        "c.weight": "awq",
        **dict.fromkeys(("d.weight", "d.bias", "router.scales", "router.biases"), "passthrough"),
    }
    anamnesis.remember(tmp_path, tmp_path / "out.safetensors", threads=1)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the checkout")
def test_corpus_settings() -> None:
    for folder in sorted(CORPUS.iterdir()):
        stated = json.loads((folder / "config.json").read_text())["quantization"]
        quantised = [t for t in load_model(str(folder)).tensors if t.quantised]
        assert quantised
        for tensor in quantised:
            assert sizes(tensor) == (stated["bits"], stated["group_size"])
            assert tensor.scheme == f"mlx-{stated['mode']}"
