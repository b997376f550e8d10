"""NVFP4 with one global scale for layers that vLLM joins, as llm-compressor takes it."""

from __future__ import annotations

from pathlib import Path

import encode_cases as ours
import ml_dtypes
import numpy as np
import pytest
from safetensors import deserialize
from safetensors.numpy import save_file

import anamnesis
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.remarks import remarks_on_job
from anamnesis.pipeline.statistics import statistics_tasks

ROWS = {"q_proj": 64, "k_proj": 16, "v_proj": 16, "o_proj": 48}
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",))


def name_of(layer: str) -> str:
    return f"model.layers.0.self_attn.{layer}.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four layers of one attention, the greatest number of each unlike that of the others."""
    path = tmp_path / "in.safetensors"
    save_file(
        {name_of(n): values.astype(ml_dtypes.bfloat16) for n, values in drawn().items()}, path
    )
    return path


def drawn() -> dict[str, np.ndarray]:
    found = {}
    for number, (layer, rows) in enumerate(ROWS.items()):
        values = ours.matrix("plain", rows, 64, seed=number)
        values[-1, 3] = (-1) ** number * (8 + 2 * number)
        found[layer] = values
    return found


@pytest.mark.parametrize("style", ["compressed-tensors", "modelopt"])
def test_layers_that_are_joined_have_one_scale(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    """The bytes of them as one matrix; and again, of a share of them."""
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", 1_000)
    case, out = ("nvfp4", {"style": style}), tmp_path / "out"
    encode = f"nvfp4:shared=true,style={style}"
    anamnesis.convert(source, out, to="safetensors", encode=encode, max_shard_size=1)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) == len(ROWS)
    found = {key: part["data"] for file in files for key, part in deserialize(file.read_bytes())}
    for layers in GROUPS:
        together = np.concatenate([drawn()[layer] for layer in layers])
        expected = ours.encoded(case, together, "BF16")
        first = 0
        for layer in layers:
            rows = slice(first, first + ROWS[layer])
            for end, want in expected.items():
                have = found[f"{name_of(layer).removesuffix('weight')}{end}"]
                want = want if want.size == 1 else want[rows]
                assert bytes(have) == want.tobytes(), (layer, end)
            first = rows.stop
    counts = anamnesis.verify(out, against=source)
    assert counts["pieces_decoded"] == counts["pieces"]
    for sample in (0.2, 0.4, 0.6):
        assert anamnesis.verify(out, against=source, sample=sample)["pieces_decoded"]


def test_what_is_left_of_a_run_looks_at_all_of_a_group(source: Path) -> None:
    encode = "nvfp4:shared=true"
    job = job_from(inputs=[source], output={"path": "o", "encode": encode, "max_shard_size": 1})
    ((_, plan),) = plan_job(job)
    assert isinstance(plan, Plan)
    left = [t for t in plan.tasks if t.pieces[0].step.tensor.name == name_of("v_proj")]
    looked = [task.pieces[0].step.tensor.name for task in statistics_tasks(left, plan.tasks)]
    assert sorted(looked) == sorted(map(name_of, GROUPS[0]))


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        ("nvfp4", True),
        ("nvfp4:style=modelopt", True),
        ("nvfp4:shared=true", False),
        ("nvfp4:style=mlx", False),
        ("fp8-tensor", False),
    ],
)
def test_scales_of_their_own_are_said(source: Path, encode: str, said: bool) -> None:
    job = job_from(inputs=[source], output={"path": "o", "encode": encode})
    notes = [note for note in remarks_on_job(job, plan_job(job)) if "vLLM" in note]
    assert len(notes) == said
    for note in notes:
        assert note.startswith("3 tensor(s), model.layers.0.self_attn.")
        assert "nvfp4:shared=true" in note


def test_a_layer_apart_from_those_that_share_is_said(source: Path) -> None:
    rules = [
        {"tensors": "*.k_proj.*", "as": "nvfp4"},
        {"tensors": "*", "as": "nvfp4:shared=true"},
    ]
    job = job_from(inputs=[source], output={"path": "o", "encode": rules})
    (note,) = remarks_on_job(job, plan_job(job))
    assert note.startswith(f"1 tensor(s), {name_of('k_proj')} first, have a global scale each")


def test_scales_that_move_are_said_where_shared_ones_are_asked_for(
    source: Path, tmp_path: Path
) -> None:
    held = tmp_path / "nvfp4.safetensors"
    anamnesis.convert(source, held, encode="nvfp4")
    said = {}
    for shared in ("true", "false"):
        job = job_from(inputs=[held], output={"path": "o", "encode": f"nvfp4:shared={shared}"})
        said[shared] = remarks_on_job(job, plan_job(job))
    assert not said["false"]
    (note,) = said["true"]
    assert note.startswith(f"3 tensor(s), {name_of('k_proj')} first, keep the global scales")
