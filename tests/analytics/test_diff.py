"""Two checkpoints compared: numpy's answers, across formats, names, shapes and executors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diff_models import Write, bf16, f32, raw, write_gguf

import anamnesis
from anamnesis.analytics import reduction
from anamnesis.analytics.diff import plan as diff_plan
from anamnesis.errors import IntegrityError, LimitError, UsageError
from anamnesis.kernels.diff import Sums
from anamnesis.limits import Limits
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.task import run_task


def test_every_executor_gives_the_same_bits(
    models: Mapping[str, tuple[Path, Any]], sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_plan, "TASK_ELEMS", 9000)
    for pair in ((models["gptq"][0], models["awq"][0]), (sample, sample)):
        serial = anamnesis.diff(*pair, executor="serial")
        for threads in (1, 3):
            assert anamnesis.diff(*pair, threads=threads).rows == serial.rows
    assert anamnesis.diff(*pair, executor="distributed", threads=2).rows == serial.rows


def test_the_order_that_tasks_end_in_does_not_count(
    tmp_path: Path, write_safetensors: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(4).standard_normal(3_000_000).astype(np.float32)
    a, b = (
        write_safetensors(tmp_path / f"{entry[0]}.safetensors", {"t": entry})
        for entry in (f32(values), bf16(values))
    )
    monkeypatch.setattr(diff_plan, "TASK_ELEMS", 9000)
    monkeypatch.setattr(planning, "WINDOW_BYTES", 1 << 20)
    plain = anamnesis.diff(a, b)

    def backwards(tasks: Any, options: Any, listener: Any) -> None:
        assert len(tasks) > 11
        for task in reversed(tasks):
            listener.done(run_task(task))

    monkeypatch.setattr(reduction, "executor", lambda name: backwards)
    assert anamnesis.diff(a, b).rows == plain.rows


def test_numbers_that_are_not_finite(tmp_path: Path, write_safetensors: Write) -> None:
    nan, inf = math.nan, math.inf
    a = write_safetensors(
        tmp_path / "a.safetensors", {"t": f32([1, nan, nan, inf, inf, 2, -inf, 4])}
    )
    b = write_safetensors(tmp_path / "b.safetensors", {"t": f32([1, nan, 3, inf, 5, nan, inf, 5])})
    row = anamnesis.diff(a, b)["t"]
    assert row.sums == Sums(8, 2, 3, 1, 1, 1, 2, 1.0, 1.0, 1.0, 17.0, 26.0, 21.0)
    assert row.broken == 4
    assert not row.identical


def test_broken_tensors_come_first_then_the_worst(tmp_path: Path, write_safetensors: Write) -> None:
    ones = np.ones(64)
    entries_a = {name: f32(ones) for name in ("same", "bad", "worse", "nan")} | {
        "zero": f32(ones * 0)
    }
    entries_b = {**entries_a, "bad": f32(ones * 1.01), "worse": f32(ones * 1.1)}
    entries_b |= {"zero": f32(ones), "nan": f32([*ones[1:], math.nan])}
    a = write_safetensors(tmp_path / "a.safetensors", entries_a)
    b = write_safetensors(tmp_path / "b.safetensors", entries_b)
    found = anamnesis.diff(a, b)
    assert [row.tensor for row in found] == ["nan", "zero", "worse", "bad", "same"]
    assert [row.sqnr_db for row in found][1] == -math.inf
    assert [row.identical for row in found] == [False, False, False, False, True]


def test_integers_booleans_and_empty_tensors(tmp_path: Path, write_safetensors: Write) -> None:
    big = np.array([1 << 53, 2**62 + 1, -5], "<i8")
    flags = np.array([True, False, True])
    shared = {"empty": ("BF16", (0, 7), b""), "flags": raw("BOOL", flags)}
    a = {**shared, "big": raw("I64", big), "mixed": raw("I32", np.array([1, 2, 300], "<i4"))}
    b = {
        **shared,
        "big": raw("I64", big + np.array([0, 1, 0])),
        "mixed": raw("U8", np.array([1, 2, 44], "u1")),
    }
    paths = [
        write_safetensors(tmp_path / f"{name}.safetensors", entries)
        for name, entries in (("a", a), ("b", b))
    ]
    found = anamnesis.diff(*paths)
    # The second number differs by less than float64 can tell, and still differs.
    assert found["big"].sums is not None
    assert found["big"].sums.equal == 2
    assert found["mixed"].to_dict()["max_abs_error"] == 256
    assert found["flags"].identical
    assert found["empty"].identical
    assert found["empty"].to_dict()["sqnr_db"] != found["empty"].to_dict()["sqnr_db"]


def test_float64_is_compared_as_float32(tmp_path: Path, write_safetensors: Write) -> None:
    values = np.random.default_rng(1).standard_normal(1000)
    a = write_safetensors(tmp_path / "a.safetensors", {"t": raw("F64", values)})
    b = write_safetensors(tmp_path / "b.safetensors", {"t": f32(values)})
    assert anamnesis.diff(a, b)["t"].sqnr_db == math.inf


def test_what_cannot_be_compared_is_listed(tmp_path: Path, write_safetensors: Write) -> None:
    row = np.ones(6)
    a = {"both": f32(row), "shape": f32(row), "dtype": f32(row), "mine": f32(row)}
    b = {"both": f32(row), "shape": f32(row.reshape(2, 3)), "theirs": f32(row)}
    b["dtype"] = raw("I32", row.astype("<i4"))
    paths = [write_safetensors(tmp_path / f"{n}.safetensors", e) for n, e in (("a", a), ("b", b))]
    found = anamnesis.diff(*paths)
    told = [(r.tensor, r.status, r.why) for r in found.others]
    assert told == [
        ("shape", "not compared", "shape [6] against [2, 3]"),
        ("dtype", "not compared", "dtype F32 against I32"),
        ("mine", "only in a", None),
        ("theirs", "only in b", None),
    ]
    assert [r.tensor for r in found.compared] == ["both"]
    assert "4 not compared" in found.summary()


def test_patterns_choose_by_either_name(tmp_path: Path, write_safetensors: Write) -> None:
    one = f32(np.ones(4))
    hf = {"model.layers.0.self_attn.v_proj.weight": one, "model.norm.weight": one, "x": one}
    a = write_safetensors(tmp_path / "a.safetensors", hf)
    b = write_gguf(
        tmp_path / "b.gguf",
        {n: (np.ones(4, np.float32), None) for n in ("blk.0.attn_v.weight", "output_norm.weight")},
    )
    found = anamnesis.diff(a, b, include=["blk.*"])
    assert [(r.tensor, r.tensor_b) for r in found] == [
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight")
    ]
    assert [r.tensor for r in anamnesis.diff(a, b, exclude=["output*", "x"])] == [
        found.rows[0].tensor
    ]
    with pytest.raises(UsageError, match=r"a\.safetensors and .*b\.gguf: .*'nothing\*'"):
        anamnesis.diff(a, b, include=["nothing*"])
    with pytest.raises(UsageError, match="leave no tensor"):
        anamnesis.diff(a, b, exclude=["*"])


def test_nothing_in_common_is_an_error(tmp_path: Path, write_safetensors: Write) -> None:
    a = write_safetensors(tmp_path / "a.safetensors", {"x": f32(np.ones(4))})
    b = write_safetensors(tmp_path / "b.safetensors", {"y": f32(np.ones(4))})
    with pytest.raises(UsageError, match=r"no tensor in common.*'x' and 'y'"):
        anamnesis.diff(a, b)


def test_one_window_over_the_budget_is_refused(models: Mapping[str, tuple[Path, Any]]) -> None:
    with pytest.raises(LimitError, match="--memory"):
        anamnesis.diff(models["gptq"][0], models["awq"][0], memory="1MiB")


def test_limits_hold(models: Mapping[str, tuple[Path, Any]]) -> None:
    with pytest.raises(LimitError):
        anamnesis.diff(models["gptq"][0], models["awq"][0], limits=Limits(max_items=1))


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32)
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, t=values)
    data = bytearray(good.read_bytes())
    at = data.index(values[500:510].tobytes())
    data[at] ^= 1
    bad.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"bad\.npz"):
        anamnesis.diff(good, bad)


def test_engines_take_it_as_it_is(models: Mapping[str, tuple[Path, Any]]) -> None:
    duckdb, pandas, polars = map(pytest.importorskip, ("duckdb", "pandas", "polars"))
    found = anamnesis.diff(models["f32"][0], models["gptq"][0])
    wanted = found["l.weight"].sqnr_db
    assert polars.DataFrame(found)["sqnr_db"].to_list() == [wanted]
    assert duckdb.sql("select sqnr_db, scheme_b from found").fetchall() == [(wanted, "gptq")]
    assert pandas.DataFrame(found.to_arrow().to_pandas())["cosine"][0] > 0.99
