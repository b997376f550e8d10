"""FP4 layouts through the reader against the libraries that write them (tests/data/fp4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden import assert_bits, assert_other_outputs, expected_bits, read_ahead
from safetensors.numpy import load_file
from small_models import Parts, resolved

import anamnesis
from anamnesis.analytics.scan.run import scan_reader
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.dtypes import DTYPES

DATA = Path(__file__).resolve().parents[1] / "data" / "fp4"
CASES = DATA / "cases.safetensors"
Entry = tuple[str, tuple[int, ...], bytes]
Write = Callable[[Path, Mapping[str, Entry]], Path]


def expected(rounding: str) -> dict[str, Any]:
    """BF16 bits by name."""
    return expected_bits(DATA / "expected.safetensors", "reference", others=rounding == "reference")


def only(parts: Parts, config: Any = None) -> Tensor:
    (tensor,) = resolved(parts, config).tensors.values()
    return tensor


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("nbytes", [1 << 20, 700])
def test_golden(
    rounding: Any, nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ahead(monkeypatch, nbytes, window_bytes=2000)
    anamnesis.remember(CASES, tmp_path / "out.safetensors", rounding=rounding, threads=1)
    assert_bits(
        tmp_path / "out.safetensors",
        expected(rounding),
        {"norm.weight", "mlp.experts.down_proj_bias"},
    )


def test_the_rounding_matters_for_one_case() -> None:
    exact, reference = expected("exact"), expected("reference")
    differ = [name for name in exact if not np.array_equal(exact[name], reference[name])]
    assert differ == ["ct.nv.scalar.weight"]


def test_other_outputs(tmp_path: Path) -> None:
    assert_other_outputs(CASES, tmp_path, expected("exact"))


def test_slices_of_transposed_experts() -> None:
    model = anamnesis.open_model(CASES)
    for name in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"):
        whole = expected("exact")[name]
        for index in (np.s_[1, 33:70, 2:9], np.s_[0:2, 31], np.s_[:, 60:66], np.s_[-1, -1, -1]):
            np.testing.assert_array_equal(model[name][index].view(np.uint16), whole[index])


def test_blocks_and_scales_can_be_queried() -> None:
    model = anamnesis.open_model(CASES)
    for name in expected("exact"):
        raw = list(model[name].batches())
        stored = {
            batch.schema.field(c).metadata[b"name"]
            for batch in raw
            for c in range(batch.num_columns)
        }
        assert len(stored) >= 2


def test_codes_times_scales_are_the_values() -> None:
    """Rows of a scan by themselves: their bytes, their scales, and what they were decoded to."""
    for tensor in anamnesis.open_model(CASES).model.tensors:
        if not tensor.quantised or tensor.encoding == "fp6-mx":
            continue
        rows = scan_reader((tensor,)).read_all().to_pydict()
        packed = np.stack([np.frombuffer(raw, np.uint8) for raw in rows["payload"]])
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)
        scales = rows["scales"] if rows["scales"][0] else [[scale] for scale in rows["scale"]]
        with np.errstate(all="ignore"):
            found = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32) * np.float32(scales)
            found = found.astype(ml_dtypes.bfloat16).view(np.uint16)
        wanted = expected("exact")[tensor.name]
        if tensor.orientation == "transposed":
            wanted = wanted.swapaxes(1, 2)
        else:
            every = tensor.shape[-1] // found.shape[1]
            block, each = np.arange(len(found)), found.shape[1]
            assert rows["row"] == (block // every).tolist()
            assert rows["col"] == (block % every * each).tolist()
        wanted, found = wanted.reshape(-1), found.reshape(-1)
        nonzero = wanted & 0x7FFF != 0  # ModelOpt has no -0
        np.testing.assert_array_equal(found[nonzero], wanted[nonzero], tensor.name)
        assert not (found[~nonzero] & 0x7FFF).any()


def test_names_orientation_and_what_is_dropped() -> None:
    model = anamnesis.open_model(CASES).model
    schemes = {t.name: (t.scheme, t.encoding, t.orientation) for t in model.tensors}
    assert schemes["ct.nv.one.weight"] == ("nvfp4", "fp4-nv", "as-stored")
    assert schemes["mo.nv.fused_each"] == ("nvfp4", "fp4-nv", "as-stored")
    assert schemes["ct.mx6.weight"] == ("mxfp6", "fp6-mx", "as-stored")
    assert schemes["ds.experts.scale.weight"] == ("mxfp4", "fp4-mx", "as-stored")
    assert schemes["square.experts.down_proj"] == ("mxfp4", "fp4-mx-columns", "transposed")
    assert schemes["original.mlp.experts.down_proj_weight"] == ("mxfp4", "fp4-mx", "as-stored")
    assert schemes["mlp.experts.down_proj_bias"] == ("passthrough", "copy", "as-stored")
    assert {d.stored.name for d in model.dropped} == {
        f"mo.nv.{name}.input_scale" for name in ("plain", "experts", "each")
    }


def test_expert_scales_may_have_trailing_ones() -> None:
    codes: Parts = {"x.weight": ("U8", (3, 8, 32)), "x.weight_scale": ("F8_E4M3", (3, 8, 4))}
    for shape in ((3,), (3, 1), (3, 1, 1), (1,), ()):
        tensor = only({**codes, "x.weight_scale_2": ("F32", shape)})
        assert tensor.shape == (3, 8, 64)
        assert tensor.params["rows"] == 8
    for config in (None, {"quant_method": "modelopt"}, {"quant_method": "compressed-tensors"}):
        assert only({**codes, "x.weight_scale_2": ("F32", (3,))}, config).scheme == "nvfp4"


CT: Parts = {
    "x.weight_packed": ("U8", (8, 32)),
    "x.weight_scale": ("F8_E4M3", (8, 4)),
    "x.weight_global_scale": ("F32", (1,)),
}
MO: Parts = {
    "x.weight": ("U8", (8, 32)),
    "x.weight_scale": ("F8_E4M3", (8, 4)),
    "x.weight_scale_2": ("F32", ()),
}
MX: Parts = {"x.weight_packed": ("U8", (8, 32)), "x.weight_scale": ("U8", (8, 2))}
DS: Parts = {"x.weight": ("I8", (8, 32)), "x.scale": ("F8_E8M0", (8, 2))}
DS_U8: Parts = {"m.experts": ("I8", (3, 8, 32)), "m.experts_scale_inv": ("U8", (3, 8, 2))}
TURNED: Parts = {
    "m.gate_up_proj": ("U8", (2, 32, 24)),
    "m.gate_up_proj_weight_scale": ("F8_E4M3", (2, 4, 24)),
    "m.gate_up_proj_weight_scale_2": ("F32", ()),
}
OSS: Parts = {
    "m.gate_up_proj_blocks": ("U8", (2, 8, 3, 16)),
    "m.gate_up_proj_scales": ("U8", (2, 8, 3)),
}
OWN: Parts = {"m.w_weight.blocks": ("U8", (2, 8, 3, 16)), "m.w_weight.scales": ("U8", (2, 8, 3))}


def test_the_rows_of_these_tests_are_complete() -> None:
    for parts in (CT, MO, MX, DS, DS_U8, TURNED, OSS, OWN):
        assert only(parts).quantised


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({**MO, "x.weight_scale": ("U8", (32,))}, "block scales in tiles"),
        ({**CT, "x.weight_zero_point": ("F8_E4M3", (8, 4))}, "zero points"),
        ({**MO, "x.weight_scale_2": ("F32", (3,))}, "3 global scales for the shards"),
        (
            {"m.other_blocks": ("U8", (2, 8, 3, 16)), "m.other_scales": ("U8", (2, 8, 3))},
            "orientation is not known",
        ),
    ],
)
def test_refused_by_name(parts: Parts, message: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"model.safetensors.*{message}.*implemented are"):
        resolved(parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({k: v for k, v in CT.items() if "global" not in k}, "no 'x.weight_global_scale' beside"),
        ({k: v for k, v in CT.items() if k != "x.weight_scale"}, "no 'x.weight_scale' beside"),
        ({k: v for k, v in CT.items() if "packed" not in k}, "no 'x.weight_packed' beside"),
        ({k: v for k, v in MO.items() if k != "x.weight_scale_2"}, "no 'x.weight_scale_2' beside"),
        ({k: v for k, v in MO.items() if k != "x.weight_scale"}, "no 'x.weight_scale' beside"),
        ({k: v for k, v in MO.items() if k != "x.weight"}, "no 'x.weight' beside"),
        ({k: v for k, v in OSS.items() if "scales" not in k}, "no 'm.gate_up_proj_scales' beside"),
        ({k: v for k, v in OSS.items() if "blocks" not in k}, "no 'm.gate_up_proj_blocks' beside"),
        ({k: v for k, v in OWN.items() if "scales" not in k}, "no 'm.w_weight.scales' beside"),
        ({k: v for k, v in OWN.items() if "blocks" not in k}, "no 'm.w_weight.blocks' beside"),
        ({**TURNED, "m.gate_up_proj_weight_scale_2": ("F32", (3,))}, "one number or 2"),
        ({**TURNED, "m.gate_up_proj_weight_scale_2": ("BF16", ())}, "allowed is F32"),
        ({**TURNED, "m.gate_up_proj": ("U8", (2, 36, 24))}, "the scale does not fit"),
        ({**CT, "x.weight_scale": ("F8_E4M3", (8, 2))}, "one E4M3 scale for 16 elements, .8. x 4"),
        ({**CT, "x.weight_scale": ("F8_E4M3", (4, 8))}, "the scale does not fit"),
        ({**CT, "x.weight_scale": ("F8_E4M3", (32,))}, "the scale does not fit"),
        ({**CT, "x.weight_scale": ("BF16", (8, 4))}, "allowed are F8_E4M3"),
        ({**CT, "x.weight_packed": ("U8", (8, 33))}, "x 4.125"),
        ({**CT, "x.weight_packed": ("U8", (32,))}, "a matrix, or a stack"),
        ({**CT, "x.weight_packed": ("U8", ())}, "a matrix, or a stack"),
        ({**CT, "x.weight_packed": ("U8", (2, 2, 8, 32))}, "a matrix, or a stack"),
        ({**CT, "x.weight_global_scale": ("BF16", (1,))}, "allowed is F32"),
        ({**CT, "x.weight_global_scale": ("F32", (2, 2))}, "allowed is one number"),
        (
            {**MX, "x.weight_packed": ("U8", (8, 24))},
            "one E8M0 exponent for 32 elements, .8. x 1.5",
        ),
        ({**MX, "x.weight_scale": ("U8", (8, 4))}, "one E8M0 exponent for 32"),
        ({**MX, "x.weight_scale": ("F8_E8M0", (8, 1))}, "one E8M0 exponent for 32"),
        ({**DS, "x.scale": ("F8_E8M0", (8, 1))}, "one E8M0 exponent for 32"),
        ({**OSS, "m.gate_up_proj_scales": ("U8", (2, 3, 8))}, "allowed are blocks"),
        ({**OSS, "m.gate_up_proj_scales": ("I8", (2, 8, 3))}, "allowed are blocks"),
        ({**OSS, "m.gate_up_proj_blocks": ("U8", (2, 8, 6, 8))}, "allowed are blocks"),
        ({**OSS, "m.gate_up_proj_blocks": ("U8", (8, 3, 16))}, "allowed are blocks"),
    ],
)
def test_what_does_not_fit_is_an_error(parts: Parts, message: str) -> None:
    with pytest.raises(FormatError, match=rf"model.safetensors: tensor '[xm].*{message}"):
        resolved(parts)


def test_comfy_layers_are_another_scheme_s(tmp_path: Path, write_safetensors: Write) -> None:
    """Their block scales lie in tiles: those that are not do not fit."""
    mark = json.dumps({"format": "nvfp4"}).encode()
    entries: dict[str, Entry] = {
        name: (dtype, shape, bytes(int(np.prod(shape)) * DTYPES[dtype].bits // 8))
        for name, (dtype, shape) in MO.items()
    }
    entries["x.comfy_quant"] = ("U8", (len(mark),), mark)
    path = write_safetensors(tmp_path / "comfy.safetensors", entries)
    with pytest.raises(FormatError, match="in tiles"):
        anamnesis.inspect(path)


def test_integers_of_eight_bits_are_not_deepseeks() -> None:
    tensor = only({"x.weight": ("I8", (8, 32)), "x.weight_scale": ("BF16", (8, 1))})
    assert tensor.scheme == "ct-int-quantized"


@pytest.mark.parametrize("shape", [(0, 32), (8, 0), (0, 8, 32), (2, 0, 32), (2, 8, 0)])
def test_empty_tensors(shape: tuple[int, ...], tmp_path: Path, write_safetensors: Write) -> None:
    scale = (*shape[:-1], shape[-1] // 8)
    entries: dict[str, Entry] = {
        "x.weight_packed": ("U8", shape, b""),
        "x.weight_scale": ("F8_E4M3", scale, b""),
        "x.weight_global_scale": ("F32", (1,), bytes(4)),
        "y.weight": ("I8", shape, b""),
        "y.scale": ("F8_E8M0", (*shape[:-1], shape[-1] // 16), b""),
    }
    if len(shape) == 3:
        entries["z.down_proj_blocks"] = ("U8", (*shape, 16), b"")
        entries["z.down_proj_scales"] = ("U8", shape, b"")
    path = write_safetensors(tmp_path / "in.safetensors", entries)
    out = tmp_path / "out.safetensors"
    anamnesis.remember(path, out, threads=1)
    found = load_file(out)
    assert found["x.weight"].shape == found["y.weight"].shape == (*shape[:-1], 2 * shape[-1])
    if len(shape) == 3:
        assert found["z.down_proj"].shape == (shape[0], 32 * shape[2], shape[1])


def test_mxint4_is_what_autoround_says() -> None:
    """The same tensors as MXFP4: by the config for all layers, or for those that it names."""
    parts: Parts = {"a.weight_packed": ("U8", (8, 32)), "a.weight_scale": ("U8", (8, 2))}
    round_ = {"quant_method": "auto-round", "bits": 4}
    for about, scheme in (
        ({"data_type": "mx_int"}, "mxint4"),
        ({"data_type": "mx_int4"}, "mxint4"),
        ({"data_type": "mx_fp"}, "mxfp4"),
        ({"data_type": "mx_fp", "extra_config": {"a": {"data_type": "mx_int"}}}, "mxint4"),
        ({"data_type": "mx_int", "extra_config": {"a": {"data_type": "mx_fp"}}}, "mxfp4"),
        ({"data_type": "mx_int", "extra_config": {"b.*": {"bits": 8}}}, "mxint4"),
    ):
        assert only(parts, {**round_, **about}).scheme == scheme
    mixed = {"data_type": "mx_int", "extra_config": {"(b|c)+": {"data_type": "mx_fp"}}}
    with pytest.raises(UnsupportedError, match="MXFP4 beside MXINT4"):
        resolved(parts, {**round_, **mixed})


def test_e5m3_is_stated_and_has_a_scale_for_16_elements(
    tmp_path: Path, write_safetensors: Write
) -> None:
    """U8 scales without a global one: another number of them, or another format, are not E5M3."""
    parts: Parts = {"a.weight_packed": ("U8", (8, 32)), "a.weight_scale": ("U8", (8, 4))}
    round_ = {"quant_method": "auto-round", "bits": 4}
    for about in (
        {**round_, "data_type": "nvfp4_v2"},
        {**round_, "extra_config": {"a": {"data_type": "nvfp4_v2"}}},
        {**round_, "packing_format": "auto_round:llm_compressor_nvfp4_e5m3"},
        {"quant_method": "compressed-tensors", "format": "nvfp4-e5m3-pack-quantized"},
    ):
        tensor = only(parts, about)
        assert (tensor.scheme, tensor.params["scale_code"]) == ("nvfp4", "e5m3")
        assert only({**parts, "a.weight_scale": ("U8", (8, 2))}, about).scheme == "mxfp4"
        with pytest.raises(FormatError, match="one E8M0 exponent for 32"):
            resolved({**parts, "a.weight_scale": ("U8", (8, 5))}, about)
        with pytest.raises(FormatError, match="a matrix, or a stack"):
            resolved({**parts, "a.weight_packed": ("U8", ())}, about)
    with pytest.raises(FormatError, match="one E8M0 exponent for 32"):
        resolved(parts, {**round_, "data_type": "nv_fp"})
    nan = {
        "a.weight_packed": ("U8", (1, 8), b"\x21" * 8),
        "a.weight_scale": ("U8", (1, 1), b"\xff"),
    }
    path = write_safetensors(tmp_path / "model.safetensors", nan)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {**round_, **about}}))
    assert np.isnan(anamnesis.open_model(path)["a.weight"].to_numpy().astype(np.float32)).all()
