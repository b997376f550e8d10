"""NumPy's arrays, with numpy (and ml_dtypes) as the writers."""

from __future__ import annotations

import io
import json
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.lib import format as npy_format
from safetensors import safe_open

import anamnesis
from anamnesis.errors import FormatError, SecurityError, UnsupportedError
from anamnesis.limits import Limits
from anamnesis.readers.literal import parse_literal
from anamnesis.readers.npy import open_npy

RNG = np.random.default_rng(23)
NAMES = {
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
    "i1": "I8",
    "i2": "I16",
    "i4": "I32",
    "i8": "I64",
    "u1": "U8",
    "u2": "U16",
    "u4": "U32",
    "u8": "U64",
    "?": "BOOL",
    "c8": "C64",
}
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (0,), (3, 0, 2), (5, 3), (1, 9), (4, 3, 5, 2)]


def sample(kind: str, shape: tuple[int, ...], order: str = "C") -> Any:
    dtype = np.dtype(kind)
    count = int(np.prod(shape))
    flat: Any
    if dtype.kind == "b":
        flat = RNG.random(count) > 0.5
    elif dtype.kind == "c":
        flat = RNG.standard_normal(count) + 1j * RNG.standard_normal(count)
    elif dtype.kind == "f":
        flat = RNG.standard_normal(count)
    else:
        flat = np.frombuffer(RNG.bytes(count * dtype.itemsize), dtype)
    return np.array(flat.astype(dtype).reshape(shape), order=order)  # type: ignore[call-overload]


def remembered(path: Path, name: str) -> tuple[str, list[int], bytes]:
    """dtype, shape and bytes of a tensor after `remember`."""
    out = path.with_name("out.safetensors")
    anamnesis.remember(path, out, overwrite=True)
    data = out.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    entry = header[name]
    start = 8 + int.from_bytes(data[:8], "little")
    begin, end = entry["data_offsets"]
    return entry["dtype"], entry["shape"], data[start + begin : start + end]


def plain(array: Any) -> bytes:
    return bytes(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())


@pytest.mark.parametrize("kind", NAMES)
def test_headers(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.npy"
    for byte_order, shape, layout in product("<>", SHAPES, "CF"):
        array = sample(kind, shape, layout).astype(np.dtype(kind).newbyteorder(byte_order))
        np.save(path, array)
        container = open_npy(str(path), Limits())
        assert container.kind == "npy"
        stored, case = container.stored["weights"], (byte_order, shape, layout)
        assert (stored.dtype, stored.shape, stored.nbytes) == (NAMES[kind], shape, array.nbytes), (
            case
        )
        assert stored.offset == path.stat().st_size - array.nbytes, case
        assert anamnesis.open_model(path)["weights"].to_numpy().tobytes() == plain(array), case


@pytest.mark.parametrize("kind", [">f4", "<f4", ">c8", "?", ">u2"])
@pytest.mark.parametrize("layout", "CF")
@pytest.mark.parametrize("shape", [(), (0, 4), (300, 7, 11)], ids=str)
def test_round_trip(kind: str, layout: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = sample(kind, shape, layout)
    path = tmp_path / "a.npy"
    np.save(path, array)
    dtype, got_shape, data = remembered(path, "a")
    assert (dtype, tuple(got_shape)) == (NAMES[array.dtype.str[1:].replace("b1", "?")], shape)
    assert data == plain(array)


def test_more_than_one_task(tmp_path: Path) -> None:
    """Fortran order and foreign bytes over many windows, batches and pieces."""
    path = tmp_path / "a.npy"
    array = np.asfortranarray(RNG.integers(0, 1 << 30, (7000, 3000)).astype(">i4"))
    np.save(path, array)
    assert remembered(path, "a")[2] == plain(array)


def test_numbers_that_are_asked_for(tmp_path: Path) -> None:
    """A dense tensor is cast like those of other containers, after swap and transposition."""
    path, out = tmp_path / "a.npy", tmp_path / "out.safetensors"
    array = np.asfortranarray(RNG.standard_normal((40, 30)).astype(">f4"))
    np.save(path, array)
    anamnesis.remember(path, out, dtype="bf16")
    with safe_open(out, framework="numpy") as file:
        got = file.get_tensor("a")
    assert np.array_equal(got, array.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("byte_order", "<>")
def test_bf16_of_ml_dtypes(byte_order: Any, tmp_path: Path) -> None:
    array = RNG.standard_normal((6, 5)).astype(ml_dtypes.bfloat16)
    path = tmp_path / "a.npy"
    np.save(path, array.astype(array.dtype.newbyteorder(byte_order)))
    assert f"'{byte_order}V2'".encode() in path.read_bytes()
    assert remembered(path, "a") == ("BF16", [6, 5], array.tobytes())


def test_bf16_as_two_void_bytes(tmp_path: Path) -> None:
    array = RNG.standard_normal((6, 5)).astype(ml_dtypes.bfloat16)
    path = tmp_path / "a.npy"
    np.save(path, array.view("V2"))
    assert b"'|V2'" in path.read_bytes()
    assert remembered(path, "a") == ("BF16", [6, 5], array.tobytes())


def test_float8_e5m2_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((2, 3), ml_dtypes.float8_e5m2))
    assert open_npy(str(path), Limits()).stored["a"].dtype == "F8_E5M2"
    got = anamnesis.open_model(path, assume_unit_scale=True)["a"].to_numpy()
    assert np.array_equal(got.astype(np.float32), np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (np.zeros(3, ml_dtypes.float8_e4m3fn), "ml_dtypes"),
        (np.zeros(3, ml_dtypes.float8_e8m0fnu), "ml_dtypes"),
        (np.zeros(3, ml_dtypes.int4), "ml_dtypes"),
        (np.zeros(3, "c16"), "complex128"),
        (np.zeros(3, "g"), "long double"),
        (np.zeros(3, "G"), "complex long double"),
        (np.zeros(3, "M8[ns]"), "dates"),
        (np.zeros(3, "m8"), "durations"),
        (np.zeros(3, "U4"), "text"),
        (np.zeros(3, "S4"), "byte strings"),
        (np.zeros(3, "V7"), "void"),
        (np.zeros(3, [("a", "<f4"), ("b", "<i2", (2,))]), "structured"),
    ],
    ids=lambda v: str(getattr(v, "dtype", v)),
)
def test_types_that_are_refused_by_name(array: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, array)
    with pytest.raises(UnsupportedError, match=name):
        open_npy(str(path), Limits())


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for array in (np.array([{}, None]), np.zeros(2, [("a", "<i4"), ("b", [("c", "O")])])):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(SecurityError, match="pickle"):
            open_npy(str(path), Limits())


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(version: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        npy_format.write_array(file, np.arange(6, dtype="<i4").reshape(2, 3), version)
    assert remembered(path, "a") == ("I32", [2, 3], np.arange(6, dtype="<i4").tobytes())


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        "{'descr':'<f4','fortran_order':False,'shape':(2,3)}",
        '{"shape": (2, 3), "fortran_order": False, "descr": "<f4"}',
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }",  # Python 2
        " \t{ 'descr' : '<f4' ,\n'fortran_order':False, 'shape':(2 , 3 , ) , }  \n",
    ],
)
def test_headers_of_other_writers(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    data = header.encode()
    values = RNG.standard_normal(6).astype("<f4").tobytes()
    path.write_bytes(b"\x93NUMPY\1\0" + len(data).to_bytes(2, "little") + data + values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy takes Python 2's integers, with a word
        assert np.load(path).tobytes() == values
    assert remembered(path, "a") == ("F32", [2, 3], values)


def test_one_byte_types_with_a_byte_order() -> None:
    """As cnpy and others write them; numpy takes them too."""
    for descr in ("<u1", ">i1", "<b1"):
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (3,), }}".encode()
        data = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"\1\0\1"
        assert np.load(io.BytesIO(data)).shape == (3,)


def test_names_are_the_files(tmp_path: Path) -> None:
    for name in ("a.b.npy", "W.NPY", "blob"):
        path = tmp_path / name
        with path.open("wb") as file:
            np.save(file, np.zeros(2, "<f4"))
        assert list(open_npy(str(path), Limits()).stored) == [name.rpartition(".")[0] or name]


class TestLiteral:
    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            "{'a': 1}",
            "()",
            "(1,)",
            "(1, 2)",
            "(1)",
            "[1, 'x', True, (False,)]",
            "{'a': [('b', '<f4'), (('t', 'n'), '|O', (2, 3))], \"c\": ()}",
            "((((1,),),),)",
            " [ ] ",
        ],
    )
    def test_as_python_has_it(self, text: str) -> None:
        import ast

        assert parse_literal(text) == ast.literal_eval(text.strip())

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "1 2",
            "{'a' 1}",
            "{'a': 1 'b': 2}",
            "{1: 2}",
            "{'a': }",
            "{,}",
            "(,)",
            "(1",
            "[1)",
            "-1",
            "+1",
            "1.0",
            "1e3",
            "0x10",
            "1_000",
            "1j",
            "None",
            "Truely",
            "b'a'",
            "u'a'",
            "'a' 'b'",
            "'a\\'b'",
            "'a\nb'",
            "'a",
            "f('x')",
            "__import__",
            "1 if 1 else 2",
            "9**9",
            "{*()}",
            "١",
            "(" * 1000,
            "[" * 1000 + "]" * 1000,
            "9" * 21,
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(FormatError):
            parse_literal(text)
