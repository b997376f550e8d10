"""torchao's tensors through the reader against torchao's own classes (tests/data/torchao)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden import assert_bits, assert_other_outputs, expected_bits, read_ahead
from small_models import ledger_of

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger, Options

DATA = Path(__file__).resolve().parents[1] / "data" / "torchao"
CASES = DATA / "cases.safetensors"
Parts = Mapping[str, tuple[str, tuple[int, ...]]]
BF16, F16, F32 = ({"_type": "torch.dtype", "_data": d} for d in ("bfloat16", "float16", "float32"))


def expected(rounding: str) -> dict[str, Any]:
    """BF16 bits by name."""
    return expected_bits(DATA / "expected.safetensors", "exact", others=rounding == "exact")


def meta(kind: str, names: Any = ("qdata", "scale"), **about: Any) -> str:
    return json.dumps({"_type": kind, "_data": about, "_tensor_data_names": list(names)})


def resolved(parts: Parts, metadata: Mapping[str, str], **options: Any) -> Ledger:
    metadata = {"tensor_names": json.dumps(list(metadata)), **metadata}
    ledger = ledger_of(parts, metadata=metadata, options=Options(**options))
    resolve(ledger)
    return ledger


def only(parts: Parts, about: str, **options: Any) -> Tensor:
    """The one tensor that comes out of parts of `m.x`, named without that."""
    named = {f"m._x_{role}": part for role, part in parts.items()}
    (tensor,) = resolved(named, {"m.x": about}, **options).tensors.values()
    return tensor


@pytest.mark.parametrize("rounding", ["exact", "reference"])
@pytest.mark.parametrize("nbytes", [1 << 20, 700])
def test_golden(
    rounding: Any, nbytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_ahead(monkeypatch, nbytes)
    anamnesis.remember(CASES, tmp_path / "out.safetensors", rounding=rounding, threads=1)
    assert_bits(
        tmp_path / "out.safetensors", expected(rounding), {"norm.weight", "float8.row.bias"}
    )


def test_the_rounding_matters_for_binary16_alone() -> None:
    exact, reference = expected("exact"), expected("reference")
    differ = {name for name in exact if not np.array_equal(exact[name], reference[name])}
    assert differ == {"intx.int3-half.weight", "intx.int8-half-row.weight"}


def test_other_outputs(tmp_path: Path) -> None:
    assert_other_outputs(CASES, tmp_path, expected("exact"))


def test_slices_and_raw_blocks() -> None:
    model = anamnesis.open_model(CASES)
    for name, index in (
        ("int4.experts.weight", np.s_[1:, 3:6, 10:40]),
        ("int4.group32.weight", np.s_[4:, 31:66]),
        ("tiles.nv.plain.weight", np.s_[125:, 15:]),
        ("tiles.nv.experts.weight", np.s_[1, 100:]),
        ("tiles.mx.fp8.weight", np.s_[31:, 127:129]),
    ):
        found = model[name][index].view(np.uint16)
        np.testing.assert_array_equal(found, expected("exact")[name][index])
    for name in expected("exact"):
        assert sum(batch.num_rows for batch in model[name].batches())


def test_scans_and_the_range_of_scales() -> None:
    """What fills tiles up is no scale."""
    stored, data = anamnesis.open_model(CASES).model.stored, CASES.read_bytes()

    def numbers(name: str, dtype: Any) -> Any:
        at = stored[name].offset
        return np.frombuffer(data[at : at + stored[name].nbytes], dtype).astype(np.float32)

    ranges = {row.tensor: (row.scale_min, row.scale_max) for row in anamnesis.stats(CASES)}
    int4 = numbers("int4.group32._weight_scale", ml_dtypes.bfloat16)
    assert ranges["int4.group32.weight"] == (int4.min(), int4.max())
    tiles = numbers("tiles.nv.plain._weight_scale", ml_dtypes.float8_e4m3fn)
    low, high = ranges["tiles.nv.plain.weight"]
    assert (low, high) == (tiles[tiles > 0].min(), tiles.max())
    for name in ("tiles.mx.fp8.weight", "tiles.mx.e5m2.weight", "tiles.mx.fp4.weight"):
        least, most = ranges[name]
        assert least is not None
        assert most is not None
        assert 2.0**-20 < least < most
    found = anamnesis.scan(CASES, columns=["tensor"]).read_all()
    assert found.num_rows


def test_every_executor_and_sink(tmp_path: Path) -> None:
    whole = tmp_path / "serial.safetensors"
    anamnesis.remember(CASES, whole, executor="serial")
    anamnesis.remember(CASES, tmp_path / "threads.safetensors", executor="threads", threads=2)
    assert whole.read_bytes() == (tmp_path / "threads.safetensors").read_bytes()


def test_schemes_and_what_is_dropped() -> None:
    model = anamnesis.open_model(CASES).model
    found = {t.name: (t.scheme, t.encoding) for t in model.tensors}
    assert found["float8.e5m2.weight"] == ("torchao-float8", "fp8-e5m2")
    assert found["int8.group.weight"] == ("torchao-int8", "ct-int8")
    assert found["intx.int2.weight"] == ("torchao-intx", "ct-int8")
    assert found["int4.group32.weight"] == ("torchao-int4", "torchao-int4")
    assert found["mx.fp4.weight"] == ("torchao-mx", "fp4-mx")
    assert found["tiles.mx.fp8.weight"] == ("torchao-mx", "torchao-mxfp8-e4m3-tiles")
    assert found["nv.each.gate_up_proj"] == ("torchao-nvfp4", "fp4-nv")
    assert found["tiles.nv.plain.weight"] == ("torchao-nvfp4", "torchao-nvfp4-tiles")
    assert found["float8.row.bias"] == ("passthrough", "copy")
    assert {d.stored.name for d in model.dropped} == {
        "int8.no-zeros._weight_act_quant_scale",
        "int8.no-zeros._weight_act_quant_zero_point",
        "nv.each._gate_up_proj_act_per_tensor_scale",
    }


def test_unit_scales_are_not_assumed_beside_torchao() -> None:
    """Its FP8 codes and scales are no plain casts."""
    ledger = resolved(
        {
            "a._weight_qdata": ("F8_E4M3", (4, 32)),
            "a._weight_scale": ("F32", (4, 1)),
            "b._weight_qdata": ("U8", (4, 16)),
            "b._weight_scale": ("F8_E4M3", (4, 2)),
            "c.weight": ("F8_E4M3", (4, 32)),
        },
        {
            "a.weight": meta("Float8Tensor", block_size=[1, 32]),
            "b.weight": meta("NVFP4Tensor", block_size=16, is_swizzled_scales=False),
        },
        assume_unit_scale=True,
    )
    schemes = {t.name: t.scheme for t in ledger.tensors.values()}
    assert schemes == {
        "a.weight": "torchao-float8",
        "b.weight": "torchao-nvfp4",
        "c.weight": "fp8-unit",
    }


def test_one_shard_of_many_has_the_metadata_of_all() -> None:
    ledger = resolved(
        {"a._weight_qdata": ("F8_E4M3", (4, 32)), "a._weight_scale": ("F32", (4, 1))},
        {
            "a.weight": meta("Float8Tensor", block_size=[1, 32]),
            "b.weight": meta("Float8Tensor", block_size=[1, 32]),
            "c.weight": json.dumps({"_type": "Tensor"}),
        },
    )
    assert set(ledger.tensors) == {"a.weight"}


FLOAT8: Parts = {"qdata": ("F8_E4M3", (4, 64)), "scale": ("F32", (4, 1))}
INT8: Parts = {"qdata": ("I8", (4, 64)), "scale": ("BF16", (4, 2))}
INTX: Parts = {**INT8, "zero_point": ("I8", (4, 2))}
INT4: Parts = {
    "qdata": ("I8", (4, 32)),
    "scale": ("BF16", (2, 4)),
    "zero_point": ("BF16", (2, 4)),
}
MX: Parts = {"qdata": ("U8", (4, 32)), "scale": ("F8_E8M0", (4, 2))}
NV: Parts = {"qdata": ("U8", (4, 32)), "scale": ("F8_E4M3", (4, 4))}
THREE = ("qdata", "scale", "zero_point")
E4M3 = {"_type": "torch.dtype", "_data": "float8_e4m3fn"}
E2M1 = {"_type": "torch.dtype", "_data": "float4_e2m1fn_x2"}
ABOUT: dict[str, dict[str, Any]] = {
    "Float8Tensor": {"block_size": [1, 64]},
    "Int8Tensor": {"block_size": [1, 32], "dtype": BF16},
    "IntxUnpackedToInt8Tensor": {"block_size": [1, 32], "dtype": BF16},
    "Int4Tensor": {"block_size": [1, 32], "shape": [4, 64]},
    "MXTensor": {"elem_dtype": E2M1, "block_size": 32, "is_swizzled_scales": False},
    "NVFP4Tensor": {"block_size": 16, "is_swizzled_scales": False},
}
PARTS: dict[str, Parts] = dict(zip(ABOUT, (FLOAT8, INT8, INTX, INT4, MX, NV), strict=True))


def changed(kind: str, parts: Parts = {}, names: Any = None, **about: Any) -> Tensor:  # noqa: B006
    """A good tensor of a class with other parts, and other attributes."""
    have = {**PARTS[kind], **parts}
    return only(have, meta(kind, have if names is None else names, **ABOUT[kind], **about))


@pytest.mark.parametrize("kind", ABOUT)
def test_the_cases_below_are_good_but_for_what_they_change(kind: str) -> None:
    assert changed(kind).shape == (4, 64)


@pytest.mark.parametrize(
    ("kind", "parts", "about", "words"),
    [
        ("Float8Tensor", {"scale": ("F32", (3, 1))}, {}, r"does not fit; allowed is \[4, 1\]"),
        ("Float8Tensor", {"scale": ("BF16", (4, 1))}, {}, "allowed is F32"),
        ("Float8Tensor", {"qdata": ("I8", (4, 64))}, {}, "allowed is F8_E4M3"),
        ("Float8Tensor", {"qdata": ("F8_E4M3", (64,))}, {}, "a matrix, or a stack"),
        ("Float8Tensor", {}, {"block_size": [1, 48]}, "does not divide"),
        ("Float8Tensor", {}, {"block_size": [1]}, "a list of 2 numbers above 0"),
        ("Float8Tensor", {}, {"block_size": [1, 0]}, "a list of 2 numbers above 0"),
        ("Float8Tensor", {}, {"block_size": [1, True]}, "a list of 2 numbers above 0"),
        ("Float8Tensor", {}, {"block_size": "1x64"}, "a list of 2 numbers above 0"),
        ("Float8Tensor", {"scale": ("F32", (3, 1))}, {"block_size": None}, "a shape that divides"),
        ("Int8Tensor", {"scale": ("F8_E4M3", (4, 2))}, {}, "allowed is BF16, F16, F32"),
        ("Int8Tensor", {"zero_point": ("I8", (4, 1))}, {}, r"allowed is \[4, 2\]"),
        ("Int8Tensor", {"zero_point": ("F32", (4, 2))}, {}, "allowed is I8"),
        ("Int8Tensor", {}, {"block_size": None}, "a list of 2 numbers"),
        ("IntxUnpackedToInt8Tensor", {}, {"dtype": "bfloat"}, "allowed is BF16|allowed is bfloat"),
        ("IntxUnpackedToInt8Tensor", {}, {"dtype": 3}, "allowed is a dtype"),
        ("Int4Tensor", {"scale": ("BF16", (4, 2))}, {}, r"allowed is \[2, 4\]"),
        ("Int4Tensor", {"zero_point": ("F16", (2, 4))}, {}, "allowed is BF16"),
        ("Int4Tensor", {"qdata": ("I32", (4, 32))}, {}, "allowed is I8, U8"),
        ("Int4Tensor", {}, {"shape": [4, 65]}, "its codes are of"),
        ("Int4Tensor", {}, {"shape": None}, "its codes are of"),
        ("Int4Tensor", {}, {"block_size": [2, 32]}, "groups that divide 64"),
        ("Int4Tensor", {}, {"block_size": [1, 33]}, "groups that divide 64"),
        ("MXTensor", {"scale": ("U8", (4, 2))}, {}, "allowed is F8_E8M0"),
        ("MXTensor", {"scale": ("F8_E8M0", (4, 1))}, {}, "one number for each 32"),
        ("MXTensor", {"qdata": ("F4", (4, 64))}, {}, "allowed is U8"),
        ("MXTensor", {}, {"elem_dtype": E4M3}, "allowed is F8_E4M3"),
        ("MXTensor", {}, {"block_size": 2.5}, "a number above 0"),
        ("MXTensor", {}, {"is_swizzled_scales": None}, "true or false"),
        ("MXTensor", {}, {"is_swizzled_scales": True}, r"\[32, 16\], in tiles"),
        ("Int8Tensor", {"act_pre_scale": ("BF16", (4,))}, {}, r"allowed: .*\[64\]"),
        ("Int8Tensor", {"act_pre_scale": ("I8", (64,))}, {}, "allowed: BF16, F16, F32"),
        ("NVFP4Tensor", {"scale": ("F8_E8M0", (4, 4))}, {}, "allowed is F8_E4M3"),
        ("NVFP4Tensor", {"per_tensor_scale": ("F32", (4,))}, {}, r"allowed is \[\[\]\]"),
        ("NVFP4Tensor", {"per_tensor_scale": ("BF16", ())}, {}, "allowed is F32"),
        ("NVFP4Tensor", {}, {"is_swizzled_scales": True}, r"\[32, 16\], in tiles"),
    ],
)
def test_misfits(kind: str, parts: Any, about: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        only(
            {**PARTS[kind], **parts},
            meta(kind, {**PARTS[kind], **parts}, **(ABOUT[kind] | about)),
        )


@pytest.mark.parametrize(
    ("kind", "parts", "about", "words"),
    [
        ("IntxUnpackedToInt8Tensor", {"zero_point": ("BF16", (4, 2))}, {}, "no integers"),
        ("MXTensor", {}, {"elem_dtype": "fp6_e2m3"}, "fp6_e2m3"),
        ("MXTensor", {"scale": ("F8_E8M0", (4, 4))}, {"block_size": 16}, "blocks of 16"),
    ],
)
def test_refused_by_name(kind: str, parts: Any, about: Any, words: str) -> None:
    have = {**PARTS[kind], **parts}
    with pytest.raises(UnsupportedError, match=f"{kind}.*{words}"):
        only(have, meta(kind, have, **(ABOUT[kind] | about)))


def test_other_classes_are_refused_by_name() -> None:
    parts: Parts = {"qdata": ("I32", (4, 8)), "scale_and_zero": ("BF16", (2, 4, 2))}
    kind = "SomeNewTensor"
    with pytest.raises(UnsupportedError, match=f"{kind} is recognised and not implemented"):
        only(parts, meta(kind, parts, block_size=[1, 32], shape=[4, 64]))


def test_stacks_in_tiles_need_whole_tiles() -> None:
    parts: Parts = {"qdata": ("U8", (2, 64, 32)), "scale": ("F8_E4M3", (2, 32, 16))}
    about = {"block_size": 16, "is_swizzled_scales": True}
    with pytest.raises(UnsupportedError, match="tiles for matrices of 64 rows"):
        only(parts, meta("NVFP4Tensor", parts, **about))


def test_a_scale_of_several_matrices() -> None:
    parts: Parts = {"qdata": ("F8_E4M3", (4, 8, 32)), "scale": ("F32", (2, 1, 1))}
    with pytest.raises(UnsupportedError, match="blocks of several matrices"):
        only(parts, meta("Float8Tensor", parts, block_size=[2, 8, 32]))
    ints: Parts = {"qdata": ("I8", (4, 8, 32)), "scale": ("F32", (2, 1, 1))}
    with pytest.raises(UnsupportedError, match="blocks of several matrices"):
        only(ints, meta("Int8Tensor", ints, block_size=[2, 8, 32]))


def test_binary16_from_float32_scales_has_no_reference() -> None:
    parts: Parts = {**INTX, "scale": ("F32", (4, 2))}
    about = meta("IntxUnpackedToInt8Tensor", parts, block_size=[1, 32], dtype=F16)
    assert only(parts, about).params["rounding"] == "exact"
    with pytest.raises(UnsupportedError, match="float16 from F32 scales in reference order"):
        only(parts, about, rounding="reference")


def test_older_files_tell_no_block() -> None:
    parts: Parts = {"qdata": ("F8_E4M3", (4, 64)), "scale": ("F32", (2, 4))}
    tensor = only(parts, meta("Float8Tensor", parts))
    assert (tensor.params["block"], tensor.params["grid"]) == ((2, 16), (1, 2, 4))


def test_parts_that_are_missing_or_too_many() -> None:
    with pytest.raises(FormatError, match=r"no 'm\._x_scale' beside it, in any of 1 file"):
        only({"qdata": FLOAT8["qdata"]}, meta("Float8Tensor", block_size=[1, 64]))
    with pytest.raises(FormatError, match="names no 'scale', which Float8Tensor has"):
        only(FLOAT8, meta("Float8Tensor", ["qdata"], block_size=[1, 64]))
    with pytest.raises(FormatError, match="that its metadata does not name"):
        only({**FLOAT8, "extra": ("F32", (4,))}, meta("Float8Tensor", block_size=[1, 64]))
    named: Parts = {f"m._x_{role}": part for role, part in FLOAT8.items()}
    again: Parts = {**named, "m.x": ("F32", (4, 64))}
    with pytest.raises(FormatError, match="stored twice"):
        resolved(again, {"m.x": meta("Float8Tensor", block_size=[1, 64])})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "metadata of 'm.x'"),
        ("[]", "text '_type'"),
        ('{"_type": 3}', "text '_type'"),
        ('{"_type": "Float8Tensor"}', "'_tensor_data_names', a list of names"),
        ('{"_type": "Float8Tensor", "_data": [], "_tensor_data_names": []}', "an object '_data'"),
        ('{"_type": "Float8Tensor", "_data": {}, "_tensor_data_names": [1]}', "a list of names"),
    ],
)
def test_broken_metadata(text: str, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        only(FLOAT8, text)


def test_without_metadata() -> None:
    parts: Parts = {"m._gate_up_qdata": ("I8", (4, 64)), "m._gate_up_scale": ("F32", (4, 1))}
    with pytest.raises(UnsupportedError, match="torchao without its metadata"):
        resolved(parts, {})
    names = {"tensor_names": '{"m.x": 1}'}
    ledger = ledger_of({"m._x_qdata": ("I8", (4,))}, metadata=names)
    with pytest.raises(FormatError, match="expected a list of names"):
        resolve(ledger)


@pytest.mark.parametrize(
    ("kind", "parts", "about"),
    [
        ("Float8Tensor", {"qdata": ("F8_E4M3", (0, 64)), "scale": ("F32", (0, 1))}, {}),
        ("Int8Tensor", {"qdata": ("I8", (0, 64)), "scale": ("BF16", (0, 2))}, {}),
        (
            "Int4Tensor",
            {
                "qdata": ("I8", (0, 32)),
                "scale": ("BF16", (2, 0)),
                "zero_point": ("BF16", (2, 0)),
            },
            {"shape": [0, 64]},
        ),
        ("NVFP4Tensor", {"qdata": ("U8", (0, 32)), "scale": ("F8_E4M3", (0, 4))}, {}),
        (
            "NVFP4Tensor",
            {"qdata": ("U8", (0, 32)), "scale": ("F8_E4M3", (0, 16))},
            {"is_swizzled_scales": True},
        ),
    ],
)
def test_nothing_stored(kind: str, parts: Any, about: Any) -> None:
    tensor = only(parts, meta(kind, parts, **(ABOUT[kind] | about)))
    assert (tensor.shape, tensor.units) == ((0, 64), 0)
