"""How Quanto's weights are told, and where the shape of grouped ones comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import Planar
from anamnesis.readers.schemes._quanto_shape import group_size
from anamnesis.readers.schemes.base import Options

DATA = Path(__file__).resolve().parents[1] / "data" / "quanto"
BF16 = ml_dtypes.bfloat16


def written(folder: Path, tensors: dict[str, Any], config: Any = None) -> Path:
    save_file({n: a for n, a in tensors.items() if a is not None}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


def eight(name: str = "m.weight", **other: Any) -> dict[str, Any]:
    parts = {"_data": np.ones((6, 40), np.int8), "_scale": np.full((6, 1), 2, BF16)}
    return {f"{name}.{n}": a for n, a in (parts | other).items()}


def four(name: str, lines: int, size: int, groups: int, **other: Any) -> dict[str, Any]:
    parts = {
        "_data._data": np.full((lines, size), 0x21, np.uint8),
        "_scale": np.full((groups, 1), 2, BF16),
        "_shift": np.full((groups, 1), 0.5, BF16),
    }
    return {f"{name}.{n}": a for n, a in (parts | other).items()}


def test_what_the_tensors_are() -> None:
    model = load_model(str(DATA / "cases.safetensors"))
    schemes = {t.name: t.scheme for t in model.tensors}
    assert {n for n, s in schemes.items() if s == "passthrough"} == {
        n for n in schemes if n.endswith(".bias")
    }
    assert set(schemes.values()) == {"quanto", "passthrough"}
    assert {d.why for d in model.dropped} == {"activation scale"}
    found = {t.name: t for t in model.tensors}
    tensor = found["qint4-g128-bf16.weight"]
    assert (tensor.shape, tensor.encoding, tensor.params["bits"]) == ((16, 256), "quanto-bits", 4)
    assert tensor.components[0].placement == Planar(8 * 128, 16)
    assert found["qint8-conv.weight"].shape == (4, 3, 3, 3)


@pytest.mark.parametrize("assume", [False, True])
def test_floats_of_8_bits_are_not_taken_for_fp8_without_a_scale(assume: bool) -> None:
    model = load_model(str(DATA / "cases.safetensors"), Options(assume_unit_scale=assume))
    assert {t.scheme for t in model.tensors if t.name.startswith("e")} == {"quanto", "passthrough"}


@pytest.mark.parametrize("name", ["weight", "m.weight", "m.other"])
def test_names(name: str, tmp_path: Path) -> None:
    model = anamnesis.open_model(written(tmp_path, eight(name)))
    assert (model[name].to_numpy() == 2).all()


@pytest.mark.parametrize(
    ("inputs", "size"),
    [(64, 64), (100, 100), (128, 128), (256, 128), (576, 96), (320, 64), (160, 32), (210, 210)],
)
def test_group_sizes(inputs: int, size: int) -> None:
    assert group_size(inputs) == size


HIDDEN = {"norm.weight": np.ones(256, np.float32)}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("a.q_proj.weight", (4, 256)),
        ("a.down_proj.weight", None),
        ("lm_head.weight", (4, 256)),
        ("vision_model.q_proj.weight", None),
        ("a.else.weight", None),
    ],
)
@pytest.mark.parametrize("config", [{"hidden_size": 256}, {"text_config": {"d_model": 256}}])
def test_the_hidden_size_says_how_long_rows_are(
    name: str, shape: Any, config: Any, tmp_path: Path
) -> None:
    path = written(tmp_path, four(name, 4, 128, 8) | HIDDEN, config)
    if shape is None:
        with pytest.raises(FormatError, match="groups of 128"):
            load_model(str(path))
        return
    assert {t.name: t.shape for t in load_model(str(path)).tensors}[name] == shape


def test_outputs_of_the_hidden_size(tmp_path: Path) -> None:
    path = written(
        tmp_path, four("a.down_proj.weight", 384, 128, 768) | HIDDEN, {"hidden_size": 256}
    )
    tensors = {t.name: t for t in load_model(str(path)).tensors}
    assert tensors["a.down_proj.weight"].shape == (256, 384)


def test_the_values_of_a_layer(tmp_path: Path) -> None:
    tensors = four("m.weight", 3, 40, 6)  # the low halves are the first rows
    got = anamnesis.open_model(written(tmp_path, tensors))["m.weight"].to_numpy()
    assert got.shape == (6, 40)
    assert (got[:3].astype(np.float32) == 1.5).all()
    assert (got[3:].astype(np.float32) == 3.5).all()


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (eight(_scale=None), None, r"no 'm.weight._scale' beside it, in any of 1 file"),
        (eight(_scale=np.ones((5, 1), BF16)), None, "one for each of 6 rows"),
        (eight(_scale=np.ones((1, 6), BF16)), None, "one for each of 6 rows"),
        (eight(_scale=np.ones((6, 1), np.int32)), None, "of BF16, F16, F32"),
        (eight(_data=np.ones((6, 40), np.uint8)), None, "a matrix of I8"),
        (eight(_data=np.ones((0, 40), np.int8)), None, "a matrix of I8"),
        (eight(_data=np.ones((), np.int8)), None, "a matrix of I8"),
        (four("m.weight", 3, 40, 6, _shift=None), None, "no 'm.weight._shift'"),
        (four("m.weight", 3, 40, 6, _scale=None), None, "no 'm.weight._scale'"),
        (four("m.weight", 3, 40, 6, _shift=np.ones((5, 1), BF16)), None, "each of 6 groups"),
        (four("m.weight", 3, 40, 6, _shift=np.ones((6, 1), np.int32)), None, "BF16, F16, F32, U8"),
        (four("m.weight", 3, 40, 6, _scale=np.ones(6, BF16)), None, "each of 6 groups"),
        (four("m.weight", 5, 40, 6), None, "5 lines for 6 groups"),
        (four("m.weight", 1, 40, 2), None, "1 lines for 2 groups"),  # of 4 or of 2 bits
        (four("m.weight", 3, 256, 6), None, "makes no groups of 256"),
        (four("m.weight", 4, 128, 8), None, "neither a bias beside it nor a hidden_size"),
        (four("a.q_proj.weight", 4, 128, 8), {"hidden_size": 256}, "neither a bias"),  # no norm
        (four("m.weight", 4, 128, 8) | {"m.bias": np.ones(3, BF16)}, None, "which the bias says"),
        (four("m.weight", 4, 128, 8) | {"m.bias": np.ones(16, BF16)}, None, "the bias says"),
        (four("a.q_proj.weight", 2, 128, 3) | HIDDEN, {"hidden_size": 256}, "hidden_size says"),
        (
            four("a.q_proj.weight", 4, 128, 8) | HIDDEN | {"a.q_proj.bias": np.ones(2, BF16)},
            {"hidden_size": 256},
            "the bias and hidden_size say different shapes",
        ),
        (four("a.conv1.weight", 4, 128, 8) | {"a.conv1.bias": np.ones(4, BF16)}, None, "a conv"),
    ],
)
def test_what_does_not_fit(
    tensors: dict[str, Any], config: Any, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, tensors, config)
    with pytest.raises(FormatError, match=message) as caught:
        anamnesis.remember(path, tmp_path / "out.safetensors")
    assert "model.safetensors" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_parts_alone_are_left_over(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no 'm\.weight\._scale'"):
        load_model(str(written(tmp_path, {"m.weight._data._data": np.ones((2, 2), np.int8)})))
