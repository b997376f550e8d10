"""`amn diff`: what it prints and writes, and the exit codes that scripts rely on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import anamnesis
from anamnesis.errors import UsageError

Entry = tuple[str, tuple[int, ...], bytes]
Write = Callable[[Path, Mapping[str, Entry]], Path]
Amn = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pair(tmp_path: Path, write_safetensors: Write) -> tuple[Path, Path]:
    values = np.linspace(-1, 1, 500, dtype=np.float32)

    def entry(array: Any) -> Entry:
        return "F32", array.shape, array.astype("<f4").tobytes()

    a = {"good": entry(values), "bad\x1b[31m": entry(values), "mine": entry(values)}
    b = {"good": entry(values), "bad\x1b[31m": entry(values * 1.1)}
    return (
        write_safetensors(tmp_path / "a.safetensors", a),
        write_safetensors(tmp_path / "b.safetensors", b),
    )


def test_the_table(pair: tuple[Path, Path], amn: Amn) -> None:
    done = amn("diff", *pair)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert (
        lines[1] == "2 tensors compared, 1 with equal BF16 bits; 23.0 dB over all; 1 not compared"
    )
    assert lines[3].split()[:3] == [r"bad\x1b[31m", "20.0", "dB"]
    assert lines[4].split()[:3] == ["good", "no", "error"]
    assert lines[-1] == "only in a: mine"
    short = amn("diff", *pair, "--top", 1)
    assert "and 1 better ones" in short.stdout


def test_nothing_that_can_be_compared(tmp_path: Path, write_safetensors: Write, amn: Amn) -> None:
    a, b = (
        write_safetensors(tmp_path / f"{n}.safetensors", {"x": ("F32", (n,), bytes(4 * n))})
        for n in (1, 2)
    )
    done = amn("diff", a, b)
    assert "nothing compared, 1 of another shape or kind or on one side" in done.stdout
    assert "equal BF16 bits" not in done.stdout
    assert "nothing compared" in repr(anamnesis.diff(a, b))


def test_exit_codes(pair: tuple[Path, Path], amn: Amn) -> None:
    failed = amn("diff", *pair, "--exact", "-q")
    assert (failed.returncode, failed.stdout) == (8, "")
    assert failed.stderr.startswith("differs: 2 of 3 tensors are not the same BF16 bits")


@pytest.mark.parametrize(
    ("swap", "arguments", "code"),
    [
        ("aa", ["--exact"], 0),
        ("ab", [], 0),
        ("ab", ["--fail-under", "19.5"], 0),
        ("ab", ["--fail-under", "20.5"], 8),
        ("ab", ["--exact", "--include", "good"], 0),
        ("ab", ["--exact", "--include", "mine", "--include", "good"], 8),
    ],
)
def test_gates(pair: tuple[Path, Path], swap: str, arguments: list[str], code: int) -> None:
    from anamnesis.cli.main import cli

    paths = [str(pair["ab".index(side)]) for side in swap]
    assert cli.main(["diff", *paths, "-q", *arguments], standalone_mode=False) == code


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fail-under", "nan"], "--fail-under"),
        (["-o", "table.txt"], "the suffix says"),
        (["--plot", "picture.bmp"], "the suffix says"),
        (["-o", "."], "the suffix says"),
    ],
)
def test_wrong_flags_are_told_before_any_work(arguments: list[str], told: str) -> None:
    from anamnesis.cli.main import cli

    with pytest.raises(UsageError, match=told):
        cli.main(["diff", "missing.a", "missing.b", *arguments], standalone_mode=False)
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        cli.main(["diff", "a", "b", "--plot", "no/such/folder/p.svg"], standalone_mode=False)


def test_files_that_were_made_are_named(pair: tuple[Path, Path], amn: Amn, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = ["-o", tmp_path / "t.csv", "--plot", tmp_path / "p.svg"]
    said = [f"{tmp_path}/t.csv: 3 tensors", f"{tmp_path}/p.svg: the picture of them"]
    assert amn("diff", *pair, *files).stdout.splitlines()[-2:] == said
    assert amn("diff", *pair, *files, "--overwrite", "-q").stdout == ""
    json.loads(amn("diff", *pair, *files, "--overwrite", "--json").stdout)


def test_json_is_strict(pair: tuple[Path, Path], amn: Amn) -> None:
    done = amn("diff", *pair, "--json", "-q")

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    found = json.loads(done.stdout, parse_constant=refuse)
    assert (found["compared"], found["identical"]) == (2, 1)
    assert [t["tensor"] for t in found["tensors"]] == ["bad\x1b[31m", "good", "mine"]
    assert found["tensors"][0]["relative_error"] == pytest.approx(0.1, rel=1e-5)
    assert found["tensors"][1]["sqnr_db"] is None
    assert found["tensors"][1]["max_abs_error"] == 0
    assert found["tensors"][2]["status"] == "only in a"


def test_files_say_what_the_table_says(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = anamnesis.diff(*pair)
    table = found.to_arrow()
    for suffix in ("parquet", "arrow", "csv", "json"):
        found.write(tmp_path / f"t.{suffix}")
        with pytest.raises(UsageError, match="exists already"):
            found.write(tmp_path / f"t.{suffix}")
        found.write(tmp_path / f"t.{suffix}", overwrite=True)
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").equals(table)
    assert pa.ipc.open_file(tmp_path / "t.arrow").read_all().equals(table)
    csv = pyarrow.csv.read_csv(tmp_path / "t.csv")
    assert csv["bits_equal"].to_pylist() == table["bits_equal"].to_pylist()
    assert csv["shape"].to_pylist() == ["500"] * 3 or csv["shape"].to_pylist() == [500] * 3
    assert json.loads((tmp_path / "t.json").read_text()) == found.to_dict()
    assert not list(tmp_path.glob(".*"))


def test_an_input_is_not_written_over(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    from anamnesis.cli.main import cli

    table = tmp_path / "model.arrow"
    anamnesis.convert(pair[1], table, to="arrow")
    before = table.read_bytes()
    arguments = ["diff", str(pair[0]), str(table), "-o", str(table), "--overwrite"]
    with pytest.raises(UsageError, match="is an input"):
        cli.main(arguments, standalone_mode=False)
    assert table.read_bytes() == before
