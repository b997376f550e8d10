"""How packed ternary weights are told, and which way their scale goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import Planar

BITNET = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
RNG = np.random.default_rng(5)
PACKED = RNG.integers(0, 256, (6, 40), np.uint8) & 0b10101010  # 0 and 2: -1 and 1
SCALE = np.array([0.3], ml_dtypes.bfloat16)
CODES = np.concatenate([PACKED >> 2 * k & 3 for k in range(4)]).astype(np.float32) - 1


def model(folder: Path, tensors: dict[str, Any], config: Any = BITNET) -> Path:
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        text = json.dumps({"quantization_config": config} if config else {})
        (folder / "config.json").write_text(text)
    return folder / "model.safetensors"


def pair(name: str = "m.q_proj.weight", **other: Any) -> dict[str, Any]:
    return {name: PACKED, f"{name}_scale": SCALE} | other


def values(path: Path, name: str = "m.q_proj.weight", rounding: Any = "exact") -> Any:
    return anamnesis.open_model(path, rounding=rounding)[name].to_numpy().astype(np.float32)


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize(
    ("config", "divides"),
    [
        (BITNET, False),
        (BITNET | {"linear_class": "bitlinear"}, True),
        ({"quant_method": "bitnet", "modules_to_not_convert": []}, True),
        (
            {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "online"},
            True,
        ),
    ],
)
def test_the_config_says_which_way(
    config: Any, divides: bool, rounding: str, tmp_path: Path
) -> None:
    scale = SCALE.astype(np.float32)
    wanted = (CODES / scale if divides else CODES * scale).astype(ml_dtypes.bfloat16)
    found = values(model(tmp_path, pair(), config), rounding=rounding)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_what_the_tensor_is(tmp_path: Path) -> None:
    bias = np.ones(24, ml_dtypes.bfloat16)
    norm = np.ones(40, np.float32)
    path = model(tmp_path, pair(**{"m.q_proj.bias": bias, "m.q_proj.rms_norm.weight": norm}))
    found = {t.name: t for t in load_model(str(path)).tensors}
    tensor = found["m.q_proj.weight"]
    assert (tensor.shape, tensor.scheme, tensor.encoding) == ((24, 40), "bitnet", "bitnet")
    assert tensor.components[0].placement == Planar(8 * 40, 6)
    assert found["m.q_proj.bias"].scheme == found["m.q_proj.rms_norm.weight"].scheme
    assert set(found) == {"m.q_proj.weight", "m.q_proj.bias", "m.q_proj.rms_norm.weight"}


@pytest.mark.parametrize("shape", [(1,), (1, 1), ()])
@pytest.mark.parametrize("name", ["weight", "lm_head.weight"])
def test_names_and_shapes_of_scales(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensors = {name: PACKED, f"{name}_scale": SCALE.reshape(shape)}
    assert values(model(tmp_path, tensors), name).shape == (24, 40)


def test_beside_other_families(tmp_path: Path) -> None:
    eight = np.ones((8, 8), ml_dtypes.float8_e4m3fn)
    dense = np.ones((3, 5), ml_dtypes.bfloat16)
    path = tmp_path / "model.safetensors"
    from safetensors.numpy import save

    fp8 = {"a.weight": eight.view(np.uint8), "a.weight_scale": np.ones(1, np.float32)}
    blob = bytearray(save(fp8 | pair() | {"d.weight": dense}))
    at = blob.index(b'"a.weight":{"dtype":"U8"')  # numpy has no FP8
    blob[at : at + 24] = b'"a.weight":{"dtype":"F8"'
    end = 8 + int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:end])
    header["a.weight"]["dtype"] = "F8_E4M3"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(blob[end:]))
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": BITNET}))
    schemes = {t.name: t.scheme for t in load_model(str(path)).tensors}
    assert schemes == {
        "a.weight": "fp8-tensor",
        "m.q_proj.weight": "bitnet",
        "d.weight": "passthrough",
    }


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (pair(), None, "no config.json beside it says whether its scale multiplies"),
        (pair(), {}, "linear_class: autobitlinear"),
        ({"m.weight": PACKED}, BITNET, "no 'm.weight_scale' beside it, in any of 1 file"),
        (pair() | {"m.q_proj.weight_scale": np.ones(2, np.float32)}, BITNET, "one number of BF16"),
        (pair() | {"m.q_proj.weight_scale": np.ones(1, np.int32)}, BITNET, "one number of BF16"),
        (pair() | {"m.q_proj.weight": PACKED[:0]}, BITNET, "without elements"),
        (pair() | {"m.q_proj.weight": PACKED[:, :0]}, BITNET, "without elements"),
        (pair(), BITNET | {"linear_class": "other"}, "linear_class: 'other'; allowed is auto"),
        (pair(), BITNET | {"linear_class": ["a"]}, "linear_class"),
        (pair(), BITNET | {"quantization_mode": 1}, "quantization_mode: 1"),
        (pair(), BITNET | {"quantization_mode": "online"}, "the weights are dense"),
    ],
)
def test_what_does_not_fit(
    tensors: dict[str, Any], config: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        anamnesis.remember(model(tmp_path, tensors, config), tmp_path / "out.safetensors")
    assert "model.safetensors" in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_other_methods_are_not_taken_for_it(tmp_path: Path) -> None:
    path = model(tmp_path, pair(), {"quant_method": "else"})
    with pytest.raises(UnsupportedError, match=r"\(else\): no such method is known"):
        load_model(str(path))


def test_stacks_of_matrices_are_left_over(tmp_path: Path) -> None:
    with pytest.raises(AnamnesisError):
        load_model(str(model(tmp_path, {"m.weight": PACKED[None], "m.weight_scale": SCALE})))


@pytest.mark.parametrize(
    ("more", "dense", "said"),
    [
        ({"quantization_mode": "online"}, True, "a layer rounds its floats to three values as"),
        ({"use_rms_norm": True}, False, "a layer norms its inputs as"),
        ({"quantization_mode": "online", "use_rms_norm": True}, True, "values and norms its"),
        ({"linear_class": "bitlinear", "quantization_mode": "online"}, False, ""),
        ({"use_rms_norm": False}, True, ""),
    ],
)
def test_what_layers_do_as_they_run_is_noted(
    more: Any, dense: bool, said: str, tmp_path: Path
) -> None:
    """Floats that online layers round are dense, and not what the model multiplies by."""
    weight = np.ones((24, 40), ml_dtypes.bfloat16)
    tensors = {"m.q_proj.weight": weight} if dense else pair()
    notes = load_model(str(model(tmp_path, tensors, BITNET | more))).notes
    assert [said in note for note in notes] == [True] * bool(said)
