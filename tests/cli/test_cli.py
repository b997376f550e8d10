"""The command line is a contract: names, JSON keys, exit codes, one line an error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anamnesis import errors

Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("command", ["inspect", "info"])
def test_inspect_json(amn: Amn, sample: Path, command: str) -> None:
    done = amn(command, sample, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert list(found) == [
        "path",
        "container",
        "tensors",
        "stored_tensors",
        "stored_bytes",
        "bf16_bytes",
        "schemes",
        "metadata",
    ]
    assert (found["container"], found["tensors"]) == ("gguf", 11)
    assert found["schemes"] == {
        "gguf-q4-1": {"tensors": 7, "stored_bytes": 2_211_840},
        "gguf-q8-0": {"tensors": 1, "stored_bytes": 626_688},
        "passthrough": {"tensors": 3, "stored_bytes": 6_912},
    }
    assert found["metadata"]["general.architecture"] == "llama"


def test_parse_json_adds_entries(amn: Amn, sample: Path) -> None:
    entries = json.loads(amn("parse", sample, "--json").stdout)["entries"]
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["blk.0.attn_k.weight"] == {
        "name": "blk.0.attn_k.weight",
        "shape": [192, 576],
        "scheme": "gguf-q4-1",
        "out_dtype": "BF16",
        "components": [
            {"name": "blk.0.attn_k.weight", "dtype": "Q4_1", "shape": [192, 576], "nbytes": 69_120}
        ],
    }
    assert by_name["output_norm.weight"]["out_dtype"] == "F32"


def test_tables_for_people(amn: Amn, sample: Path) -> None:
    assert "gguf-q4-1" in amn("inspect", sample).stdout
    assert "blk.0.attn_k.weight" in amn("parse", sample).stdout


@pytest.mark.parametrize("command", ["remember", "dequantize", "convert"])
def test_conversion_commands(amn: Amn, sample: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out.safetensors"
    done = amn(command, sample, "-o", out, "--to", "safetensors", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    assert amn("verify", out).returncode == 0


def test_run_a_job_and_dry_run(amn: Amn, sample: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    out = tmp_path / "deep" / "out.safetensors"
    job.write_text(f"inputs: [{sample}]\noutput: {{path: {out}}}\n")
    dry = amn("run", job, "--dry-run")
    assert dry.returncode == 0
    assert "11: 7 gguf-q4-1, 1 gguf-q8-0, 3 passthrough" in dry.stdout
    assert not out.parent.exists()
    done = amn("run", job, "--set", "output.dtype=f32", "--set", "run.threads=1")
    assert done.returncode == 0, done.stderr
    schemes = json.loads(amn("parse", out, "--json").stdout)
    assert {entry["out_dtype"] for entry in schemes["entries"]} == {"F32"}


def test_several_inputs_and_one_that_fails(amn: Amn, sample: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    job = tmp_path / "job.yaml"
    job.write_text(f"inputs: [{bad}, {sample}]\noutput: {{path: {tmp_path / 'out'}}}\n")
    done = amn("run", job)
    assert done.returncode == 3
    assert "bad.gguf" in done.stderr
    assert amn("verify", tmp_path / "out" / sample.stem).returncode == 0


def test_schema_is_json(amn: Amn) -> None:
    assert "properties" in json.loads(amn("schema").stdout)


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (("inspect", "{tmp}/absent.gguf"), 1, "error: FileNotFoundError: "),
        (("inspect",), 2, "error: usage: "),
        (("inspect", "{sample}", "--jsn"), 2, "error: usage: "),
        (("frobnicate",), 2, "error: usage: "),
        (("remember", "{sample}", "-o", "{tmp}/o", "--threads", "many"), 2, "error: usage: "),
        (("run", "{tmp}/bad.yaml"), 2, "error: usage: "),
        (("inspect", "{tmp}/short.gguf"), 3, "error: FormatError: "),
        (("inspect", "{tmp}"), 3, "error: FormatError: "),
        (("inspect", "{tmp}/keras.h5"), 4, "error: UnsupportedError: "),
        (("inspect", "nothing://host/model.gguf"), 2, "error: usage: "),
        (("inspect", "ollama:no-such-model"), 1, "error: FileNotFoundError: "),
        (("inspect", "ollama:../../model"), 6, "error: SecurityError: "),
        (("remember", "{sample}", "-o", "{tmp}/o", "--memory", "1MiB"), 5, "error: LimitError: "),
        (("verify", "{tmp}/absent.safetensors"), 2, "error: usage: "),
    ],
)
def test_errors_are_one_line_with_their_code(
    amn: Amn, sample: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, start: str
) -> None:
    (tmp_path / "bad.yaml").write_text("inputs: [a]\noutput: {pth: b}\n")
    (tmp_path / "short.gguf").write_bytes(b"GGUF\x03\0\0\0")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    before = sorted(tmp_path.iterdir())
    done = amn(*(a.format(tmp=tmp_path, sample=sample) for a in arguments))
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(start), done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_debug_shows_the_traceback(amn: Amn, tmp_path: Path) -> None:
    for arguments in (("--debug", "inspect"), ("inspect", "--debug")):
        done = amn(*arguments, tmp_path / "absent")
        assert "Traceback" in done.stderr
        assert done.returncode == 1


def test_exit_codes_are_those_of_the_contract() -> None:
    codes = {
        "UsageError": 2,
        "FormatError": 3,
        "UnsupportedError": 4,
        "LimitError": 5,
        "SecurityError": 6,
        "IntegrityError": 7,
    }
    assert {name: getattr(errors, name).exit_code for name in codes} == codes
    for name, builtin in (("FormatError", ValueError), ("LimitError", MemoryError)):
        assert issubclass(getattr(errors, name), builtin)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom anamnesis.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'pyarrow', 'numba', 'dask', 'rich', 'msgspec', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "remember" in done.stdout
