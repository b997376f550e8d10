"""A flag without effect is an error or a note: each of them, where it means something and not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.cli.checked import FLAGS
from anamnesis.cli.main import cli
from anamnesis.errors import UsageError
from anamnesis.pipeline.idle import INPUTS, OUTPUTS
from anamnesis.pipeline.jobs import rehearse_job
from anamnesis.pipeline.keys import KEYS, flag, job_for
from anamnesis.pipeline.remarks import remarks_on_job

# Flags that mean something for whatever there is, or that say what is allowed or wanted if need be.
ALWAYS = {
    "--json", "--quiet", "--out", "--to", "--encode", "--overwrite", "--include", "--exclude",
    "--memory", "--scheduler", "--dry-run", "--outtype", "--set", "--exact", "--fail-under",
    "--plot", "--sort", "--globals", "--against", "--max-single-alloc", "--max-total-bytes",
    "--max-items", "--max-expansion-ratio", "--executor", "--debug", "--loss", "--mmproj",
    "--disk", "--workers",
}  # fmt: skip
# Flags of a plan that mean something where there are requests.
LINE = {"--bandwidth": "1GB", "--latency": "9", "--price-get": "4", "--price-put": "5"}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "outputs.md"


@pytest.fixture
def inputs(sample: Path, tmp_path: Path, write_safetensors: Callable[..., Path]) -> dict[str, Path]:
    """Models by what they are of."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for n in (1, 2):
        entries = {f"w{n}": ("BF16", (4, 4), bytes(32))}
        write_safetensors(folder / f"model-0000{n}-of-00002.safetensors", entries)
    entry = struct.pack("<ii8sii", 1, 8, b"w.weight", 1, 256) + np.ones(256, "<f4").tobytes()
    (tmp_path / "imatrix.dat").write_bytes(entry)
    wide = {"w.weight": ("F32", (2, 256), bytes(2048))}
    bare = {"w.weight": ("F8_E4M3", (4, 4), bytes(16))}
    np.savez(tmp_path / "m.npz", w=np.ones((2, 2), np.float32))
    return {
        "gguf": sample,
        "dense": write_safetensors(tmp_path / "d.safetensors", {"w": ("F32", (2, 2), bytes(16))}),
        "whole": write_safetensors(tmp_path / "i.safetensors", {"i": ("I64", (2,), bytes(16))}),
        "bare": write_safetensors(tmp_path / "b.safetensors", bare),
        "folder": folder,
        "imatrix": tmp_path / "imatrix.dat",
        "wide": write_safetensors(tmp_path / "x.safetensors", wide),
        "npz": tmp_path / "m.npz",
    }


# A value, an input and an output for which it means something, and such for which it does not.
CASES: dict[str, tuple[Any, tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "allow_requantize": (True, ("dense", {"encode": "fp8-tensor"}), ("dense", {})),
    "assume_unit_scale": (True, ("bare", {}), ("dense", {})),
    "bf16": ("uint16", ("gguf", {"to": "arrow"}), ("gguf", {"to": "arrow", "dtype": "f32"})),
    "dtype": ("f16", ("dense", {}), ("whole", {})),
    "follow_links": (True, ("folder", {}), ("dense", {})),
    "imatrix": (
        "imatrix",
        ("wide", {"to": "gguf", "names": "stored", "encode": "q6-k"}),
        ("wide", {"to": "gguf", "names": "stored", "encode": "q8-0"}),
    ),
    "keep_going": (True, ("folder", {}), ("dense", {})),
    "leave_out_unknown": (True, ("npz", {}), ("dense", {})),
    "max_shard_size": ("1GB", ("dense", {}), ("dense", {"out": "o.safetensors"})),
    "names": ("stored", ("dense", {"to": "gguf"}), ("dense", {"to": "hf"})),
    "passthrough": ("bf16", ("dense", {}), ("whole", {})),
    "rounding": ("reference", ("gguf", {}), ("dense", {})),
    "skip_loss": (True, ("dense", {"encode": "fp8-tensor"}), ("dense", {})),
    "staging": (".", ("dense", {"out": "memory://staged"}), ("dense", {})),
    "threads": (2, ("dense", {}), ("dense", {"scheduler": "tcp://127.0.0.1:1"})),
}


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_a_setting_that_changes_nothing_is_noted(
    name: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    value, means, idle = CASES[name]
    for (source, settings), noted in ((means, False), (idle, True)):
        how = {**settings, name: str(inputs[value]) if value in inputs else value}
        out = how.pop("out", "out")
        out = out if "://" in out else str(tmp_path / out)
        job = job_for(str(inputs[source]), out, **how)
        found = remarks_on_job(job, rehearse_job(job))
        text = f"{name} has no effect: it is for {INPUTS[name][0]}"
        assert (text in found) == noted, (source, settings, found)
        assert not [n for n in found if "has no effect" in n and n != text]


REFUSED: dict[str, tuple[Any, dict[str, str], dict[str, str]]] = {
    "bf16": ("uint16", {"to": "parquet"}, {"to": "hf"}),
    "compression": ("zstd", {"to": "arrow"}, {"to": "gguf"}),
    "encode": ("fp8-tensor", {"to": "safetensors"}, {"to": "arrow"}),
    "imatrix": ("imatrix", {"to": "gguf", "names": "stored"}, {"to": "arrow"}),
    "key_values": ({"a": 1}, {"to": "gguf", "names": "stored"}, {"to": "arrow"}),
    "manifest": ("inside", {}, {"out": "o.arrow"}),
}


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_a_setting_that_the_output_has_no_use_for_is_refused(
    name: str, inputs: dict[str, Path], tmp_path: Path
) -> None:
    value, means, idle = REFUSED[name]
    for settings, refused in ((means, False), (idle, True)):
        value = str(inputs[value]) if name == "imatrix" and not refused else value
        how: dict[str, Any] = {**settings, name: value}
        job = job_for(str(inputs["dense"]), str(tmp_path / how.pop("out", "out")), **how)
        if not refused:
            rehearse_job(job)
            continue
        words = f"output.{name}: .* is for {OUTPUTS[name][0]}; the output is "
        with pytest.raises(UsageError, match=words):
            rehearse_job(job)


BESIDE: dict[tuple[str, str], tuple[str, str]] = {
    ("diff", "overwrite"): ("{m} {m} --overwrite -o {t}/a.csv", "{m} {m} --overwrite"),
    ("diff", "top"): ("{m} {m} --top 3", "{m} {m} --top 3 --json"),
    ("inspect", "assume_unit_scale"): (
        "{m} --assume-unit-scale",
        "{m} --globals --assume-unit-scale",
    ),
    ("plan", "price_source"): (
        "{t}/job.yaml --price-get 1 --price-source me",
        "{t}/job.yaml --price-source me",
    ),
    ("stats", "overwrite"): ("{m} --overwrite -o {t}/a.csv", "{m} --overwrite"),
    ("verify", "imatrix"): (
        "{t}/o.arrow --against {m} --imatrix {t}/imatrix.dat",
        "{t}/o.arrow --imatrix {t}/imatrix.dat",
    ),
    ("verify", "sample"): ("{t}/o.arrow --against {m} --sample 0.5", "{t}/o.arrow --sample 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("row", sorted(FLAGS), ids=" ".join)
def test_a_flag_without_the_one_beside_it_is_refused(
    row: tuple[str, str], amn: Callable[..., Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    anamnesis.remember(inputs["dense"], tmp_path / "o.arrow")
    write_job(tmp_path, inputs["dense"], str(tmp_path / "o"))
    for line, code in zip(BESIDE[row], (0, 2), strict=True):
        words = [w.format(m=inputs["dense"], t=tmp_path) for w in line.split()]
        done = amn(row[0], *words)
        assert done.returncode == code, done.stderr
        assert (f"is for {FLAGS[row][0]}; it has no effect here" in done.stderr) == bool(code)


def write_job(folder: Path, source: Path, out: str) -> Path:
    job = folder / "job.yaml"
    job.write_text(f"inputs: ['{source}']\noutput: {{path: '{out}'}}\n")
    return job


def test_a_line_is_for_what_goes_over_one(
    amn: Callable[..., Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    flags = [word for pair in LINE.items() for word in pair]
    text = "{} has no effect: it is for inputs and outputs behind URLs"
    notes = {text.format(name[2:].replace("-", "_")) for name in LINE}
    for out, noted in (("memory://o", set()), (str(tmp_path / "o"), notes)):
        job = write_job(tmp_path, inputs["dense"], out)
        done = amn("plan", job, *flags, "--price-source", "me", "--json")
        assert done.returncode == 0, done.stderr
        assert {note for note in json.loads(done.stdout)["notes"] if "effect" in note} == noted


def test_a_loss_is_of_encoding(
    amn: Callable[..., Any], inputs: dict[str, Path], tmp_path: Path
) -> None:
    to = ("convert", inputs["dense"], "--to", "safetensors", "-o", tmp_path / "o")
    dry, encode = "under --dry-run", "is for runs that encode (--encode, output.encode)"
    for flags, said, other in (
        ((), encode, dry),
        (("--encode", "fp8-tensor", "--dry-run"), dry, encode),
    ):
        done = amn(*to, "--loss", tmp_path / "l.csv", *flags)
        assert (done.returncode, said in done.stderr, other in done.stderr) == (2, True, False)
    assert not (tmp_path / "o").exists()


def test_every_flag_of_every_command_is_in_one_table() -> None:
    settings = {*INPUTS, *OUTPUTS} & set(KEYS)
    assert settings == {*INPUTS, *OUTPUTS}
    known = {flag(name) for name in settings}
    for name, command in cli.commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                long = {opt for opt in parameter.opts if opt.startswith("--")}
                beside = (name, parameter.name) in FLAGS
                assert beside or long & (known | ALWAYS | set(LINE)), (name, parameter.opts)


def test_reports_have_the_notes_too(inputs: dict[str, Path]) -> None:
    text = "follow_links has no effect: it is for model folders"
    dense = inputs["dense"]
    assert anamnesis.inspect(dense, follow_links=True).notes == (text,)
    assert anamnesis.stats(dense, follow_links=True).notes == (text,)
    assert anamnesis.diff(dense, dense, follow_links=True).notes == (text,)
    assert anamnesis.stats(inputs["bare"], assume_unit_scale=True).notes == ()
    assert anamnesis.diff(dense, dense, assume_unit_scale=True).notes[0].startswith("assume_unit")


def test_the_page_has_the_table() -> None:
    rows = [
        *((name, words, "is an error") for name, (words, _) in OUTPUTS.items()),
        *((name, words, "has a note") for name, (words, _) in INPUTS.items()),
    ]
    made = "".join(
        f"| `{flag(name)}` (`{KEYS[name]}`) | {words} | {what} |\n"
        for name, words, what in sorted(rows)
    )
    shown = PAGE.read_text().partition("<!-- idle -->")[2].partition("<!-- /idle -->")[0]
    assert shown == f"\n| flag (key) | is for | elsewhere it |\n|---|---|---|\n{made}"
