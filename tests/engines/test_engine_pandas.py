"""pandas on scans, each answer against numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import anamnesis

pd = pytest.importorskip("pandas")


def test_types(gguf: Any) -> None:
    raw = anamnesis.scan(gguf.path).read_pandas()
    for name in ("tensor", "scheme", "component"):
        assert isinstance(raw[name].dtype, pd.CategoricalDtype)
    assert raw["scale"].dtype == np.float32
    assert raw["block"].dtype == np.int64
    assert isinstance(raw["payload"][0], bytes)
    values = anamnesis.scan(gguf.path, decode="f32").read_pandas()["values"]
    assert values[0].dtype == np.float32


def test_spread_of_scales(fp8: Any) -> None:
    blocks = anamnesis.scan(fp8.path, columns=["tensor", "scale"]).read_pandas()
    found = blocks.groupby("tensor", observed=True)["scale"].agg(lambda s: s.max() / s.median())
    assert found.idxmax() == "model.layers.1.down_proj.weight"
    assert (found.drop(found.idxmax()) < 2).all()


def test_dead_rows(fp8: Any) -> None:
    rows = anamnesis.scan(fp8.path, decode="f32").read_pandas()
    dead = rows[[not values.any() for values in rows["values"]]]
    assert sorted(zip(dead["tensor"], dead["row"], strict=True)) == fp8.dead_rows()


def test_share_of_zeros(gguf: Any) -> None:
    rows = anamnesis.scan(gguf.path, decode="f32").read_pandas()
    counts = pd.DataFrame(
        {
            "tensor": rows["tensor"],
            "zeros": [int((v == 0).sum()) for v in rows["values"]],
            "elems": rows["values"].map(len),
        }
    )
    sums = counts.groupby("tensor", observed=True).sum()
    assert (sums["zeros"] / sums["elems"]).to_dict() == pytest.approx(gguf.zeros(), abs=1e-12)


def test_histogram_of_exponents(gguf: Any) -> None:
    rows = anamnesis.scan(gguf.path, decode="bf16", columns="values").read_pandas()
    exponents = pd.Series(np.concatenate(rows["values"].to_list()) >> 7 & 255)
    assert exponents.value_counts().to_dict() == gguf.exponents()


def test_a_batch_is_not_copied(gguf: Any) -> None:
    batch = next(iter(anamnesis.scan(gguf.path, "blk.0.ffn_up.weight", columns="scale")))
    numbers = batch.to_pandas(split_blocks=True, zero_copy_only=True)["scale"].to_numpy()
    assert numbers.ctypes.data == batch["scale"].buffers()[1].address


@pytest.mark.skipif(not hasattr(pd.DataFrame, "from_arrow"), reason="pandas before 3")
def test_models_are_frames(gguf: Any) -> None:
    model = anamnesis.open_model(gguf.path)
    assert len(pd.DataFrame.from_arrow(model)) == anamnesis.scan(gguf.path).read_all().num_rows
