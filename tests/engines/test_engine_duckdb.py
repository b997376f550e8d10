"""DuckDB on scans, each answer against numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import anamnesis

duckdb = pytest.importorskip("duckdb")


def test_types(gguf: Any) -> None:
    raw = anamnesis.scan(gguf.path)
    kinds = dict(zip(raw.schema.names, duckdb.sql("FROM raw").types, strict=True))
    assert {name: str(kind) for name, kind in kinds.items()} == {
        "tensor": "VARCHAR",
        "scheme": "VARCHAR",
        "component": "VARCHAR",
        "block": "BIGINT",
        "row": "BIGINT",
        "col": "BIGINT",
        "elems": "BIGINT",
        "scale": "FLOAT",
        "minimum": "FLOAT",
        "zero": "FLOAT",
        "scales": "FLOAT[]",
        "minimums": "FLOAT[]",
        "payload": "BLOB",
    }
    bits = anamnesis.scan(gguf.path, decode="bf16")  # noqa: F841
    assert [str(kind) for kind in duckdb.sql("FROM bits").types][-1] == "USMALLINT[]"


def test_outlier_scales(fp8: Any) -> None:
    """Blocks whose scale is ten times the median of their tensor's."""
    blocks = anamnesis.scan(fp8.path, columns=["tensor", "row", "col", "scale"])  # noqa: F841
    found = duckdb.sql("""
        SELECT tensor, row, col, scale
        FROM (SELECT *, median(scale) OVER (PARTITION BY tensor) AS usual FROM blocks)
        WHERE scale > 10 * usual ORDER BY ALL
    """).fetchall()
    assert found == [("model.layers.1.down_proj.weight", row, 128, 1.5) for row in range(256, 300)]


def test_dead_rows(fp8: Any) -> None:
    rows = anamnesis.scan(fp8.path, decode="f32")  # noqa: F841
    found = duckdb.sql("""
        SELECT tensor, row FROM rows
        GROUP BY ALL HAVING max(list_max(values)) = 0 AND min(list_min(values)) = 0 ORDER BY ALL
    """).fetchall()
    assert found == fp8.dead_rows()
    assert len(found) > 2


def test_share_of_zeros_by_layer(fp8: Any) -> None:
    rows = anamnesis.scan(fp8.path, decode="f32")  # noqa: F841
    found = duckdb.sql(r"""
        SELECT regexp_extract(tensor, 'layers\.(\d+)\.', 1)::INT AS layer,
               count(*) FILTER (value = 0) / count(*) AS share
        FROM (SELECT tensor, unnest(values) AS value FROM rows) GROUP BY 1 ORDER BY 1
    """).fetchall()
    zeros = fp8.zeros()
    for layer, share in found:
        names = [name for name in zeros if f"layers.{layer}." in name]
        assert share == pytest.approx(np.mean([zeros[name] for name in names]), abs=1e-12)
    assert [layer for layer, _ in found] == [0, 1, 2]


def test_histogram_of_exponents(gguf: Any) -> None:
    rows = anamnesis.scan(gguf.path, decode="bf16")  # noqa: F841
    found = duckdb.sql("""
        SELECT (bits >> 7) & 255 AS exponent, count(*)
        FROM (SELECT unnest(values) AS bits FROM rows) GROUP BY 1
    """).fetchall()
    assert dict(found) == gguf.exponents()


def test_a_value_from_its_block(gguf: Any) -> None:
    """Q8_0 by SQL alone: `scales[1]` times the int8 codes of the payload."""
    name = "token_embd.weight"
    blocks = anamnesis.scan(gguf.path, name)  # noqa: F841
    found = duckdb.sql("""
        SELECT row, col, any_value(scales[1]), list(code ORDER BY i) FROM (
            SELECT row, col, scales, i, ('0x' || substr(hex(payload), 5 + 2 * i, 2))::INT AS code
            FROM blocks, range(32) AS r(i) WHERE block % 1000 = 7
        ) GROUP BY row, col
    """).fetchall()
    values = anamnesis.open_model(gguf.path)[name].to_numpy()
    for row, col, scale, codes in found:
        got = np.array(codes, np.uint8).view(np.int8).astype(np.float32) * np.float32(scale)
        want = values[row, col : col + 32]
        assert got.astype(values.dtype).tobytes() == want.tobytes()
    assert len(found) == 19


def test_models_are_tables(gguf: Any) -> None:
    """An open model is scanned anew by each query; a reader is used up by its first."""
    model = anamnesis.open_model(gguf.path)
    for _ in range(2):
        found = duckdb.sql("SELECT tensor, sum(octet_length(payload)) FROM model GROUP BY 1")
        assert dict(found.fetchall()) == {n: t.tensor.stored_bytes for n, t in model.items()}
    weight = model["blk.0.attn_q.weight"]  # noqa: F841
    assert duckdb.sql("SELECT count(*), min(scheme) FROM weight").fetchall() == [
        (576 * 576 // 32, "gguf-q4-1")
    ]


def test_an_error_while_reading_reaches_the_caller(tmp_path: Any, write_safetensors: Any) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"x": ("F32", (1000,), bytes(4000))})
    reader = anamnesis.scan(path, decode="f32")  # noqa: F841
    write_safetensors(path, {"x": ("F32", (10,), bytes(40))})
    with pytest.raises(Exception, match="changed while it was read"):
        duckdb.sql("SELECT count(*) FROM reader").fetchall()
