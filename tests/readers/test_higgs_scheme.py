"""HIGGS's layers: what is read and what does not fit; values are held in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import resolved

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "layouts" / "higgs"
BLOCK: dict[str, Any] = {
    "quant_method": "higgs",
    "bits": 4,
    "hadamard_size": 64,
    "tune_metadata": {"x": {"template_id": 16}},
}
LAYER: dict[str, Any] = {
    "x.weight": ("I16", (32, 128)),
    "x.scales": ("F16", (128, 2)),
    "x.tables": ("F16", (16,)),
    "x.tables2": ("F16", (16, 16, 2)),
}


def opened(block: dict[str, Any], parts: dict[str, Any]) -> Any:
    layer = {name: part for name, part in (LAYER | parts).items() if part}
    return resolved(layer, {key: value for key, value in block.items() if value is not None})


@pytest.mark.parametrize(("template", "tile"), [(0, 64), (15, 64), (16, 32), (47, 32), (48, 64)])
def test_templates_say_the_tile(template: int, tile: int) -> None:
    block = BLOCK | {"tune_metadata": {"x": {"template_id": template}}}
    parts = {"x.weight": ("I16", (64, 128)), "x.scales": ("F16", (256, 2))}
    assert opened(block, parts).tensors["x.weight"].params["tile"] == tile


def test_three_bits_need_no_template() -> None:
    parts = {
        "x.weight": ("I16", (96, 64)),
        "x.scales": ("F16", (512, 1)),
        "x.tables2": ("F32", (8, 8, 1)),
    }
    ledger = opened(BLOCK | {"tune_metadata": {}}, parts)
    assert ledger.tensors["x.weight"].shape == (512, 64)
    assert [one.stored.name for one in ledger.dropped] == ["x.tables"]


@pytest.mark.parametrize(
    "parts",
    [
        {"x.tables2": ("F16", (16, 16))},
        {"x.tables2": ("F16", (32, 32, 2))},
        {"x.tables2": ("BF16", (16, 16, 2))},
        {"x.tables2": ("F32", (16, 16, 2))},
        {"x.weight": ("I32", (32, 128))},
        {"x.weight": ("I16", (33, 128))},
        {"x.weight": ("I16", (32, 128, 1))},
        {"x.weight": ("I16", (16, 128)), "x.scales": ("F16", (64, 2))},  # half a chunk
        {"x.weight": ("I16", (32, 96))},  # not in blocks of 64
        {"x.weight": None},
        {"x.scales": ("F32", (128, 2))},
        {"x.scales": ("F16", (128, 3))},
        {"x.scales": ("F16", (128, 0))},
        {"x.scales": ("F16", (128,))},
        {"x.scales": None},
    ],
)
def test_parts_that_do_not_fit(parts: Any) -> None:
    with pytest.raises(FormatError):
        opened(BLOCK, parts)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tune_metadata": {}}, UnsupportedError, "no template_id of 'x'"),
        ({"tune_metadata": None}, UnsupportedError, "no template_id of 'x'"),
        ({"tune_metadata": {"y": {"template_id": 3}}}, UnsupportedError, "no template_id of 'x'"),
        ({"tune_metadata": {"x": {"template_id": True}}}, UnsupportedError, "no template_id"),
        ({"tune_metadata": {"x": {"template_id": 144}}}, FormatError, "template_id 144"),
        ({"tune_metadata": {"x": {"template_id": -1}}}, FormatError, "template_id -1"),
        ({"hadamard_size": None}, UnsupportedError, "without a hadamard_size"),
        ({"hadamard_size": 96}, FormatError, "hadamard_size 96"),
        ({"hadamard_size": 0}, FormatError, "hadamard_size 0"),
        ({"hadamard_size": 1 << 16}, FormatError, "hadamard_size 65536"),
        ({"quant_method": "flute"}, UnsupportedError, r"FLUTE \(.*\) is recognised"),
    ],
)
def test_configurations_that_do_not_say_how(settings: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        opened(BLOCK | settings, {})


def test_another_tile_gives_other_rows(tmp_path: Path) -> None:
    """The order is heeded: by another tile the rows of a chunk change places."""
    source = GOLDEN / "2-bits-tile-32"
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"]["tune_metadata"]["a"]["template_id"] = 0
    save_file(load_file(source / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    got = anamnesis.open_model(tmp_path)["a.weight"].to_numpy().view(np.uint16)
    expected = load_file(source / "expected.safetensors")["a.weight"]
    assert not np.array_equal(got, expected)
    assert sorted(map(bytes, got)) != sorted(map(bytes, expected))  # scales stay in their rows
    assert np.array_equal(got[:32], expected[:32])


def test_words_of_three_bits_are_found_by_chunks() -> None:
    """The second chunk alone, whose words lie in two parts of the tensor."""
    expected = load_file(GOLDEN / "3-bits" / "expected.safetensors")["a.weight"]
    got = anamnesis.open_model(GOLDEN / "3-bits")["a.weight"][512:]
    assert np.array_equal(got.view(np.uint16), expected[512:])
