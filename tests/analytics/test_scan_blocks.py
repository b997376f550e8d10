"""The numbers of raw blocks: what is stored, and that codes times scales are the decoded values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import read_cases as cases
from gguf import GGUFReader
from gguf_files import finish

import anamnesis
from anamnesis.analytics.scan.ggml_fields import FIELDS, read_fields
from anamnesis.analytics.scan.run import scan_reader
from anamnesis.errors import FormatError
from anamnesis.kernels import ENCODINGS, Window, decoder
from anamnesis.readers.base import Tensor
from benchmarks.layers import F16_AT

DATA = Path(__file__).resolve().parents[1] / "data"
UNITS = {"gguf-iq1-m": 8, "gguf-iq1-s": 8, "gguf-mxfp4": 2, "gguf-nvfp4": 2}  # of a code, inverse
# Where random bytes would make d or dmin no number.
HALVES = {**F16_AT, "gguf-iq1-m": (), "gguf-mxfp4": (), "gguf-nvfp4": ()}


def columns(tensor: Tensor, **settings: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = scan_reader((tensor,), **settings).read_all().to_pydict()
    return found


def values(tensor: Tensor) -> Any:
    """Decoded values as float32, flat."""
    rows = scan_reader((tensor,), decode="f32").read_all()["values"]
    return np.concatenate([chunk.values.to_numpy() for chunk in rows.chunks])


def test_ggml_fields_are_of_the_encodings_with_blocks() -> None:
    assert list(FIELDS) == sorted(FIELDS)
    assert set(FIELDS) == {name for name, row in ENCODINGS.items() if row.block_bytes}


# Not those with a scale a row, nor IQ6_K, whose values are no whole numbers.
WHOLE = [n for n in FIELDS if not ENCODINGS[n].row_meta and n != "gguf-iq6-k"]


@pytest.mark.parametrize("name", WHOLE)
def test_ggml_codes_are_whole_numbers_under_these_scales(name: str) -> None:
    row, count = ENCODINGS[name], 200
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (count, row.block_bytes), dtype=np.uint8)
    for offset in HALVES.get(name, (0,)):
        halves = rng.uniform(0.5, 1.5, count).astype("<f2")
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(count, 2)
    if name == "gguf-mxfp4":
        blocks[:, 0] = rng.integers(90, 150, count)
    if name == "gguf-iq1-m":
        blocks[:, 55] = blocks[:, 55] & 0x0F | 0x30  # the exponent of d
    out = np.empty(count * row.block_elems, np.float32)
    decoder(name)({"payload": blocks}, {}, Window(0, count), out)
    found = read_fields(name, blocks)
    scales = found["scales"].astype(np.float64)
    minimums = found.get("minimums", np.zeros_like(scales)).astype(np.float64)
    runs = out.reshape(count, scales.shape[1], -1).astype(np.float64)
    with np.errstate(all="ignore"):
        codes = (runs - minimums[..., None]) / scales[..., None] * UNITS.get(name, 1)
    codes = codes[np.isfinite(codes)]
    assert codes.size > out.size / 2
    assert np.abs(codes - np.round(codes)).max() < 1e-3
    assert len(np.unique(np.round(codes))) <= 256
    assert {k: v.dtype for k, v in found.items()} == dict.fromkeys(found, np.dtype("float32"))


def test_numbers_of_a_real_gguf(sample: Path) -> None:
    """d and m as gguf-py's own view of the file has them."""
    model = anamnesis.open_model(sample)
    for tensor in GGUFReader(sample).tensors:
        found = model[tensor.name].scan().read_all()
        kind = tensor.tensor_type.name
        assert found["tensor"].unique().to_pylist() == [tensor.name]
        if kind == "F32":
            assert found.num_rows == 1
            assert found["scale"].null_count == 1
            assert found["payload"][0].as_py() == tensor.data.tobytes()
            continue
        size = {"Q8_0": 34, "Q4_1": 20}[kind]
        blocks = tensor.data.reshape(-1, size)
        halves = blocks[:, :4].copy().view("<f2").astype(np.float32)
        assert np.array_equal(found["scale"].to_numpy(), halves[:, 0])
        assert (found["minimum"].null_count == 0) == (kind == "Q4_1")
        if kind == "Q4_1":
            assert np.array_equal(found["minimum"].to_numpy(), halves[:, 1])
        payload = b"".join(found["payload"].to_pylist())
        assert payload == blocks.tobytes()
        width = int(tensor.shape[0])
        first = np.arange(len(blocks)) * 32
        assert np.array_equal(found["block"].to_numpy(), np.arange(len(blocks)))
        assert np.array_equal(found["row"].to_numpy(), first // width)
        assert np.array_equal(found["col"].to_numpy(), first % width)
        assert set(found["elems"].to_pylist()) == {32}


def check_fp8(lazy: Any, code: Any) -> list[int]:
    """Codes times scales against the decoded values; the lengths of the lists of scales."""
    found, wanted, at = columns(lazy.tensor), values(lazy.tensor), 0
    for i, payload in enumerate(found["payload"]):
        scales = np.array(found["scales"][i], np.float32)
        with np.errstate(all="ignore"):
            got = np.frombuffer(payload, code).astype(np.float32) * scales
        assert at == found["row"][i] * lazy.shape[-1] + found["col"][i]
        assert len(got) == found["elems"][i]
        np.testing.assert_array_equal(got, wanted[at : at + len(got)])
        at += len(got)
    assert at == lazy.size
    return [len(scales) for scales in found["scales"]]


@pytest.mark.parametrize("layout", ["granularities-e4m3", "granularities-e5m2"])
def test_fp8_codes_times_scales(layout: str) -> None:
    code = ml_dtypes.float8_e4m3fn if layout.endswith("e4m3") else ml_dtypes.float8_e5m2
    model = anamnesis.open_model(DATA / "layouts" / "fp8" / layout)
    assert {t.scheme for t in model.values()} == {"fp8-block", "fp8-channel", "fp8-tensor"}
    rows = {"fp8-block": 200 * 3, "fp8-channel": 200, "fp8-tensor": 200}
    for tensor in model.values():
        assert check_fp8(tensor, code) == [1] * rows[tensor.scheme]


@pytest.mark.parametrize(
    ("shape", "scales", "dtype", "scheme", "lists"),
    [
        ((6, 300), (1, 300), "F32", "fp8-channel", [300] * 6),
        ((5, 96), (5, 3), "F8_E8M0", "mxfp8", [1] * 15),
        ((3, 256, 200), (3, 2, 2), "F32", "fp8-block", [1] * 3 * 256 * 2),
        ((3, 5, 7), (3, 1, 1), "BF16", "fp8-tensor", [1] * 15),
    ],
)
def test_fp8_of_other_shapes(
    tmp_path: Path,
    write_safetensors: Any,
    shape: Any,
    scales: Any,
    dtype: str,
    scheme: str,
    lists: list[int],
) -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 0x7F, shape, dtype=np.uint8)
    kind = {"F32": "<f4", "F8_E8M0": "u1", "BF16": ml_dtypes.bfloat16}[dtype]
    numbers = rng.uniform(100, 140, scales).astype(kind)
    entries = {
        "x.weight": ("F8_E4M3", shape, codes.tobytes()),
        "x.weight_scale": (dtype, scales, numbers.tobytes()),
    }
    path = write_safetensors(tmp_path / "m.safetensors", entries)
    lazy = anamnesis.open_model(path)["x.weight"]
    assert lazy.scheme == scheme
    assert check_fp8(lazy, ml_dtypes.float8_e4m3fn) == lists


def test_bitsandbytes_codes_times_scales() -> None:
    model = anamnesis.open_model(DATA / "bnb" / "cases.safetensors")
    seen = set()
    for name, lazy in model.items():
        tensor = lazy.tensor
        seen.add((lazy.scheme, "nested_absmax" in [c.role for c in tensor.components]))
        found, wanted = columns(tensor), values(tensor)
        payload = np.frombuffer(b"".join(found["payload"]), np.uint8)
        assert sum(found["elems"]) == lazy.size
        if lazy.scheme == "bnb-int8":
            scb = np.array(found["scale"], np.float32).repeat(lazy.shape[1])
            inverse = np.float32(7.874015718698502e-3)
            with np.errstate(all="ignore"):
                got = payload.view(np.int8).astype(np.float32) * scb * inverse
            products = np.array(found["scale"], np.float32) * inverse
            listed = np.array(found["scales"], np.float32)[:, 0]
            np.testing.assert_array_equal(listed, products)
        elif lazy.scheme.startswith("bnb"):
            table = prepared_map(tensor)
            codes = np.stack([payload >> 4, payload & 15], 1).reshape(-1)[: lazy.size]
            scale = np.array(found["scale"], np.float32)
            with np.errstate(all="ignore"):
                got = table[codes] * scale.repeat(tensor.unit_elems)[: lazy.size]
        else:
            continue
        np.testing.assert_array_equal(got, wanted, err_msg=name)
    assert {("bnb-nf4", False), ("bnb-nf4", True), ("bnb-fp4", False)} <= seen


def prepared_map(tensor: Tensor) -> Any:
    from anamnesis.kernels.bnb import prepare_4bit
    from anamnesis.readers.batch import BlockReader
    from anamnesis.readers.files import Files

    files = Files()
    found = prepare_4bit(tensor.params, BlockReader(tensor, files, reuse=False).wholes())
    files.close()
    return found["quant_map"]


@pytest.mark.parametrize("name", [n for n in cases.names("") if "fast" not in n])
def test_gptq_and_awq_codes_times_scales(name: str) -> None:
    """Every value is one of the format's codes under the scale and zero point of its group."""
    tensor = cases.tensor(name)
    outputs, inputs = tensor.shape
    found, matrix = columns(tensor), values(tensor).reshape(outputs, inputs)
    blocks = [i for i, scale in enumerate(found["scale"]) if scale is not None]
    order = [c for c in tensor.components if c.role == "g_idx"]
    groups = cases.parts(name)["g_idx"] if order else None
    if groups is not None and not groups.any():
        groups = None
    assert len(blocks) == outputs * tensor.params["groups"]
    assert sum(found["elems"][i] for i in blocks) == tensor.elems
    for i in blocks:
        row, col, elems = found["row"][i], found["col"][i], found["elems"][i]
        scale, zero = np.float32(found["scale"][i]), np.float32(found["zero"][i])
        if groups is None:
            part = matrix[row, col : col + elems]
        else:
            group = found["block"][i] // outputs
            part = matrix[row, groups == group]
            where = np.flatnonzero(groups == group)
            contiguous = len(where) and where[-1] - where[0] + 1 == len(where)
            assert (col == where[0]) if contiguous else (col is None)
        codes = np.round(part / scale + zero) if scale else part * 0
        assert codes.min(initial=0) >= 0
        assert codes.max(initial=0) < 2 ** tensor.params["bits"]
        np.testing.assert_array_equal((codes - zero) * scale, part)
    others = [i for i in range(len(found["block"])) if found["scale"][i] is None]
    payload = b"".join(found["payload"][i] for i in others or blocks)
    assert payload == cases.parts(name)["qweight"].tobytes()
    assert {found["component"][i] for i in others} <= {"qweight"}


def test_nvfp4_scales_of_tensors_and_experts(tmp_path: Path) -> None:
    """`NAME.scale` multiplies what the blocks hold."""
    import gguf

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rng = np.random.default_rng(2)
    blocks = rng.integers(1, 0x70, (3, 4, 2 * 36), dtype=np.uint8)
    writer.add_tensor(
        "x.weight", blocks, raw_shape=blocks.shape, raw_dtype=gguf.GGMLQuantizationType.NVFP4
    )
    writer.add_tensor("x.scale", np.array([0.5, 2, 4], np.float32))
    finish(writer)
    lazy = anamnesis.open_model(path)["x.weight"]
    found = columns(lazy.tensor)
    assert found["scale"] == [0.5] * 8 + [2.0] * 8 + [4.0] * 8
    runs = values(lazy.tensor).reshape(24, 4, 16)
    codes = 2 * runs / np.array(found["scales"])[..., None]
    assert np.array_equal(codes, np.round(codes))
    assert np.abs(codes).max() == 12


@pytest.mark.parametrize("int8", [False, True])
def test_rows_longer_than_any_are_cut(tmp_path: Path, write_safetensors: Any, int8: bool) -> None:
    """Each part keeps the scale of its row."""
    width = (1 << 18) + 3
    codes = np.random.default_rng(3).integers(0, 0x7F, (2, width), dtype=np.uint8)
    scales = np.array([0.5, 3], "<f4")
    entries = {
        "x.weight": ("I8" if int8 else "F8_E4M3", codes.shape, codes.tobytes()),
        "x.SCB" if int8 else "x.weight_scale": ("F32", (2,), scales.tobytes()),
    }
    path = write_safetensors(tmp_path / "m.safetensors", entries)
    found = columns(anamnesis.open_model(path)["x.weight"].tensor)
    assert found["scale"] == [0.5, 0.5, 3, 3]
    assert found["elems"] == [1 << 18, 3] * 2
    assert b"".join(found["payload"]) == codes.tobytes()


def test_a_group_that_does_not_exist(tmp_path: Path, write_safetensors: Any) -> None:
    """The error of decoding, from the stream too; `scale` alone does not need the index."""
    index = np.repeat(np.arange(4, dtype="<i4"), 64)
    index[200] = 9
    entries = {
        "m.qweight": ("I32", (32, 64), bytes(32 * 64 * 4)),
        "m.qzeros": ("I32", (4, 8), bytes(4 * 8 * 4)),
        "m.scales": ("F16", (4, 64), np.ones((4, 64), "<f2").tobytes()),
        "m.g_idx": ("I32", (256,), index.tobytes()),
    }
    model = anamnesis.open_model(write_safetensors(tmp_path / "m.safetensors", entries))
    each: list[dict[str, Any]] = [{}, {"columns": ["col"]}, {"decode": "f32"}]
    for settings in each:
        with pytest.raises(FormatError, match="g_idx"):
            model.scan(**settings).read_all()
    assert model.scan(columns=["scale"]).read_all()["scale"].null_count == 32
