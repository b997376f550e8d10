"""Spark reads Parquet output: run where pyspark and a Java are, which no CI has."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import anamnesis

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark wants a Java")


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_spark_finds_the_numbers(dtype: str, sample: Path, tmp_path: Path) -> None:
    """Rows in order, as float32 that are the recovered bits."""
    sql = pytest.importorskip("pyspark.sql")
    out, twin = tmp_path / "w.parquet", tmp_path / "w.safetensors"
    for path in (out, twin):
        anamnesis.remember(str(sample), str(path), dtype=dtype)
    local = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    session = sql.SparkSession.builder.master("local[1]").config(map=local).getOrCreate()
    try:
        table = session.read.parquet(str(out))
        for name, tensor in anamnesis.open_model(str(twin)).items():
            rows = (
                table.where(table.tensor == name).orderBy("row", "col").select("values").collect()
            )
            found = np.concatenate([np.asarray(row[0], np.float32) for row in rows])
            np.testing.assert_array_equal(
                found, tensor.to_numpy().astype(np.float32).ravel(), strict=True
            )
    finally:
        session.stop()
