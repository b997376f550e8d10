"""pyarrow on scans: compute, files and datasets, each answer against numpy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import anamnesis


def test_group_by(fp8: Any) -> None:
    blocks = anamnesis.scan(fp8.path, columns=["tensor", "scale", "elems"]).read_all()
    found = blocks.group_by("tensor").aggregate([("scale", "max"), ("elems", "sum")])
    assert found.num_rows == 6
    assert set(found["elems_sum"].to_pylist()) == {120_000}
    outlier = found.filter(pc.field("scale_max") > 1)
    assert outlier["tensor"].to_pylist() == ["model.layers.1.down_proj.weight"]


def test_dead_rows(fp8: Any) -> None:
    dead = []
    for batch in anamnesis.scan(fp8.path, decode="f32", memory="4MiB"):
        parents = pc.list_parent_indices(batch["values"])
        sums = pa.table({"i": parents, "x": pc.abs(pc.list_flatten(batch["values"]))})
        totals = sums.group_by("i").aggregate([("x", "max")])
        for i in totals.filter(pc.field("x_max") == 0)["i"].to_pylist():
            dead.append((batch["tensor"][i].as_py(), batch["row"][i].as_py()))
    assert sorted(dead) == fp8.dead_rows()


def test_histogram_of_exponents(gguf: Any) -> None:
    rows = anamnesis.scan(gguf.path, decode="bf16").read_all()
    bits = pc.list_flatten(rows["values"])
    exponents = pc.bit_wise_and(pc.shift_right(bits, pa.scalar(7, pa.uint16())), 255)
    found = {int(c["values"]): c["counts"] for c in pc.value_counts(exponents).to_pylist()}
    assert found == gguf.exponents()


def test_bits_are_bfloat16_without_a_copy(gguf: Any) -> None:
    for batch in anamnesis.scan(gguf.path, "blk.0.attn_k.weight", decode="bf16"):
        numbers = batch["values"].values.to_numpy(zero_copy_only=True).view(ml_dtypes.bfloat16)
        rows = batch["row"].to_numpy()
        want = gguf.values["blk.0.attn_k.weight"][rows[0] : rows[-1] + 1].reshape(-1)
        assert np.array_equal(numbers.astype(np.float32), want)
    assert batch.schema.field("values").metadata == {b"dtype": b"BF16"}


@pytest.mark.parametrize("decode", [None, "f32", "bf16"])
def test_files(gguf: Any, tmp_path: Path, decode: Any) -> None:
    """A scan goes to Parquet, Feather and a dataset, and comes back as it was."""
    wanted = anamnesis.scan(gguf.path, decode=decode).read_all()
    pq.write_table(wanted, tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").cast(wanted.schema).equals(wanted)
    feather.write_feather(wanted, tmp_path / "t.arrow", compression="zstd")
    assert feather.read_table(tmp_path / "t.arrow").equals(wanted)
    reader = anamnesis.scan(gguf.path, decode=decode)
    ds.write_dataset(reader, tmp_path / "d", format="arrow")
    found = ds.dataset(tmp_path / "d", format="arrow")
    assert found.count_rows(filter=pc.field("row") == 5) == sum(wanted["row"].to_numpy() == 5)


def test_the_stream_protocol(gguf: Any) -> None:
    wanted = anamnesis.scan(gguf.path).read_all()
    for source in (anamnesis.scan(gguf.path), anamnesis.open_model(gguf.path)):
        assert pa.table(source).equals(wanted)
