"""What people type by habit is answered with what this program calls it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from anamnesis.cli.habits import COMMANDS, FLAGS
from anamnesis.cli.main import cli

Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("remember x --outptu y", "No such option '--outptu'. Did you mean '--out'?"),
        ("remember x --output y", "Did you mean '--out'?"),
        ("remember x --format arrow", "Did you mean '--to'?"),
        ("remember x --force", "Did you mean '--overwrite'?"),
        ("remember x --output_dir y", "Did you mean '--out'?"),
        ("remember x --save-path y", "Did you mean '--out'?"),
        ("remember x --max_shard_size 5GB", "Did you mean '--max-shard-size'?"),
        ("remember x --encode nvfp4", "No such option '--encode'. It is a flag of convert.\n"),
        ("remember --model x", "The input has no flag. Example: amn remember models/llama-fp8 -o"),
        ("convert x --quant Q4_K_M", "Did you mean '--encode'?"),
        ("convert x --to bf16", " --dtype takes 'bf16'.\n"),
        ("convert x --to Q4_K_M", " It may be --to gguf --encode Q4_K_M.\n"),
        ("convert x --dtype nvfp4", " It may be --encode nvfp4.\n"),
        ("convert x --outtype q4km", " It may be --to gguf --encode Q4_K_M.\n"),
        ("remember x --dtype nvfp4", "is not one of 'bf16', 'f16', 'f32'.\n"),
        ("/", "A command comes before it. Example: amn inspect /\n"),
        ("hf://a/b", "A command comes before it. Example: amn inspect hf://a/b\n"),
        ("remember x -f", "Did you mean '--overwrite'?"),
        ("remember x --shard-size 5GB", "Did you mean '--max-shard-size'?"),
        ("remember x --outtype bf16", "Did you mean '--dtype'?"),
        ("remember x --workers 2", "Did you mean '--threads'?"),
        ("plan x --worker 2", "Did you mean '--workers'?"),
        ("plan x --latency 50ms", "found '50ms'; allowed: a number, 0 or more\n"),
        ("remember x -o s3://b", "is a bucket; name a folder in it, as s3://b/llama-bf16\n"),
        ("convert x --quantize Q8_0", "Did you mean '--encode'?"),
        ("stats x --tensors y", "Did you mean '--include'?"),
        ("stats x --colour", "No such option '--colour'.\n"),
        (
            "inspect a.gguf b.gguf",
            "The parts of one model are a pattern in quotes, and several models",
        ),
        ("remember a b -o c", "(b). The parts of one model are a pattern in quotes"),
        ("diff a b c", "Got unexpected extra argument (c). Example: amn diff "),
        ("inspect x --to hf", "No such option '--to'. It is a flag of remember, convert.\n"),
        ("convert x --to gguff", "Did you mean 'gguf'?"),
        (
            "run /",
            "/: is a folder, and no job file; a model is recovered by `amn remember / -o OUT`",
        ),
        ("plan /", "/: is a folder, and no job file"),
        ("convert x --to huggingface", "Did you mean 'hf'?"),
        ("convert x --to hf_folder", "Did you mean 'hf'?"),
        ("remember x --dtype float16", "Did you mean 'f16'?"),
        ("convert x -o y", "--to): y is a folder, whose name says no format; allowed: arrow |"),
        ("convert x -o y.gguff", "did you mean .gguf?"),
        ("stats x --sort name", "did you mean 'tensor'?"),
        ("stats x --sort size", "did you mean 'stored_bytes' or 'elements'?"),
        ("remember x --verbose", "No such option '--verbose'.\n"),
        ("conver x", "No such command 'conver'. Did you mean 'convert'?"),
        ("quantize x", "Did you mean 'convert'?"),
        ("dequantise x", "Did you mean 'remember'?"),
        ("show x", "Did you mean 'inspect'?"),
        ("zzz", "No such command 'zzz'. Commands are completion, convert, diff, "),
    ],
)
def test_a_name_of_another_program_leads_to_ours(line: str, answer: str, amn: Amn) -> None:
    done = amn(*line.split())
    assert done.returncode == 2
    assert answer in done.stderr


def test_what_habits_lead_to_is_there() -> None:
    flags = {f for c in cli.commands.values() for p in c.params for f in p.opts}
    assert {name for names in FLAGS.values() for name in names} <= flags
    assert set(COMMANDS.values()) <= set(cli.commands)
    assert not set(COMMANDS) & set(cli.commands)


@pytest.mark.parametrize("name", sorted(set(cli.commands) - {"schema"}))
def test_what_is_missing_comes_with_an_example(name: str, amn: Amn) -> None:
    done = amn(name)
    assert done.returncode == 2
    assert f"Example: {'eval' if name == 'completion' else f'amn {name} '}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_without_its_flag_is_shown_the_flag(amn: Amn) -> None:
    done = amn("remember", "model.gguf", "out.safetensors")
    assert "Example: amn remember models/llama-fp8 -o out/llama-bf16" in done.stderr


def test_help_says_no_default_in_two_pairs_of_brackets(amn: Amn) -> None:
    for name in cli.commands:
        text = amn(name, "--help").stdout
        assert "((" not in text
        assert " TEXT " not in text.replace("--price-source TEXT ", "")


def test_lists_of_commands_are_whole_at_80_columns(amn: Amn) -> None:
    assert "..." not in amn("--help").stdout.partition("Commands:")[2]


def test_a_model_is_no_job(amn: Amn, sample: Path) -> None:
    done = amn("run", sample)
    assert done.returncode == 2
    assert f"`amn remember {sample} -o OUT`" in done.stderr


def test_both_names_of_the_program_are_completed(amn: Amn) -> None:
    assert " _amn_completion amn\n" in (text := amn("completion", "bash").stdout)
    assert " _anamnesis_completion anamnesis\n" in text


def test_a_note_leads_to_no_command_that_fails(amn: Amn, sample: Path, tmp_path: Path) -> None:
    """The sample is a cut, without the key/values that another naming needs."""
    done = amn("remember", sample, "-o", tmp_path / "m.safetensors")
    assert "note: names are those of the GGUF" in done.stderr
    assert amn("convert", sample, "--to", "hf", "-o", tmp_path / "hf").returncode == 3
    assert "amn convert" not in done.stderr


def test_the_scheduler_of_a_job_is_what_the_job_says(amn: Amn) -> None:
    said = {name: amn(name, "--help").stdout for name in ("run", "remember")}
    assert "(what JOB says)" in said["run"]
    assert "(what JOB says)" not in said["remember"]
    assert "(threads of this" in said["remember"]


@pytest.mark.parametrize("command", ["inspect", "parse"])
def test_tables_in_a_pipe_end_no_line_with_blanks(command: str, amn: Amn, sample: Path) -> None:
    lines = amn(command, sample).stdout.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line.endswith(" ")] == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has a folder without files")
@pytest.mark.parametrize("name", ["m.safetensors", "m"])
def test_a_folder_that_takes_no_files_is_named(name: str, amn: Amn, sample: Path) -> None:
    """And not a hidden file that people did not ask for."""
    done = amn("remember", sample, "-o", f"/proc/{name}")
    assert done.returncode == 1
    said = "nothing can be made in this folder; name another output\n"
    assert done.stderr == f"error: FileNotFoundError: /proc: No such file or directory: {said}"
