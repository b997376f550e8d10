"""What a run that encodes says of tensors that do not become what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.encode_setting import EncodeRule
from anamnesis.pipeline.jobs import plan_job
from anamnesis.pipeline.plan import Plan
from anamnesis.pipeline.quant_config import config_blocks
from anamnesis.pipeline.remarks import remarks_on_job

COLUMNS = {"ffn_up": 256, "ffn_down": 96, "ffn_gate": 96, "attn_q": 72}
NO_GROUPS = "are no whole number of groups of"


@pytest.fixture
def notes(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Callable[..., list[str]]:
    entries = {
        f"blk.0.{name}.weight": ("F32", (4, columns), bytes(16 * columns))
        for name, columns in COLUMNS.items()
    }
    path = write_safetensors(tmp_path / "model.safetensors", entries)

    def planned(encode: str, **output: str) -> list[str]:
        job = job_from(inputs=[path], output={"path": "o", "encode": encode, **output})
        return [note for note in remarks_on_job(job, plan_job(job)) if "cannot hold it" in note]

    return planned


def test_a_gguf_takes_llama_cpps_fallback(notes: Callable[..., list[str]]) -> None:
    to_gguf = {"path": "o.gguf", "format": "gguf", "names": "stored"}
    fallback, kept = notes("Q4_K", **to_gguf)
    assert fallback == (
        "2 tensor(s), blk.0.ffn_down.weight first, are encoded as gguf-q5-0 "
        f"(gguf-q4-k cannot hold it: its rows of 96 elements {NO_GROUPS} 256)"
    )
    assert kept.startswith("1 tensor(s), blk.0.attn_q.weight first, are stored in F16, where what")
    (kept,) = notes("Q8_0", **to_gguf)
    assert "blk.0.attn_q.weight first, are stored in F16" in kept


def test_other_layouts_keep_the_tensor(notes: Callable[..., list[str]]) -> None:
    assert notes("mxfp4") == [
        "1 tensor(s), blk.0.attn_q.weight first, are kept as they are "
        f"(mxfp4 cannot hold it: its rows of 72 elements {NO_GROUPS} 32)"
    ]
    assert notes("fp8-channel") == []


@pytest.mark.parametrize(
    ("encode", "words"),
    [
        ("bnb-nf4", "it does not load bnb-nf4"),
        ("nvfp4", "leaves out the global scales and gets other weights from nvfp4"),
        ("nvfp4:style=modelopt", "does not load nvfp4"),
        ("ct-pack-quantized:group=32,sym=false", "does not load ct-pack-quantized"),
        ("fp8-block:style=compressed-tensors", "does not load fp8-block"),
        ("ct-pack-quantized:group=32", ""),
        ("nvfp4:style=mlx", ""),
        ("fp8-channel", ""),
    ],
)
def test_experts_that_transformers_cannot_stack_are_named(
    tmp_path: Path, write_safetensors: Callable[..., Path], encode: str, words: str
) -> None:
    entries = {
        f"l.{name}.weight": ("BF16", (4, 64), bytes(512))
        for name in ("mlp.experts.0.up_proj", "mlp.experts.12.up_proj", "self_attn.q_proj")
    }
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    job = job_from(inputs=[path], output={"path": "o", "encode": encode})
    notes = [note for note in remarks_on_job(job, plan_job(job)) if "experts" in note]
    assert len(notes) == bool(words)
    for note in notes:
        assert note.startswith("2 tensor(s), l.mlp.experts.0.up_proj.weight first, are of experts")
        assert words in note


STACKS = ("l.mlp.experts.gate_up_proj", "l.block_sparse_moe.input_linear.weight")


@pytest.mark.parametrize(
    ("encode", "kept"),
    [
        ("bnb-nf4", True),
        ("fp8-block", True),
        ("fp8-channel", True),
        ("mxfp4", True),
        ([EncodeRule(tensors="*", target="fp8-block")], False),
    ],
    ids=str,
)
def test_experts_in_one_tensor_are_no_layers(
    tmp_path: Path, write_safetensors: Callable[..., Path], encode: Any, kept: bool
) -> None:
    entries = {name: ("BF16", (2, 128, 64), bytes(32768)) for name in STACKS}
    entries["l.self_attn.q_proj.weight"] = ("BF16", (128, 64), bytes(16384))
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    job = job_from(inputs=[path], output={"path": "o", "encode": encode})
    ((_, plan),) = planned = plan_job(job)
    assert isinstance(plan, Plan)
    chosen = dict(plan.choices)
    assert [chosen[name].target is None for name in STACKS] == [kept, kept]
    assert chosen["l.self_attn.q_proj.weight"].target
    notes = [note for note in remarks_on_job(job, planned) if "in one tensor" in note]
    assert len(notes) == kept
    blocks = config_blocks(plan.choices, "bfloat16")
    modules = ("l.mlp.experts", "l.block_sparse_moe.experts")  # of which both have one
    assert all((f"'{module}'" in str(blocks)) == kept for module in modules)


@pytest.mark.parametrize(
    "encode",
    ["mlx-affine", "mlx-mxfp8", "nvfp4:style=mlx", [EncodeRule(tensors="*", target="mlx-mxfp4")]],
    ids=str,
)
def test_scales_of_mlx_are_beside_a_weight(
    write_safetensors: Callable[..., Path], tmp_path: Path, encode: Any
) -> None:
    entries = {name: ("BF16", (2, 128, 64), bytes(32768)) for name in STACKS}
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    job = job_from(inputs=[path], output={"path": "o", "encode": encode})
    ((_, plan),) = planned = plan_job(job)
    assert isinstance(plan, Plan)
    chosen = dict(plan.choices)
    assert [chosen[name].target is None for name in STACKS] == [True, False]
    assert any("MLX's quantised layers" in note for note in remarks_on_job(job, planned))


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        ("fp8-block:block=32", ["l.ragged.weight"]),
        ("fp8-block:block=64", []),  # one block, and its rows are divided by 1
        ("fp8-block:block=32,style=compressed-tensors", []),
        ("fp8-channel", []),
    ],
)
def test_blocks_that_transformers_takes_for_others_are_named(
    tmp_path: Path, write_safetensors: Callable[..., Path], encode: str, said: list[str]
) -> None:
    """Of 48 rows in blocks of 32 it multiplies two halves of 24 by their scales."""
    entries = {
        f"l.{name}.weight": ("BF16", (rows, 64), bytes(128 * rows))
        for name, rows in (("ragged", 48), ("short", 8), ("whole", 128))
    }
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    job = job_from(inputs=[path], output={"path": "o", "encode": encode})
    notes = [n for n in remarks_on_job(job, plan_job(job)) if "no whole blocks" in n]
    assert [note.split()[2] for note in notes] == said


@pytest.mark.parametrize(
    ("encode", "said"),
    [("bnb-nf4", 1), ("nvfp4", 1), ("fp8-block", 0), ("mlx-affine", 0), ("nvfp4:style=mlx", 0)],
)
def test_experts_of_llama_4_are_named(
    tmp_path: Path, write_safetensors: Callable[..., Path], encode: str, said: int
) -> None:
    entries = {
        f"l.feed_forward.experts.{name}_proj": ("BF16", (2, 64, 64), bytes(16384))
        for name in ("gate_up", "down")
    }
    entries["l.self_attn.q_proj.weight"] = ("BF16", (64, 64), bytes(8192))
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    job = job_from(inputs=[path], output={"path": "o", "encode": encode})
    notes = [note for note in remarks_on_job(job, plan_job(job)) if "Llama 4" in note]
    assert len(notes) == said


def _notes_of(path: Path, encode: Any, **output: str) -> list[str]:
    job = job_from(inputs=[path], output={"path": "o", "encode": encode, **output})
    return remarks_on_job(job, plan_job(job))


def test_rules_of_no_tensor_are_named(
    tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    entries = {
        f"l.{name}.weight": ("BF16", (4, 64), bytes(512)) for name in ("mlp.up", "attn.q", "attn.k")
    }
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    rules = [("*.atn.*", "nvfp4"), ("*.attn.*", "mxfp4"), ("*.q.*", "nvfp4"), ("*", "nvfp4")]
    encode = [EncodeRule(tensors=tensors, target=target) for tensors, target in rules]
    assert [note for note in _notes_of(path, encode) if "no effect" in note] == [
        "output.encode[0] ('*.atn.*' as nvfp4) has no effect: no tensor has such a name",
        "output.encode[2] ('*.q.*' as nvfp4) has no effect: rules before it fit all that it fits",
    ]


def test_double_precision_is_kept_with_a_note(
    tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    entries = {
        "l.up.weight": ("F64", (4, 64), bytes(2048)),
        "l.down.weight": ("F32", (4, 64), bytes(1024)),
    }
    path = write_safetensors(tmp_path / "model.safetensors", entries)
    assert _notes_of(path, "fp8-channel") == [
        "1 tensor(s), l.up.weight first, are kept as they are (it holds F64, which --dtype f32 "
        "rounds first)"
    ]
    assert _notes_of(path, "fp8-channel", dtype="f32") == []
