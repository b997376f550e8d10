"""Polars on scans, each answer against numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import anamnesis

pl = pytest.importorskip("polars")


def frame(path: Any, *arguments: Any, **settings: Any) -> Any:
    return pl.from_arrow(anamnesis.scan(path, *arguments, **settings))


def test_types(gguf: Any) -> None:
    raw = frame(gguf.path)
    for name in ("tensor", "scheme", "component"):
        assert isinstance(raw.schema[name], pl.Categorical)
    assert raw.schema["scale"] == pl.Float32
    assert raw.schema["scales"] == pl.List(pl.Float32)
    assert raw.schema["payload"] == pl.Binary
    assert frame(gguf.path, decode="f32").schema["values"] == pl.List(pl.Float32)
    assert frame(gguf.path, decode="bf16").schema["values"] == pl.List(pl.UInt16)


def test_range_of_scales(fp8: Any) -> None:
    found = (
        frame(fp8.path, columns=["tensor", "scale", "elems"])
        .group_by(pl.col("tensor").cast(pl.String).str.extract(r"\.(\w+)\.weight$"))
        .agg(pl.col("scale").max(), pl.col("elems").sum())
        .sort("tensor")
    )
    assert found["tensor"].to_list() == ["down_proj", "q_proj"]
    assert found["elems"].to_list() == [360_000, 360_000]
    assert found["scale"][0] == 1.5
    assert found["scale"][1] < 0.02


def test_dead_rows(fp8: Any) -> None:
    rows = frame(fp8.path, decode="f32").filter(
        (pl.col("values").list.max() == 0) & (pl.col("values").list.min() == 0)
    )
    assert sorted(zip(rows["tensor"], rows["row"], strict=True)) == fp8.dead_rows()


def test_share_of_zeros(gguf: Any) -> None:
    found = (
        frame(gguf.path, decode="f32")
        .explode("values")
        .group_by("tensor")
        .agg((pl.col("values") == 0).mean())
    )
    assert dict(found.iter_rows()) == pytest.approx(gguf.zeros(), abs=1e-12)


def test_histogram_of_exponents(gguf: Any) -> None:
    bits = frame(gguf.path, decode="bf16", columns=["values"])["values"].explode()
    exponents = bits.cast(pl.Int32) // 128 % 256
    assert dict(exponents.value_counts().iter_rows()) == gguf.exponents()


def test_numbers_are_where_we_decoded_them(gguf: Any) -> None:
    """One batch in Polars has the buffer that the scan filled."""
    batch = next(iter(anamnesis.scan(gguf.path, "token_embd.weight", decode="f32")))
    ours = batch["values"].values.buffers()[1]
    theirs = pl.from_arrow(pa.Table.from_batches([batch]))["values"].to_arrow().values.buffers()[1]
    assert theirs.address == ours.address
    raw = next(iter(anamnesis.scan(gguf.path, "blk.0.ffn_up.weight")))
    scale = pl.from_arrow(raw)["scale"]
    assert scale.to_arrow().buffers()[1].address == raw["scale"].buffers()[1].address
    assert scale.to_numpy().ctypes.data == raw["scale"].buffers()[1].address


def test_models_are_frames(gguf: Any) -> None:
    """Of an object that is a stream, Polars makes a series of structs; of a reader, a frame."""
    model = anamnesis.open_model(gguf.path)
    wanted = frame(gguf.path)
    for _ in range(2):
        assert pl.from_arrow(model.scan()).equals(wanted)
        assert pl.from_arrow(model).struct.unnest().equals(wanted)
    assert pl.DataFrame(model["output_norm.weight"]).height == 1


def test_a_stream_by_batches(gguf: Any) -> None:
    """Larger than memory: one frame a batch."""
    absmax: dict[str, float] = {}
    for batch in anamnesis.scan(gguf.path, decode="f32", memory="8MiB"):
        part = pl.from_arrow(batch)
        for name, most in (
            part.group_by("tensor")
            .agg(pl.max_horizontal(pl.col("values").list.max(), -pl.col("values").list.min()).max())
            .iter_rows()
        ):
            absmax[name] = max(most, absmax.get(name, 0))
    real = {n: t.to_numpy() for n, t in anamnesis.open_model(gguf.path).items()}
    for name, values in real.items():
        assert np.float32(absmax[name]).astype(values.dtype) == np.abs(values).max()
