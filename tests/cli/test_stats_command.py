"""`amn stats`: what is printed, what is written, and what is refused."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from clock import within
from pyarrow import parquet
from rich.cells import cell_len

import anamnesis
from anamnesis.analytics.stats import table as stats_table
from anamnesis.analytics.stats.files import SCHEMA, to_dict
from anamnesis.analytics.stats.run import COLUMNS, Stats
from anamnesis.cli.main import cli
from anamnesis.errors import UsageError

Write = Callable[..., Path]
RNG = np.random.default_rng(3)
HOSTILE = ("evil\x1b[2J\nname [red]", "\x1b]52;c;T1dORUQ=\x07", "\u202egnp", "a b", "[/x]")


def run(*arguments: object) -> None:
    cli.main([*map(str, arguments)], prog_name="amn", standalone_mode=False)


@pytest.fixture(scope="module")
def found(sample: Path) -> Stats:
    return anamnesis.stats(sample)


@pytest.fixture
def odd(tmp_path: Path, write_safetensors: Write) -> Path:
    """400 tensors: long, hostile and wide names, a NaN, an infinity, zeros, an empty one."""
    parts = ("gate_proj", "up_proj", "down_proj", "norm")
    names = [
        f"model.language_model.decoder.layers.{i}.block_sparse_moe.experts.{j}.{part}.weight"
        for i in range(25)
        for j in range(4)
        for part in parts
    ]
    names[: len(HOSTILE)] = HOSTILE
    names[10], names[11] = "x" * 300, "模型.层.权重" * 12
    entries = {}
    for number, name in enumerate(names):
        values = RNG.standard_normal((4, 6)).astype(np.float32) * 10.0 ** RNG.integers(-4, 4)
        if number == 20:
            values[0, 0], values[0, 1] = np.nan, -np.inf
        if number == 21:
            values[:] = 0
        if number == 22:
            values = values[:0]
        values = values.astype(np.float32)
        entries[name] = ("F32", values.shape, values.tobytes())
    return write_safetensors(tmp_path / "odd.safetensors", entries)


def test_json_is_one_object(sample: Path, found: Stats, capsys: Any) -> None:
    run("stats", sample, "--json", "-q")
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert printed.err == ""
    assert document == to_dict(found)
    assert document["tensors"] == len(document["entries"]) == len(found)
    assert list(document["entries"][0]) == list(COLUMNS) == SCHEMA.names
    entry = document["entries"][0]
    assert sum(entry["exponents"].values()) == entry["elements"] - entry["zeros"]


def test_arrow_and_parquet_come_back(sample: Path, found: Stats, tmp_path: Path) -> None:
    import polars

    table = found.to_arrow()
    for suffix in (".arrow", ".parquet"):
        out = tmp_path / f"s{suffix}"
        run("stats", sample, "-q", "-o", out)
        if suffix == ".arrow":
            again, frame = pa.ipc.open_file(out).read_all(), polars.read_ipc(out)
        else:
            again, frame = parquet.read_table(out), polars.read_parquet(out)
        assert again.equals(table)
        assert frame["tensor"].to_list() == [row.tensor for row in found]
        assert frame["mean"].to_list() == [row.mean for row in found]
        assert frame["exponents"][0][0] == dict(
            zip(("exponent", "count"), found.rows[0].exponents[0], strict=True)
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.arrow", "s.parquet"]


def test_csv_and_json_come_back(odd: Path, tmp_path: Path) -> None:
    found = anamnesis.stats(odd)
    run("stats", odd, "-q", "-o", tmp_path / "s.csv")
    run("stats", odd, "-q", "-o", tmp_path / "s.json")
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for line, row in zip(rows, found, strict=True):
        assert line["tensor"] == row.tensor
        assert line["shape"] == "x".join(map(str, row.shape))
        assert (float(line["mean"]) if line["mean"] else None) == row.mean
        bins = [tuple(map(int, pair.split(":"))) for pair in line["exponents"].split()]
        assert tuple(bins) == row.exponents
    document = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert document == to_dict(found)


def test_engines_take_the_object_itself(found: Stats) -> None:
    import duckdb
    import polars

    assert polars.DataFrame(found)["std"].to_list() == [row.std for row in found]
    assert pa.table(found).equals(found.to_arrow())
    assert pa.schema(found) == SCHEMA
    connection = duckdb.connect()
    connection.register("figures", found.to_arrow())
    query = "select tensor from figures order by absmax desc limit 1"
    assert connection.execute(query).fetchall()[0][0] == found.sort("absmax").rows[0].tensor


def test_sorting(found: Stats) -> None:
    spread = [row.std for row in found.sort("std")]
    assert spread == sorted(spread, key=lambda v: -(v or 0))
    names = [row.tensor for row in found.sort("tensor")]
    assert names == sorted(names)
    scales = [row.scale_max for row in found.sort("scale_max")]
    assert None in scales
    assert None not in scales[: scales.index(None)]


def test_nothing_is_replaced_unasked(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        run("stats", sample, "-q", "-o", out)
    assert out.read_text() == "mine"
    run("stats", sample, "-q", "-o", out, "--overwrite")
    assert json.loads(out.read_text())["tensors"] == 11


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("-o", "s.txt"), ".parquet"), (("-o", "s"), ".csv"), (("--sort", "largest"), "absmax")],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    arguments: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        run("stats", tmp_path / "missing.gguf", *arguments)


def test_a_failed_write_leaves_nothing(
    found: Stats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for suffix in (".arrow", ".csv", ".json", ".parquet"):
        with pytest.raises(OSError, match="space"):
            found.write(tmp_path / f"s{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_selection_and_options(fp8_model: Path, capsys: Any) -> None:
    run("stats", fp8_model, "-q", "--json", "--include", "c*", "--include", "n*", "--dtype", "f32")
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [(e["tensor"], e["dtype"]) for e in entries] == [
        ("c.weight", "F32"),
        ("norm.weight", "F32"),
    ]
    run(
        "stats", fp8_model, "-q", "--json", "--exclude", "[abn]*", "--threads", "1", "--sort", "std"
    )
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [e["tensor"] for e in entries] == ["c.weight", "ids", "empty"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 250])
def test_a_terminal_gets_what_fits(width: int, odd: Path) -> None:
    text = stats_table.as_text(anamnesis.stats(odd), width=width, most=1000)
    _, head, *lines = text.split("\n")
    assert len(lines) == 400
    assert all(cell_len(line) <= max(width, 44) for line in [head, *lines])
    assert all(line.isprintable() for line in lines)
    assert head.split()[0] == "tensor"
    assert {"NaN", "Inf"} <= set(head.split()) or width < 60
    if width >= 140:
        assert {"shape", "std", "zeros", "exponents"} <= set(head.split())
    names = [line.split("  ")[0] for line in lines]
    assert len(set(names[30:])) == len(names[30:])  # still told apart


def test_a_pipe_gets_everything(odd: Path, capsys: Any) -> None:
    run("stats", odd, "-q")
    title, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == [
        *("tensor", "shape", "scheme", "dtype", "min", "max", "mean", "std", "absmax", "zeros"),
        *("NaN", "Inf", "exponents", "scale_min", "scale_max", "xxh3"),
    ]
    assert len(lines) == 400
    assert {len(line.split()) for line in lines} == {16}
    assert all(line.isprintable() for line in [title, *lines])
    assert lines[10].startswith("x" * 300)
    assert lines[20].split()[10:12] == ["1", "1"]
    rows = anamnesis.stats(odd).rows
    assert [line.split()[-1] for line in lines] == [row.xxh3 for row in rows]


def test_the_longest_names_take_no_time(tmp_path: Path, write_safetensors: Write) -> None:
    names = ["." * 65_000, "a.b" * 21_000, "x" * 65_000, "模" * 21_000, "\x1b" * 65_000]
    entries = {name + str(i): ("F32", (1,), b"\0" * 4) for i in range(4) for name in names}
    found = anamnesis.stats(write_safetensors(tmp_path / "m.safetensors", entries))
    with within(0.5):
        text = stats_table.as_text(found, width=80, most=100)
    assert all(cell_len(line) <= 80 for line in text.splitlines()[1:])


def test_names_on_a_terminal_tell_tensors_apart(tmp_path: Path, write_safetensors: Write) -> None:
    names = [f"model.layers.{i}.post_attention_layernorm.weight" for i in range(12)]
    entries = dict.fromkeys(names, ("F32", (1,), b"\x00" * 4))
    found = anamnesis.stats(write_safetensors(tmp_path / "m.safetensors", entries))
    lines = stats_table.as_text(found, width=80, most=100).splitlines()[2:-1]
    assert len({line.split()[0] for line in lines}) == 12


def test_the_repr_is_short(odd: Path, found: Stats) -> None:
    text = repr(anamnesis.stats(odd))
    assert "and 380 more" in text
    assert len(text.splitlines()) == 23
    assert "no NaN, no Inf" in repr(found)


def test_the_command(
    sample: Path, tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = amn("stats", sample)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].startswith("token_embd.weight ")
    ascii_only = amn("stats", sample, "-q", env={"PYTHONIOENCODING": "ascii", "PATH": "/bin"})
    assert ascii_only.returncode == 0, ascii_only.stderr
    assert ascii_only.stdout.isascii()
    done = amn("stats", "none.gguf", "-o", tmp_path / "no" / "s.csv")
    assert done.returncode == 1
    assert done.stderr == f"error: FileNotFoundError: {tmp_path}/no: No such file or directory\n"
    assert amn("stats", tmp_path / "none.gguf").returncode == 1
