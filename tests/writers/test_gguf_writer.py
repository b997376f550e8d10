"""The GGUF sink, against the `gguf` package of llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from gguf_files import finish

import anamnesis
from anamnesis.cli.main import cli
from anamnesis.errors import UnsupportedError, UsageError
from anamnesis.readers.gguf_types import KeyValue
from anamnesis.writers import gguf as sink
from anamnesis.writers.base import Item, Storage
from anamnesis.writers.gguf_values import pack, unpack

gguf = pytest.importorskip("gguf")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A GGUF of the package's own writer, with every type of value and some types of tensors."""
    path = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -5)
    writer.add_uint16("t.u16", 40000)
    writer.add_int16("t.i16", -3)
    writer.add_int32("t.i32", -70000)
    writer.add_float32("t.f32", 0.1)
    writer.add_uint64("t.u64", 1 << 40)
    writer.add_int64("t.i64", -(1 << 40))
    writer.add_float64("t.f64", 0.1)
    writer.add_bool("t.bool", True)
    writer.add_array("t.names", [f"token {i}" for i in range(500)])
    writer.add_array("t.numbers", list(range(3000)))
    writer.add_array("t.flags", [True, False])
    rng = np.random.default_rng(3)
    writer.add_tensor("token_embd.weight", rng.random((7, 64), np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", rng.random(5, np.float32))
    half = rng.random((3, 32), np.float32).astype(np.float16)
    writer.add_tensor("blk.0.ffn_up.weight", half)
    codes = gguf.quantize(rng.random((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", codes, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    finish(writer)
    return path


def fields(path: Path) -> dict[str, Any]:
    """All key/values, typed, as the package reads them."""
    return {
        key: (field.types, field.contents())
        for key, field in gguf.GGUFReader(str(path)).fields.items()
        if not key.startswith("GGUF.")
    }


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_all_key_values_and_dense_tensors_stay(source: Path, tmp_path: Path, executor: str) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(source, out, to="gguf", executor=executor)
    expected = fields(source)
    del expected["general.architecture"]
    found = fields(out)
    assert found.pop("general.file_type")[1] == 32
    del found["general.architecture"]
    assert found == expected
    before = {t.name: t for t in gguf.GGUFReader(str(source)).tensors}
    for tensor in gguf.GGUFReader(str(out)).tensors:
        was = before[tensor.name]
        assert list(tensor.shape) == list(was.shape)
        if tensor.name == "output.weight":
            values = gguf.dequantize(was.data, was.tensor_type)
            recovered = gguf.dequantize(tensor.data, tensor.tensor_type)
            rounded = gguf.quantize(values, gguf.GGMLQuantizationType.BF16)
            assert np.array_equal(gguf.dequantize(rounded, tensor.tensor_type), recovered)
        else:
            assert tensor.tensor_type == was.tensor_type
            assert tensor.data.tobytes() == was.data.tobytes()
    assert anamnesis.verify(out)["tensors"] == 4


def test_a_dense_file_comes_out_byte_for_byte(source: Path, tmp_path: Path) -> None:
    once, again = tmp_path / "once.gguf", tmp_path / "again.gguf"
    anamnesis.convert(source, once, to="gguf")
    anamnesis.convert(once, again, to="gguf")
    assert again.read_bytes() == once.read_bytes()


def test_splits_hold_one_model(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(source, out, to="gguf", max_shard_size=1000)
    parts = sorted(tmp_path.glob("out-*.gguf"))
    assert [p.name for p in parts] == [
        "out-00001-of-00002.gguf",
        "out-00002-of-00002.gguf",
    ]
    assert fields(parts[0])["split.count"][1] == 2
    assert set(fields(parts[1])) == {"split.no", "split.count", "split.tensors.count"}
    assert fields(parts[1])["split.tensors.count"][1] == 4
    together = tmp_path / "together.gguf"
    anamnesis.convert(parts[0], together, to="gguf")
    whole = tmp_path / "whole.gguf"
    anamnesis.convert(source, whole, to="gguf")
    assert together.read_bytes() == whole.read_bytes()


def test_a_name_without_the_suffix_is_a_folder(source: Path, tmp_path: Path) -> None:
    """It can be resumed, replaced, moved and verified as any other folder."""
    out = tmp_path / "out"
    out.mkdir()
    whole = tmp_path / "whole.gguf"
    anamnesis.convert(source, whole)
    anamnesis.convert(source, out, to="gguf", max_shard_size=1000, manifest="inside")
    assert sorted(p.name for p in out.glob("*.gguf")) == [
        "model-00001-of-00002.gguf",
        "model-00002-of-00002.gguf",
    ]
    anamnesis.convert(source, out, to="gguf", overwrite=True)
    assert [p.name for p in out.iterdir()] == ["model.gguf"]
    assert (out / "model.gguf").read_bytes() == whole.read_bytes()
    assert anamnesis.convert(source, out, to="gguf").resumed
    anamnesis.verify(out, against=source)


def test_flags_change_key_values(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    more = tmp_path / "more.json"
    more.write_text('{"t.u8": 7, "new.list": [1.5, 2.5]}')
    flags = ["--gguf-kv", "t.i8=-6", "--gguf-kv", "new.name=hi", "--gguf-kv", f"@{more}"]
    result = CliRunner().invoke(
        cli, ["convert", str(source), "--to", "gguf", "-o", str(out), *flags]
    )
    assert result.exit_code == 0, result.output
    before, after = fields(source), fields(out)
    assert after["t.u8"] == (before["t.u8"][0], 7)
    assert after["t.i8"] == (before["t.i8"][0], -6)
    assert after["new.name"][1] == "hi"
    assert after["new.list"][1] == [1.5, 2.5]
    habit = ["convert", str(source), "-o", str(out), "--overwrite", "--gguf-kv", "new.size=int:5"]
    assert "KEY:uint32=5" in str(CliRunner().invoke(cli, habit).exception)


@pytest.mark.parametrize(
    ("said", "value", "types"),
    [
        ("llama.expert_count", 0, ["UINT32"]),
        ("llama.rope.freq_base", 10000, ["FLOAT32"]),
        ("new", 1 << 32, ["UINT64"]),
        ("new", -1, ["INT32"]),
        ("new", -(1 << 40), ["INT64"]),
        ("new", [1, 2], ["ARRAY", "INT32"]),
        ("new", [1, 2.5], ["ARRAY", "FLOAT32"]),
        ("new:uint16", 7, ["UINT16"]),
        ("new:float64", 7, ["FLOAT64"]),
        ("new:uint32", [7], ["ARRAY", "UINT32"]),
        ("t.u8:int64", 300, ["INT64"]),
    ],
)
def test_new_keys_have_the_types_that_llama_cpp_reads_or_those_that_are_said(
    said: str, value: Any, types: list[str], source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    anamnesis.convert(source, out, to="gguf", key_values={said: value})
    found = fields(out)[said.partition(":")[0]]
    assert found == ([gguf.GGUFValueType[name] for name in types], value)


@pytest.mark.parametrize(
    "given",
    [
        *({"t.u8": "text"}, {"t.u8": 300}, {"new": None}, {"n": [1, "a"]}, {"n": [None]}),
        *({"n:uint8": 300}, {"n:uint8": "a"}, {"n:string": 5}, {"n:u8": 5}),
    ],
)
def test_values_that_do_not_fit_are_refused(source: Path, tmp_path: Path, given: Any) -> None:
    with pytest.raises(UsageError):
        anamnesis.convert(source, tmp_path / "out.gguf", to="gguf", key_values=given)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.alignment", 3, "is set by what is written"),
        ("general.alignment", 64, "is set by what is written"),
        ("split.count", 2, "is set by what is written"),
        ("t.names", "a", "found 'a'; the key is a list"),
        ("t.i8", [1], "; the key is int8"),
        ("t.u8", "a", "found 'a'; the key is uint8"),
    ],
)
def test_keys_of_the_writer_and_of_another_type_are_refused(
    source: Path, tmp_path: Path, key: str, value: Any, message: str
) -> None:
    out = tmp_path / "out.gguf"
    with pytest.raises(UsageError, match=f"{key}: .*{message}"):
        anamnesis.convert(source, out, to="gguf", key_values={key: value})
    assert not out.exists()


def test_what_gguf_does_not_have_is_refused() -> None:
    path = Path("x.gguf")
    for item in (Item("a", (2,), "C64", 2), Item("a", (1, 1, 1, 1, 1), "F32", 1)):
        with pytest.raises(UnsupportedError):
            sink.layout([item], path, 1 << 40, Storage())


def test_quantised_items_have_places_of_whole_blocks() -> None:
    items = [Item("a", (2, 256), "Q4_K", 512), Item("b", (3,), "F32", 3)]
    layout = sink.layout(items, Path("x.gguf"), 1 << 40, Storage())
    (_, first), (_, second) = layout.places
    start = layout.files[0].fixed[0][1]
    assert list(first.ranges(256, 512)) == [(len(start) + 144, 144)]
    assert list(second.ranges(0, 3)) == [(len(start) + 288, 12)]
    assert layout.files[0].nbytes == len(start) + 288 + 32


def test_packed_key_values_come_back() -> None:
    values = {"a": KeyValue(4, 5), "b": KeyValue(9, ["x", "y"], 8)}
    count, data = unpack(pack(values))
    assert count == 2
    assert unpack(pack({})) == (0, b"")
    assert len(data) == 8 + 1 + 4 + 4 + 8 + 1 + 4 + 4 + 8 + 2 * 9
    with pytest.raises(UsageError):
        pack({"a": KeyValue(0, 256)})
