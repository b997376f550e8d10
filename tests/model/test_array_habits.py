"""A tensor is asked as numpy's, torch's and h5py's are: it answers, or says what to write."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import anamnesis
from anamnesis.errors import ArgumentError, UnsupportedError, UsageError
from anamnesis.model import habits

NAME = "blk.0.attn_k.weight"


@pytest.fixture
def tensor(sample: Path) -> Any:
    return anamnesis.open_model(sample)[NAME]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("f32", "float32"),
        ("float32", "float32"),
        ("f4", "float32"),
        (np.float32, "float32"),
        ("f16", "float16"),  # which numpy has for 128 bits
        (np.dtype("f2"), "float16"),
        ("bf16", "bfloat16"),
        ("bfloat16", "bfloat16"),
        (ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_astype_reads_nothing_and_decodes_to_it(dtype: Any, name: str, tensor: Any) -> None:
    other = tensor.astype(dtype)
    assert (other.dtype.name, other.nbytes) == (name, other.dtype.itemsize * tensor.size)
    assert other.to_numpy().dtype == other[3:5, ::7].dtype == other.dtype
    assert (" as F32>" in repr(other)) == (name == "float32")
    assert repr(tensor).endswith(" gguf-q4-1>")


def test_float32_is_not_rounded_before(tensor: Any) -> None:
    """The values of `scan(decode="f32")`, of which those in BF16 are the rounded ones."""
    (batch,) = tensor.scan(decode="f32")
    exact = tensor.astype("f32").to_numpy()
    assert exact.tobytes() == batch["values"].values.to_numpy().tobytes()
    assert exact.astype(ml_dtypes.bfloat16).tobytes() == tensor.to_numpy().tobytes()
    assert (exact != tensor.to_numpy().astype(np.float32)).mean() > 0.5
    assert (tensor.astype(np.float32)[5:9, 1::3] == exact[5:9, 1::3]).all()


def test_a_dense_tensor_is_cast(sample: Path) -> None:
    norm = anamnesis.open_model(sample)["output_norm.weight"]
    assert repr(norm.astype("bf16")).endswith(" passthrough as BF16>")
    assert (norm.astype("bf16").to_numpy() == norm[:].astype(ml_dtypes.bfloat16)).all()
    assert norm.astype("f32").to_numpy().tobytes() == norm.to_numpy().tobytes()


@pytest.mark.parametrize("dtype", ["int8", "f8", float, None, 3, "torch.float"])
def test_other_dtypes_are_refused(dtype: Any, tensor: Any) -> None:
    with pytest.raises(ArgumentError, match=r"astype: dtype: found .*; allowed: bf16 \| f16"):
        tensor.astype(dtype)


def test_whole_numbers_stay_what_they_are(
    tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"n": ("I32", (2,), bytes(8))})
    with pytest.raises(UnsupportedError, match="n: I32 to F32"):
        anamnesis.open_model(path)["n"].astype("f32")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("T", "write to_numpy().T, which reads all of it"),
        ("mean", "write to_numpy().mean, which"),
        ("numpy", "write to_numpy()"),
        ("float", "write to_torch().float"),
        ("values", "write to_numpy()"),
        ("shap", "did you mean 'shape'?"),
        ("xyzzy", "no attribute 'xyzzy'"),
        ("__array_interface__", "no attribute '__array_interface__'"),
    ],
)
def test_an_attribute_of_an_array_says_what_to_write(name: str, said: str, tensor: Any) -> None:
    with pytest.raises(AttributeError) as told:
        getattr(tensor, name)
    assert str(told.value).startswith(f"'LazyTensor' has no attribute '{name}'")
    assert said in str(told.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("get_tensor", "write model[name].to_numpy()"),
        ("state_dict", "write {name: tensor.to_torch() for"),
        ("metadata", "write anamnesis.inspect(path).metadata"),
        ("itmes", "did you mean 'items'?"),
        ("_ipython_display_", "no attribute"),
    ],
)
def test_an_attribute_of_a_model_says_what_to_write(name: str, said: str, sample: Path) -> None:
    with pytest.raises(AttributeError) as told:
        getattr(anamnesis.open_model(sample), name)
    assert said in str(told.value)


def test_what_is_to_be_written_works(sample: Path) -> None:
    model = anamnesis.open_model(sample)
    found = {"model": model, "anamnesis": anamnesis, "path": sample, "name": NAME}
    for text in habits._MODEL.values():
        if "to_torch" not in text:
            assert eval(text, found) is not None  # noqa: S307
    for text in habits._TENSOR.values():
        if "pandas" not in text:
            assert eval(f"model[name].{text}", found) is not None  # noqa: S307
    with pytest.raises(AttributeError):
        assert not [getattr(model[NAME], name) for name in (*habits._TENSOR, *habits._TORCH)]


def test_tensors_are_equal_where_they_are_the_same_stored_one(sample: Path) -> None:
    """And a comparison with an array is one of values, as numpy makes it."""
    model, again = anamnesis.open_model(sample), anamnesis.open_model(sample)
    one = model[NAME]
    assert one == again[NAME]
    assert len({one, again[NAME], model["output_norm.weight"]}) == 2
    assert one != one.astype("f32")
    assert one != model["blk.0.attn_v.weight"]
    assert (one == one.to_numpy()).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("df", "write to_pandas()"),
        ("to_polars", "write polars.DataFrame(x)"),
        ("absmax", 'write to_arrow()["absmax"]'),
        ("xyzzy", "has no attribute 'xyzzy'"),
        ("_ipython_display_", "has no attribute '_ipython_display_'"),
    ],
)
def test_an_attribute_of_a_table_says_what_to_write(name: str, said: str, sample: Path) -> None:
    found = anamnesis.stats(sample, "output_norm*")
    with pytest.raises(AttributeError) as told:
        getattr(found, name)
    assert str(told.value).endswith(said)
    assert pickle.loads(pickle.dumps(found)).rows == found.rows


def test_a_column_and_a_keyword_by_another_name(sample: Path) -> None:
    with pytest.raises(UsageError, match=r"allowed is each of .*; did you mean 'tensor'\?"):
        anamnesis.scan(sample, columns=["name"])
    with pytest.raises(ArgumentError, match=r"'include'; did you mean 'tensors'\?"):
        anamnesis.scan(sample, include="a")
    with pytest.raises(ArgumentError, match=r"'tensors'; did you mean 'include'\?"):
        anamnesis.diff(sample, sample, tensors="a")


def test_models_and_tensors_are_copied_and_pickled(tensor: Any, sample: Path) -> None:
    """As a worker gets them; also those of another dtype."""
    for one in (tensor, tensor.astype("f32")):
        for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
            assert again.to_numpy().tobytes() == one.to_numpy().tobytes()
    model = pickle.loads(pickle.dumps(anamnesis.open_model(sample)))
    assert list(model) == list(anamnesis.open_model(sample))


def test_polars_makes_a_frame_by_its_class(sample: Path) -> None:
    pl = pytest.importorskip("polars")
    found = anamnesis.stats(sample, "output_norm*")
    assert pl.DataFrame(found)["tensor"].to_list() == ["output_norm.weight"]
    assert pl.from_arrow(found.to_arrow()).shape == pl.DataFrame(found).shape
    assert pl.from_arrow(found).dtype == pl.Struct
