"""What DeepSpeed's engine saves, of which one file is a part of the model."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import anamnesis
from anamnesis.errors import FormatError, UnsupportedError

torch = pytest.importorskip("torch")
WHOLE = OrderedDict([("a.weight", torch.ones(4, 3)), ("a.bias", torch.ones(4))])
EMPTY = OrderedDict([("a.weight", torch.empty(0)), ("a.bias", torch.empty(0))])
SHAPES = [OrderedDict([("a.weight", torch.Size([4, 3])), ("a.bias", torch.Size([4]))])]


def saved(path: Path, module: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": module, "global_steps": 7, "ds_version": "0.18", **more}, path)
    return path


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[0]])
@pytest.mark.parametrize("legacy", [False, True])
def test_placeholders_of_zero_3_are_refused(tmp_path: Path, shapes: Any, legacy: bool) -> None:
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    document = {"module": EMPTY, "param_shapes": shapes}
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsupportedError, match=r"'a\.weight': is empty, .* \[4, 3\]: DeepSpeed's"):
        anamnesis.inspect(path)


def test_zero_1_and_2_have_whole_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", WHOLE, param_shapes=SHAPES, mp_world_size=1)
    found = anamnesis.open_model(path)
    assert {name: tensor.shape for name, tensor in found.items()} == {
        "a.weight": (4, 3), "a.bias": (4,)
    }  # fmt: skip
    assert not any("processes" in note for note in anamnesis.inspect(path).notes)


def test_tensors_that_are_empty_by_right(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m.pt", EMPTY, param_shapes=[OrderedDict([("a.weight", torch.Size([0]))]), 7]
    )
    assert anamnesis.inspect(path).tensors == 2


@pytest.mark.parametrize("name", ["a.weight", "b.bias"])
def test_parameters_that_were_not_gathered_are_noted(tmp_path: Path, name: str) -> None:
    """As `save_pretrained` under ZeRO-3 leaves them, where nothing else tells."""
    path = tmp_path / "model.safetensors"
    save_file({name: np.empty(0, np.float32), "z.weight": np.ones((2, 2), np.float32)}, path)
    (note,) = anamnesis.inspect(path).notes
    assert f"{name!r}" in note
    assert "ZeRO-3" in note
    save_file({"a.weight": np.empty((0, 2)), "buffer": np.empty(0)}, path)
    assert not anamnesis.inspect(path).notes


def test_one_of_several_processes_is_noted(tmp_path: Path) -> None:
    path = saved(tmp_path / "mp_rank_01_model_states.pt", WHOLE, mp_world_size=2)
    assert any("one of 2 processes" in note for note in anamnesis.inspect(path).notes)


def test_folders_without_weights_say_where_some_are(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "global_step7" / "mp_rank_00_model_states.pt", WHOLE)
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "latest").write_text("global_step7")
    with pytest.raises(FormatError, match=r"folders in it hold some: \S+/global_step7; name one"):
        anamnesis.inspect(tmp_path / "run")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"PK")
    with pytest.raises(FormatError, match=r"dcp_to_torch \S+/dcp FILE` makes one"):
        anamnesis.inspect(tmp_path / "dcp")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(FormatError, match=r"\*\.onnx\)$"):
        anamnesis.inspect(tmp_path / "empty")
