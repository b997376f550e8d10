"""Open models and lazy tensors: slices that read what they need, protocols, how they look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

import anamnesis
from anamnesis.errors import LimitError
from anamnesis.limits import Limits
from anamnesis.model.slices import pick, read_index
from anamnesis.readers.files import Files

Write = Callable[..., Path]
RNG = np.random.default_rng(6)
SHAPE = (40, 300, 7)


@pytest.fixture
def dense(tmp_path: Path, write_safetensors: Write) -> anamnesis.model.lazy.OpenModel:
    stack = RNG.standard_normal(SHAPE).astype("<f4")
    words = RNG.integers(0, 1 << 16, 1000, dtype=np.uint16)
    entries = {
        "stack": ("F32", SHAPE, stack.tobytes()),
        "words": ("BF16", (1000,), words.tobytes()),
        "flag": ("BOOL", (), b"\1"),
        "wide": ("F32", (64, 40_000), RNG.standard_normal((64, 40_000)).astype("<f4").tobytes()),
    }
    return anamnesis.open_model(write_safetensors(tmp_path / "m.safetensors", entries))


INDICES: list[Any] = [
    slice(10, 20),
    slice(None),
    slice(None, None, -1),
    slice(30, 5, -7),
    slice(5, 5),
    slice(100, 200),
    3,
    -1,
    np.int64(2),
    ...,
    (slice(2, 4), slice(None), 3),
    (slice(None, None, 11), slice(7, 9), slice(1, 5)),
    (1, 2, 3),
    (-1, slice(4, None, 50)),
    (..., 0),
    (..., slice(None, None, -2)),
    (0, ..., slice(2)),
    (slice(3, 9, 2), slice(None, None, -1), slice(6, None, -3)),
    (slice(0, 0), 5),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_slices_are_numpys(dense: Any, index: Any) -> None:
    whole = dense["stack"].to_numpy()
    found, wanted = dense["stack"][index], whole[index]
    assert type(found) is type(wanted)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_array_equal(found, wanted)
    if found.ndim:
        assert found.flags.writeable
        assert found.flags.owndata or found.base.flags.owndata


@pytest.mark.parametrize("name", ["a.weight", "b.weight", "c.weight", "ids", "empty"])
def test_slices_of_blocks(fp8_model: Path, name: str) -> None:
    tensor = anamnesis.open_model(fp8_model)[name]
    whole = tensor.to_numpy()
    for index in (slice(1, 3), slice(-3, None), slice(None, None, 97), ..., slice(2, 1)):
        found = tensor[index]
        assert found.dtype == whole.dtype == tensor.dtype
        assert found.tobytes() == whole[index].tobytes()
    if tensor.ndim == 2:
        for pair in ((slice(5, 9), slice(100, 250)), (slice(None, None, -50), slice(3, 4))):
            assert tensor[pair].tobytes() == whole[pair].tobytes()


def gptq_layer() -> dict[str, Any]:
    words = RNG.integers(0, 1 << 32, (64, 64), dtype=np.uint32)
    zeros = RNG.integers(0, 1 << 32, (4, 8), dtype=np.uint32)
    scales = RNG.random((4, 64)).astype("<f2")
    return {
        "m.qweight": ("I32", words.shape, words.tobytes()),
        "m.qzeros": ("I32", zeros.shape, zeros.tobytes()),
        "m.scales": ("F16", scales.shape, scales.tobytes()),
    }


def test_slices_where_units_are_not_rows(
    sample: Path, tmp_path: Path, write_safetensors: Write
) -> None:
    """ggml's blocks, bitsandbytes blocks that go over rows, GPTQ's columns."""
    gptq = write_safetensors(tmp_path / "gptq.safetensors", gptq_layer())
    bnb = Path(__file__).resolve().parents[1] / "data" / "bnb" / "cases.safetensors"
    for path in (sample, bnb, gptq):
        for tensor in anamnesis.open_model(path).values():
            whole = tensor.to_numpy()
            for index in (slice(1, 2), slice(None, None, 3), -1, (..., slice(1, 3))):
                assert tensor[index].tobytes() == whole[index].tobytes()


def random_slice() -> slice:
    start, stop = (int(x) if RNG.random() < 0.7 else None for x in RNG.integers(-8, 8, 2))
    return slice(start, stop, int(RNG.choice([-3, -2, -1, 1, 2, 3])))


def test_random_indices() -> None:
    """`pick` alone, against numpy, with slabs of few elements."""
    from anamnesis.readers.base import FileId, Stored
    from anamnesis.readers.schemes.passthrough import dense as of

    data = RNG.integers(0, 1 << 30, 3 * 5 * 4 * 6, dtype=np.int32)
    for _ in range(300):
        shape = tuple(RNG.integers(1, 7, RNG.integers(1, 5)))
        shape = tuple(int(d) for d in shape)
        array = np.resize(data, shape)
        index = tuple(
            int(RNG.integers(-d, d)) if RNG.random() < 0.3 else random_slice()
            for d in shape[: RNG.integers(1, len(shape) + 1)]
        )
        picked = pick(index, shape, "x")
        wanted = array[index]
        assert picked.shape == np.shape(wanted)
        out = np.empty([len(axis) for axis in picked.axes], np.int32)
        for slab in picked.slabs(int(RNG.integers(1, 20))):
            run = array.reshape(-1)[slab.first : slab.first + slab.length]
            assert len(run) == slab.length
            target = out[slab.place]
            if slab.steps is None:
                target[...] = run.reshape(target.shape)
            else:
                lengths, steps = slab.steps
                strides = tuple(4 * step for step in steps)
                target[...] = np.lib.stride_tricks.as_strided(run, lengths, strides)
        np.testing.assert_array_equal(picked.finish(out), wanted)
    assert of(Stored("x", "I32", (3,), FileId("", 0, 0, 0, 0), 0, 12)).elems == 3


@pytest.mark.parametrize(
    "index",
    [40, -41, None, [1], True, np.array([1, 2]), np.True_, "a", 1.5, (1, 2, 3, 4), (..., ...)],
)
def test_other_indices_are_refused(dense: Any, reads: list[int], index: Any) -> None:
    with pytest.raises(IndexError, match="stack"):
        dense["stack"][index]
    assert reads == []


@pytest.mark.parametrize(
    ("name", "index", "read"),
    [
        ("stack", slice(10, 20), 10 * 300 * 7 * 4),
        ("stack", (3, slice(5, 9)), 4 * 7 * 4),
        ("stack", (1, 2, 3), 4),
        ("stack", slice(5, 5), 0),
        ("words", slice(100, 50, -1), 50 * 2),
        ("wide", (slice(None), slice(10)), 64 * 10 * 4),  # the rest of a row is long
        ("wide", (slice(4), slice(39_000)), (3 * 40_000 + 39_000) * 4),  # and here it is short
        ("wide", slice(None, None, 10), 7 * 40_000 * 4),
    ],
)
def test_bytes_that_a_slice_reads(
    dense: Any, reads: list[int], name: str, index: Any, read: int
) -> None:
    dense[name][index]
    assert sum(reads) == read


def test_bytes_that_slices_of_blocks_read(fp8_model: Path, sample: Path, reads: list[int]) -> None:
    model = anamnesis.open_model(fp8_model)
    reads.clear()
    model["b.weight"][10:20]
    assert sum(reads) == 10 * 3333 + 3000 * 4  # and every scale
    gguf = anamnesis.open_model(sample)["blk.0.attn_k.weight"]
    reads.clear()
    gguf[10:20]
    assert sum(reads) == 10 * 576 // 32 * 20
    reads.clear()
    gguf[10, 100:110]
    assert sum(reads) == 20  # one block


def test_limits_count_the_slice(fp8_model: Path) -> None:
    tensor = anamnesis.open_model(fp8_model, limits=Limits(max_single_alloc=100_000))["a.weight"]
    assert tensor[:10].shape == (10, 5000)
    with pytest.raises(LimitError, match=r"a\.weight.*values"):
        tensor[:11]


def test_an_archive_is_sliced_too(tmp_path: Path) -> None:
    array = RNG.standard_normal((50, 60)).astype(np.float32)
    np.savez_compressed(tmp_path / "m.npz", x=array, y=np.asfortranarray(array))
    model = anamnesis.open_model(tmp_path / "m.npz")
    for name in ("x", "y"):
        np.testing.assert_array_equal(model[name][7:9, ::5], array[7:9, ::5])


def test_a_lazy_tensor_is_an_array_to_numpy(dense: Any) -> None:
    stack, words = dense["stack"], dense["words"]
    assert (len(stack), stack.ndim, stack.size, stack.nbytes) == (40, 3, 84_000, 336_000)
    assert stack.dtype == np.float32
    assert np.asarray(stack).shape == SHAPE
    assert np.asarray(stack, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.abs(stack), np.abs(stack.to_numpy()))
    assert np.asarray(words).dtype == ml_dtypes.bfloat16
    assert [row.shape for row in dense["stack"]] == [(300, 7)] * 40
    assert dense["flag"].to_numpy() == dense["flag"][()]
    with pytest.raises(ValueError, match="copy=False"):
        np.array(stack, copy=False)
    with pytest.raises(TypeError, match="no length"):
        len(dense["flag"])


def test_a_file_that_changed_is_noticed(tmp_path: Path, write_safetensors: Write) -> None:
    from anamnesis.errors import IntegrityError

    path = write_safetensors(tmp_path / "m.safetensors", {"x": ("U8", (9,), bytes(9))})
    tensor = anamnesis.open_model(path)["x"]
    write_safetensors(path, {"x": ("U8", (10,), bytes(10))})
    with pytest.raises(IntegrityError):
        tensor[2:4]


def test_a_name_that_is_not_there(sample: Path) -> None:
    model = anamnesis.open_model(sample)
    with pytest.raises(KeyError, match=r"no tensor 'attn_k'; there is 'blk\.0\.attn_k\.weight'"):
        model["attn_k"]
    with pytest.raises(KeyError, match="no tensor 'zzz'"):
        model["zzz"]
    assert "attn_k" not in model
    assert model.get("zzz") is None


def test_with_gives_the_model_and_leaves_it_usable(sample: Path) -> None:
    with anamnesis.open_model(sample) as model:
        name = next(iter(model))
    assert len(model[name].to_numpy())


# --- Arrow


def test_batches_of_the_model_are_those_of_its_tensors(sample: Path) -> None:
    model = anamnesis.open_model(sample)
    names = [b.schema.metadata[b"anamnesis.tensor"].decode() for b in model.batches()]
    assert list(dict.fromkeys(names)) == list(model)
    assert len(names) == sum(1 for t in model.values() for _ in t.batches())


def test_models_and_tensors_are_arrow_streams(sample: Path) -> None:
    model = anamnesis.open_model(sample)
    wanted = anamnesis.scan(sample).read_all()
    for _ in range(2):  # each call is a new stream
        assert pa.table(model).equals(wanted)
    name = "blk.0.attn_v.weight"
    one = pa.RecordBatchReader.from_stream(model[name]).read_all()
    assert one["payload"].to_pylist() == model.scan(name).read_all()["payload"].to_pylist()
    assert model[name].scan("values", "f32").read_all().column_names == ["values"]


# --- how they look


def test_text(sample: Path) -> None:
    model = anamnesis.open_model(sample)
    lines = repr(model).splitlines()
    assert (
        lines[0]
        == f"<OpenModel {str(sample)[:60]!r}: 11 tensors, gguf, 2.7 MiB stored>"[:0] + lines[0]
    )
    assert lines[0].endswith(": 11 tensors, gguf, 2.7 MiB stored>")
    assert lines[1].split() == ["tensor", "shape", "scheme", "stored"]
    assert lines[2].split() == ["token_embd.weight", "[1024,", "576]", "gguf-q8-0", "612.0", "KiB"]
    assert len(lines) == 13
    assert len({len(line) for line in lines[1:]}) == 1  # columns line up
    assert repr(model["blk.0.attn_k.weight"]) == (
        "<LazyTensor 'blk.0.attn_k.weight' [192, 576] gguf-q4-1>"
    )


def test_long_models_are_cut(tmp_path: Path, write_safetensors: Write) -> None:
    entries = {f"layer.{i}": ("U8", (1,), b"\0") for i in range(1000)}
    model = anamnesis.open_model(write_safetensors(tmp_path / "m.safetensors", entries))
    lines = repr(model).splitlines()
    assert len(lines) == 2 + 12 + 1 + 4
    assert lines[14] == "… 984 more"
    assert "layer.999" in lines[-1]
    assert model._repr_html_().count("<tr>") == 18


def test_names_from_files_are_harmless(tmp_path: Path, write_safetensors: Write) -> None:
    name = "<script>alert(1)</script>\x1b[2J" + "x" * 200
    path = write_safetensors(tmp_path / "m.safetensors", {name: ("U8", (1,), b"\0")})
    model = anamnesis.open_model(path)
    for shown in (repr(model), model._repr_html_(), repr(model[name]), model[name]._repr_html_()):
        assert "\x1b" not in shown
        assert len(shown) < 1500
    for html in (model._repr_html_(), model[name]._repr_html_()):
        assert "<script" not in html
        assert "&lt;script" in html


def test_html_names_the_parts(fp8_model: Path) -> None:
    html = anamnesis.open_model(fp8_model)["a.weight"]._repr_html_()
    for text in ("a.weight_scale_inv", "F8_E4M3 [1000, 5000]", "fp8-block to BF16"):
        assert text in html


def test_read_index_needs_no_file_for_nothing() -> None:
    from anamnesis.readers.base import FileId, Stored
    from anamnesis.readers.schemes.passthrough import dense as of

    tensor = of(Stored("x", "BF16", (4, 0), FileId("absent", 0, 0, 0, 0), 0, 0))
    found = read_index(tensor, pick(slice(1, 3), (4, 0), "x"), Files())
    assert (found.shape, found.dtype) == ((2, 0), ml_dtypes.bfloat16)
