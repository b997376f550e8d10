"""ComfyUI's marked layers: what is told of a rotation, and every refusal.

Values are held to comfy-kitchen's own in tests/conformance/test_layouts.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import assert_same_in_windows
from ml_dtypes import float8_e4m3fn
from safetensors.numpy import save_file
from small_models import Parts, resolved

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model

LAYOUTS = Path(__file__).resolve().parents[1] / "data" / "layouts" / "comfyui"


def layer(mark: dict[str, Any], **parts: Any) -> dict[str, Any]:
    text = np.frombuffer(json.dumps(mark).encode(), np.uint8)
    plain = {
        "x.weight": np.ones((8, 64), np.int8),
        "x.weight_scale": np.ones((8, 1), np.float32),
        "x.comfy_quant": text,
    }
    return plain | {f"x.{name}": part for name, part in parts.items()}


@pytest.mark.parametrize(
    ("kind", "bias", "rows"),
    [
        ("nvfp4", 130, 130),
        ("nvfp4", 144, 144),
        ("nvfp4", 128, 144),
        ("nvfp4", None, 144),
        ("mxfp8", 130, 160),
        ("mxfp8", 129, 160),
    ],
)
def test_rows_that_fill_up_are_not_the_layer_s(
    kind: str, bias: int | None, rows: int, tmp_path: Path
) -> None:
    """comfy-kitchen stores whole blocks of 16 or 32 rows; the bias has the layer's own."""
    stored = 144 if kind == "nvfp4" else 160
    codes = np.tile(np.arange(stored, dtype=np.uint8)[:, None] % 8, (1, 64))
    scale = np.full((256, 8), 0x38 if kind == "nvfp4" else 127, np.uint8)
    parts = {"weight": codes * 17, "weight_scale": scale.view(float8_e4m3fn)}
    if kind == "nvfp4":
        parts["weight_scale_2"] = np.ones((), np.float32)
    else:
        parts |= {"weight": codes.view(float8_e4m3fn), "weight_scale": scale[:, :4]}
    if bias is not None:
        parts["bias"] = np.ones(bias, np.float32)
    save_file(layer({"format": kind}, **parts), tmp_path / "m.safetensors")
    found = anamnesis.open_model(tmp_path / "m.safetensors")["x.weight"]
    own = bias if kind == "mxfp8" and bias is not None else rows
    assert found.shape[0] == own
    values = found.to_numpy().astype(np.float32)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6]) if kind == "nvfp4" else np.arange(8) / 512
    assert np.array_equal(values[:, 0], table[np.arange(own) % 8])


def test_a_rotation_is_noted(tmp_path: Path) -> None:
    for kind, noted in (("int8-convrot-mark", True), ("int8-row-meta", False)):
        notes = load_model(str(LAYOUTS / kind / "model.safetensors")).notes
        assert any("rotated back" in note for note in notes) is noted


@pytest.mark.parametrize(
    ("mark", "parts", "error", "message"),
    [
        ({"format": "svdquant_w8a8"}, {}, UnsupportedError, "ComfyUI's svdquant_w8a8"),
        ({"format": "svdquant_w4a4"}, {}, FormatError, r"BF16, F16, F32 \[2, 8\]"),
        (
            {"format": "svdquant_w4a4", "lowrank_branch_input_basis": "post_smoothing"},
            {},
            UnsupportedError,
            "of the input 'post_smoothing'",
        ),
        (
            {"format": "svdquant_w4a4"},
            {"weight": np.ones((2, 1, 8, 512), np.int8)},
            FormatError,
            r"tiles of \[32, 128\]",
        ),
        (
            {"format": "svdquant_w4a4"},
            {"weight_scale": np.ones((2, 8), np.float16)},
            FormatError,
            "smooth_factor",
        ),
        (
            {"format": "svdquant_w4a4", "act_unsigned": True},
            {
                "weight_scale": np.ones((2, 8), np.float16),
                "smooth_factor": np.ones(128, np.float16),
                "proj_down": np.ones((128, 4), np.float16),
                "proj_up": np.ones((8, 4), np.float16),
            },
            UnsupportedError,
            "without a bias",
        ),
        ({"format": "awq_w4a16"}, {}, FormatError, "zero"),
        (
            {"format": "awq_w4a16", "group_size": 32},
            {"weight_scale": np.ones((2, 8), "f4"), "weight_zero": np.ones((2, 8), "f4")},
            FormatError,
            "groups of 32 of 128 columns",
        ),
        (
            {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 32},
            {},
            FormatError,
            "powers of 4",
        ),
        (
            {"format": "int8_tensorwise", "convrot": True},
            {},
            FormatError,
            "64 columns in groups of 256",
        ),
        (
            {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16},
            {"pre_quant_scale": np.ones(64, np.float32)},
            UnsupportedError,
            "with a pre_quant_scale",
        ),
        ({"format": "nvfp4"}, {}, FormatError, "a matrix of U8"),
        ({"format": "int8_tensorwise"}, {"weight_scale": np.ones(9, "f4")}, FormatError, "fit"),
        (
            {"format": "int8_tensorwise", "convrot": 1, "convrot_groupsize": -4},
            {},
            FormatError,
            "-4",
        ),
    ],
)
def test_what_is_refused(
    mark: dict[str, Any], parts: dict[str, Any], error: Any, message: str, tmp_path: Path
) -> None:
    save_file(layer(mark, **parts), tmp_path / "in.safetensors")
    with pytest.raises(error, match=message):
        anamnesis.remember(tmp_path / "in.safetensors", tmp_path / "out.safetensors", threads=1)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("group", [32, 256])
def test_groups_that_cannot_have_been_rotated_are_refused_while_opening(
    group: int, tmp_path: Path
) -> None:
    mark = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}
    save_file(layer(mark), tmp_path / "in.safetensors")
    with pytest.raises(FormatError, match=f"powers of 4, not 64 columns in groups of {group}"):
        anamnesis.inspect(tmp_path / "in.safetensors")


@pytest.mark.parametrize("kind", [p.name for p in sorted(LAYOUTS.iterdir())])
def test_windows_of_a_few_rows_give_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LAYOUTS / kind / "model.safetensors"
    assert_same_in_windows(source, tmp_path, monkeypatch)


@pytest.mark.parametrize("encoding", ["svdquant", "folded"])
def test_division_by_zero_is_that_of_numbers(encoding: str) -> None:
    """A smoothing of 0, in a damaged file, makes infinities and NaNs as numpy has them."""
    from anamnesis.kernels import folded, svdquant

    factor = np.array([0, 1, 0, -2], np.float32)
    if encoding == "folded":
        out = np.empty(4, np.float32)
        folded._scale(np.array([1, -1, 0, 2], np.float32), factor, True, out)
    else:
        none, line, out = np.zeros((0, 0), np.float32), np.empty(4, np.float32), np.empty(4, "f4")
        codes = np.array([[0x79, 0xA8]], np.uint8)  # 1, -1, 0, 2
        grid, scale = np.arange(-8, 8, dtype=np.float32), np.ones((1, 1), np.float32)
        svdquant._values(codes, grid, scale, none, factor, (none, none), line, out)
    assert np.array_equal(out, np.array([np.inf, -1, np.nan, -1], np.float32), equal_nan=True)


@pytest.mark.parametrize("mark", [b"", bytes(29)])
def test_a_mark_without_a_word_is_of_a_layer_that_was_left_alone(
    mark: bytes, tmp_path: Path
) -> None:
    """Quantisers write one for embeddings, say; beside codes it says less than is needed."""
    text = np.frombuffer(mark, np.uint8)
    parts = {"x.weight": np.ones((8, 64), np.float32), "x.comfy_quant": text}
    save_file(parts, tmp_path / "m.safetensors")
    model = load_model(str(tmp_path / "m.safetensors"))
    assert [tensor.name for tensor in model.tensors] == ["x.weight"]
    assert [one.stored.name for one in model.dropped] == ["x.comfy_quant"]
    save_file(layer({}, comfy_quant=text), tmp_path / "m.safetensors")
    with pytest.raises(UnsupportedError):
        load_model(str(tmp_path / "m.safetensors"))


FP8 = np.ones((8, 64), float8_e4m3fn)


@pytest.mark.parametrize(
    ("parts", "scheme"),
    [
        ({}, "comfy-int8"),
        ({"weight": FP8, "weight_scale": np.ones((), np.float32)}, "fp8-tensor"),
        ({"weight": np.ones((8, 64), np.uint8)}, None),  # of four bits, or of nobody
    ],
)
def test_a_mark_without_a_format_is_read_by_its_tensors(
    parts: dict[str, Any], scheme: str | None, tmp_path: Path
) -> None:
    save_file(layer({"per_row": True}, **parts), tmp_path / "m.safetensors")
    if scheme is None:
        with pytest.raises(UnsupportedError):
            load_model(str(tmp_path / "m.safetensors"))
        return
    model = load_model(str(tmp_path / "m.safetensors"))
    assert [tensor.scheme for tensor in model.tensors] == [scheme]
    assert any("names no format" in note for note in model.notes)


@pytest.mark.parametrize(
    ("version", "noted"), [("1.0", False), (1, False), ("1.2", False), ("9.0", True), ("x", True)]
)
def test_an_unknown_version_of_the_metadata_is_noted(
    version: Any, noted: bool, tmp_path: Path
) -> None:
    layers = {"x": {"format": "int8_tensorwise"}}
    text = json.dumps({"format_version": version, "layers": layers})
    parts = layer({})
    del parts["x.comfy_quant"]
    save_file(parts, tmp_path / "m.safetensors", {"_quantization_metadata": text})
    notes = load_model(str(tmp_path / "m.safetensors")).notes
    assert any("is not known; read as 1.0" in note for note in notes) is noted


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ({"per_row": True, "full_precision_matrix_mult": True, "orig_dtype": "bf16"}, None),
        ({"rotation": False, "hadamard": None, "zzz": 0}, None),
        ({"zzz": 1}, "'zzz'"),
        ({"scale_mode": "divide"}, "'scale_mode'"),
        ({"hadamard": True}, UnsupportedError),
        ({"params": {"rotation": "quarot"}}, UnsupportedError),
    ],
)
def test_what_a_mark_says_besides_is_never_passed_over(
    said: dict[str, Any], noted: Any, tmp_path: Path
) -> None:
    mark = {"format": "float8_e4m3fn", **said}
    parts = layer(mark, weight=FP8, weight_scale=np.ones((), np.float32))
    save_file(parts, tmp_path / "m.safetensors")
    if noted is UnsupportedError:
        with pytest.raises(UnsupportedError, match="rotated basis"):
            load_model(str(tmp_path / "m.safetensors"))
        return
    notes = load_model(str(tmp_path / "m.safetensors")).notes
    assert [f"says {noted}, which is not known" in note for note in notes] == [True] * bool(noted)


@pytest.mark.parametrize(
    ("mark", "dtype", "shape", "block"),
    [
        ({"format": "float8_e4m3fn_rowwise"}, float8_e4m3fn, (128,), (1, 256)),
        ({"format": "rowwise-float8_e4m3fn"}, float8_e4m3fn, (128,), (1, 256)),
        ({"format": "float8_e4m3fn_blockwise"}, float8_e4m3fn, (2, 4), (64, 64)),
        ({"format": "float8_e4m3fn_blockwise", "group_size": 32}, float8_e4m3fn, (4, 8), (32, 32)),
        ({"format": "int8_blockwise", "params": {"group_size": 64}}, np.int8, (2, 4), (64, 64)),
        ({"format": "int8_blockwise"}, np.int8, (1, 2), (128, 128)),
    ],
)
def test_rows_and_blocks_of_convert_to_quant(
    mark: dict[str, Any], dtype: Any, shape: tuple[int, ...], block: tuple[int, int], tmp_path: Path
) -> None:
    """Its files for ComfyUI-QuantOps; a scale a row, or a square of `group_size`."""
    scale = 2.0 ** np.arange(np.prod(shape)).reshape(shape) / 2**60
    parts = layer(mark, weight=np.ones((128, 256), dtype), weight_scale=scale.astype(np.float32))
    save_file(parts, tmp_path / "m.safetensors")
    model = anamnesis.open_model(tmp_path / "m.safetensors")
    assert model.model.notes == ()
    grid = scale.reshape(-1, 1) if scale.ndim == 1 else scale
    want = np.repeat(np.repeat(grid, block[0], 0), block[1], 1)
    assert np.array_equal(model["x.weight"].to_numpy().astype(np.float64), want)


@pytest.mark.parametrize("smoothed", [False, True])
def test_tiles_that_a_mark_tells_of_are_no_choice(smoothed: bool, tmp_path: Path) -> None:
    """Whole tiles have the shape of rows; what is folded into the columns does not change that."""
    parts = {
        "weight": np.ones((128, 64), np.uint8),
        "weight_scale": np.ones((128, 8), float8_e4m3fn),
        "weight_scale_2": np.ones((), np.float32),
    }
    if smoothed:
        parts["pre_quant_scale"] = np.ones(128, np.float32)
    save_file(layer({"format": "nvfp4"}, **parts), tmp_path / "m.safetensors")
    assert load_model(str(tmp_path / "m.safetensors")).notes == ()


def test_layers_that_metadata_says_were_left_alone() -> None:
    """FLUX.3's metadata names every linear layer; `bf16` beside codes is refused."""
    formats = {"a": "rowwise-float8_e4m3fn", "b": "bf16"}
    layers = {"layers": {layer: {"format": one} for layer, one in formats.items()}}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.1", **layers})}
    parts: Parts = {
        "a.weight": ("F8_E4M3", (4, 8)),
        "a.weight_scale": ("F32", (4,)),
        "a.input_scale": ("F32", (1,)),
        "b.weight": ("BF16", (4, 8)),
    }
    found = {t.name: t.scheme for t in resolved(parts, metadata=metadata).tensors.values()}
    assert found == {"a.weight": "fp8-channel", "b.weight": "passthrough"}
    codes = {"b.weight": ("I8", (4, 8)), "b.weight_scale": ("F32", (4, 1))}
    with pytest.raises(UnsupportedError, match="ComfyUI"):
        resolved({**parts, **codes}, metadata=metadata)
