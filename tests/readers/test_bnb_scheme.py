"""bitsandbytes tensors: files as the library writes them, and every way a group can be broken."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from decoding import decoded as in_windows
from safetensors import safe_open
from small_models import bf16

from anamnesis.errors import AnamnesisError, FormatError, LimitError, UnsupportedError
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import Model, load_model
from anamnesis.readers.schemes.base import Options

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "bnb"
CORPUS = sorted((ROOT.parent / "shared" / "corpus" / "bitsandbytes").glob("*/model.safetensors"))

Parts = dict[str, tuple[str, list[int], bytes]]


def decoded(tensor: Tensor, units: int = 3, dtype: Any = np.uint16) -> Any:
    """All elements, flat."""
    return in_windows(tensor, units, dtype).reshape(-1)


def same(found: Any, wanted: Any) -> None:
    kind, bits = (np.float32, "u4") if found.dtype == np.float32 else (ml_dtypes.bfloat16, "u2")
    nan = np.isnan(wanted.view(kind))
    np.testing.assert_array_equal(np.isnan(found.view(kind)), nan)
    np.testing.assert_array_equal(found.view(bits)[~nan], wanted.view(bits)[~nan])


def write(path: Path, parts: Parts) -> str:
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in parts.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return str(path)


def four_bit(shape: list[int], blocksize: int = 64, dot: str = ".", **changes: Any) -> Parts:
    """A group of a four-bit tensor `a.weight`; `changes` are of the state, None drops a field."""
    elems = int(np.prod(shape))
    blocks = -(-elems // blocksize)
    state = {"quant_type": "nf4", "blocksize": blocksize, "dtype": "bfloat16", "shape": shape}
    state = {k: v for k, v in (state | changes).items() if v is not None}
    text = json.dumps(state).encode()
    key = "quant_state" if dot == "_" else "quant_state.bitsandbytes__nf4"
    nested = "nested_blocksize" in state
    parts = {
        "": ("U8", [(elems + 1) // 2, 1], bytes(range(256)) * 64),
        "absmax": ("U8" if nested else "F32", [blocks], bytes(4 * blocks)),
        "quant_map": ("F32", [16], bytes(64)),
        key: ("U8", [len(text)], text),
    }
    if nested:
        groups = -(-blocks // 256)
        parts["nested_absmax"] = ("F32", [groups], bytes(4 * groups))
        parts["nested_quant_map"] = ("F32", [256], bytes(1024))
    width = {"U8": 1, "F32": 4}
    return {
        f"a.weight{dot if role else ''}{role}": (t, s, raw[: int(np.prod(s)) * width[t]])
        for role, (t, s, raw) in parts.items()
    }


NESTED: dict[str, Any] = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
STATE = "a.weight.quant_state.bitsandbytes__nf4"


def load(tmp_path: Path, parts: Parts) -> Model:
    return load_model(write(tmp_path / "model.safetensors", parts))


def refused(tmp_path: Path, parts: Parts, error: type[AnamnesisError] = FormatError) -> str:
    with pytest.raises(error) as caught:
        load(tmp_path, parts)
    message = str(caught.value)
    assert "model.safetensors: tensor " in message
    assert len(message) < 700
    return message


def names() -> list[str]:
    with safe_open(DATA / "expected.safetensors", "np") as expected:
        return sorted({key.rpartition(".")[0] for key in expected.keys()})  # noqa: SIM118


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Tensor]]:
    """The golden tensors by rounding and name."""
    path = str(DATA / "cases.safetensors")
    return {
        rounding: {t.name: t for t in load_model(path, Options(rounding=rounding)).tensors}
        for rounding in ("exact", "reference")
    }


@pytest.mark.parametrize("name", names())
def test_golden(name: str, cases: dict[str, dict[str, Tensor]]) -> None:
    with safe_open(DATA / "expected.safetensors", "np") as expected:
        wanted = expected.get_tensor(f"{name}.float32")
        native = wanted.reshape(-1)
        for dtype, view in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
            if f"{name}.{dtype}" in expected.keys():  # noqa: SIM118
                stored = expected.get_tensor(f"{name}.{dtype}")
                native = stored.view(view).astype(np.float32).reshape(-1)
    tensor = cases["exact"][name]
    assert tensor.shape == wanted.shape
    assert tensor.quantised
    assert tensor.orientation == "as-stored"
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    same(decoded(tensor), bf16(wanted.reshape(-1)))
    same(decoded(tensor, 1 << 20, np.float32), wanted.reshape(-1))
    same(decoded(cases["reference"][name]), bf16(native))


def test_golden_file_is_read_whole(cases: dict[str, dict[str, Tensor]]) -> None:
    found = {t.name for t in cases["exact"].values() if t.quantised}
    assert found == set(names())
    assert cases["exact"]["norm.weight"].scheme == "passthrough"
    assert len(cases["exact"]) == len(found) + 1
    assert {t.scheme for t in cases["exact"].values() if t.quantised} == {
        "bnb-nf4",
        "bnb-fp4",
        "bnb-int8",
    }


def test_minus_zero_of_fp4(cases: dict[str, dict[str, Tensor]]) -> None:
    """Code 8 is a negative sign and a magnitude of 0, although the stored map has +0 there."""
    values = decoded(cases["exact"]["fp4.all_bfloat16.weight"])
    assert values[16:18].tolist() == [0x0000, 0x8000]  # byte 0x08 under an absmax of 1
    assert values[80:82].tolist() == [0xBF2B, 0x0000]  # byte 0x28 under an absmax of -1


@pytest.mark.skipif(not CORPUS, reason="the corpus is not here")
@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.parent.name)
@pytest.mark.parametrize("rounding", ["exact", "reference"])
def test_corpus(path: Path, rounding: Any) -> None:
    model = load_model(str(path), Options(rounding=rounding))
    count = 0
    with safe_open(path.with_name("expected.safetensors"), "np") as expected:
        for tensor in model.tensors:
            if tensor.quantised:
                wanted = expected.get_tensor(tensor.name)
                assert tensor.shape == wanted.shape
                np.testing.assert_array_equal(decoded(tensor, 100), wanted.reshape(-1))
                count += 1
    assert count
    kind = {"fp4": "bnb-fp4", "int8": "bnb-int8"}.get(path.parent.name, "bnb-nf4")
    assert {t.scheme for t in model.tensors if t.quantised} == {kind}


@pytest.mark.parametrize("dot", [".", "_"])
@pytest.mark.parametrize("nested", [{}, NESTED])
def test_names_and_components(tmp_path: Path, dot: str, nested: dict[str, Any]) -> None:
    model = load(tmp_path, four_bit([6, 50], dot=dot, **nested))
    (tensor,) = model.tensors
    assert (tensor.name, tensor.scheme, tensor.shape) == ("a.weight", "bnb-nf4", (6, 50))
    assert (tensor.unit_elems, tensor.units) == (64, 5)
    roles = ["payload", "absmax", "quant_map"] + ["nested_absmax", "nested_quant_map"] * bool(
        nested
    )
    assert [c.role for c in tensor.components] == roles
    assert tensor.params["bits"] == 4
    assert tensor.params["group_size"] == 64
    assert [d.stored.name.rpartition("quant_state")[2] for d in model.dropped] == [
        ".bitsandbytes__nf4" if dot == "." else ""
    ]


@pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan], ids=str)
def test_offsets_that_are_not_finite(tmp_path: Path, offset: float) -> None:
    """bitsandbytes writes the mean of weights with an infinity as Python's `json` does."""
    parts = four_bit([4, 64], **NESTED | {"nested_offset": offset})
    (tensor,) = load(tmp_path, parts).tensors
    assert repr(tensor.params["nested_offset"]) == repr(float(offset))


@pytest.mark.parametrize(
    ("shape", "blocksize"), [([0, 7], 64), ([7, 0], 64), ([1], 32), ([4096, 1], 4096), ([3, 3], 64)]
)
def test_shapes(tmp_path: Path, shape: list[int], blocksize: int) -> None:
    (tensor,) = load(tmp_path, four_bit(shape, blocksize)).tensors
    assert tensor.shape == tuple(shape)
    assert decoded(tensor).shape == (int(np.prod(shape)),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocksize": 48}, "blocksize: found 48; allowed: 32, 64"),
        ({"blocksize": 0}, "blocksize: found 0"),
        ({"blocksize": 8192}, "blocksize: found 8192"),
        ({"blocksize": 64.0}, "blocksize: found 64.0"),
        ({"blocksize": True}, "blocksize: found True"),
        ({"blocksize": "64"}, "blocksize: found '64'"),
        ({"blocksize": None}, "blocksize: missing"),
        ({"quant_type": "fp4"}, "quant_type: found 'fp4'; allowed: nf4"),
        ({"quant_type": None}, "quant_type: missing"),
        ({"dtype": "float64"}, "dtype: found 'float64'; allowed: bfloat16, float16, float32"),
        ({"dtype": "bfloat16" * 99}, "dtype: found 'bfloat16bfloat16"),
        ({"shape": [-1, -50]}, "shape: found [-1, -50]"),
        ({"shape": []}, "shape: found []"),
        ({"shape": 300}, "shape: found 300"),
        ({"shape": [6.0, 50]}, "shape: found [6.0, 50]"),
        ({"shape": [True, 300]}, "shape: found [True, 300]"),
        ({"shape": [0, 1 << 63]}, "shape: found"),
        ({"shape": [1] * 65}, "shape: found"),
        ({"shape": [6, 51]}, "allowed: 153 bytes of codes for shape [6, 51]"),
        ({"shape": [1 << 62] * 20}, "shape: found"),
        ({"shape": [1 << 62]}, "2,305,843,009,213,693,952 bytes of codes for shape"),
        ({"blocksize": 32}, "found 5 numbers; allowed: 10 of"),
        ({**NESTED, "nested_blocksize": 100}, "nested_blocksize: found 100"),
        ({**NESTED, "nested_dtype": "float16"}, "nested_dtype: found 'float16'"),
        ({**NESTED, "nested_offset": "0"}, "nested_offset: found '0'"),
        ({**NESTED, "nested_offset": 1e39}, "nested_offset: found 1e+39"),
        ({**NESTED, "nested_offset": None}, "nested_offset: missing"),
        ({**NESTED, "nested_blocksize": 32}, None),
    ],
)
def test_broken_states(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    parts = four_bit([6, 50], **NESTED if "nested_dtype" in changes else {})
    state = json.loads(parts[STATE][2]) | changes
    text = json.dumps({k: v for k, v in state.items() if v is not None}).encode()
    parts[STATE] = ("U8", [len(text)], text)
    if message is None:
        load(tmp_path, parts)
    else:
        assert message in refused(tmp_path, parts)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"nf4", b"\xff{}", b'{"blocksize": 64, "blocksize": 32}']
)
def test_states_that_are_no_json_object(tmp_path: Path, text: bytes) -> None:
    assert STATE in refused(tmp_path, four_bit([6, 50]) | {STATE: ("U8", [len(text)], text)})


def test_states_that_are_refused(tmp_path: Path) -> None:
    parts = four_bit([6, 50], hadamard=True)
    assert "unknown field 'hadamard'" in refused(tmp_path, parts, UnsupportedError)
    big = b" " * (1 << 16) + b"{}"
    parts = four_bit([6, 50]) | {STATE: ("U8", [len(big)], big)}
    assert "65,536" in refused(tmp_path, parts, LimitError)
    parts = four_bit([6, 50]) | {STATE: ("I8", [2], b"{}")}
    assert "dtype I8; allowed is U8" in refused(tmp_path, parts)
    parts = four_bit([6, 50])
    parts["a.weight.quant_state.bitsandbytes__af4"] = parts.pop(STATE)
    assert "bitsandbytes 'af4'" in refused(tmp_path, parts, UnsupportedError)


@pytest.mark.parametrize(
    ("part", "found", "message"),
    [
        ("", None, "'a.weight' is missing"),
        (".absmax", None, "'a.weight.absmax' is missing"),
        (".quant_map", None, "'a.weight.quant_map' is missing"),
        (".nested_absmax", None, "'a.weight.nested_absmax' is missing"),
        (".nested_quant_map", None, "'a.weight.nested_quant_map' is missing"),
        ("", ("U8", [149, 1], bytes(149)), "found 149 bytes; allowed: 150 bytes"),
        ("", ("U8", [151], bytes(151)), "found 151 bytes"),
        ("", ("I32", [50], bytes(200)), "found 200 bytes"),
        ("", ("U16", [75], bytes(150)), "as BF16, F16, F32, F64, I8, U8"),
        (".absmax", ("U8", [4], bytes(4)), "found 4 numbers; allowed: 5 of U8"),
        (".absmax", ("F32", [5], bytes(20)), "found 5 numbers; allowed: 5 of U8"),
        (".quant_map", ("F32", [15], bytes(60)), "allowed: 16 of F32"),
        (".quant_map", ("F16", [16], bytes(32)), "allowed: 16 of F32"),
        (".nested_absmax", ("F32", [2], bytes(8)), "allowed: 1 of F32"),
        (".nested_quant_map", ("F32", [16], bytes(64)), "allowed: 256 of F32"),
    ],
)
def test_broken_groups(tmp_path: Path, part: str, found: Any, message: str) -> None:
    parts = four_bit([6, 50], **NESTED)
    if found is None:
        del parts["a.weight" + part]
    else:
        parts["a.weight" + part] = found
    assert message in refused(tmp_path, parts)


def test_plain_absmax_with_nested_parts(tmp_path: Path) -> None:
    """Parts that the state does not speak of are left over, and leftovers are errors."""
    parts = four_bit([6, 50]) | {"a.weight.nested_absmax": ("F32", [1], bytes(4))}
    assert "nested_absmax" in refused(tmp_path, parts)
    parts = four_bit([6, 50]) | {"a.weight.absmax": ("U8", [5], bytes(5))}
    assert "allowed: 5 of BF16, F16, F32" in refused(tmp_path, parts)


def test_state_is_missing(tmp_path: Path) -> None:
    parts = four_bit([6, 50])
    del parts[STATE]
    assert "a.weight" in refused(tmp_path, parts, AnamnesisError)


@pytest.mark.parametrize("storage", ["U8", "I8", "BF16", "F16", "F32", "F64"])
def test_any_storage_dtype(tmp_path: Path, storage: str) -> None:
    width = {"U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8}[storage]
    parts = four_bit([4, 64])
    raw = parts["a.weight"][2]
    parts["a.weight.quant_map"] = ("F32", [16], np.arange(16, dtype=np.float32).tobytes())
    parts["a.weight.absmax"] = ("F32", [4], np.arange(4, dtype=np.float32).tobytes())
    first = decoded(load(tmp_path, parts).tensors[0])
    parts["a.weight"] = (storage, [128 // width, 1], raw)
    np.testing.assert_array_equal(decoded(load(tmp_path, parts).tensors[0]), first)


def int8(rows: int, columns: int, layout: int | None = 0, scb: str = ".SCB") -> Parts:
    parts: Parts = {
        "m.weight": ("I8", [rows, columns], bytes(rows * columns)),
        f"m{scb}": ("F32", [rows], bytes(4 * rows)),
    }
    if layout is not None:
        parts["m.weight_format"] = ("U8", [], bytes([layout]))
    return parts


@pytest.mark.parametrize("layout", [0, None])
@pytest.mark.parametrize("scb", [".SCB", ".weight_scb"])
@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (1, 9), (9, 1), (0, 4), (4, 0)])
def test_int8(tmp_path: Path, layout: int | None, scb: str, rows: int, columns: int) -> None:
    model = load(tmp_path, int8(rows, columns, layout, scb))
    (tensor,) = model.tensors
    assert (tensor.name, tensor.scheme) == ("m.weight", "bnb-int8")
    assert tensor.shape == (rows, columns)
    assert tensor.params["bits"] == 8
    assert decoded(tensor).tolist() == [0] * (rows * columns)
    assert [d.stored.name for d in model.dropped] == ["m.weight_format"] * (layout == 0)


def test_int8_refusals(tmp_path: Path) -> None:
    for layout, name in ((1, "col32"), (2, "col_turing"), (3, "col_ampere")):
        assert name in refused(tmp_path, int8(3, 5, layout), UnsupportedError)
    assert "layout 4; allowed: 0 (row) to 3" in refused(tmp_path, int8(3, 5, 4))
    bad: list[tuple[str, Any, str]] = [
        ("m.weight", ("U8", [3, 5], bytes(15)), "I8 [rows, columns]"),
        ("m.weight", ("F16", [3, 5], bytes(30)), "I8 [rows, columns]"),
        ("m.weight", ("I8", [15], bytes(15)), "I8 [rows, columns]"),
        ("m.SCB", ("F32", [5], bytes(20)), "found 5 numbers; allowed: 3 of F32"),
        ("m.SCB", ("F16", [3], bytes(6)), "allowed: 3 of F32"),
        ("m.weight_format", ("U8", [2], bytes(2)), "allowed: 1 of U8"),
        ("m.weight_format", ("I64", [], bytes(8)), "allowed: 1 of U8"),
    ]
    for name, part, message in bad:
        assert message in refused(tmp_path, int8(3, 5) | {name: part})
    alone = int8(3, 5)
    del alone["m.weight"]
    assert "'m.weight' is missing" in refused(tmp_path, alone)


def test_mixed_checkpoint(tmp_path: Path) -> None:
    parts = four_bit([6, 50]) | int8(3, 5) | {"n.weight": ("BF16", [4], bytes(8))}
    found = {t.name: t.scheme for t in load(tmp_path, parts).tensors}
    assert found == {"a.weight": "bnb-nf4", "m.weight": "bnb-int8", "n.weight": "passthrough"}
