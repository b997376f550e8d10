"""compressed-tensors' transforms: which layers they are of; values are in tests/conformance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes._ct_targets import UnknownTargetError, names_module

BF16 = ml_dtypes.bfloat16
SIGNS = np.array([[1, 1], [1, -1]], np.float32)
PARTS: dict[str, Any] = {
    "a.down_proj.weight": np.full((4, 8), 3, np.int8),
    "a.down_proj.weight_scale": np.ones((4, 1), np.float32),
    "b.down_proj.weight": np.full((4, 8), 3, np.int8),
    "b.down_proj.weight_scale": np.ones((4, 1), np.float32),
    "a.down_proj.R4_input.weight": SIGNS,
    "head.weight": np.ones((4, 8), BF16),
    "embed_tokens.weight": np.ones((4, 8), BF16),
}
APPLY = {"targets": ["re:.*down_proj$"], "location": "input", "inverse": False, "ignore": []}


def opened(folder: Path, parts: Any, apply: Any, **group: Any) -> Any:
    folder.mkdir(exist_ok=True)
    stored = {name: array for name, array in parts.items() if array is not None}
    save_file(stored, folder / "model.safetensors")
    entry = {"type": "hadamard", "head_dim": 2, "apply": apply, **group}
    block = {
        "quant_method": "compressed-tensors",
        "transform_config": {"config_groups": {"R4": entry}},
    }
    (folder / "config.json").write_text(json.dumps({"quantization_config": block}))
    return anamnesis.open_model(folder)


def test_a_shared_matrix_turns_all_layers_it_is_for(tmp_path: Path) -> None:
    model = opened(tmp_path / "m", PARTS, [APPLY])
    assert sorted(model) == [
        *("a.down_proj.weight", "b.down_proj.weight", "embed_tokens.weight", "head.weight")
    ]
    for layer in "ab":
        got = model[f"{layer}.down_proj.weight"].to_numpy().astype(np.float64)
        expected = np.full((4, 4, 2), 3.0) @ SIGNS.T / 2**0.5
        assert np.array_equal(got, expected.reshape(4, 8).astype(np.float32).astype(BF16))
    assert np.array_equal(model["head.weight"].to_numpy(), PARTS["head.weight"])
    notes = load_model(str(tmp_path / "m")).notes
    assert any("double precision" in note for note in notes)


def test_classes_are_of_decoded_layers_and_never_of_embeddings(tmp_path: Path) -> None:
    apply = {**APPLY, "targets": ["Linear"], "ignore": ["head"]}
    model = opened(tmp_path / "m", PARTS, [apply])
    assert np.array_equal(model["embed_tokens.weight"].to_numpy(), PARTS["embed_tokens.weight"])
    assert np.array_equal(model["head.weight"].to_numpy(), PARTS["head.weight"])
    with pytest.raises(UnsupportedError, match=r"dense 'head' is one of the linear layers"):
        opened(tmp_path / "bad", PARTS, [{**apply, "ignore": []}])


def test_what_is_in_the_weights_stays_and_attention_cancels(tmp_path: Path) -> None:
    heads = {"a.R4_q_attn.weight": SIGNS, "a.R4_k_cache.weight": SIGNS}
    apply = [{**APPLY, "location": where} for where in ("q_attn", "k_cache", "weight_input")]
    parts = {**PARTS, **heads, "a.down_proj.R4_input.weight": None}
    model = opened(tmp_path / "m", parts, apply)
    assert np.all(model["a.down_proj.weight"].to_numpy() == 3)
    assert not any("attn" in name for name in model)


@pytest.mark.parametrize(
    ("parts", "apply", "group", "error", "message"),
    [
        ({}, APPLY, {"type": "spin"}, UnsupportedError, "type of 'R4'"),
        ({}, APPLY | {"location": "middle"}, {}, UnsupportedError, "location 'middle'"),
        ({}, APPLY | {"location": "q_attn"}, {}, UnsupportedError, "queries and keys"),
        ({}, APPLY | {"targets": ["re:(a+)+$"]}, {}, UnsupportedError, "is not run"),
        ({}, APPLY | {"targets": ["LlamaMLP"]}, {}, UnsupportedError, "class 'LlamaMLP'"),
        (
            {"a.down_proj.R4_input.weight": None},
            *(APPLY | {"targets": ["nowhere"]}, {}, UnsupportedError, "modules 'R4_input' is of"),
        ),
        ({}, APPLY | {"targets": 7}, {}, UnsupportedError, "no list of names"),
        ({}, 7, {}, UnsupportedError, "apply of 'R4'"),
        ({}, APPLY, {"head_dim": 4}, FormatError, r"no R4_input.weight \[4, 4\]"),
        ({}, APPLY, {"randomize": True}, FormatError, "no permutation"),
        ({"a.down_proj.R4_input.weight": None}, APPLY, {}, FormatError, "no R4_input.weight"),
        (
            {"a.down_proj.R4_input.weight": np.ones((3, 3), np.float32)},
            *(APPLY, {"head_dim": 3}, FormatError, "a divisor of 8"),
        ),
        (
            {"a.down_proj.R4_input.weight": np.ones((2, 2), np.int32)},
            *(APPLY, {}, FormatError, "F64, F32"),
        ),
        ({"a.down_proj.R4_input.perm": np.zeros(3, np.int64)}, APPLY, {}, FormatError, "I64"),
        ({"x.R4_input.weight": SIGNS}, APPLY, {}, FormatError, "no weight that it could turn"),
        (
            {"b.down_proj.R4_input.weight": SIGNS, "c.down_proj.weight": np.ones((2, 2), BF16)},
            *(APPLY, {"type": "random-hadamard"}, UnsupportedError, "which of"),
        ),
    ],
)  # fmt: skip
def test_what_is_refused(
    parts: Any, apply: Any, group: Any, error: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        opened(tmp_path / "bad", {**PARTS, **parts}, [apply], **group)


def test_a_permutation_that_is_none(tmp_path: Path) -> None:
    parts = {**PARTS, "a.down_proj.R4_input.perm": np.zeros(2, np.int64)}
    opened(tmp_path / "bad", parts, [APPLY], randomize=True)
    with pytest.raises(FormatError, match="permutation"):
        anamnesis.remember(tmp_path / "bad", tmp_path / "out.safetensors", threads=1)


def test_two_matrices_at_one_side(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="two transforms at one side"):
        opened(tmp_path / "bad", PARTS, [APPLY, APPLY])


@pytest.mark.parametrize(
    ("entry", "module", "found"),
    [
        ("re:.*down_proj$", "model.layers.0.mlp.down_proj", True),
        ("re:.*down_proj", "model.layers.0.mlp.down_proj_2", True),
        ("re:down_proj", "model.layers.0.mlp.down_proj", False),
        (r"re:.*layers\.\d\.(q|k)_proj$", "model.layers.1.k_proj", True),
        ("lm_head", "lm_head", True),
        ("lm_head", "model.lm_head", False),
    ],
)
def test_targets(entry: str, module: str, found: bool) -> None:
    assert names_module([entry], module) is found


@pytest.mark.parametrize(
    "entry",
    ["re:(a*)*b", "re:.*.*.*x", "re:" + "a" * 400, "re:a{9}", "re:[^ab]", "re:" + 7 * "(a|b)"],
)
def test_patterns_that_are_not_run(entry: str) -> None:
    with pytest.raises(UnknownTargetError):
        names_module([entry], "model.layers.0")
