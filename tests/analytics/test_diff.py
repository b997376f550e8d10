"""Two checkpoints compared: numpy's answers, across formats, names, shapes and executors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest

import anamnesis
from anamnesis.analytics import reduction
from anamnesis.analytics.diff import plan as diff_plan
from anamnesis.analytics.diff.record import Row
from anamnesis.errors import (
    FormatError,
    IntegrityError,
    LimitError,
    UnsupportedError,
    UsageError,
)
from anamnesis.kernels.diff import Sums
from anamnesis.limits import Limits
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.task import run_task

Entry = tuple[str, tuple[int, ...], bytes]
Write = Callable[[Path, Mapping[str, Entry]], Path]
INPUTS, OUTPUTS, GROUP = 256, 160, 64
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # element of each nibble, lowest first


def f32(values: Any) -> Entry:
    values = np.ascontiguousarray(values, np.float32)
    return "F32", values.shape, values.tobytes()


def bf16(values: Any) -> Entry:
    with np.errstate(all="ignore"):
        rounded = np.asarray(values, np.float32).astype(ml_dtypes.bfloat16)
    return "BF16", rounded.shape, rounded.tobytes()


def words(codes: Any) -> Any:
    """The last axis, eight codes of four bits, as one int32 each."""
    shifts = np.arange(0, 32, 4, dtype=np.uint64)
    packed = (codes.astype(np.uint64) << shifts).sum(-1).astype(np.uint32)
    return packed.view(np.int32)


def raw(dtype: str, values: Any) -> Entry:
    return dtype, values.shape, np.ascontiguousarray(values).tobytes()


def quantised(weight: Any) -> tuple[Any, Any, Any]:
    """Codes [in, out], zeros and scales [groups, out] of four bits, asymmetric."""
    groups = weight.T.reshape(INPUTS // GROUP, GROUP, OUTPUTS)
    low, high = groups.min(1), groups.max(1)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.round(-low / scales.astype(np.float32)), 1, 15)
    codes = np.clip(np.round(groups / scales[:, None].astype(np.float32)) + zeros[:, None], 0, 15)
    return codes.reshape(INPUTS, OUTPUTS).astype(np.int64), zeros.astype(np.int64), scales


def numbers(codes: Any, zeros: Any, scales: Any) -> Any:
    """What the codes mean, [out, in]."""
    whole = codes - np.repeat(zeros, GROUP, 0)
    return (whole.astype(np.float32) * np.repeat(scales, GROUP, 0).astype(np.float32)).T


def gptq(name: str, codes: Any, zeros: Any, scales: Any) -> dict[str, Entry]:
    down = words(codes.reshape(-1, 8, OUTPUTS).transpose(0, 2, 1))
    across = words((zeros - 1).reshape(len(zeros), -1, 8))
    index = (np.arange(INPUTS) // GROUP).astype(np.int32)
    parts = {"qweight": raw("I32", down), "qzeros": raw("I32", across)}
    parts |= {"scales": raw("F16", scales), "g_idx": raw("I32", index)}
    return {f"{name}.{part}": entry for part, entry in parts.items()}


def awq(name: str, codes: Any, zeros: Any, scales: Any) -> dict[str, Entry]:
    across = [words(n.reshape(len(n), -1, 8)[:, :, AWQ_ORDER]) for n in (codes, zeros)]
    parts = {"qweight": raw("I32", across[0]), "qzeros": raw("I32", across[1])}
    return {
        f"{name}.{part}": entry for part, entry in {**parts, "scales": raw("F16", scales)}.items()
    }


def expected(a: Any, b: Any) -> dict[str, float]:
    """numpy's figures of arrays without NaN and infinity."""
    x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    bits = [v.astype(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16) for v in (x, y)]
    with np.errstate(divide="ignore"):
        return {
            "max_abs_error": np.abs(x - y).max(),
            "mean_abs_error": np.abs(x - y).mean(),
            "rms_error": np.sqrt(np.mean((x - y) ** 2)),
            "relative_error": np.linalg.norm(x - y) / np.linalg.norm(x),
            "sqnr_db": 10 * np.log10((x * x).sum() / ((x - y) ** 2).sum()),
            "cosine": x @ y / np.linalg.norm(x) / np.linalg.norm(y),
            "bits_equal": (bits[0] == bits[1]).sum(),
        }


def check(row: Row, a: Any, b: Any) -> None:
    wanted = expected(a, b)
    found = row.to_dict()
    assert row.status == "compared"
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-10)
    assert (row.shape, row.broken, row.elements) == (a.shape, 0, a.size)


@pytest.fixture
def weight() -> Any:
    return (np.random.default_rng(8).standard_normal((OUTPUTS, INPUTS)) * 0.02).astype(np.float32)


@pytest.fixture
def models(weight: Any, tmp_path: Path, write_safetensors: Write) -> dict[str, tuple[Path, Any]]:
    """One weight in six formats, with its values in each."""
    codes = quantised(weight)
    other = quantised(weight * np.float32(0.97))
    half = weight.astype(np.float16)
    found = {
        "f32": ({"l.weight": f32(weight)}, weight),
        "bf16": ({"l.weight": bf16(weight)}, weight.astype(ml_dtypes.bfloat16).astype(np.float32)),
        "f16": ({"l.weight": raw("F16", half)}, half.astype(np.float32)),
        "gptq": (gptq("l", *codes), numbers(*codes)),
        "awq": (awq("l", *other), numbers(*other)),
    }
    made = {}
    for name, (entries, values) in found.items():
        made[name] = write_safetensors(tmp_path / f"{name}.safetensors", entries), values
    for kind in ("Q8_0", "Q4_0"):
        ggml = gguf.GGMLQuantizationType[kind]
        data = gguf.quantize(weight, ggml)
        path = tmp_path / f"{kind}.gguf"
        write_gguf(path, {"l.weight": (data, ggml)})
        made[kind] = path, gguf.dequantize(data, ggml)
    return made


def write_gguf(path: Path, tensors: Mapping[str, tuple[Any, Any]], **numbers: int) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, number in numbers.items():
        writer.add_uint32(f"llama.attention.{key}", number)
    for name, (data, ggml) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=ggml)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("f32", "bf16"),
        ("f32", "f16"),
        ("bf16", "f16"),
        ("f32", "gptq"),
        ("gptq", "awq"),
        ("awq", "gptq"),
        ("awq", "Q4_0"),
        ("Q8_0", "gptq"),
        ("Q8_0", "Q4_0"),
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_formats_against_numpy(
    models: Mapping[str, tuple[Path, Any]],
    a: str,
    b: str,
    small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if small:  # windows that end in different places on the two sides, and several pieces
        monkeypatch.setattr(diff_plan, "WINDOW_ELEMS", 700)
        monkeypatch.setattr(diff_plan, "TASK_ELEMS", 9000)
    (path_a, values_a), (path_b, values_b) = models[a], models[b]
    found = anamnesis.diff(path_a, path_b)
    assert [row.tensor for row in found] == ["l.weight"]
    check(found["l.weight"], values_a, values_b)


def test_a_model_and_what_was_recovered_of_it(sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "recovered.safetensors"
    anamnesis.remember(sample, out)
    found = anamnesis.diff(sample, out)
    assert len(found.compared) == len(found) == 11
    assert all(row.identical for row in found)
    assert found.total.noise > 0  # the rounding to BF16
    again = anamnesis.diff(out, out)
    assert {row.sqnr_db for row in again} == {math.inf}
    assert repr(again).startswith("<Diff ")


CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"


@pytest.mark.parametrize("family", sorted(p.name for p in CORPUS.glob("*") if p.is_dir()))
def test_published_layouts_against_what_is_recovered_of_them(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_plan, "WINDOW_ELEMS", 3000)
    monkeypatch.setattr(diff_plan, "TASK_ELEMS", 20_000)
    for path in sorted((CORPUS / family).glob("*")):
        out = tmp_path / "recovered.safetensors"
        with contextlib.suppress(UnsupportedError, FormatError):
            anamnesis.remember(path, out, dtype="f32")
            found = anamnesis.diff(path, out)
            assert {row.status for row in found} == {"compared"}
            assert {row.sqnr_db for row in found if row.elements} == {math.inf}
            return
    pytest.skip(f"none of {family} is implemented")


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


def llama_cpp_order(weight: Any, heads: int) -> Any:
    """Rows as llama.cpp's converter writes them: `LlamaModel.permute`, conversion/llama.py."""
    rows = weight.shape[0] // heads // 2
    return (
        weight.reshape(heads, 2, rows, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
        .copy()
    )


@pytest.mark.parametrize("window", [64, 5000, 1 << 18])
def test_rows_of_gguf_heads_are_put_back(
    tmp_path: Path, write_safetensors: Write, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_plan, "WINDOW_ELEMS", window)
    monkeypatch.setattr(diff_plan, "TASK_ELEMS", 3 * window)
    rng = np.random.default_rng(2)
    q, k = (rng.standard_normal((rows, 64)).astype(np.float32) for rows in (192, 96))
    bias = rng.standard_normal(192).astype(np.float32)
    hf = {f"model.layers.3.self_attn.{n}_proj.weight": f32(v) for n, v in (("q", q), ("k", k))}
    hf["model.layers.3.self_attn.q_proj.bias"] = f32(bias)
    a = write_safetensors(tmp_path / "a.safetensors", hf)
    eight = gguf.GGMLQuantizationType.Q8_0
    tensors = {
        "blk.3.attn_q.weight": (gguf.quantize(llama_cpp_order(q, 6), eight), eight),
        "blk.3.attn_k.weight": (llama_cpp_order(k, 3), None),
        "blk.3.attn_q.bias": (llama_cpp_order(bias, 6), None),
    }
    b = write_gguf(tmp_path / "b.gguf", tensors, head_count=6, head_count_kv=3)
    for pair in ((a, b), (b, a)):
        found = {row.module: row for row in anamnesis.diff(*pair)}
        assert found["self_attn.k_proj"].identical
        assert found["self_attn.q_proj.bias"].identical
        assert found["self_attn.q_proj"].sqnr_db > 40
    found_q = next(r for r in anamnesis.diff(a, b) if r.module == "self_attn.q_proj")
    check(found_q, q, gguf.dequantize(gguf.quantize(q, eight), eight))

    same = anamnesis.diff(b, b)
    assert all(row.identical for row in same)
    silent = write_gguf(tmp_path / "silent.gguf", tensors)
    told = anamnesis.diff(a, silent)
    assert "3 tensors of q and k" in told.notes[0]
    assert told.rows[0].sqnr_db < 5


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
