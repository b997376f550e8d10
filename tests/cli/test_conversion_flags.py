"""Flags of remember, convert, run and verify: JSON, dry runs, schedulers, help, completion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from slow_writes import SLOW
from towers import numbers, write

import anamnesis
from anamnesis import stopping
from anamnesis.cli.main import cli
from anamnesis.errors import UsageError
from anamnesis.limits import OUTPUT_BYTES, Limits
from anamnesis.pipeline import config
from anamnesis.writers import usual_shard_size

Amn = Callable[..., subprocess.CompletedProcess[str]]
VERBS = {"remember": (), "convert": ("--to", "safetensors")}


@pytest.mark.parametrize("verb", VERBS)
def test_json_and_dry_run(verb: str, amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = (*VERBS[verb], "-o", out, "--json", "--max-shard-size", "16MB")
    plan = json.loads(amn(verb, fp8_model, *flags, "--dry-run").stdout)["plans"][0]
    assert not out.exists()
    assert "tasks " in amn(verb, fp8_model, *flags[:-3], "--dry-run").stdout
    done = json.loads(amn(verb, fp8_model, *flags).stdout)
    assert (done["failures"], done["outcomes"][0]["resumed"]) == ([], 0)
    assert done["outcomes"][0]["files"] == [file["path"] for file in plan["files"]]
    assert [Path(f["path"]).stat().st_size for f in plan["files"]] == [
        file["nbytes"] for file in plan["files"]
    ]
    again = json.loads(amn(verb, fp8_model, *flags).stdout)
    assert again["outcomes"][0]["resumed"] == len(plan["files"]) > 1
    verified = json.loads(amn("verify", out, "--json").stdout)
    assert verified == {
        "path": str(out),
        "files": len(plan["files"]),
        "tensors": plan["tensors"],
        "bytes": verified["bytes"],
    }


def test_a_suffix_names_the_target(amn: Amn, sample: Path, tmp_path: Path) -> None:
    """As `remember` has it; a folder's name says none, and people may mean any of several."""
    done = amn("convert", sample, "-o", tmp_path / "w.arrow", "--dry-run")
    assert " bytes, arrow, 1 file(s)" in done.stdout
    anamnesis.convert(sample, tmp_path / "w.parquet", include="output_norm*")
    assert (tmp_path / "w.parquet").read_bytes()[:4] == b"PAR1"
    with pytest.raises(UsageError, match="is a folder, whose name says no format; allowed: arrow"):
        anamnesis.convert(sample, tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_outtype_is_the_dtype_of_a_gguf(
    dtype: str, amn: Amn, fp8_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    flags = ("--to", "gguf", "--names", "stored")
    for name in ("outtype", "dtype"):
        out = tmp_path / f"{name}.gguf"
        assert amn("convert", fp8_model, *flags, f"--{name}", dtype, "-o", out).returncode == 0
    assert (tmp_path / "outtype.gguf").read_bytes() == (tmp_path / "dtype.gguf").read_bytes()
    tensors = anamnesis.open_model(tmp_path / "outtype.gguf").model.tensors
    assert {t.out_dtype for t in tensors} == {dtype.upper(), "I64"}


@pytest.mark.parametrize(("stored", "expected"), [("F16", "F16"), ("BF16", "BF16"), ("F32", "F16")])
def test_outtype_auto_is_that_of_the_first_matrix_of_16_bits(
    stored: str, expected: str, tmp_path: Path
) -> None:
    """As llama.cpp's converter guesses it."""
    dtype = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}[stored]
    source, out = tmp_path / "m.safetensors", tmp_path / "o.gguf"
    vectors = {"a": np.ones(2, ml_dtypes.bfloat16), "b": np.ones((2, 4), np.float32)}
    save_file({**vectors, "c": np.ones((2, 4), dtype)}, source)
    flags = ["--to", "gguf", "--names", "stored", "--outtype", "auto", "--dry-run", "--json"]
    done = CliRunner().invoke(cli, ["convert", str(source), *flags, "-o", str(out)])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["convert", str(source), *flags[:-2], "-o", str(out)])
    assert done.exit_code == 0, done.output
    (found,) = (t for t in anamnesis.open_model(out).model.tensors if t.name == "c")
    assert found.out_dtype == expected


@pytest.mark.parametrize("command", ["inspect", "parse"])
def test_headers_are_shown_under_the_names_of_a_folder(command: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    source = write(tmp_path / "m.gguf", "llama", {}, {"output_norm.weight": numbers(8)})
    stored, viewed = (
        CliRunner().invoke(cli, [command, str(source), "--json", "--names", names])
        for names in ("stored", "hf")
    )
    assert (stored.exit_code, viewed.exit_code) == (0, 0)
    expected = stored.output.replace("output_norm.weight", "model.norm.weight", 1)
    assert viewed.output == expected


@pytest.mark.parametrize(("given", "meant"), [("q8_0", "Q8_0"), ("Q5_K_M", "Q5_K_M")])
def test_outtype_is_what_a_gguf_is_encoded_as(
    given: str, meant: str, amn: Amn, sample: Path, tmp_path: Path
) -> None:
    planned = [
        amn("convert", sample, "--to", "gguf", *flags, "--allow-requantize", "--dry-run", "-o", out)
        for out in [tmp_path / "w.gguf"]
        for flags in (("--outtype", given), ("--encode", meant))
    ]
    assert [done.returncode for done in planned] == [0, 0]
    assert planned[0].stdout == planned[1].stdout


def test_outtype_goes_with_gguf_alone(amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = amn("convert", fp8_model, "--to", "hf", "--outtype", "f16", "-o", out)
    assert (other.returncode, "use --dtype" in other.stderr) == (2, True)
    both = ("--to", "gguf", "--outtype", "f16", "--dtype", "f32", "-o", out)
    assert amn("convert", fp8_model, *both).returncode == 2
    other = amn("convert", fp8_model, "--to", "hf", "--outtype", "q8_0", "-o", out)
    assert (other.returncode, "use --encode" in other.stderr) == (2, True)
    both = ("--to", "gguf", "--outtype", "q8_0", "--encode", "Q4_K_M", "-o", out)
    assert "give one of them" in amn("convert", fp8_model, *both).stderr
    same = ("--to", "gguf", "--names", "stored", "--outtype", "f16", "--dtype", "f16")
    assert amn("convert", fp8_model, *same, "--dry-run", "-o", out).returncode == 0
    assert not out.exists()


def test_json_of_a_job_lists_what_failed(amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"inputs: [{fp8_model}, {tmp_path}/no.gguf]\noutput: {{path: {tmp_path}/o}}\n")
    plans = json.loads(amn("run", job, "--json", "--dry-run").stdout)
    done = amn("run", job, "--json")
    found = json.loads(done.stdout)
    assert (len(found["outcomes"]), done.returncode) == (len(plans["plans"]), 1) == (1, 1)
    assert found["failures"] == plans["failures"]
    assert found["failures"][0]["input"] == f"{tmp_path}/no.gguf"


@pytest.mark.parametrize("address", ["http://localhost:8787/status", "https://h/status"])
@pytest.mark.parametrize("verb", ["remember", "stats"])
def test_a_dashboard_is_no_scheduler(
    amn: Amn, fp8_model: Path, tmp_path: Path, verb: str, address: str
) -> None:
    out = ("-o", tmp_path / ("o" if verb == "remember" else "o.csv"))
    done = amn(verb, fp8_model, *out, "--scheduler", address)
    assert done.returncode == 2
    assert "run.scheduler" in done.stderr
    assert "a scheduler's address begins with one of tcp://" in done.stderr


def test_a_flag_without_effect_is_noted(amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    done = amn("remember", fp8_model, "-o", tmp_path / "o.safetensors", "--max-shard-size", "1GB")
    assert "note: max_shard_size has no effect" in done.stderr


def test_bf16_and_manifest(amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    flags = (
        "--to",
        "arrow",
        "--bf16",
        "uint16",
        "--manifest",
        "inside",
        "--dtype",
        "bf16",
        "--include",
        "*.weight",
    )
    assert amn("remember", fp8_model, "-o", tmp_path / "o", *flags).returncode == 0
    assert (tmp_path / "o" / "_anamnesis.json").exists()
    with pa.ipc.open_file(tmp_path / "o" / "part-00001-of-00001.arrow") as reader:
        assert str(reader.schema.field("values").type) == "large_list<item: uint16 not null>"


def test_tables_are_not_cut_in_a_pipe(amn: Amn, write_safetensors: object, tmp_path: Path) -> None:
    name = "model.layers.0." + "x" * 200 + ".weight"
    path = write_safetensors(  # type: ignore[operator]
        tmp_path / "a.safetensors", {name: ("F32", (1,), bytes(4))}
    )
    assert name in amn("parse", path).stdout


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_help_has_an_example(name: str, amn: Amn) -> None:
    assert "Example: " in amn(name, "--help").stdout


def test_a_long_help_is_in_sections(amn: Amn) -> None:
    """What is done comes first; every option is in one of them."""
    text = amn("convert", "--help").stdout
    sections = [text.index(title) for title in ("Options:", "Running:", "Limits and trust:")]
    flags = [text.index(f"  {flag} ") for flag in ("--encode", "--threads", "--max-items")]
    order = [place for pair in zip(sections, flags, strict=True) for place in pair]
    assert order == sorted(order)
    names = [o.opts[-1] for o in cli.commands["convert"].params if isinstance(o, click.Option)]
    assert [name for name in names if text.count(f"{name} ") == 0] == []


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_help_has_the_defaults(name: str) -> None:
    """Of flags that take a value; they are those of the job file and of the limits."""
    command = cli.commands[name]
    texts = {}
    parent = cli.make_context("amn", [], resilient_parsing=True)
    with command.make_context(name, [], resilient_parsing=True, parent=parent) as ctx:
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                (_, text) = option.get_help_record(ctx) or ("", "")
                assert option.required or "[default: " in text, option.opts
                texts[str(option.name)] = text
    usual = Limits()
    for field, shown in {
        "memory": str(config.Run().memory),
        "max_items": str(usual.max_items),
        "max_expansion_ratio": str(usual.max_expansion_ratio),
        "max_single_alloc": f"{usual.max_single_alloc >> 30}GiB",
        "max_total_bytes": f"{OUTPUT_BYTES >> 40}TiB",
        "max_shard_size": f"{usual_shard_size('safetensors') // 10**9}GB",
    }.items():
        assert shown in texts.get(field, shown)


def test_the_top_help_lists_exit_codes(amn: Amn) -> None:
    text = amn("--help").stdout
    assert all(code in text for code in ("3    FormatError", "130  stopped", "70   internal"))


@pytest.mark.parametrize(("shell", "line"), [("bash", "complete -o"), ("zsh", "#compdef amn"),
                                             ("fish", "complete --no-files")])  # fmt: skip
def test_completion(shell: str, line: str, amn: Amn) -> None:
    assert line in amn("completion", shell).stdout


def test_a_shell_is_given_the_commands() -> None:
    env = {
        **os.environ,
        "_AMN_COMPLETE": "bash_complete",
        "COMP_WORDS": "amn re",
        "COMP_CWORD": "1",
    }
    code = "from anamnesis.cli.main import main; main([])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "plain,remember" in done.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("rem", "remember"),
        ("remember x --comp", "--compression"),
        ("convert x --to pa", "parquet"),
        ("inspect mod", "model.gguf"),
    ],
)
def test_bash_completes(words: str, wanted: str, tmp_path: Path) -> None:
    """In bash itself: commands, flags, choices and files."""
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    (tmp_path / "model.gguf").touch()
    command = tmp_path / "amn"
    code = "from anamnesis.cli.main import main; main()"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$@\"\n")
    command.chmod(0o755)
    count = len(words.split())
    script = (
        'eval "$(amn completion bash)"\n'
        'compopt() { [ "$2" = default ] && compgen -f mod; }\n'  # what readline would do then
        f"COMP_WORDS=(amn {words}); COMP_CWORD={count}; _amn_completion amn\n"
        'echo "${COMPREPLY[@]}"'
    )
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert wanted in done.stdout.split(), done.stderr


def test_remember_goes_on_where_it_was_stopped(amn: Amn, fp8_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["remember", str(fp8_model), "-o", str(out), "--max-shard-size", "8MB"]
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW, *command, "--threads", "1"], stderr=subprocess.PIPE, text=True
    )
    while not (out.is_dir() and list(out.glob("model-*"))):
        assert child.poll() is None
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == stopping.EXIT_CODE
    assert errors.splitlines()[-1] == (
        f"{stopping.MESSAGE}; the same command again goes on where this one stopped"
    )
    done = amn(*command)
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    assert amn("verify", out).returncode == 0


def test_what_people_try_first(amn: Amn, tmp_path: Path) -> None:
    text = amn("--help").stdout
    for arguments in ((), ("help",)):
        done = amn(*arguments)
        assert (done.returncode, done.stdout) == (0, text)
    assert amn("help", "diff").stdout == amn("diff", "--help").stdout
    done = amn("remember", "x", "-o", tmp_path / "o", "--dtype", "bfloat16")
    assert "Did you mean 'bf16'?" in done.stderr
    done = amn("inspect", "meta-llama/Llama-3.1-8B")
    assert done.returncode == 1
    assert "a repository of Hugging Face is hf://meta-llama/Llama-3.1-8B" in done.stderr
    assert "hf://" not in amn("inspect", f"{tmp_path}/none").stderr


def test_run_replaces_an_output_when_told(amn: Amn, sample: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"inputs: ['{sample}']\noutput: {{path: '{tmp_path}/o.arrow'}}\n")
    assert amn("run", job).returncode == 0
    other = ("run", job, "--set", "output.dtype=f32")
    refused = amn(*other)
    assert (refused.returncode, "--overwrite (output.overwrite)" in refused.stderr) == (2, True)
    assert amn(*other, "--overwrite").returncode == 0
