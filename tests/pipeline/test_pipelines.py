"""A diffusers pipeline: each component is a model, and the rest goes along."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import UsageError

Amn = Callable[..., subprocess.CompletedProcess[str]]
STEMS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def sd(tmp_path: Path) -> Path:
    """A pipeline of two models, a scheduler, and the same weights as one file at the top."""
    folder = tmp_path / "sd"
    classes = {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}
    index = {name: ["diffusers", cls] for name, cls in classes.items()}
    index |= {
        "scheduler": ["diffusers", "DDIM"],
        "safety_checker": [None, None],
        "_class_name": "P",
    }
    for name, stem in STEMS.items():
        (folder / name).mkdir(parents=True)
        save_file(
            {"w": np.full((2, 2), len(name), np.float32)}, folder / name / f"{stem}.safetensors"
        )
        (folder / name / "config.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta": 1}')
    (folder / "model_index.json").write_text(json.dumps(index))
    save_file({"all": np.zeros(1, np.float32)}, folder / "sd_xl.safetensors")
    return folder


def check(out: Path, sd: Path) -> None:
    for name, stem in STEMS.items():
        found = load_file(out / name / f"{stem}.safetensors")
        assert {key: value.tolist() for key, value in found.items()} == {"w": [[len(name)] * 2] * 2}
        assert (out / name / "config.json").is_file()
    assert json.loads((out / "model_index.json").read_text()) == json.loads(
        (sd / "model_index.json").read_text()
    )
    assert (out / "scheduler" / "scheduler_config.json").read_text() == '{"beta": 1}'
    assert not list(out.glob("*.safetensors"))


def test_component_by_component(sd: Path, amn: Amn, tmp_path: Path) -> None:
    done = amn("remember", sd, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    check(tmp_path / "out", sd)
    assert amn("verify", tmp_path / "out" / "unet").returncode == 0
    again = amn("remember", sd, "-o", tmp_path / "out", "--overwrite")
    assert again.returncode == 0, again.stderr
    check(tmp_path / "out", sd)


@pytest.mark.parametrize("manifest", ["beside", "inside"])
def test_what_was_made_of_several_is_verified_one_by_one(
    manifest: Literal["beside", "inside"], sd: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    anamnesis.remember(sd, out, manifest=manifest)
    text = f"{out}: is no output but holds some, text_encoder, unet; .* such as {out}/text_encoder"
    with pytest.raises(UsageError, match=text):
        anamnesis.verify(out)
    for name in STEMS:
        anamnesis.verify(out / name)


def test_several_pipelines(sd: Path, tmp_path: Path) -> None:
    sd.rename(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "sd")
    job = tmp_path / "job.yaml"
    out = tmp_path / "out"
    job.write_text(f"inputs: ['{sd}', '{sd / 'unet'}']\noutput: {{path: '{out}'}}\n")
    anamnesis.run(job)
    check(out / "sd", sd)
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_what_is_no_model_by_itself(sd: Path, amn: Amn, tmp_path: Path) -> None:
    done = amn("inspect", sd)
    assert done.returncode == 2
    assert "diffusers pipeline, of which unet, text_encoder hold weights" in done.stderr
    assert f"such as {sd}/unet" in done.stderr
    assert amn("inspect", sd / "unet").returncode == 0
    with pytest.raises(UsageError, match="several inputs need a folder"):
        anamnesis.remember(sd, tmp_path / "o.safetensors")
    with pytest.raises(UsageError, match="the input"):
        anamnesis.remember(sd, sd / "out")


def test_another_pipeline_is_not_mixed_in(sd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model_index.json").write_text("{}")
    with pytest.raises(UsageError, match="is of another pipeline"):
        anamnesis.remember(sd, out)
    assert sorted(p.name for p in out.iterdir()) == ["model_index.json"]
