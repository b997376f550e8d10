"""Statistics against numpy and fractions on the decoded values, from every executor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

import anamnesis
from anamnesis.analytics.stats import plan as stats_plan
from anamnesis.analytics.stats.run import TensorStats
from anamnesis.errors import IntegrityError, LimitError, UsageError
from anamnesis.limits import Limits
from anamnesis.pipeline import plan as planning
from anamnesis.pipeline.journal import load_manifest

Entries = Mapping[str, tuple[str, tuple[int, ...], bytes]]
Write = Callable[[Path, Entries], Path]
RNG = np.random.default_rng(5)
NUMPY: dict[str, Any] = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
    "I32": np.int32,
    "U32": np.uint32,
    "I64": np.int64,
    "U64": np.uint64,
    "BOOL": np.bool_,
}
EXACT = {"BF16", "F16", "F32", "I8", "U8", "I16", "U16", "BOOL"}


def values_of(dtype: str, length: int = 999) -> Any:
    """Numbers of every size, with what is special about the dtype."""
    kind = NUMPY[dtype]
    if dtype == "BOOL":
        return RNG.random(length) < 0.3
    if dtype[0] in "IU":
        info = np.iinfo(kind)
        found = RNG.integers(info.min, info.max, length, dtype=kind, endpoint=True)
        found[:4] = info.min, info.max, 0, 1
        found[4:20] = found[4:20] >> RNG.integers(0, info.bits, 16).astype(kind)
        return found
    tiny = 0.0 if dtype == "F64" else float(ml_dtypes.finfo(kind).smallest_subnormal)
    with np.errstate(over="ignore"):
        found = (RNG.standard_normal(length) * np.exp2(RNG.uniform(-20, 4, length))).astype(kind)
    special = [0.0, -0.0, tiny or 5e-324, -3 * tiny, np.nan, -np.nan, np.inf, -np.inf, np.nan]
    found[: len(special)] = np.array(special).astype(kind)
    if dtype != "F64":  # whose squares float64 cannot hold
        found[9], found[10] = ml_dtypes.finfo(kind).max, ml_dtypes.finfo(kind).min
    return found


def check(row: TensorStats, values: Any) -> None:
    """Hold a row against an array of the values."""
    flat = values.reshape(-1)
    integer = flat.dtype.kind in "iub"
    wide = flat if integer else flat.astype(np.float64)
    finite = wide if integer else wide[np.isfinite(wide)]
    distinct, occurs = (found.tolist() for found in np.unique(finite, return_counts=True))
    assert row.elements == flat.size
    assert row.zeros == np.count_nonzero(flat == 0)
    assert row.nans == (0 if integer else np.isnan(wide).sum())
    assert row.infs == (0 if integer else np.isinf(wide).sum())
    if flat.nbytes <= stats_plan.LEAF_BYTES:
        assert row.xxh3 == xxhash.xxh3_128_hexdigest(flat.tobytes())
    counts: dict[int, int] = {}
    least = -1023 if flat.dtype == np.float64 else 0
    if not integer and flat.dtype != np.float64:
        least = math.frexp(float(ml_dtypes.finfo(flat.dtype).smallest_normal))[1] - 2
    for number, count in zip(distinct, occurs, strict=True):
        if number:
            exponent = abs(number).bit_length() if integer else math.frexp(number)[1]
            exponent = max(exponent - 1, least)
            counts[exponent] = counts.get(exponent, 0) + count
    assert dict(row.exponents) == counts
    if not distinct:
        assert (row.min, row.max, row.mean, row.std, row.absmax) == (None,) * 5
        return
    assert (row.min, row.max) == (float(min(distinct)), float(max(distinct)))
    assert row.absmax == float(max(map(abs, distinct)))
    assert row.mean is not None
    assert row.std is not None
    weighed = [(Fraction(v), count) for v, count in zip(distinct, occurs, strict=True)]
    mean = sum(v * count for v, count in weighed) / len(finite)
    spread = sum((v - mean) ** 2 * count for v, count in weighed) / len(finite)
    if row.dtype in EXACT:
        assert row.mean == float(mean)
        assert row.std == math.sqrt(float(spread))
    else:
        scale = row.absmax or 1
        assert row.mean == pytest.approx(float(mean), rel=1e-12, abs=1e-14 * scale)
        assert row.std == pytest.approx(math.sqrt(float(spread)), rel=1e-12, abs=1e-14 * scale)


@pytest.mark.parametrize("dtype", NUMPY)
def test_every_dtype(dtype: str, tmp_path: Path, write_safetensors: Write) -> None:
    tensors = {
        "many": values_of(dtype),
        "matrix": values_of(dtype, 35 * 40).reshape(35, 40),
        "scalar": values_of(dtype)[11:12].reshape(()),
        "empty": values_of(dtype)[:0].reshape(0, 4),
        "zeros": np.zeros(7, NUMPY[dtype]),
        "equal": np.full(1001, 1, NUMPY[dtype]),
    }
    if dtype in ("BF16", "F16", "F32", "F64"):
        tensors["special"] = np.array([np.nan, np.inf, -np.inf]).astype(NUMPY[dtype])
    entries = {n: (dtype, a.shape, a.tobytes()) for n, a in tensors.items()}
    found = anamnesis.stats(write_safetensors(tmp_path / "m.safetensors", entries))
    assert [row.tensor for row in found] == list(tensors)
    for row in found:
        assert (row.scheme, row.dtype) == ("passthrough", dtype)
        assert (row.scale_min, row.scale_max) == (None, None)
        assert row.shape == tensors[row.tensor].shape
        check(row, tensors[row.tensor])
    assert found["equal"].std == 0
    assert found["zeros"].exponents == ()


def test_complex_numbers_are_only_counted(tmp_path: Path, write_safetensors: Write) -> None:
    values = np.array([0, 1j, complex(np.nan, 1), complex(0, np.inf)], np.complex64)
    entries = {"c": ("C64", (4,), values.tobytes())}
    row = anamnesis.stats(write_safetensors(tmp_path / "m.safetensors", entries))["c"]
    assert (row.zeros, row.nans, row.infs, row.mean, row.exponents) == (1, 1, 1, None, ())
    assert row.xxh3 == xxhash.xxh3_128_hexdigest(values.tobytes())


def test_minus_zero_is_zero(tmp_path: Path, write_safetensors: Write) -> None:
    for dtype in ("BF16", "F16", "F32", "F64"):
        data = np.array([-0.0, -0.0]).astype(NUMPY[dtype]).tobytes()
        path = write_safetensors(tmp_path / f"{dtype}.safetensors", {"w": (dtype, (2,), data)})
        row = anamnesis.stats(path)["w"]
        assert [math.copysign(1, v) for v in (row.min, row.max, row.mean) if v is not None] == [
            1
        ] * 3
        assert row.zeros == 2


@pytest.mark.parametrize("dtype", [None, "f16", "f32"])
def test_recovered_values(dtype: Any, fp8_model: Path) -> None:
    found = anamnesis.stats(fp8_model, dtype=dtype)
    if dtype is None:
        with_numpy = anamnesis.open_model(fp8_model)
        check(found["c.weight"], with_numpy["c.weight"].to_numpy())
        check(found["norm.weight"], with_numpy["norm.weight"].to_numpy())
        assert found["ids"].dtype == "I64"
    assert found["a.weight"].dtype == (dtype or "bf16").upper()
    assert found["a.weight"].nans == 0
    assert found.value_bytes > 20 << 20


def test_the_checksum_is_the_manifests(
    fp8_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the manifest has a tensor in one piece."""
    monkeypatch.setattr(planning, "LEAST_TASK_BYTES", planning.TASK_BYTES)
    out = tmp_path / "out.safetensors"
    anamnesis.remember(fp8_model, out)
    recorded = {name: xxh3 for name, _, _, xxh3 in load_manifest(out).pieces}
    for row in anamnesis.stats(fp8_model):
        expected = recorded.get(row.tensor, xxhash.xxh3_128_hexdigest(b""))
        assert row.xxh3 == expected
    again = {row.tensor: row.xxh3 for row in anamnesis.stats(out)}
    assert again == {row.tensor: row.xxh3 for row in anamnesis.stats(fp8_model)}


def test_leaves_windows_and_tasks_change_nothing(
    fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = anamnesis.stats(fp8_model, ["b*", "c*", "norm*"])
    values = anamnesis.open_model(fp8_model)["c.weight"].to_numpy()
    monkeypatch.setattr(planning, "WINDOW_BYTES", 30_000)
    monkeypatch.setattr(stats_plan, "TASK_BYTES", 1 << 20)
    monkeypatch.setattr(stats_plan, "LEAF_BYTES", 100_004)
    cut = anamnesis.stats(fp8_model, ["b*", "c*", "norm*"])
    for a, b in zip(whole, cut, strict=True):
        same = {n: getattr(b, n) == getattr(a, n) for n in TensorStats.__dataclass_fields__}
        assert same.pop("xxh3") is (a.stored_bytes < 100_000)
        assert all(same.values()), same
    data = values.tobytes()
    digests = [
        xxhash.xxh3_128_digest(data[at : at + 100_004]) for at in range(0, len(data), 100_004)
    ]
    assert cut["c.weight"].xxh3 == xxhash.xxh3_128_hexdigest(b"".join(digests))


def test_units_larger_than_leaves_are_decoded_once(
    fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_plan, "LEAF_BYTES", 500)  # a row of c.weight is 600
    cut = anamnesis.stats(fp8_model, ["c*"])["c.weight"]
    values = anamnesis.open_model(fp8_model)["c.weight"].to_numpy().tobytes()
    digests = [xxhash.xxh3_128_digest(values[at : at + 500]) for at in range(0, len(values), 500)]
    assert cut.xxh3 == xxhash.xxh3_128_hexdigest(b"".join(digests))
    assert cut.elements == sum(count for _, count in cut.exponents) + cut.zeros


def test_every_executor_finds_the_same(fp8_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_plan, "TASK_BYTES", 2 << 20)
    monkeypatch.setattr(stats_plan, "LEAF_BYTES", 1 << 20)
    found = [
        anamnesis.stats(fp8_model, executor="serial"),
        anamnesis.stats(fp8_model, executor="threads", threads=5),
        anamnesis.stats(fp8_model, executor="distributed", threads=2),
    ]
    assert found[0] == found[1] == found[2]


def test_selection(fp8_model: Path) -> None:
    found = anamnesis.stats(fp8_model, ["*weight"], exclude=["b*", "norm*"])
    assert [row.tensor for row in found] == ["a.weight", "c.weight"]
    with pytest.raises(UsageError, match="no tensor fits the pattern 'nothing'"):
        anamnesis.stats(fp8_model, ["nothing"])


def test_errors(fp8_model: Path) -> None:
    with pytest.raises(LimitError, match="max_total_bytes"):
        anamnesis.stats(fp8_model, limits=Limits(max_total_bytes=1000))
    with pytest.raises(LimitError, match="--memory"):
        anamnesis.stats(fp8_model, memory="8MiB")
    with pytest.raises(UsageError, match="scheduler"):
        anamnesis.stats(fp8_model, executor="threads", scheduler="tcp://localhost:1")
    with pytest.raises(UsageError, match="absmax"):
        anamnesis.stats(fp8_model, ["c*"]).sort("largest")


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_a_file_that_changes_is_an_error(
    executor: Any, fp8_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stats_plan.make_stats_plan

    def cut(*arguments: Any, **settings: Any) -> Any:
        plan = real(*arguments, **settings)
        fp8_model.write_bytes(fp8_model.read_bytes()[:-1])
        return plan

    monkeypatch.setattr("anamnesis.analytics.stats.run.make_stats_plan", cut)
    with pytest.raises(IntegrityError):
        anamnesis.stats(fp8_model, executor=executor)


def test_archives_are_held_against_their_checksums(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    values = RNG.standard_normal((50, 60)).astype(np.float32)
    np.savez(path, w=values, v=values[0])
    check(anamnesis.stats(path)["w"], values)
    data = bytearray(path.read_bytes())
    data[data.index(values[3].tobytes()) + 5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="CRC-32"):
        anamnesis.stats(path)


def test_deflated_and_transposed_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.npz"
    values = np.asfortranarray(RNG.standard_normal((70, 80)).astype(np.float32))
    np.savez_compressed(path, w=values, v=np.ascontiguousarray(values[:9]))
    monkeypatch.setattr(stats_plan, "LEAF_BYTES", 5000)
    found = anamnesis.stats(path)
    for name, array in (("w", values), ("v", values[:9])):
        row, data = found[name], array.tobytes()
        digests = [xxhash.xxh3_128_digest(data[at : at + 5000]) for at in range(0, len(data), 5000)]
        assert row.xxh3 == (
            xxhash.xxh3_128_hexdigest(b"".join(digests)) if len(digests) > 1 else digests[0].hex()
        )
        check(row, array)
