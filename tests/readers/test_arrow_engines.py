"""Outputs in the tools that people ask with: each answer is numpy's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pytest

import anamnesis

CODECS = ("none", "lz4", "zstd")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The sample's tensors in float32, by name."""
    path = Path(__file__).resolve().parents[2] / "configs/sample/smollm2-135m-layer0.gguf"
    return {"path": path, **anamnesis.open_model(path)}


def numbers(model: dict[str, Any], kind: Any) -> dict[str, Any]:
    return {n: t.to_numpy().astype(kind) for n, t in model.items() if n != "path"}


def dataset(model: dict[str, Any], out: Path, **settings: Any) -> Path:
    anamnesis.remember(model["path"], out, to="arrow", max_shard_size=3_000_000, **settings)
    assert len(os.listdir(out)) > 1
    return out


@pytest.mark.parametrize("codec", CODECS)
def test_pyarrow_dataset(model: dict[str, Any], codec: str, tmp_path: Path) -> None:
    folder = dataset(model, tmp_path / "d", dtype="f32", compression=codec)
    for name, wanted in numbers(model, np.float32).items():
        table = pa.dataset.dataset(folder, format="arrow").to_table(
            filter=pc.field("tensor") == name
        )
        found = np.concatenate([c.values.to_numpy() for c in table["values"].chunks if len(c)])
        assert table["row"].to_pylist() == list(range(len(table)))
        # Recovered in float32, not by way of BF16.
        assert found.astype("bfloat16").tobytes() == wanted.astype("bfloat16").tobytes()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_polars(model: dict[str, Any], dtype: str, codec: str, tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    folder = dataset(model, tmp_path / "d", dtype=dtype, compression=codec)
    values = pl.col("values")
    frame = (
        pl.scan_ipc(folder / "*.arrow")
        .group_by(pl.col("tensor").cast(pl.String))
        .agg(pl.len(), values.list.max().max(), values.list.len().sum().alias("n"))
        .collect()
    )
    back = {n: t.to_numpy() for n, t in anamnesis.open_model(folder).items()}
    assert {r[0]: r[1:] for r in frame.rows()} == {
        n: (v.size // v.shape[-1], v.max(), v.size) for n, v in back.items()
    }


@pytest.mark.parametrize("codec", CODECS)
def test_duckdb(model: dict[str, Any], codec: str, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder = dataset(model, tmp_path / "d", dtype="f32", compression=codec)
    connection = duckdb.connect()
    connection.register("w", pa.dataset.dataset(folder, format="arrow"))
    found = connection.execute(
        'select tensor, count(*), max(list_max("values")), sum(len("values")) from w group by all'
    ).fetchall()
    back = {n: t.to_numpy() for n, t in anamnesis.open_model(folder).items()}
    assert {r[0]: r[1:] for r in found} == {
        n: (v.size // v.shape[-1], v.max(), v.size) for n, v in back.items()
    }


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_pandas(model: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    out = tmp_path / "m.arrow"
    anamnesis.remember(model["path"], out, to="arrow", dtype=dtype, compression="zstd")
    frame = pd.read_feather(out)
    for name, wanted in anamnesis.open_model(out).items():
        rows = frame[frame["tensor"] == name]["values"]
        assert np.stack(list(rows)).tobytes() == wanted.to_numpy().tobytes()


def test_exponents_of_bf16_as_plain_bits(model: dict[str, Any], tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    folder = dataset(model, tmp_path / "d", bf16="uint16", dtype="bf16")
    bits = pl.scan_ipc(folder / "*.arrow").select(pl.col("values").explode()).collect().to_series()
    found = np.bincount((bits.to_numpy() >> 7) & 0xFF, minlength=256)
    wanted = np.concatenate([v.reshape(-1) for v in numbers(model, "bfloat16").values()])
    assert found.tolist() == np.bincount(wanted.view(np.uint16) >> 7 & 0xFF, minlength=256).tolist()


def test_storage_to_who_does_not_know_bf16(model: dict[str, Any], tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder = dataset(model, tmp_path / "d")
    found = pa.dataset.dataset(folder, format="arrow")
    assert found.schema.field("values_bf16").type.value_type == pa.binary(2)
    connection = duckdb.connect()
    connection.register("w", found)
    row = connection.execute(
        "select values_bf16[1:3] from w where tensor = 'token_embd.weight' and row = 5"
    ).fetchone()
    wanted = model["token_embd.weight"].to_numpy()[5, :3]
    assert b"".join(row[0]) == wanted.tobytes()
    nulls = connection.execute("select count(*) from w where values_f32 is not null").fetchone()
    assert nulls == (sum(1 for n, v in numbers(model, "f4").items() if n.endswith("norm.weight")),)
