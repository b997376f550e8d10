"""FP8 tensors and their scales: every way of naming and shaping them, and every refusal."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fp8_parts import E4M3, F32, FILE, free, ledger, resolved, stored

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.kernels import Window, decoder, preparer
from anamnesis.readers.base import Container, FileId, Stored, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes.base import Ledger, Options
from anamnesis.readers.schemes.fp8 import resolve

OTHER = FileId("model-00002-of-00002.safetensors", 1 << 40, 0, 0, 2)
CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
BLOCK32, BLOCK100 = {"weight_block_size": [32, 32]}, {"weight_block_size": [100, 128]}
BLOCK128 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ("a.weight", "a.weight_scale_inv"),
        ("a.weight", "a.weight_scale"),
        ("a.weight", "a.scale"),
        ("a.weight", "a.qscale_weight"),
        ("a.weight", "a.scale_weight"),
        ("weight", "weight_scale"),
        ("weight", "scale_weight"),
        ("mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_scale_inv"),
        ("mlp.experts.down_proj", "mlp.experts.down_proj_scale"),
    ],
)
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_names(weight: str, scale: str, dtype: str) -> None:
    book = resolved((scale, F32, ()), (weight, dtype, (6, 8)), ("a.bias", "BF16", (6,)))
    tensor = book.tensors[weight]
    assert list(book.tensors) == [weight]
    assert tensor.encoding == "fp8-" + dtype[3:].lower()
    assert (tensor.scheme, tensor.shape, tensor.unit_elems) == ("fp8-tensor", (6, 8), 8)
    assert tensor.units == 6
    assert [(c.role, c.stored.name) for c in tensor.components] == [
        ("payload", weight),
        ("scale", scale),
    ]
    assert free(book) == ["a.bias"]


# weight shape, scale dtype, scale shape, config, scheme, block, grid
SHAPES = [
    ((6, 8), F32, (), None, "fp8-tensor", (6, 8), (1, 1, 1)),
    ((6, 8), "BF16", (1,), None, "fp8-tensor", (6, 8), (1, 1, 1)),
    ((6, 8), F32, (1, 1), None, "fp8-tensor", (6, 8), (1, 1, 1)),
    ((6, 8), F32, (1, 1), BLOCK128, "fp8-block", (6, 8), (1, 1, 1)),
    ((600, 8), F32, (1, 1), BLOCK128, "fp8-tensor", (600, 8), (1, 1, 1)),
    ((8,), F32, (), None, "fp8-tensor", (1, 8), (1, 1, 1)),
    ((), F32, (), None, "fp8-tensor", (1, 1), (1, 1, 1)),
    ((6, 8, 3, 3), F32, (1,), None, "fp8-tensor", (24, 3), (1, 1, 1)),
    ((6, 8, 3, 3), F32, (6,), None, "fp8-channel", (24, 3), (6, 1, 1)),
    ((6, 8, 3, 3), F32, (6, 1, 1, 1), None, "fp8-channel", (24, 3), (6, 1, 1)),
    ((6, 8), F32, (6,), None, "fp8-channel", (1, 8), (1, 6, 1)),
    ((6, 8), "BF16", (6, 1), None, "fp8-channel", (1, 8), (1, 6, 1)),
    ((6, 8), "F64", (6, 1), None, "fp8-channel", (1, 8), (1, 6, 1)),
    ((8, 8), F32, (8,), None, "fp8-channel", (1, 8), (1, 8, 1)),
    ((6, 8), F32, (6, 1), BLOCK128, "fp8-channel", (1, 8), (1, 6, 1)),
    ((6, 8), F32, (1, 8), None, "fp8-channel", (6, 1), (1, 1, 8)),
    ((3, 6, 8), F32, (), None, "fp8-tensor", (6, 8), (1, 1, 1)),
    ((3, 6, 8), F32, (3,), None, "fp8-tensor", (6, 8), (3, 1, 1)),
    ((3, 6, 8), F32, (3, 1), None, "fp8-tensor", (6, 8), (3, 1, 1)),
    ((3, 6, 8), "F16", (3, 1, 1), None, "fp8-tensor", (6, 8), (3, 1, 1)),
    ((3, 6, 8), F32, (3, 6), None, "fp8-channel", (1, 8), (3, 6, 1)),
    ((3, 6, 8), F32, (3, 6, 1), None, "fp8-channel", (1, 8), (3, 6, 1)),
    ((3, 6, 8), F32, (3, 1, 8), None, "fp8-channel", (6, 1), (3, 1, 8)),
    ((3, 8, 8), F32, (3, 1, 8), None, "fp8-channel", (8, 1), (3, 1, 8)),
    ((3, 200, 300), F32, (3, 2, 3), None, "fp8-block", (128, 128), (3, 2, 3)),
    ((3, 64, 64), F32, (3, 2, 2), BLOCK32, "fp8-block", (32, 32), (3, 2, 2)),
    ((200, 256), F32, (2, 2), None, "fp8-block", (128, 128), (1, 2, 2)),
    ((200, 256), F32, (2, 1, 2, 1), None, "fp8-block", (128, 128), (1, 2, 2)),
    ((200, 256), F32, (2, 2), BLOCK100, "fp8-block", (100, 128), (1, 2, 2)),
    ((576, 7168), "BF16", (5, 56), BLOCK128, "fp8-block", (128, 128), (1, 5, 56)),
    ((200, 256), "F8_E8M0", (2, 2), BLOCK128, "fp8-block", (128, 128), (1, 2, 2)),
    ((256, 256), F32, (2, 2), BLOCK32, "fp8-block", (128, 128), (1, 2, 2)),
    ((200, 256), F32, (2, 2), {"weight_block_size": None}, "fp8-block", (128, 128), (1, 2, 2)),
    ((200, 256), F32, (2, 2), {"weight_block_size": [0, "x"]}, "fp8-block", (128, 128), (1, 2, 2)),
    ((40, 100), "U8", (40, 4), BLOCK128, "mxfp8", (1, 32), (1, 40, 4)),
    ((40, 100), "F8_E8M0", (40, 4), None, "mxfp8", (1, 32), (1, 40, 4)),
    ((1, 20), "U8", (1, 1), None, "mxfp8", (1, 20), (1, 1, 1)),
    ((2, 40, 96), "U8", (2, 40, 3), None, "mxfp8", (1, 32), (2, 40, 3)),
    ((64, 96), "U8", (2, 3), BLOCK32, "fp8-block", (32, 32), (1, 2, 3)),
    ((0, 256), F32, (0, 2), None, "fp8-block", (1, 128), (1, 0, 2)),
    ((0, 256), F32, (), None, "fp8-tensor", (1, 256), (1, 1, 1)),
    ((0, 256), F32, (0, 1), None, "fp8-channel", (1, 256), (1, 0, 1)),
    ((256, 0), F32, (256, 1), None, "fp8-channel", (1, 1), (1, 256, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "dtype", "scale", "config", "scheme", "block", "grid"), SHAPES)
def test_shapes(
    shape: tuple[int, ...],
    dtype: str,
    scale: tuple[int, ...],
    config: Any,
    scheme: str,
    block: tuple[int, int],
    grid: tuple[int, int, int],
) -> None:
    book = resolved(("a.weight", E4M3, shape), ("a.weight_scale", dtype, scale), config=config)
    tensor = book.tensors["a.weight"]
    assert (tensor.scheme, tensor.params["block"], tensor.params["grid"]) == (scheme, block, grid)
    assert tensor.shape == shape
    assert math.prod(grid) == math.prod(scale)
    assert tensor.elems == tensor.units * tensor.unit_elems
    assert tensor.components[0].placement.span_bytes(tensor.units) == math.prod(shape)
    assert pickle.loads(pickle.dumps(tensor)) == tensor
    if scheme == "fp8-channel":
        assert tensor.params["axis"] == (0 if block[1] == max(1, shape[-1]) else 1)
    else:
        assert "axis" not in tensor.params


@pytest.mark.parametrize(
    ("weights", "scale"),
    [
        ({"strategy": "block", "block_structure": "64x32"}, (4, 8)),
        ({"strategy": "block", "block_structure": [64, 32]}, (4, 8)),
        ({"strategy": "group", "group_size": 64}, (200, 4)),
    ],
)
def test_compressed_tensors_blocks(weights: Any, scale: tuple[int, int]) -> None:
    config = {"config_groups": {"g0": {"weights": None}, "g1": {"weights": weights}, "g2": 7}}
    weight = ("a.weight", E4M3, (200, 256))
    book = resolved(weight, ("a.weight_scale", "BF16", scale), config=config)
    tensor = book.tensors["a.weight"]
    assert tensor.scheme == "fp8-block"
    assert tensor.params["block"] == ((1, 64) if scale[0] == 200 else (64, 32))


@pytest.mark.parametrize(
    ("shape", "scale", "config", "said"),
    [
        ((256, 256), (2, 4), BLOCK128, "2x4 scales, .* blocks of 128x128 need 2x2: .* unused"),
        ((256, 256), (2, 2), {"weight_block_size": [64, 64]}, r"\(64x64\); taken .* 128x128"),
        ((256, 256), (2, 2), BLOCK128, ""),
        ((100, 256), (1, 2), BLOCK128, ""),
        ((64, 64), (2, 2), BLOCK32, ""),
        ((256, 256), (2, 2), None, ""),
    ],
)
def test_grids_that_contradict_the_configuration_are_noted(
    shape: tuple[int, ...], scale: tuple[int, ...], config: Any, said: str
) -> None:
    tensors = [(f"{n}.weight{e}", d, s) for n in "ab" for e, d, s in _pairs(shape, scale)]
    book = resolved(*tensors, config=config)
    if not said:
        assert book.notes == []
        return
    (note,) = book.notes
    assert re.search(said, note)
    assert "'a.weight' (F8_E4M3 [256, 256]) and 1 more: " in note


@pytest.mark.parametrize(
    ("shape", "scale"), [((200, 256), (2, 2)), ((256, 200), (2, 2)), ((3, 200, 256), (3, 2, 2))]
)
def test_a_grid_of_other_blocks_with_a_rest_is_refused(
    shape: tuple[int, ...], scale: tuple[int, ...]
) -> None:
    """128 and 72 rows, or the 100 and 100 that transformers would take: two readings."""
    stated = {"quant_method": "fp8", "weight_block_size": [64, 64]}
    with pytest.raises(FormatError, match=r"'a.weight_scale_inv'.*no block .*\(64x64\).*128x128"):
        resolved(("a.weight", E4M3, shape), ("a.weight_scale_inv", F32, scale), config=stated)


def _pairs(weight: tuple[int, ...], scale: tuple[int, ...]) -> list[tuple[str, str, Any]]:
    return [("", E4M3, weight), ("_scale_inv", F32, scale)]


@pytest.mark.parametrize(
    ("shape", "dtype", "scale", "config", "parts"),
    [
        ((200, 256), F32, (2, 3), None, ["[200, 256]", "[2, 3]", "128x128", "[2, 2]"]),
        ((200, 256), F32, (1, 3), BLOCK128, ["[1, 3]", "[2, 2]"]),
        ((200, 256), F32, (3, 1), None, ["[3, 1]", "[2, 2]"]),
        ((200, 256), F32, (2, 200), None, ["[2, 200]"]),
        ((3, 200, 256), F32, (2, 2, 2), None, ["[2, 2, 2]", "[3, 2, 2]"]),
        ((3, 200, 256), F32, (4,), None, ["[4]"]),
        ((40, 100), "U8", (40, 3), None, ["1x32", "[40, 4]"]),
        ((6, 8), "U8", (), None, ["U8"]),
        ((6, 80), "U8", (6, 1), None, ["U8"]),
        ((6, 8), "I32", (6,), None, ["I32", "BF16, F16, F32"]),
        ((6, 8), E4M3, (6,), None, ["BF16, F16, F32"]),
        ((8,), F32, (8,), None, ["[8]"]),
        ((6, 8, 3, 3), F32, (8,), None, ["[8]"]),
        ((0, 256), F32, (0, 3), None, ["[0, 2]"]),
    ],
)
def test_scales_that_do_not_fit(
    shape: tuple[int, ...], dtype: str, scale: tuple[int, ...], config: Any, parts: list[str]
) -> None:
    book = ledger(("a.weight", E4M3, shape), ("a.weight_scale", dtype, scale), config=config)
    with pytest.raises(FormatError) as caught:
        resolve(book)
    message = str(caught.value)
    for part in [FILE.path, "'a.weight_scale'", "'a.weight'", str(list(shape)), "allowed", *parts]:
        assert part in message


@pytest.mark.parametrize(
    ("shape", "scale"), [((300, 256), (3,)), ((300, 256), (256,)), ((4, 300, 64), (4, 2))]
)
def test_scales_of_fused_shards(shape: tuple[int, ...], scale: tuple[int, ...]) -> None:
    book = ledger(("qkv_proj.weight", E4M3, shape), ("qkv_proj.weight_scale", F32, scale))
    with pytest.raises(UnsupportedError, match=f"{scale[-1]} scales for 300 rows.*fused"):
        resolve(book)


def test_two_scales_of_one_weight() -> None:
    book = ledger(
        ("a.weight", E4M3, (6, 8)), ("a.weight_scale", F32, ()), ("a.weight_scale_inv", F32, ())
    )
    with pytest.raises(FormatError, match="two scales"):
        resolve(book)


def test_a_scale_in_another_shard() -> None:
    entries = {
        "a.weight": stored("a.weight", E4M3, (6, 8)),
        "a.weight_scale_inv": stored("a.weight_scale_inv", F32, (1, 1), OTHER),
    }
    book = Ledger(Container("safetensors", (FILE, OTHER), entries))
    resolve(book)
    assert book.tensors["a.weight"].components[1].stored.file == OTHER


def test_bare_codes_need_a_choice() -> None:
    tensors = [("a.weight", E4M3, (6, 8)), ("b", "F8_E5M2", (3, 2, 2)), ("n.weight", E4M3, (7,))]
    assert free(resolved(*tensors)) == ["a.weight", "b", "n.weight"]
    book = resolved(*tensors, unit=True)
    assert {t.scheme for t in book.tensors.values()} == {"fp8-unit"}
    assert [len(t.components) for t in book.tensors.values()] == [1, 1, 1]
    assert book.tensors["b"].params == {"block": (2, 2), "rows": 2, "grid": (1, 1, 1)}


def test_unit_scale_does_not_hide_a_scale() -> None:
    weight = ("a.weight", E4M3, (6, 8))
    assert resolved(weight, ("a.weight_scale", F32, ()), unit=True).tensors["a.weight"].scheme == (
        "fp8-tensor"
    )
    for companion in ("a.weight_scale_2", "a.scales", "a.weight_global_scale"):
        assert free(resolved(weight, (companion, F32, ()), unit=True)) == ["a.weight", companion]
    cast = resolved(weight, ("a.scale", E4M3, (8,)), unit=True)
    assert {t.scheme for t in cast.tensors.values()} == {"fp8-unit"}


@pytest.mark.parametrize("unit", [False, True])
def test_fp8_scales_of_other_formats_are_left_alone(unit: bool) -> None:
    names = [
        ("a.weight", "U8", (6, 8)),
        ("a.weight_scale", E4M3, (6, 1)),
        ("a.weight_scale_2", F32, ()),
        ("b.weight_packed", "U8", (6, 8)),
        ("b.weight_scale", E4M3, (6, 1)),
        ("e.down_proj", "U8", (2, 6, 8)),
        ("e.down_proj_scale", E4M3, (2, 6, 1)),
    ]
    book = resolved(*names, unit=unit)
    assert free(book) == [name for name, _, _ in names]


def test_what_is_not_this_familys_is_left_alone() -> None:
    names = [
        ("norm.scale", F32, (8,)),
        ("router.logit_scale", F32, (1,)),
        ("dense.weight", "BF16", (6, 8)),
        ("dense.weight_scale", F32, (6, 1)),
        ("fp4.weight", "I8", (6, 8)),
        ("fp4.scale", "F8_E8M0", (6, 1)),
        ("q.weight", E4M3, (6, 8)),
        ("q.weight_scale", F32, ()),
        ("q.bias", "BF16", (6,)),
        ("q.weight_zero_point", "I8", (1,)),
        ("other.input_scale", F32, ()),
    ]
    left = free(resolved(*names))
    assert left == [n for n, _, _ in names if n not in ("q.weight", "q.weight_scale")]


def test_activation_scales_go_with_their_layer() -> None:
    book = resolved(
        ("a.weight", E4M3, (6, 8)),
        ("a.weight_scale", F32, ()),
        ("a.input_scale", F32, ()),
        ("a.output_scale", F32, ()),
        ("a.k_scale", F32, ()),
        ("a.qscale_act", F32, ()),
        ("e.down_proj", E4M3, (2, 6, 8)),
        ("e.down_proj_scale", F32, (2, 1, 1)),
        ("e.down_proj_input_scale", F32, ()),
        ("b.input_scale", F32, ()),
        ("b.my_input_scale", F32, ()),
    )
    assert [d.stored.name for d in book.dropped] == [
        "a.input_scale", "a.output_scale", "a.k_scale", "a.qscale_act", "e.down_proj_input_scale",
    ]  # fmt: skip
    assert free(book) == ["b.input_scale", "b.my_input_scale"]


def read_header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    for entry in header.values():
        begin, end = entry["data_offsets"]
        entry["offset"], entry["bytes"] = 8 + size + begin, data[8 + size + begin : 8 + size + end]
    return header


def whole_tensor(tensor: Tensor, header: Mapping[str, Any]) -> Any:
    payload = np.frombuffer(header[tensor.name]["bytes"], np.uint8).reshape(-1, tensor.unit_elems)
    wholes = {}
    for component in tensor.components[1:]:
        entry = header[component.stored.name]
        array = np.frombuffer(entry["bytes"], DTYPES[entry["dtype"]].numpy)
        wholes[component.role] = SimpleNamespace(
            dtype=entry["dtype"], array=array.reshape(entry["shape"])
        )
    prepare = preparer(tensor.encoding)
    assert prepare is not None
    params = {**tensor.params, **prepare(tensor.params, wholes)}
    out = np.empty(tensor.elems, np.uint16)
    decoder(tensor.encoding)({"payload": payload}, params, Window(0, tensor.units), out)
    return out.reshape(tensor.shape)


FOLDERS = sorted(
    folder
    for pattern in ("fp8/*", "compressed-tensors/*fp8*")
    for folder in CORPUS.glob(pattern)
    if "fp4" not in folder.name
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_corpus(folder: Path) -> None:
    header = read_header(folder / "model.safetensors")
    file = FileId(str(folder / "model.safetensors"), 0, 0, 0, 0)
    entries = {
        name: Stored(
            name, e["dtype"], tuple(e["shape"]), file, e["offset"], len(e["bytes"])
        )
        for name, e in header.items()
    }  # fmt: skip
    configs = {p.name: json.loads(p.read_bytes()) for p in folder.glob("*config.json")}
    options = Options(assume_unit_scale=folder.name.startswith("raw"))
    book = Ledger(Container("safetensors", (file,), entries), configs, options)
    resolve(book)
    expected = read_header(folder / "expected.safetensors")
    assert set(book.tensors) == set(expected)
    for name, tensor in book.tensors.items():
        wanted = np.frombuffer(expected[name]["bytes"], np.uint16).reshape(tensor.shape)
        np.testing.assert_array_equal(whole_tensor(tensor, header), wanted)
    assert all(s.dtype == "BF16" for s in book.free())
