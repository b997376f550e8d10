"""How HQQ's layers are told, in safetensors and in `qmodel.pt`, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import bf16

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model
from anamnesis.readers.placement import Contiguous, Planar
from anamnesis.readers.schemes.base import Options

DATA = Path(__file__).resolve().parents[1] / "data" / "hqq"
EXPECTED = dict(np.load(DATA / "expected.npz"))
CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "hqq"
CASES = load_file(DATA / "cases.safetensors")
NAME = "w4-a1-g64-bfloat16"  # [12, 64]
LAYER = {n.removeprefix(f"{NAME}."): a for n, a in CASES.items() if n.startswith(f"{NAME}.")}


def written(folder: Path, parts: dict[str, Any], prefix: str = "m.q_proj.") -> Path:
    path = folder / "model.safetensors"
    save_file({f"{prefix}{n}": a for n, a in parts.items() if a is not None}, path)
    return path


@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_the_pickle_of_hqq_itself(rounding: Any) -> None:
    model = anamnesis.open_model(DATA / "qmodel.pt", rounding=rounding)
    names = {n.removesuffix(".weight") for n in model}
    plain = {n for n in names if not n.startswith("coded-")}
    assert plain == {NAME, "w3-a0-g16-float16", "w8-a1-gNone-float32", "old", "norm"}
    assert len(names - plain) == 5
    for name in names - {"norm"}:
        got = model[f"{name}.weight"].to_numpy().view(np.uint16)
        np.testing.assert_array_equal(got, bf16(EXPECTED[f"{name}.{rounding}"]))


@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_zeros_and_scales_in_one_tensor(rounding: Any) -> None:
    model = anamnesis.open_model(DATA / "offload.pt", rounding=rounding)
    with np.load(DATA / "offload.npz") as found:
        names = {name.partition(".")[0] for name in found}
        assert len(names) == 4
        for name in names:
            got = model[f"{name}.weight"].to_numpy().view(np.uint16)
            np.testing.assert_array_equal(got, bf16(found[f"{name}.{rounding}"]))


def test_half_of_what_is_stacked(tmp_path: Path) -> None:
    both = np.stack([LAYER["zero"], LAYER["scale"]])
    parts = {n: a for n, a in LAYER.items() if n not in ("scale", "zero")}
    got = anamnesis.open_model(written(tmp_path, parts | {"zero_scale": both}))
    bits = got["m.q_proj.weight"].to_numpy().view(np.uint16)
    np.testing.assert_array_equal(bits, bf16(EXPECTED[f"{NAME}.exact"]))
    with pytest.raises(FormatError, match="zeros and then scales"):
        anamnesis.open_model(written(tmp_path, parts | {"zero_scale": both[:1]}))


def test_what_the_tensors_are(tmp_path: Path) -> None:
    path = written(tmp_path, LAYER | {"bias": np.ones(12, np.float32)})
    model = load_model(str(path))
    found = {t.name: t for t in model.tensors}
    assert set(found) == {"m.q_proj.weight", "m.q_proj.bias"}
    tensor = found["m.q_proj.weight"]
    assert (tensor.shape, tensor.scheme, tensor.encoding) == ((12, 64), "hqq", "hqq-axis1")
    found = {c.role: c.placement for c in tensor.components}
    assert found.pop("W_q") == Planar(512, 6)
    assert found == {"scale": Contiguous(16), "zero": Contiguous(16)}
    assert len(model.dropped) == len(LAYER) - 3
    assert {d.why for d in model.dropped} == {"setting of HQQ"}


@pytest.mark.parametrize("prefix", ["", "a.b.c."])
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    model = anamnesis.open_model(written(tmp_path, LAYER, prefix))
    got = model[f"{prefix}weight"].to_numpy().view(np.uint16)
    np.testing.assert_array_equal(got, bf16(EXPECTED[f"{NAME}.exact"]))


@pytest.mark.parametrize(
    "left_out",
    ["axis", "packing", "nbits", "group_size", "packing nbits", "packing nbits axis group_size"],
)
@pytest.mark.parametrize("name", [NAME, "w3-a0-g64-bfloat16", "w8-a1-g16-bfloat16"])
def test_shapes_say_what_settings_leave_out(name: str, left_out: str, tmp_path: Path) -> None:
    parts = {n.removeprefix(f"{name}."): a for n, a in CASES.items() if n.startswith(f"{name}.")}
    parts = {n: a for n, a in parts.items() if n not in left_out.split()}
    got = anamnesis.open_model(written(tmp_path, parts))["m.q_proj.weight"].to_numpy()
    np.testing.assert_array_equal(got.view(np.uint16), bf16(EXPECTED[f"{name}.exact"]))


def test_without_a_compute_dtype_it_is_float16(tmp_path: Path) -> None:
    parts = {n: a for n, a in LAYER.items() if n != "compute_dtype"}
    (tensor,) = load_model(str(written(tmp_path, parts)), Options(rounding="reference")).tensors
    assert tensor.params["compute_dtype"] == "F16"


def text(value: str) -> Any:
    return np.frombuffer(value.encode(), np.uint8)


ONE = np.ones((), np.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_wise": np.zeros((), np.uint8)}, "one scale for the whole tensor"),
    ],
)
def test_refusals(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, LAYER | change)
    with pytest.raises(UnsupportedError, match=message):
        anamnesis.remember(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def coded(**other: Any) -> dict[str, Any]:
    """The layer with codes in the place of its scales."""
    parts = {
        "scale": None,
        "scale_q": np.ones((4, 3), np.uint8),
        "meta_scale.scale": np.full((1, 3), 0.5, np.float32),
        "meta_scale.zero": np.full((1, 3), -1, np.float32),
    }
    return LAYER | parts | other


def test_scales_in_codes(tmp_path: Path) -> None:
    path = written(tmp_path, coded())
    (tensor,) = load_model(str(path)).tensors
    assert (tensor.encoding, tensor.params["coded"]) == ("hqq-coded", ["scale"])
    got = anamnesis.open_model(path)["m.q_proj.weight"].to_numpy()
    written(tmp_path, LAYER | {"scale": np.ones((12, 1), np.float32)})
    np.testing.assert_array_equal(got, anamnesis.open_model(path)["m.q_proj.weight"].to_numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta_scale.scale": None}, "codes beside their own scale and zero"),
        ({"scale_q": None}, "no 'm.q_proj.scale' beside it"),
        ({"scale_q": np.ones((4, 3), np.float32)}, "U8, a code a group"),
        ({"scale_q": np.ones((3, 4), np.uint8)}, r"allowed: U8 \[4, 3\]"),
        ({"scale_q": np.ones((5, 3), np.uint8)}, r"allowed is \[groups, 1\]"),
        ({"meta_scale.zero": np.ones((3, 1), np.float32)}, r"as 'm.q_proj.meta_scale.scale'"),
        ({"meta_scale.zero": np.ones((1, 3), np.int32)}, "BF16, F16, F32"),
        (
            {n: np.ones((1, 5), np.float32) for n in ("meta_scale.scale", "meta_scale.zero")},
            "parts",
        ),
        ({"axis": None}, "no m.q_proj.axis beside it"),
    ],
)
def test_scales_in_codes_that_do_not_fit(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        load_model(str(written(tmp_path, coded(**change))))


def test_codes_beside_plain_scales_are_no_ones(tmp_path: Path) -> None:
    path = written(tmp_path, coded(scale=np.ones((12, 1), np.float32)))
    with pytest.raises(UnsupportedError, match="no scheme reads it"):
        load_model(str(path))


@pytest.mark.oracle
def test_unpacked_codes_are_refused(tmp_path: Path) -> None:
    import torch

    settings = {"shape": torch.Size([12, 64]), "packing": None, "nbits": 4, "axis": 1}
    layer = {"W_q": torch.ones(12, 64), "scale": torch.ones(12, 1), "zero": torch.ones(12, 1)}
    torch.save({"m": layer | settings}, tmp_path / "qmodel.pt")
    with pytest.raises(UnsupportedError, match="without bit packing"):
        load_model(str(tmp_path / "qmodel.pt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": None}, "no 'm.q_proj.scale' beside it, in any of 1 file"),
        ({"scale": None, "zero": None}, "no 'm.q_proj.scale' and no 'm.q_proj.zero'"),
        ({"shape": None}, "no m.q_proj.shape beside it"),
        ({"shape": np.array([12, 65], np.int64)}, "12 groups for 780 elements"),
        ({"shape": np.array([-12, -64], np.int64)}, "its shape is"),
        ({"shape": np.array([768], np.int64)}, "its shape is"),
        ({"shape": np.array([0, 64], np.int64)}, "its shape is"),
        ({"shape": np.array([1 << 40, 64], np.int64)}, "group"),
        ({"shape": np.ones((3, 4), np.int64)}, "allowed is 1 to 8 of I64"),
        ({"shape": np.ones(2, np.float32)}, "allowed is 1 to 8 of I64"),
        ({"axis": np.array(0, np.int32)}, "does not lie along axis 0"),
        ({"axis": np.array(2, np.int32)}, "its axis is 2; allowed is 0 or 1"),
        ({"axis": np.ones(2, np.int32)}, "allowed is 1 to 1 of I32"),
        ({"group_size": np.array(32, np.int32)}, "a group size of 32"),
        ({"group_size": np.array(-1, np.int32)}, "its group_size is -1"),
        ({"packing": text("8bit_u8")}, "do not hold 12 rows of 64 codes of 8 bits"),
        ({"packing": text("3bit_32")}, "codes of 3 bits"),
        ({"packing": text("9bit")}, "its packing is '9bit'"),
        ({"packing": text("x" * 65)}, "allowed is 1 to 64 of U8"),
        ({"packing": text("\x00\xff")}, "its packing is"),
        ({"packing": None, "nbits": np.array(7, np.int32)}, "its nbits is 7"),
        ({"packing": None, "nbits": np.array(1.5, np.float32)}, "its nbits is 1.5"),
        ({"packing": None, "nbits": np.array(np.nan, np.float32)}, "its nbits is nan"),
        ({"compute_dtype": text("torch.float64")}, "its compute_dtype is 'torch.float64'"),
        ({"scale": np.ones((12, 1), np.int32)}, "allowed is BF16, F16, F32"),
        ({"scale": np.ones(12, np.float32)}, r"allowed is \[groups, 1\]"),
        ({"zero": np.ones((1, 12), np.float32)}, r"allowed is \[groups, 1\]"),
        ({"scale": np.ones((0, 1), np.float32), "zero": np.ones((0, 1), np.float32)}, "groups, 1"),
        ({"W_q": np.ones((6, 63), np.uint8)}, "6 lines of 63 bytes"),
        ({"W_q": np.ones((7, 64), np.uint8)}, "7 lines of 64 bytes"),
        ({"W_q": np.ones((6, 64), np.int64)}, "a matrix of U8"),
        ({"W_q": np.ones((6, 64, 1), np.uint8)}, "a matrix of U8"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, LAYER | change)
    with pytest.raises(FormatError, match=message) as caught:
        anamnesis.remember(path, tmp_path / "out.safetensors")
    assert "m.q_proj." in str(caught.value)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.oracle
def test_values_in_a_pickle_that_are_no_settings(tmp_path: Path) -> None:
    import torch

    layer = {"W_q": torch.ones(6, 64, dtype=torch.uint8), "scale": torch.ones(12, 1)}
    layer |= {"zero": torch.ones(12, 1), "shape": (12, "64"), "packing": "4bit_u8"}
    torch.save({"m": layer}, tmp_path / "qmodel.pt")
    with pytest.raises(FormatError, match="shape beside it"):
        load_model(str(tmp_path / "qmodel.pt"))
    layer |= {"shape": [12, 64]}
    torch.save({"m": layer}, tmp_path / "qmodel.pt")
    with pytest.raises(FormatError, match="shape beside it"):
        load_model(str(tmp_path / "qmodel.pt"))
    layer |= {"shape": (12, 64)}
    torch.save({"m": layer}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tensor,) = load_model(str(tmp_path / "legacy.pt")).tensors
    assert (tensor.name, tensor.shape) == ("m.weight", (12, 64))


def test_units_along_axis_0() -> None:
    """A divisor of the columns, the inputs where these are one."""
    model = load_model(str(DATA / "cases.safetensors"))
    units = {t.name: t.unit_elems for t in model.tensors if t.encoding == "hqq-axis0"}
    assert units["w4-a0-g64-bfloat16.weight"] == 11
    assert units["w4-a0-g32-float32.weight"] == 15  # 480 elements in groups of 32; 24 inputs


def test_beside_one_another(tmp_path: Path) -> None:
    """Two layers in one file keep their own settings."""
    other = {
        n.removeprefix("w1-a0-g64-float16."): a for n, a in CASES.items() if n[:9] == "w1-a0-g64"
    }
    parts = {f"a.{n}": a for n, a in LAYER.items()} | {f"b.{n}": a for n, a in other.items()}
    parts["norm.scale"] = np.ones(3, np.float32)
    shapes = {t.name: t.shape for t in load_model(str(written(tmp_path, parts, ""))).tensors}
    assert shapes == {"a.weight": (12, 64), "b.weight": (64, 12), "norm.scale": (3,)}
