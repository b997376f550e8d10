"""What an output path says of its format, and patterns that fit nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import run_job
from anamnesis.writers import FOLDER, WRITERS, format_of

Amn = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]


@pytest.fixture
def plain(tmp_path: Path, write_safetensors: Write) -> Path:
    entries = {name: ("F32", (2,), bytes(range(8))) for name in ("a.weight", "b.weight")}
    return write_safetensors(tmp_path / "plain.safetensors", entries)


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_suffix_of_the_table_means_its_format(name: str) -> None:
    suffix = WRITERS[name].suffix
    if suffix == FOLDER:
        assert format_of("out/w", name) == name
        return
    assert WRITERS[format_of(f"out/w{suffix}")].suffix == suffix
    assert format_of(f"out/w{suffix}", name) == name
    assert format_of("out/w", name) == name


def test_a_folder_is_safetensors_unless_said_otherwise() -> None:
    assert format_of("out") == format_of("out/llama-3.1") == format_of("x.pt-bf16") == "safetensors"
    assert (
        format_of("out_x.pt") == format_of("lightning.ckpt") == format_of("m.pth") == "safetensors"
    )


@pytest.mark.parametrize(("name", "noted"), [("m.pt", True), ("m.ckpt", True), ("m.v2", False)])
def test_a_folder_called_after_a_checkpoint_is_noted(
    name: str, noted: bool, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / name
    text = f"{out} is a folder of safetensors: no {out.suffix} files are written"
    assert (text in anamnesis.remember(plain, out).notes) == noted
    assert out.is_dir()


@pytest.mark.parametrize(
    ("path", "asked"),
    [("w.safetensors", "arrow"), ("w.arrow", "safetensors"), ("w.feather", None), ("w.npz", None),
     ("w.ipc", "arrow"), ("w.safetensor", None), ("d/w.parqet", "parquet"),
     ("w.json", None), ("-", None), ("-", "gguf"), ("w.csv", None), ("w.yaml", "hf"),
     ("model.safetensors.index.json", None), ("w.zip", "safetensors"),
     ("w.ARROW", None), ("w.Safetensors", "safetensors"), ("d/w.Feather", None),
     ("w.safetensors.gz", None), ("s3:/b/w", None), ("gs:b/w", "hf"), ("s3://b", None),
     ("az://c/", "hf"), ("https://h/w.gguf", "gguf"), ("hf://a/b", None)],
)  # fmt: skip
def test_a_contradiction_is_a_usage_error(path: str, asked: str | None) -> None:
    with pytest.raises(UsageError, match=f"output.path: {path}: "):
        format_of(path, asked)


def test_the_command_line_and_python_follow_the_suffix(
    amn: Amn, plain: Path, tmp_path: Path
) -> None:
    assert amn("remember", plain, "-o", tmp_path / "w.arrow").returncode == 0
    anamnesis.remember(plain, tmp_path / "v.arrow")
    for name in ("w.arrow", "v.arrow"):
        assert (tmp_path / name).read_bytes()[:6] == b"ARROW1"
    before = sorted(tmp_path.iterdir())
    done = amn("remember", plain, "--to", "arrow", "-o", tmp_path / "w2.safetensors")
    assert done.returncode == 2
    assert "its suffix says safetensors" in done.stderr
    assert (
        amn("convert", plain, "--to", "safetensors", "-o", tmp_path / "w.feather").returncode == 2
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ["remember", "convert", "stats"])
def test_a_pattern_that_fits_nothing_is_named(
    verb: str, amn: Amn, plain: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("s.csv" if verb == "stats" else "o.safetensors")
    to = ("--to", "safetensors") if verb == "convert" else ()
    before = sorted(tmp_path.iterdir())
    patterns = ("--include", "a*", "--include", "layers.*")
    done = amn(verb, plain, *to, "-o", out, *patterns)
    assert done.returncode == 2
    assert "'layers.*'; names are such as" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_an_exclude_that_fits_nothing_and_one_that_fits_all(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'lm_head\*'"):
        anamnesis.remember(plain, tmp_path / "o", exclude=["lm_head*"])
    with pytest.raises(UsageError, match="no tensor is left"):
        anamnesis.remember(plain, tmp_path / "o", exclude=["*"])
    assert not (tmp_path / "o").exists()


def test_a_pattern_of_a_job_must_fit_in_one_of_its_inputs(
    tmp_path: Path, write_safetensors: Write
) -> None:
    for name in ("x", "y"):
        entry = ("F32", (2,), bytes(range(8)))
        write_safetensors(tmp_path / f"{name}.safetensors", {"w": entry, f"{name}.w": entry})
    inputs = [str(tmp_path / f"{name}.safetensors") for name in ("x", "y")]
    output = {"path": str(tmp_path / "out")}
    job = job_from(inputs=inputs, output=output, select={"include": ["w", "x.*"]})
    assert [o.tensors for o in run_job(job).outcomes] == [2, 1]
    job = job_from(inputs=inputs, output=output, select={"exclude": ["z.*"]})
    with pytest.raises(UsageError, match=r"'z\.\*'"):
        run_job(job)


def test_home_is_expanded_in_python(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    anamnesis.remember("~/plain.safetensors", "~/models/out.safetensors")
    assert anamnesis.verify("~/models/out.safetensors")["tensors"] == 2
    assert len(anamnesis.open_model("~/models/out.safetensors")) == 2
    anamnesis.stats("~/plain.safetensors").write("~/s.json")
    anamnesis.diff("~/plain.safetensors", "~/plain.safetensors").write("~/d.json")
    assert not (tmp_path / "~").exists()
    with pytest.raises(UsageError, match=r"\$\{HOME\} is not expanded"):
        anamnesis.open_model("${HOME}/plain.safetensors")


def test_a_part_of_a_model_is_noted_where_a_whole_one_is_loaded(
    amn: Amn, plain: Path, tmp_path: Path
) -> None:
    flags = ("--to", "gguf", "--names", "stored", "-o", tmp_path / "w.gguf")
    said = "note: " + f"{plain}: 1 of 2 tensors chosen by patterns"
    for pattern in (("--include", "a.*"), ("--exclude", "b.*")):
        done = amn("convert", plain, *flags, *pattern, "--overwrite")
        assert (done.returncode, said in done.stderr) == (0, True), done.stderr
        assert (
            said.replace("note: ", "note     ")
            in amn("convert", plain, *flags, *pattern, "--overwrite", "--dry-run").stdout
        )
    assert "note: " not in amn("convert", plain, *flags, "--include", "*", "--overwrite").stderr
    other = amn("remember", plain, "-o", tmp_path / "w.safetensors", "--include", "a.*")
    assert (other.returncode, "note: " in other.stderr) == (0, False)
