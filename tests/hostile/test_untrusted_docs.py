"""docs/untrusted-input.md: its commands run, and its tables are those of the code.

Run as a script, this writes the tables anew.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pth_bytes
import pytest

from anamnesis import errors
from anamnesis import limits as limits_module
from anamnesis.cli.main import cli
from anamnesis.limits import OUTPUT_BYTES, Limits

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "untrusted-input.md"

# What is counted, and the constant that is the most of it.
FIXED = (
    ("safetensors: header", "limits.SAFETENSORS_HEADER_BYTES"),
    ("safetensors, GGUF: name of a tensor or key", "limits.NAME_BYTES"),
    ("safetensors, NumPy, PyTorch: rank", "limits.RANK"),
    ("GGUF: tensors, and key/values", "limits.GGUF_ITEMS"),
    ("GGUF: one string", "limits.GGUF_STRING_BYTES"),
    ("GGUF: items of an array", "limits.GGUF_ARRAY_ITEMS"),
    ("GGUF: key/values kept in memory", "readers.gguf_fields.METADATA_BYTES"),
    ("GGUF: alignment", "limits.GGUF_ALIGNMENT"),
    ("GGUF: rank", "readers.gguf_fields.MAX_DIMENSIONS"),
    ("GGUF: nesting of arrays", "readers.gguf_fields.MAX_NESTING"),
    ("GGUF: arrays in arrays", "readers.gguf_fields.NESTED_ARRAYS"),
    ("NumPy: header", "limits.NPY_HEADER_BYTES"),
    ("ZIP: members", "limits.ZIP_ENTRIES"),
    ("ZIP: name of a member", "readers.zip_directory.NAME_BYTES"),
    ("pickle: bytes", "readers.pickle_vm.PICKLE_BYTES"),
    ("pickle: opcodes", "readers.pickle_vm.PICKLE_OPCODES"),
    ("pickle: memory of its values", "readers.pickle_vm.PICKLE_WORKING_BYTES"),
    ("pickle: opcodes more for each tensor so far", "readers.pickle_vm.TENSOR_OPCODES"),
    ("pickle: memory more for each tensor so far", "readers.pickle_vm.TENSOR_WORKING_BYTES"),
    ("pickle: nesting", "readers.pickle_vm.PICKLE_DEPTH"),
    ("PyTorch before 1.6: all pickles", "readers.pth_legacy.WINDOW_BYTES"),
    ("PyTorch: tensors, every name counted", "readers.state_dict.STATE_TENSORS"),
    ("PyTorch: values, every path counted", "readers.state_dict.STATE_ENTRIES"),
    ("PyTorch: all names", "readers.state_dict.STATE_NAME_BYTES"),
    ("JSON: nesting", "readers.strict_json.MAX_DEPTH"),
    ("JSON: memory of the parsed value", "readers.strict_json.PARSED_BYTES"),
    ("index: bytes", "limits.INDEX_BYTES"),
    ("index: tensors", "limits.INDEX_ITEMS"),
    ("index: shards", "limits.SHARDS"),
    ("journal, manifest: bytes", "limits.OWNED_BYTES"),
    ("job file: bytes", "pipeline.yaml_strict.MAX_BYTES"),
    ("job file: values", "pipeline.yaml_strict.MAX_NODES"),
    ("job file: nesting", "pipeline.yaml_strict.MAX_DEPTH"),
    ("output of one input", "limits.OUTPUT_BYTES"),
    ("a tensor's share of `run.memory`", "limits.RECORD_BYTES"),
)
FLAGS = (
    ("max_single_alloc", "bytes allocated at once: a header, a parameter, a tensor in Python"),
    ("max_total_bytes", "bytes of output; for `inspect`, of the model as BF16"),
    ("max_items", "tensors or other entries of one container"),
    ("max_expansion_ratio", "bytes out for each byte stored"),
)


def shown(value: int | None, *, is_bytes: bool) -> str:
    value = OUTPUT_BYTES if value is None else value
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if is_bytes and value % size == 0:
            return f"{value // size:,} {unit}"
    return f"{value:,} B" if is_bytes else f"{value:,}"


def fixed_table() -> str:
    rows = ["| what | most | where |", "|---|---|---|"]
    for what, path in FIXED:
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(f"anamnesis.{module}"), name)
        is_bytes = "BYTES" in name or "ALIGNMENT" in name
        rows.append(f"| {what} | {shown(value, is_bytes=is_bytes)} | `{path}` |")
    return "\n".join(rows)


def flags_table() -> str:
    rows = ["| flag | default | what it bounds |", "|---|---|---|"]
    for name, what in FLAGS:
        is_bytes = name in ("max_single_alloc", "max_total_bytes")
        default = shown(getattr(Limits(), name), is_bytes=is_bytes)
        rows.append(f"| `--{name.replace('_', '-')}` | {default} | {what} |")
    return "\n".join(rows)


def classes_table() -> str:
    rows = ["| class | exit | means |", "|---|---|---|"]
    for name in re.findall(
        r"^class (\w+)\(AnamnesisError", Path(errors.__file__).read_text(), re.M
    ):
        row = getattr(errors, name)
        rows.append(f"| `{name}` | {row.exit_code} | {row.__doc__.strip().splitlines()[0]} |")
    rows.append("| `OSError` | 1 | The file system's own. |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "classes": classes_table,
    "fixed": fixed_table,
    "flags": flags_table,
}


def with_tables(text: str) -> str:
    for name, make in TABLES.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert mark
        assert end
        text = f"{before}{mark}{make()}\n{end}{after}"
    return text


def test_tables_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert text == with_tables(text), f"run python {Path(__file__).relative_to(ROOT)}"


def test_every_limit_is_in_the_table() -> None:
    fixed = {n for n, value in vars(limits_module).items() if n.isupper() and type(value) is int}
    assert {f"limits.{name}" for name in fixed} <= {path for _, path in FIXED}
    assert {name for name, _ in FLAGS} == set(Limits.__dataclass_fields__) - {
        "record_bytes",
        "disk_bytes",
        "allow",
    }
    for command in ("inspect", "parse", "remember", "convert"):
        options = {option for p in cli.commands[command].params for option in p.opts}
        assert {f"--{name.replace('_', '-')}" for name, _ in FLAGS} <= options


def _commands() -> list[str]:
    text = PAGE.read_text()
    return [
        line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.split("\n")
    ]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "model.pth").write_bytes(pth_bytes.good_pth())
    return tmp_path


def test_the_recipe_runs(
    checkpoint: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    commands = [shlex.split(line, comments=True) for line in _commands() if line.startswith("amn ")]
    assert [command[1] for command in commands] == [
        "inspect",
        "inspect",
        "parse",
        "remember",
        "verify",
    ]
    for command in commands:
        done = amn(*command[1:], cwd=checkpoint)
        assert done.returncode == 0, (command, done.stderr)
    made = {path.name for path in checkpoint.iterdir()}
    assert made == {"model.pth", "model.safetensors", "model.safetensors.anamnesis.json"}


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
    sys.exit()
