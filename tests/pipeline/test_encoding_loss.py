"""The report of what encoding lost: against `diff`, and in all its forms."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from imatrix_file import write_imatrix
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.pipeline.encode_setting import names_for
from anamnesis.pipeline.journal import load_manifest

Amn = Callable[..., subprocess.CompletedProcess[str]]
NAMES = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(2)]
TARGETS = (
    "bnb-fp4", "bnb-int8", "bnb-nf4:nested=true", "ct-int-quantized:sym=false",
    "ct-pack-quantized:bits=3,sym=false", "fp8-block", "fp8-block:style=compressed-tensors",
    "fp8-tensor", "mlx-affine", "mxfp4", "mxfp8", "nvfp4", "nvfp4:style=modelopt", "quanto",
    "gguf:iq4-xs", "gguf:mxfp4", "gguf:q4-0", "gguf:q4-k", "gguf:q8-0", "gguf:tq1-0",
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two matrices and a vector, in BF16; one number is far off."""
    path = tmp_path / "model"
    path.mkdir()
    rng = np.random.default_rng(7)
    tensors = {name: rng.standard_normal((130, 512)) * 0.02 for name in NAMES}
    tensors[NAMES[1]][5, 7] = 3.0
    tensors["model.norm.weight"] = np.ones(512)
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    save_file(half, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


def convert(model: Path, out: Path, encode: str, **settings: Any) -> Any:
    kind, _, name = encode.rpartition("gguf:")
    if kind or encode.startswith("gguf:"):
        out = out.with_suffix(".gguf")
        settings |= {"to": "gguf", "names": "stored"}
    else:
        settings["to"] = "safetensors"
    return anamnesis.convert(model, out, encode=name, **settings)


@pytest.mark.parametrize("encode", TARGETS)
def test_figures_are_those_of_a_diff(model: Path, tmp_path: Path, encode: str) -> None:
    outcome = convert(model, tmp_path / "out", encode)
    assert [row.tensor for row in outcome.loss] == NAMES
    rows = {row.tensor: row for row in anamnesis.diff(model, outcome.path).rows}
    for row in outcome.loss:
        wanted = rows[row.tensor].to_dict()
        assert row.sqnr_db == pytest.approx(wanted["sqnr_db"], rel=1e-6)
        assert row.relative_error == pytest.approx(wanted["relative_error"], rel=1e-6)
        assert row.compared.equal == wanted["bits_equal"]
        assert row.compared.max_abs == pytest.approx(wanted["max_abs_error"], rel=1e-7)
        assert row.shape == (130, 512)


def test_clipped_numbers_are_past_the_last_code_by_half_a_step(model: Path, tmp_path: Path) -> None:
    source = load_file(model / "model.safetensors")[NAMES[0]].astype(np.float32)
    convert(model, tmp_path / "q", "gguf:q4-0")
    tensors = gguf.GGUFReader(str(tmp_path / "q.gguf")).tensors
    tensor = next(t for t in tensors if t.name == NAMES[0])
    scale = np.frombuffer(tensor.data.reshape(-1, 18)[:, :2].tobytes(), np.float16)
    d = scale.astype(np.float32)[:, None]
    ends = np.minimum(-8.5 * d, 7.5 * d), np.maximum(-8.5 * d, 7.5 * d)
    blocks = source.reshape(-1, 32)
    count = int(((blocks < ends[0]) | (blocks > ends[1])).sum())
    outcome = convert(model, tmp_path / "again", "gguf:q4-0")
    assert outcome.loss[0].clipped == count > 0
    assert outcome.loss[0].clipped_share == count / source.size

    outcome = convert(model, tmp_path / "ct", "ct-pack-quantized")
    scales = load_file(tmp_path / "ct" / "model.safetensors")[f"{NAMES[0]}_scale"]
    wide = np.repeat(scales.astype(np.float32), 128, axis=1)
    count = int(((source < -8.5 * wide) | (source > 7.5 * wide)).sum())
    assert outcome.loss[0].clipped == count


def test_nan_is_counted_and_left_out_of_sums(model: Path, tmp_path: Path) -> None:
    parts = load_file(model / "model.safetensors")
    parts[NAMES[0]][3, 3] = np.nan
    save_file(parts, model / "model.safetensors")
    first, second = convert(model, tmp_path / "out", "fp8-channel").loss
    assert first.compared.nan_both + first.compared.nan_b == 512  # its row
    assert second.compared.finite == second.compared.elems
    assert first.sqnr_db is not None


def test_moved_codes_lose_nothing(model: Path, tmp_path: Path) -> None:
    once = convert(model, tmp_path / "once", "nvfp4")
    moved = convert(Path(once.path), tmp_path / "moved", "nvfp4:style=modelopt")
    for row in moved.loss:
        assert (row.sqnr_db, row.relative_error, row.clipped, row.source) == (None, 0, 0, "nvfp4")


def test_executors_give_the_same_rows(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", 20_000)
    monkeypatch.setattr("anamnesis.pipeline.plan.LEAST_TASK_BYTES", 50_000)
    found = [
        convert(model, tmp_path / kind, "nvfp4", executor=kind).loss
        for kind in ("serial", "threads")
    ]
    assert found[0] == found[1]


def test_a_run_that_goes_on_reports_all_of_it(model: Path, tmp_path: Path) -> None:
    first = convert(model, tmp_path / "out", "fp8-block", max_shard_size=90_000)
    assert len(first.files) > 1
    done = convert(model, tmp_path / "out", "fp8-block", max_shard_size=90_000)
    assert done.resumed == len(first.files)
    assert done.loss == first.loss
    Path(first.files[0]).unlink()
    again = convert(model, tmp_path / "out", "fp8-block", max_shard_size=90_000)
    assert again.resumed == len(first.files) - 1
    assert again.loss == first.loss == tuple(load_manifest(tmp_path / "out").loss)
    assert anamnesis.verify(tmp_path / "out")["files"] == len(first.files)


def test_reports_of_the_command(amn: Amn, model: Path, tmp_path: Path) -> None:
    command = ("convert", model, "--to", "safetensors", "--encode", "mxfp4")
    for suffix in (".json", ".parquet", ".svg"):
        report, out = tmp_path / f"loss{suffix}", tmp_path / f"out{suffix[1:]}"
        done = amn(*command, "-o", out, "--loss", report)
        assert done.returncode == 0, done.stderr
        assert "2 tensors encoded: SQNR 1" in done.stdout
        assert report.stat().st_size > 100
    rows = json.loads((tmp_path / "loss.json").read_text())["tensors"]
    table = pq.read_table(tmp_path / "loss.parquet").to_pylist()
    assert [row["tensor"] for row in rows] == [row["tensor"] for row in table] == NAMES
    assert [row["sqnr_db"] for row in rows] == [row["sqnr_db"] for row in table]
    assert "mxfp4" in (tmp_path / "loss.svg").read_text()
    printed = amn(*command, "-o", tmp_path / "out5", "--json")
    loss = json.loads(printed.stdout)["outcomes"][0]["loss"]
    assert [row["sqnr_db"] for row in loss] == [row["sqnr_db"] for row in rows]
    wrong = amn(*command, "-o", tmp_path / "out6", "--loss", tmp_path / "loss.txt")
    assert wrong.returncode == 2
    assert not (tmp_path / "out6").exists()


@pytest.mark.parametrize(
    ("encode", "place", "value"),
    [
        ("nvfp4:style=modelopt", slice(None), 0),
        ("fp8-tensor", (0, 3), np.inf),
        ("bnb-nf4:nested=true", (0, 3), np.inf),
    ],
)
def test_what_is_lost_altogether_is_said(
    amn: Amn, model: Path, tmp_path: Path, encode: str, place: Any, value: float
) -> None:
    """ModelOpt divides zeros by zero, and others by infinity, or by what is under one."""
    parts = load_file(model / "model.safetensors")
    parts[NAMES[0]][place] = value
    save_file(parts, model / "model.safetensors")
    command = ["convert", model, "--to", "safetensors", "--encode", encode, "-o", tmp_path / "out"]
    done = amn(*command, "--loss", tmp_path / "loss.json")
    assert done.returncode == 0, done.stderr
    assert f"{NAMES[0]}: nothing that is finite is left" in done.stderr.replace("\n", " ")
    rows = json.loads((tmp_path / "loss.json").read_text())["tensors"]
    assert [row["not_finite"] for row in rows] == [rows[0]["counts"][0], 0]
    found = anamnesis.open_model(tmp_path / "out")[NAMES[0]].to_numpy().astype(np.float32)
    assert not np.isfinite(found).any()


def test_plain_conversions_report_nothing(amn: Amn, model: Path, tmp_path: Path) -> None:
    done = amn("convert", model, "--to", "safetensors", "-o", tmp_path / "out", "--json")
    assert "loss" not in json.loads(done.stdout)["outcomes"][0]


EVERY = [
    *names_for("safetensors"),
    *(f"gguf:{name.removeprefix('gguf-')}" for name in names_for("gguf")),
    "bnb-nf4:nested=true",
    "bnb-fp4:nested=true",
    "nvfp4:style=modelopt",
]
WHOLE = (
    "bnb-fp4:nested=true",
    "bnb-nf4:nested=true",
    "fp8-tensor",
    "nvfp4",
    "nvfp4:style=modelopt",
)  # one number for all


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("encode", EVERY)
def test_what_is_not_finite_stays_in_its_row(
    model: Path, tmp_path: Path, encode: str, value: float
) -> None:
    """Libraries differ on NaN and infinity; here they spoil no other row, and are reported."""
    parts = load_file(model / "model.safetensors")
    parts = {NAMES[0]: np.ascontiguousarray(parts[NAMES[0]][:128])}
    source = tmp_path / "m"
    source.mkdir()
    (source / "config.json").write_text("{}")
    outs, settings = {}, {}
    if encode.startswith("gguf:iq"):
        weights = np.ones(parts[NAMES[0]].shape[1])
        settings["imatrix"] = write_imatrix(tmp_path / "imatrix.dat", {NAMES[0]: weights})
    for name in ("plain", "spoilt"):
        save_file(parts, source / "model.safetensors")
        outcome = convert(source, tmp_path / name, encode, **settings)
        outs[name] = anamnesis.open_model(outcome.path)[NAMES[0]].to_numpy().astype(np.float32)
        counts = outcome.loss[0].compared
        assert (counts.finite == counts.elems) == (name == "plain")
        parts[NAMES[0]][40, 100] = value
    same = (outs["plain"] == outs["spoilt"]).all(axis=1)
    if encode in WHOLE:
        return
    spoilt = range(128) if encode == "fp8-block" else range(40, 41)
    assert [row for row in np.flatnonzero(~same) if row not in spoilt] == []


@pytest.mark.parametrize("encode", ["fp8-block", "mlx-affine", "gguf:q4-k"])
def test_the_report_can_be_left_out(
    model: Path, tmp_path: Path, encode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = convert(model, tmp_path / "told", encode)
    monkeypatch.setattr("anamnesis.kernels.loss.Losses.add", None)  # is not called
    monkeypatch.setattr("anamnesis.kernels.readback.Readback.into", None)
    silent = convert(model, tmp_path / "silent", encode, skip_loss=True)
    assert told.loss
    assert silent.loss == ()
    first, second = (load_manifest(Path(outcome.path)) for outcome in (told, silent))
    assert second.loss == []
    assert second.encoded == first.encoded
    assert second.pieces == first.pieces  # with the digests of all bytes
    assert second.recipe != first.recipe
    assert anamnesis.verify(silent.path, against=model)["pieces_decoded"] > 0


def test_moved_codes_are_compared_without_the_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = convert(model, tmp_path / "first", "nvfp4")
    checked: list[int] = []
    monkeypatch.setattr(
        "anamnesis.pipeline.window_parts.MovedParts._check",
        lambda self, old, new: checked.append(int(np.array_equal(old, new))),
    )
    moved = convert(Path(first.path), tmp_path / "moved", "nvfp4:style=modelopt", skip_loss=True)
    assert moved.loss == ()
    assert checked
    assert all(checked)


def test_a_report_that_is_left_out_has_no_file(amn: Amn, model: Path, tmp_path: Path) -> None:
    how = ["--to", "safetensors", "--encode", "mxfp4", "-o", str(tmp_path / "out"), "--skip-loss"]
    done = amn("convert", str(model), *how, "--loss", str(tmp_path / "loss.json"))
    assert done.returncode == 2
    assert "--skip-loss (output.skip_loss) leaves it out" in done.stderr
    assert not (tmp_path / "out").exists()
    done = amn("convert", str(model), *how, "--json")
    assert done.returncode == 0, done.stderr
    assert not json.loads(done.stdout).get("loss")
