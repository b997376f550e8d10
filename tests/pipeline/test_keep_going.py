"""I04 with `keep_going`: what the other shards hold is made, and is never taken for the whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, SecurityError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job
from anamnesis.readers.model import load_model

Amn = Callable[..., subprocess.CompletedProcess[str]]
Entries = dict[str, tuple[str, tuple[int, ...], bytes]]
SHARDS = [f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)]


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[[Path, Mapping[str, Any]], Path]) -> Path:
    """Four shards of two FP8 tensors; the scale of the last is in the first shard."""
    folder = tmp_path / "model"
    folder.mkdir()
    rng = np.random.default_rng(3)
    shards: list[Entries] = [{} for _ in SHARDS]
    for number in range(8):
        shard = shards[number // 2]
        codes = rng.integers(0, 126, (64, 128), dtype=np.uint8)
        shard[f"l.{number}.weight"] = ("F8_E4M3", (64, 128), codes.tobytes())
        scale = ("F32", (1, 1), rng.random((1, 1), dtype=np.float32).tobytes())
        (shard if number < 7 else shards[0])[f"l.{number}.weight_scale_inv"] = scale
        shard[f"l.{number}.norm.weight"] = ("BF16", (128,), bytes(256))
    weight_map = {}
    for name, entries in zip(SHARDS, shards, strict=True):
        write_safetensors(folder / name, entries)
        weight_map |= dict.fromkeys(entries, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    return folder


def job(model: Path, out: Path, **run: Any) -> Any:
    run = {"executor": "serial", "keep_going": True, **run}
    output = {"path": str(out), "max_shard_size": "33kB"}
    return job_from(inputs=[str(model)], output=output, run=run)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(bytes(5000))
    else:
        os.truncate(path, 0 if how == "empty" else path.stat().st_size - 1)


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbage"])
def test_i04_the_rest_continues_and_then_the_whole(model: Path, tmp_path: Path, how: str) -> None:
    out, incomplete = tmp_path / "out", tmp_path / "out.incomplete"
    whole = run_job(job(model, tmp_path / "whole")).outcomes[0]
    kept = tmp_path / "kept"
    shutil.copy2(model / SHARDS[2], kept)
    spoil(model / SHARDS[2], how)
    with pytest.raises(FormatError, match=f"{SHARDS[2]}.*--keep-going"):
        run_job(job(model, out, keep_going=False), resume=True)
    assert not incomplete.exists()
    for _ in range(2):  # the second run finds everything done
        with pytest.raises(FormatError, match=f"1 file cannot be read.*{SHARDS[2]}.*run again"):
            run_job(job(model, out), resume=True)
    assert not out.exists()
    names = sorted(contents(incomplete))
    assert names == [f"model-0000{n}-of-00006.safetensors" for n in range(1, 7)]
    assert not (tmp_path / "out.incomplete.anamnesis.json").exists()
    found = anamnesis.open_model(str(incomplete / "*.safetensors"))
    expected = anamnesis.open_model(tmp_path / "whole")
    assert sorted(found) == sorted(n for n in expected if n[2] not in "45")
    for name, tensor in found.items():
        assert tensor.to_numpy().tobytes() == expected[name].to_numpy().tobytes()
    before = {p.name: p.stat().st_ino for p in incomplete.iterdir()}
    shutil.copy2(kept, model / SHARDS[2])
    outcome = run_job(job(model, out), resume=True).outcomes[0]
    assert contents(out) == contents(tmp_path / "whole")
    assert outcome.files[0].endswith("model-00001-of-00008.safetensors")
    # Every file here begins with a tensor of its own, so that none was made again.
    assert outcome.resumed == 6
    assert set(before.values()) < {p.stat().st_ino for p in out.glob("model-*")}
    assert len(whole.files) == 8
    assert not incomplete.exists()
    assert anamnesis.verify(out)["files"] == 8
    assert [p.name for p in tmp_path.rglob(".*")] == []


def test_i04_tensors_with_a_part_in_a_broken_shard_are_left_out(
    model: Path, tmp_path: Path
) -> None:
    (model / SHARDS[0]).unlink()
    found = load_model(str(model), keep_going=True)
    # Of l.7 the scale is missing; l.7.norm shares no name with it and stays.
    names = {t.name for t in found.tensors}
    assert "l.7.weight" not in names
    assert names == {
        *(f"l.{n}.weight" for n in range(2, 7)),
        *(f"l.{n}.norm.weight" for n in range(2, 8)),
    }
    assert len(found.broken) == 1
    assert {t.scheme for t in found.tensors} == {"fp8-tensor", "passthrough"}


def test_i04_a_missing_scale_is_never_taken_as_one(model: Path) -> None:
    from anamnesis.readers.schemes.base import Options

    (model / SHARDS[3]).unlink()
    found = load_model(str(model), Options(assume_unit_scale=True), keep_going=True)
    assert not found.options.assume_unit_scale


def test_i04_other_broken_shards_start_again(model: Path, tmp_path: Path) -> None:
    out, incomplete = tmp_path / "out", tmp_path / "out.incomplete"
    shutil.copytree(model, tmp_path / "copy")
    (model / SHARDS[1]).unlink()
    (model / SHARDS[3]).unlink()
    with pytest.raises(FormatError, match="2 files cannot be read"):
        run_job(job(model, out), resume=True)
    assert len(contents(incomplete)) == 4
    shutil.copy2(tmp_path / "copy" / SHARDS[1], model / SHARDS[1])
    with pytest.raises(FormatError, match="1 file cannot be read"):
        run_job(job(model, out), resume=True)
    assert len(contents(incomplete)) == 6


def test_i04_what_was_damaged_meanwhile_is_made_again(model: Path, tmp_path: Path) -> None:
    out, incomplete = tmp_path / "out", tmp_path / "out.incomplete"
    run_job(job(model, tmp_path / "whole"))
    shutil.copy2(model / SHARDS[3], tmp_path / "kept")
    (model / SHARDS[3]).unlink()
    with pytest.raises(FormatError):
        run_job(job(model, out), resume=True)
    first = sorted(incomplete.iterdir())[0]
    data = bytearray(first.read_bytes())
    data[-5] ^= 1
    first.write_bytes(data)
    shutil.copy2(tmp_path / "kept", model / SHARDS[3])
    outcome = run_job(job(model, out), resume=True).outcomes[0]
    assert outcome.resumed == 5
    assert contents(out) == contents(tmp_path / "whole")


def test_i04_files_that_lie_elsewhere_now_are_made_again(model: Path, tmp_path: Path) -> None:
    """Three tensors a file: behind the missing shard the files begin at other tensors."""
    settings = {"path": str(tmp_path / "out"), "max_shard_size": "50kB"}
    run = {"executor": "serial", "keep_going": True}
    wide = job_from(inputs=[str(model)], output=settings, run=run)
    shutil.copy2(model / SHARDS[2], tmp_path / "kept")
    (model / SHARDS[2]).unlink()
    with pytest.raises(FormatError):
        run_job(wide, resume=True)
    shutil.copy2(tmp_path / "kept", model / SHARDS[2])
    assert run_job(wide, resume=True).outcomes[0].resumed == 1
    anamnesis.remember(model, tmp_path / "whole", max_shard_size="50kB")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_i04_an_input_that_changed_is_not_taken_over(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copy2(model / SHARDS[3], tmp_path / "kept")
    (model / SHARDS[3]).unlink()
    with pytest.raises(FormatError):
        run_job(job(model, out), resume=True)
    shutil.copy2(tmp_path / "kept", model / SHARDS[3])
    os.utime(model / SHARDS[1], ns=(1, 1))
    assert run_job(job(model, out), resume=True).outcomes[0].resumed == 4


def test_i04_nothing_goes_on_without_an_index_or_out_of_the_folder(
    model: Path, tmp_path: Path
) -> None:
    shard = model / SHARDS[1]
    shard.unlink()
    shard.symlink_to("/etc/passwd")
    with pytest.raises(SecurityError):
        load_model(str(model), keep_going=True)
    shard.unlink()
    shard.write_bytes(b"")
    (model / "model.safetensors.index.json").unlink()
    with pytest.raises(FormatError, match="the file is empty"):
        load_model(str(model), keep_going=True)
    for name in SHARDS:
        (model / name).write_bytes(b"")
    with pytest.raises(FormatError, match="4 of 4 files"):
        load_model(str(model), keep_going=True)


def test_i04_on_the_command_line(model: Path, tmp_path: Path, amn: Amn) -> None:
    (model / SHARDS[2]).unlink()
    out = tmp_path / "out"
    done = amn("remember", model, "-o", out, "--keep-going", "--max-shard-size", "33kB")
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"left out: {model / SHARDS[2]}: is missing")
    assert lines[-1].startswith("error: FormatError: ")
    assert "out.incomplete holds 12 tensors of the others" in lines[-1]
    assert not out.exists()
    assert "config.json" not in contents(tmp_path / "out.incomplete")
    path = tmp_path / "job.yaml"
    path.write_text(f"inputs: [{model}]\noutput: {{path: {out}}}\nrun: {{keep_going: true}}\n")
    done = amn("run", path, "--dry-run")
    assert f"left out {model / SHARDS[2]}: is missing" in done.stdout


def test_an_input_that_changes_while_it_is_resumed(model: Path, tmp_path: Path) -> None:
    """Without broken shards, what is recorded of other inputs is refused as ever."""
    out = tmp_path / "out"
    run_job(job(model, out), resume=True)
    (out / "model-00008-of-00008.safetensors").unlink()
    os.utime(model / SHARDS[0], ns=(1, 1))
    with pytest.raises((IntegrityError, anamnesis.errors.UsageError)):
        run_job(job(model, out), resume=True)


def test_i04_numbered_names_tell_what_is_missing_without_an_index(
    model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors.index.json").unlink()
    assert len(load_model(str(model)).tensors) == 16
    (model / SHARDS[1]).unlink()
    with pytest.raises(FormatError, match=f"{SHARDS[1]} is missing; .* count 4"):
        load_model(str(model))
    (model / SHARDS[3]).unlink()
    with pytest.raises(FormatError, match=f"{SHARDS[1]} and 1 more are missing"):
        load_model(str(model))
    # A pattern says what is meant.
    assert len(load_model(str(model / "model-00003-*")).tensors) == 4
