"""ONNX files: where their weights lie, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import (
    FormatError,
    IntegrityError,
    LimitError,
    SecurityError,
    UnsupportedError,
)
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.model import load_model

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402
from onnx_parts import CODES, ONE, array, model, nbits, parts  # noqa: E402

DATA = Path(__file__).resolve().parents[1] / "data" / "onnx"


def test_numbers_inside_lie_where_they_are_said(tmp_path: Path) -> None:
    """Zeros, repetitions and values that begin alike among them."""
    rng = np.random.default_rng(3)
    head = rng.standard_normal(40).astype(np.float32)
    arrays = {
        "zeros": np.zeros((64, 3), np.float32),
        "again": np.zeros((64, 3), np.float32),
        "a": head,
        "b": np.concatenate([head[:20], -head[20:]]),
        "half": rng.standard_normal((3, 5)).astype(np.float16),
        "double": rng.standard_normal(7),
        "count": np.arange(6),
        "empty": np.zeros((0, 4), np.float32),
        "one": np.float32(3),
    }
    path = model(*(array(name, value) for name, value in arrays.items()), path=tmp_path / "m.onnx")
    stored = open_container(path, Limits()).stored
    assert list(stored) == list(arrays)
    data = Path(path).read_bytes()
    for name, value in arrays.items():
        item = stored[name]
        assert item.shape == np.shape(value)
        assert data[item.offset : item.offset + item.nbytes] == np.asarray(value).tobytes()


def test_numbers_in_typed_fields(tmp_path: Path) -> None:
    """Floats lie as they are; integers are written one by one, and are left out with a note."""
    floats = helper.make_tensor("floats", 1, [3], [1.5, -2.0, 1e-40])
    halves = helper.make_tensor("halves", 10, [2], [1.0, 2.0])
    path = model(floats, halves, path=tmp_path / "m.onnx")
    container = open_container(path, Limits())
    item = container.stored["floats"]
    data = Path(path).read_bytes()[item.offset : item.offset + item.nbytes]
    assert data == np.array([1.5, -2.0, 1e-40], "<f4").tobytes()
    assert list(container.stored) == ["floats"]
    assert "stored one by one" in container.notes[0]
    assert container.unread == ("halves",)


def test_constants_of_floats_are_weights(tmp_path: Path) -> None:
    value = np.arange(12, dtype=np.float32).reshape(3, 4)
    shape = np.array([3, 4])
    nodes = [
        helper.make_node("Constant", [], ["w"], value=array("", value)),
        helper.make_node("Constant", [], ["shape"], value=array("", shape)),
    ]
    path = model(nodes=nodes, path=tmp_path / "m.onnx")
    assert list(open_container(path, Limits()).stored) == ["w"]
    np.testing.assert_array_equal(anamnesis.open_model(path)["w"].to_numpy(), value)


def test_a_folder_with_external_data(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("external.onnx", "external.onnx.data"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    inside = {t.name: t for t in load_model(str(DATA / "cases.onnx")).tensors}
    found = load_model(str(folder)).tensors
    assert {t.name for t in found} == set(inside)
    anamnesis.convert(folder, to="safetensors", out=out / "a")
    anamnesis.convert(DATA / "cases.onnx", to="safetensors", out=out / "b")
    first, second = (anamnesis.open_model(out / n) for n in "ab")
    for name in inside:
        np.testing.assert_array_equal(
            first[name].to_numpy().view(np.uint16), second[name].to_numpy().view(np.uint16)
        )


def external(name: str, nbytes: int, **fields: str) -> Any:
    tensor = onnx.TensorProto(name=name, data_type=1, dims=[nbytes // 4], data_location=1)
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"location": "../w"}, SecurityError, "'a'.*not the name of a file"),
        ({"location": ""}, SecurityError, "'a'.*not the name of a file"),
        ({"location": "/etc/passwd"}, SecurityError, "not the name of a file"),
        ({"location": "link"}, SecurityError, "is a link"),
        ({"location": "gone"}, FormatError, "which is missing"),
        ({"location": "w", "offset": "12"}, FormatError, "bytes 12 to 28"),
        ({"location": "w", "offset": "-4"}, FormatError, "no number of bytes"),
        ({"location": "w", "length": "12"}, FormatError, "its shape takes 16"),
    ],
)
def test_external_data_stays_in_the_folder(
    tmp_path: Path, fields: dict[str, str], error: type[Exception], told: str
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "w").write_bytes(bytes(64))
    (folder / "w").write_bytes(bytes(16))
    (folder / "link").symlink_to(tmp_path / "w")
    path = model(external("a", 16, **fields), path=folder / "m.onnx")
    with pytest.raises(error, match=told):
        open_container(path, Limits())


def test_external_data_that_changes_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(16))
    path = model(external("a", 16, location="w"), path=tmp_path / "m.onnx")
    opened = anamnesis.open_model(path)
    (tmp_path / "w").write_bytes(bytes(20))
    with pytest.raises(IntegrityError):
        opened["a"].to_numpy()


def test_what_is_no_model_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x0a\xff\xff\xff")
    with pytest.raises(FormatError, match="is no ONNX model"):
        open_container(str(path), Limits())
    model(array("a", np.zeros(1 << 12, np.float32)), path=path)
    with pytest.raises(LimitError, match="weights inside of it"):
        open_container(str(path), Limits(max_single_alloc=1 << 10))
    with pytest.raises(LimitError, match=r"run\.memory"):
        open_container(str(path), Limits(record_bytes=1 << 14))


def test_initialisers_that_do_not_fit(tmp_path: Path) -> None:
    short = array("a", np.zeros(4, np.float32))
    short.dims[0] = 5
    with pytest.raises(FormatError, match="takes 20"):
        open_container(model(short, path=tmp_path / "a.onnx"), Limits())
    twice = [array("a", np.zeros(4, np.float32))] * 2
    with pytest.raises(FormatError, match="twice"):
        open_container(model(*twice, path=tmp_path / "b.onnx"), Limits())
    text = helper.make_tensor("text", 8, [1], [b"x"])
    container = open_container(model(text, path=tmp_path / "c.onnx"), Limits())
    assert "data type 8 is not read" in container.notes[0]


def test_weights_are_called_as_before_they_were_quantised(tmp_path: Path) -> None:
    path = model(*parts("m.weight"), nodes=[nbits("m.weight")], path=tmp_path / "m.onnx")
    assert [t.name for t in load_model(path).tensors] == ["m.weight"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"K": 64}, "does not fit"),
        ({"N": 3}, "does not fit"),
        ({"K": 0}, "attribute K"),
        ({"N": -2}, "attribute N"),
        ({"bits": 3}, "of 3 bits"),
        ({"block_size": 24}, "blocks of 24"),
    ],
)
def test_attributes_that_do_not_fit(tmp_path: Path, change: dict[str, int], told: str) -> None:
    path = model(*parts("m"), nodes=[nbits("m", **change)], path=tmp_path / "m.onnx")
    with pytest.raises((FormatError, UnsupportedError), match=told):
        load_model(path)


def test_zero_points_that_are_no_integers(tmp_path: Path) -> None:
    """Of eight bits, onnxruntime has no answer on a CPU."""
    zeros = array("z", np.ones((2, 1), np.float32))
    codes = array("m_Q4", np.ones((2, 1, 32), np.uint8))
    nodes = [nbits("m", "z", bits=8)]
    path = model(codes, parts("m")[1], zeros, nodes=nodes, path=tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="float zero points"):
        load_model(path)


def test_two_nodes_that_contradict(tmp_path: Path) -> None:
    nodes = [nbits("m"), nbits("m", block_size=16)]
    path = model(*parts("m"), nodes=nodes, path=tmp_path / "m.onnx")
    with pytest.raises(FormatError, match="two nodes"):
        load_model(path)


@pytest.mark.parametrize("op", ["MatMulFpQ4", "MatMulInteger", "QOrderedMatMul"])
@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_codes_of_other_operators_are_refused(tmp_path: Path, op: str, dtype: str) -> None:
    codes = array("w", np.ones((4, 8), dtype))
    node = helper.make_node(op, ["w", "s"], ["y"])
    path = model(codes, array("s", np.float32(1)), nodes=[node], path=tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match=op):
        load_model(path)


@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_codes_of_an_invented_operator_are_refused(tmp_path: Path, dtype: str) -> None:
    node = helper.make_node("Unheard", ["w", "f", "n"], ["y"], domain="com.invented")
    floats, count = array("f", np.ones((4, 8), np.float32)), array("n", np.arange(3))
    path = model(
        array("w", np.ones((4, 8), dtype)), floats, count, nodes=[node], path=tmp_path / "m.onnx"
    )
    with pytest.raises(UnsupportedError, match="Unheard"):
        load_model(path)
    path = model(floats, count, nodes=[node], path=tmp_path / "m.onnx")
    assert len(load_model(path).tensors) == 2


def test_codes_in_a_data_type_that_is_not_read(tmp_path: Path) -> None:
    """Integers of four bits of an operator that multiplies them are not left out in silence."""
    codes = onnx.TensorProto(name="w", data_type=21, dims=[4], raw_data=b"ab")
    node = helper.make_node("MatMulInteger", ["w", "s"], ["y"])
    path = model(codes, array("s", np.float32(1)), nodes=[node], path=tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="MatMulInteger"):
        load_model(path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Protobuf gives bytes for them."""
    path = model(array("abcd", np.ones(4, np.float32)), path=tmp_path / "m.onnx")
    Path(path).write_bytes(Path(path).read_bytes().replace(b"abcd", b"ab\xff\xfe"))
    with pytest.raises(FormatError, match="no UTF-8"):
        load_model(path)


@pytest.mark.parametrize("word", [b"DynamicQuantizeLinear", b"pos.weight_scale", b"Cast"])
def test_operators_and_values_that_are_no_text(tmp_path: Path, word: bytes) -> None:
    path, data = tmp_path / "m.onnx", (DATA / "dynamic.onnx").read_bytes()
    path.write_bytes(data.replace(word, word[:-1] + b"\xff"))
    with pytest.raises(FormatError, match="no UTF-8"):
        load_model(str(path))


def dequantised(tmp_path: Path, *tensors: Any, **attributes: int) -> Any:
    """The layers of a `DequantizeLinear` of tensors that are called c, s and z."""
    names = [tensor.name for tensor in tensors]
    node = helper.make_node("DequantizeLinear", names, ["y"], **attributes)
    return load_model(model(*tensors, nodes=[node], path=tmp_path / "m.onnx")).tensors


@pytest.mark.parametrize(
    ("others", "attributes"),
    [
        ((array("s", np.ones(3, np.float32)),), {}),
        ((array("s", np.ones(8, np.float32)),), {"axis": 0}),
        ((array("s", np.ones(8, np.float32)),), {"axis": 2}),
        ((array("s", np.ones(8, np.float32)),), {"axis": -3}),
        ((array("s", np.ones((4, 2), np.float32)),), {"block_size": 3}),
        ((array("s", np.ones((4, 2), np.float32)),), {"block_size": -4}),
        ((array("s", np.ones((4, 2), np.float32)),), {"block_size": 4, "axis": 0}),
        ((array("s", np.float64(1)),), {}),
        ((ONE, array("z", np.ones(2, np.uint8))), {}),
        ((ONE, array("z", np.int8(1))), {}),
        ((ONE, array("z", np.float32(1))), {}),
        ((ONE, helper.make_tensor("z", onnx.TensorProto.INT8, [], [3])), {}),
        ((ONE, helper.make_tensor("z", onnx.TensorProto.UINT8, [2], [3, 3])), {}),
    ],
)
def test_scales_and_zero_points_that_do_not_fit(
    tmp_path: Path, others: Any, attributes: dict[str, int]
) -> None:
    with pytest.raises(FormatError):
        dequantised(tmp_path, CODES, *others, **attributes)


def numbers_of(zero: int) -> Any:
    """A zero point of INT8 in `int32_data`, whatever it is."""
    return onnx.TensorProto(name="z", data_type=onnx.TensorProto.INT8, int32_data=[zero])


def test_zero_points_that_their_type_does_not_have(tmp_path: Path) -> None:
    codes = array("c", np.ones((4, 8), np.int8))
    for zero in (-128, 127):
        assert dequantised(tmp_path, codes, ONE, numbers_of(zero))
    for zero in (-129, 128, -300, 1000):
        with pytest.raises(FormatError, match=rf"found {zero}; I8 allows -128 to 127"):
            dequantised(tmp_path, codes, ONE, numbers_of(zero))


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT2", "UINT2"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_packed_zero_points_that_lie_one_by_one(tmp_path: Path, kind: str, count: int) -> None:
    """As onnxruntime's static quantiser stores them: each `int32_data` is a byte of several."""
    data_type, least = getattr(onnx.TensorProto, kind), -2 if kind[0] == "I" else 0
    codes, zeros = (np.arange(size) * 7 % 4 + least for size in (count * 5, count))
    stored = helper.make_tensor("c", data_type, [count, 5], codes)
    stored.raw_data = bytes(byte & 255 for byte in stored.int32_data)
    stored.ClearField("int32_data")
    zero = helper.make_tensor("z", data_type, [count], zeros)
    assert zero.int32_data
    assert dequantised(tmp_path, stored, array("s", np.full(count, 0.5, "f4")), zero, axis=0)
    found = anamnesis.open_model(tmp_path / "m.onnx")["c"].to_numpy()
    assert found.tolist() == ((codes.reshape(count, 5) - zeros[:, None]) * 0.5).tolist()


def test_floats_that_are_zero_points_one_by_one(tmp_path: Path) -> None:
    kind = onnx.TensorProto.FLOAT8E4M3FN
    codes = helper.make_tensor("c", kind, [1, 3], b"\x38\x40\xc0", raw=True)
    zero = helper.make_tensor("z", kind, [], [0])
    assert dequantised(tmp_path, codes, ONE, zero)
    found = anamnesis.open_model(tmp_path / "m.onnx")["c"].to_numpy()
    assert found.tolist() == [[1.0, 2.0, -2.0]]
    zero.int32_data[0] = 1
    with pytest.raises(UnsupportedError, match="left out"):
        dequantised(tmp_path, codes, ONE, zero)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("count", [1, 4])
def test_scales_of_16_bits_that_lie_one_by_one(tmp_path: Path, kind: str, count: int) -> None:
    """As onnxruntime stores them of a float16 model, and its float16 converter of any."""
    numbers = np.array([0.5, 2, 0.0078125, 1])[:count]
    shape = [count] if count > 1 else []
    scale = helper.make_tensor("s", getattr(onnx.TensorProto, kind), shape, numbers)
    assert len(scale.int32_data) == count
    codes = np.arange(-4, 8, dtype=np.int8).reshape(4, 3)
    assert dequantised(tmp_path, array("c", codes), scale, axis=0)
    found = anamnesis.open_model(tmp_path / "m.onnx")["c"].to_numpy()
    assert found.tolist() == (codes * np.resize(numbers, (4, 1))).tolist()
    scale.int32_data[0] = 1 << 16
    with pytest.raises(FormatError, match=r"found 65536; the bits of B?F"):
        dequantised(tmp_path, array("c", codes), scale, axis=0)


def test_codes_that_nobody_dequantises(tmp_path: Path) -> None:
    for kind in ("U32", "BOOL"):
        codes = array("c", np.ones((4, 8), {"U32": np.uint32, "BOOL": np.bool_}[kind]))
        with pytest.raises(UnsupportedError, match=f"{kind} codes of DequantizeLinear"):
            dequantised(tmp_path, codes, ONE)


def test_layers_may_share_a_scale_and_activations_are_dropped(tmp_path: Path) -> None:
    more = array("d", np.full((2, 2), 3, np.uint8))
    zero = helper.make_tensor("z", onnx.TensorProto.UINT8, [], [1])
    activation = [array("a_s", np.float32(2)), array("a_z", np.uint8(7))]
    nodes = [
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
        helper.make_node("DequantizeLinear", ["d", "s", "z"], ["e"]),
        helper.make_node("QuantizeLinear", ["x", "a_s", "a_z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "a_s", "a_z"], ["xd"]),
    ]
    path = model(CODES, more, ONE, zero, *activation, nodes=nodes, path=tmp_path / "m.onnx")
    found = anamnesis.open_model(path)
    assert list(found) == ["c", "d"]
    assert (found["c"].to_numpy().astype(np.float32) == 0).all()
    assert (found["d"].to_numpy().astype(np.float32) == 2).all()


def test_constants_may_be_codes_and_scales(tmp_path: Path) -> None:
    parts = {"c": np.full((2, 3), 5, np.int8), "s": np.float32(0.5), "z": np.int8(1)}
    nodes = [helper.make_node("Constant", [], [n], value=array("", v)) for n, v in parts.items()]
    nodes.append(helper.make_node("DequantizeLinear", list(parts), ["y"]))
    found = anamnesis.open_model(model(nodes=nodes, path=tmp_path / "m.onnx"))
    assert found["c"].to_numpy().astype(np.float32).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("change", [{"bits": 3}, {"bits": 0}, {"block_size": 0}])
def test_gathered_rows_of_other_attributes(tmp_path: Path, change: dict[str, int]) -> None:
    node = helper.make_node("GatherBlockQuantized", ["c", "i", "s"], ["y"], **change)
    scale = array("s", np.ones((4, 1), np.float32))
    with pytest.raises(FormatError, match="GatherBlockQuantized"):
        load_model(model(CODES, scale, nodes=[node], path=tmp_path / "m.onnx"))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(array("a", np.zeros(4, np.float32)), path=tmp_path / "m.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UnsupportedError, match=r"anamnesis-arrow\[onnx\]"):
        open_container(path, Limits())
