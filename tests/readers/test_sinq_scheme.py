"""SINQ's layers: what is read and what is refused; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

LAYER: dict[str, Any] = {
    "W_q": np.full((4, 32), 0x21, np.uint8),
    "meta.scale": np.full((8, 1), 2, np.float32),
    "meta.zero": np.ones((8, 1), np.float32),
    "meta.scale2": np.arange(64, dtype=np.float32).reshape(1, 64),
}
BLOCK: dict[str, Any] = {"method": "sinq", "nbits": 4, "group_size": 32}


def opened(folder: Path, parts: dict[str, Any], block: Any = BLOCK) -> Any:
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    config = {"quantization_config": {"quant_method": "sinq", **block}}
    (folder / "config.json").write_text(json.dumps(config))
    return anamnesis.open_model(folder)


def test_codes(tmp_path: Path) -> None:
    model = opened(tmp_path / "m", LAYER | {"meta.awq_scale": np.ones((1, 64), np.float32)})
    assert list(model) == ["x.weight"]
    values = model["x.weight"].to_numpy().astype(np.float32)
    first, last = LAYER["meta.scale2"] * 2, LAYER["meta.scale2"] * 0
    assert np.array_equal(values, np.concatenate([first, first, last, last]))


@pytest.mark.parametrize(
    ("parts", "block", "message"),
    [
        ({}, {"method": "sinq_noz"}, "method 'sinq_noz'"),
        ({}, {"method": "sinq_nf4_nf3"}, "method 'sinq_nf4_nf3'"),
        ({"meta.zero": np.ones((8, 1), np.float16)}, {"method": "sinq_nf4"}, "nf4 with F16"),
        ({}, {"method": None}, "method None"),
        ({}, {"nbits": 7}, "7 bits"),
        ({}, {"nbits": None}, "None bits"),
        (
            {
                "W_q": np.ones((32, 32), np.uint8),
                "meta.scale": np.ones((2, 32, 1), np.float32),
                "meta.zero": np.ones((2, 32, 1), np.float32),
                "meta.scale2": np.ones((2, 1, 32), np.float32),
            },
            {},
            "2D, of which neither a bias nor",
        ),
        ({"meta.scale": None, "meta": np.ones(8, np.uint8)}, {}, "not known"),
    ],
)
def test_what_is_refused(parts: Any, block: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        opened(tmp_path / "bad", LAYER | parts, BLOCK | block)


@pytest.mark.parametrize("method", ["sinq_nf4", "ASINQ_AWQ_L1_nf4_quantAux"])
def test_codes_of_a_table(method: str, tmp_path: Path) -> None:
    changed = {"W_q": np.full((4, 32), 0xF7, np.uint8), "meta.scale2": np.ones((1, 64), np.float32)}
    model = opened(tmp_path / "m", LAYER | changed, BLOCK | {"method": method})
    values = model["x.weight"].to_numpy().astype(np.float32)
    # The last number of the table is 1, number 7 is 0; less a zero of 1, by 2.
    assert np.array_equal(values, np.repeat(np.float32([[0], [0], [-2], [-2]]), 64, 1))


# Two bands of three tiles of 4 by 4: number n of the scales, and of the columns', is n.
TILES: dict[str, Any] = {
    "W_q": np.full((12, 4), 0x33, np.uint8),
    "meta.scale": np.arange(24, dtype=np.float32).reshape(6, 4, 1),
    "meta.zero": np.ones((6, 4, 1), np.float32),
    "meta.scale2": np.arange(24, dtype=np.float16).reshape(6, 1, 4),
}
BIAS = {"bias": np.zeros(8, np.float32)}


def test_square_tiles(tmp_path: Path) -> None:
    model = opened(tmp_path / "m", TILES | BIAS)
    row, column = np.indices((8, 12))
    first = (row // 4 * 3 + column // 4) * 4  # of the tile's numbers
    wanted = (2 * (first + row % 4) * (first + column % 4)).astype(np.float32)
    wanted = wanted.astype("bfloat16").astype(np.float32)
    assert np.array_equal(model["x.weight"].to_numpy().astype(np.float32), wanted)
    assert np.array_equal(model["x.weight"][5:7].astype(np.float32), wanted[5:7])


@pytest.mark.parametrize(
    "change",
    [
        {"bias": np.zeros(6, np.float32)},
        {"bias": np.zeros(5, np.float32)},
        {"meta.zero": np.ones((3, 4, 1), np.float32)},
        {"meta.zero": np.ones((24, 1), np.float32)},
        {"meta.scale": np.ones((6, 1, 4), np.float32)},
        {"meta.scale": np.ones((24, 1), np.float32)},
        {"meta.scale2": np.ones((6, 4, 1), np.float16)},
        {"meta.scale2": np.ones((3, 1, 4), np.float16)},
        {"meta.scale2": np.ones((1, 12), np.float16)},
        {"meta.scale2": np.ones((6, 1, 4), np.int16)},
        {"W_q": np.ones((11, 4), np.uint8)},
    ],
)
def test_tiles_that_do_not_fit(change: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path / "bad", TILES | BIAS | change)


@pytest.mark.parametrize("shape", [[8, 12], [12, 8], [4, 24]])
def test_the_sidecar_says_the_shape_of_tiles(shape: list[int], tmp_path: Path) -> None:
    assert sidecar(tmp_path / "m", TILES, shape=shape)["x.weight"].shape == tuple(shape)


@pytest.mark.parametrize("shape", [[8], [8, 8], [6, 16], [-8, -12], [8.0, 12.0], "8x12", [0, 12]])
def test_shapes_that_tiles_do_not_have(shape: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        sidecar(tmp_path / "bad", TILES, shape=shape)


AUX: dict[str, Any] = LAYER | {
    "meta.scale": None,
    "meta.zero": None,
    "meta.scale.x": np.arange(8, dtype=np.uint8).reshape(2, 4),
    "meta.scale.s": np.array([[1, 1, 2, 4]], np.float16),
    "meta.scale.m": np.array([[0, 1, 0, -0.5]], np.float32),
    "meta.zero.x": np.full((8, 1), 3, np.uint8),
    "meta.zero.s": np.ones((1, 1), np.float32),
    "meta.zero.m": np.full((1, 1), -2, np.float32),
}


def sidecar(folder: Path, parts: dict[str, Any], **meta: Any) -> Any:
    """As SINQ's own save_quantized_safetensors has it: no method in config.json."""
    folder.mkdir()
    stored = {f"x.{name}": array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    about = {"x": {"meta": {"method": "sinq", "nbits": 4, **meta}}}
    (folder / "model.safetensors.index.json.meta.json").write_text(json.dumps(about))
    return anamnesis.open_model(folder)


@pytest.mark.parametrize("method", ["sinq_quantAux", "sinq_awq_l1_quantAux", "sinq"])
def test_scales_that_are_codes(method: str, tmp_path: Path) -> None:
    values = sidecar(tmp_path / "m", AUX, method=method)["x.weight"].to_numpy().astype(np.float32)
    scales = np.array([0, 2, 4, 11.5, 4, 6, 12, 27.5], np.float32).reshape(4, 2)
    codes = np.array([1, 1, 0, 0])[:, None]  # less a zero of 1: groups of the high nibbles are 2
    wanted = codes * np.repeat(scales, 32, 1) * LAYER["meta.scale2"]
    assert np.array_equal(values, wanted.astype(np.float32).astype("bfloat16").astype(np.float32))


def test_the_sidecar_counts_before_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    sidecar(folder, LAYER)
    config = {"quantization_config": {"quant_method": "sinq", "method": "sinq", "nbits": 8}}
    (folder / "config.json").write_text(json.dumps(config))
    assert anamnesis.open_model(folder)["x.weight"].shape == (4, 64)
    for meta, message in (({"method": "sinq_noz"}, "sinq_noz"), ({"nbits": 7}, "7 bits")):
        with pytest.raises(UnsupportedError, match=message):
            sidecar(tmp_path / message, LAYER, **meta)


@pytest.mark.parametrize(
    "change",
    [
        {"meta.scale.s": None},
        {"meta.scale.m": np.zeros((1, 3), np.float32)},
        {"meta.scale.s": np.ones((1, 4), np.int32)},
        {"meta.scale.x": np.ones((2, 3), np.uint8)},
        {"meta.scale.x": np.ones((2, 4), np.int8)},
        {"meta.zero.x": np.ones((4, 1), np.uint8)},
        {"meta.zero.x": None, "meta.zero": np.ones((8, 1), np.float32)},
        {"meta.zero.x": None},
    ],
)
def test_codes_of_scales_that_do_not_fit(change: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        sidecar(tmp_path / "bad", AUX | change)


@pytest.mark.parametrize(
    "parts",
    [
        {"meta.scale2": None},
        {"meta.scale2": np.ones(64, np.float32)},
        {"meta.scale2": np.ones((1, 64), np.int32)},
        {"meta.scale2": np.ones((1, 0), np.float32)},
        {"meta.scale2": np.ones((1, 48), np.float32)},
        {"meta.scale": None},
        {"meta.scale": np.ones((7, 1), np.float32)},
        {"meta.scale": np.ones((8, 2), np.float32)},
        {"meta.zero": None},
        {"meta.zero": np.ones((4, 1), np.float32)},
        {"W_q": np.ones((8, 32), np.uint8)},  # as of 8 bits
        {"W_q": np.ones((4, 32), np.int32)},
    ],
)
def test_parts_that_do_not_fit(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path / "bad", LAYER | parts)
