"""Every cell of the table of engines in docs/python.md, as the page has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import feather, parquet

import anamnesis

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
_PACKAGES = {"duckdb": "duckdb", "pd.": "pandas", "pl.": "polars", "torch": "torch"}


def cells() -> list[Any]:
    """A row's number, the engine, and a cell with code in it."""
    text = PAGE.read_text().partition("## Which engine takes which object")[2]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads = [head.strip() for head in lines[0].split("|")[2:-1]]
    found = []
    for number, line in enumerate(lines[1:]):
        for head, cell in zip(heads, line.split("|")[2:-1], strict=True):
            if "`" in cell:
                found.append(pytest.param(number, cell, id=f"{number}-{head}"))
    return found


@pytest.fixture(scope="module")
def objects(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Makes the object of each row, anew for every cell."""
    out = tmp_path_factory.mktemp("engines")

    def file(name: str, suffix: str = ".arrow", **settings: Any) -> str:
        path = out / f"{name}{suffix}"
        if not path.exists():
            anamnesis.remember(sample, path, **settings)
        return str(path)

    some = "blk.0.attn_*"
    return [
        lambda: anamnesis.scan(sample, some),
        lambda: anamnesis.scan(sample, some, decode="f32"),
        lambda: anamnesis.scan(sample, some, decode="bf16"),
        lambda: anamnesis.open_model(sample),
        lambda: anamnesis.open_model(sample)["blk.0.attn_k.weight"],
        lambda: anamnesis.stats(sample, some),
        lambda: anamnesis.diff(sample, sample, include=some),
        lambda: anamnesis.parse(sample),
        lambda: file("as-it-is"),
        lambda: file("bits", bf16="uint16"),
        lambda: file("wide", dtype="f32"),
        lambda: file("w", suffix=".parquet"),
        lambda: [ds.dataset(file(name), format="ipc") for name in ("as-it-is", "bits", "wide")],
    ]


@pytest.mark.parametrize(("row", "cell"), cells())
def test_a_cell_is_true(row: int, cell: str, objects: list[Any]) -> None:
    names: dict[str, Any] = {
        "pa": pa, "np": np, "ml_dtypes": ml_dtypes, "feather": feather, "pq": parquet,
    }  # fmt: skip
    for word, package in _PACKAGES.items():
        if word in cell:
            names[word.rstrip(".")] = pytest.importorskip(package)
    if "from_arrow" in cell and not hasattr(names["pd"].DataFrame, "from_arrow"):
        pytest.skip("pandas before 3")
    for fails, code in re.findall(r"(no: )?`([^`]+)`", cell):
        made = objects[row]()
        for x in made if isinstance(made, list) else [made]:
            if fails:
                with pytest.raises(Exception, match=r"\w"):
                    taken(code, x, names)
            else:
                assert taken(code, x, names) > 0, code


def taken(code: str, x: Any, names: dict[str, Any]) -> int:
    """How many rows, or elements, an engine gets of `x`."""
    scope = {**names, "x": x}
    result = eval(code, scope)  # noqa: S307 - the page's code is what is tested
    return len(result)


def test_the_table_has_every_object(objects: list[Any]) -> None:
    assert {cell.values[0] for cell in cells()} == set(range(len(objects)))
    assert len(cells()) > 50


def test_schemas_and_batches(sample: Path) -> None:
    """The three methods of the interface agree, and nothing is read for a schema."""
    for table in (anamnesis.stats(sample), anamnesis.diff(sample, sample), anamnesis.parse(sample)):
        whole = pa.table(table)
        assert pa.schema(table) == whole.schema
        assert pa.table(pa.record_batch(table)).equals(whole.combine_chunks())
        assert whole.num_rows == 11
    model = anamnesis.open_model(sample)
    for stream in (model, model["output_norm.weight"]):
        assert pa.schema(stream) == pa.table(stream).schema


def test_a_table_without_rows(tmp_path: Path, write_safetensors: Any) -> None:
    report = anamnesis.parse(write_safetensors(tmp_path / "none.safetensors", {}))
    assert pa.table(report).num_rows == pa.record_batch(report).num_rows == 0
