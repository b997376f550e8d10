"""`verify --against` of what was encoded, and the record by which it is encoded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from imatrix_file import write_imatrix
from llama_folder import METHODS, llama_folder
from safetensors.numpy import load_file, save_file

import anamnesis
from anamnesis.errors import FormatError, IntegrityError, UnsupportedError, UsageError
from anamnesis.kernels.encoders import ENCODERS
from anamnesis.pipeline import journal as journals
from anamnesis.pipeline.against import decode_again
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job
from anamnesis.pipeline.plan import Plan

Document = dict[str, Any]
NAMES = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(2)]
TARGETS = (*ENCODERS, "bnb-nf4:nested=true", "nvfp4:style=modelopt", "gguf-Q4_K_M")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two matrices and a norm in BF16, in one file."""
    rng = np.random.default_rng(3)
    tensors = {name: rng.standard_normal((256, 512)).astype(ml_dtypes.bfloat16) for name in NAMES}
    tensors["model.norm.weight"] = np.ones(512, ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "in.safetensors")
    return tmp_path / "in.safetensors"


def encoded(source: Path, out: Path, encode: str, **settings: Any) -> Path:
    ggml = encode.startswith("gguf-")
    if ggml:
        out, encode = out.with_suffix(".gguf"), encode.removeprefix("gguf-")
        settings = {"names": "stored", **settings}
    anamnesis.convert(source, out, to="gguf" if ggml else "safetensors", encode=encode, **settings)
    return out


def weights_of(path: Path) -> Path:
    """An importance matrix of both matrices."""
    drawn = ((name, np.random.default_rng(k)) for k, name in enumerate(NAMES))
    return write_imatrix(
        path, {name: rng.standard_normal(512) ** 2 for name, rng in drawn}, calls=3
    )


def manifest_of(out: Path) -> Document:
    document: Document = json.loads(journals.manifest_path(out).read_text())
    document.pop("xxh3")
    return document


def write(out: Path, document: Document) -> None:
    """With the checksum that belongs to it."""
    document = {**document, "xxh3": journals._digest(document)}
    journals.manifest_path(out).write_text(json.dumps(document))


@pytest.mark.parametrize("encode", TARGETS)
def test_every_target_is_made_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encode: str
) -> None:
    monkeypatch.setattr("anamnesis.pipeline.plan.LEAST_TASK_BYTES", 60_000)
    monkeypatch.setattr("anamnesis.pipeline.plan.WINDOW_BYTES", 40_000)
    weighed = encode in ENCODERS and ENCODERS[encode].weights
    imatrix = weights_of(tmp_path / "imatrix.dat") if weighed else None
    out = encoded(source, tmp_path / "out", encode, imatrix=imatrix)
    counts = anamnesis.verify(out, against=source, imatrix=imatrix)
    assert counts["pieces_decoded"] == counts["pieces"]
    # Matrices that are stored transposed are read as a whole.
    assert counts["pieces"] > counts["tensors"] - (encode in ("awq", "gptq"))
    some = anamnesis.verify(out, against=source, sample=0.4, imatrix=imatrix)["pieces_decoded"]
    assert 0 < some < counts["pieces"]


@pytest.mark.parametrize("encode", ["nvfp4", "gptq", "gguf-q4-k"])
def test_another_input_is_found_out(source: Path, tmp_path: Path, encode: str) -> None:
    out = encoded(source, tmp_path / "out", encode)
    tensors = load_file(source)
    tensors[NAMES[1]][200, 300] = 9
    save_file(tensors, source)
    with pytest.raises(IntegrityError, match=r"layers\.1\.mlp\.up_proj\.\w+': .* differ from"):
        anamnesis.verify(out, against=source)
    save_file(tensors | {NAMES[0]: tensors[NAMES[0]][:128]}, source)
    with pytest.raises(UsageError, match=r"layers\.0.* which .*out.* does not have"):
        anamnesis.verify(out, against=source)
    tensors.pop(NAMES[0])
    save_file(tensors, source)
    with pytest.raises(UsageError, match=r"no tensor .*layers\.0"):
        anamnesis.verify(out, against=source)


@pytest.mark.parametrize(
    ("first", "second", "settings"),
    [
        ("nvfp4:style=modelopt", "nvfp4", {}),
        ("gguf-q4-0", "mlx-affine:group=32", {}),
        ("gguf-q5-1", "gguf-q5-1", {}),
        ("fp8-channel", "mxfp4", {"dtype": "f32"}),
        ("mxfp4", "fp8-block", {"allow_requantize": True, "dtype": "f16"}),
    ],
)
def test_what_was_quantised_before(
    source: Path, tmp_path: Path, first: str, second: str, settings: Document
) -> None:
    once = encoded(source, tmp_path / "once", first)
    twice = encoded(once, tmp_path / "twice", second, **settings)
    counts = anamnesis.verify(twice, against=once)
    assert counts["pieces_decoded"] == counts["pieces"]


@pytest.mark.parametrize("encode", [None, "Q8_0"])
def test_a_folder_that_became_a_gguf(tmp_path: Path, encode: str | None) -> None:
    folder = llama_folder(tmp_path / "llama", METHODS[0])
    out = tmp_path / "out.gguf"
    anamnesis.convert(folder, out, to="gguf", encode=encode, allow_requantize=True)
    counts = anamnesis.verify(out, against=folder)
    assert counts["pieces_decoded"] == counts["pieces"] > 20


def test_a_manifest_of_version_0_2_is_read(source: Path, tmp_path: Path) -> None:
    out = encoded(source, tmp_path / "out", "nvfp4")
    document = manifest_of(out)
    del document["encoded"]
    write(out, document)
    assert anamnesis.verify(out)["files"] == 1
    with pytest.raises(UnsupportedError, match="nvfp4, by a version that did not record how"):
        anamnesis.verify(out, against=source)


ODD: dict[str, tuple[Callable[[Document], Any], str]] = {
    "twice": (lambda d: d["encoded"].append(d["encoded"][0]), "is there twice"),
    "target": (lambda d: d["encoded"][0].__setitem__(1, "x"), "target: found 'x'; allowed: awq"),
    "dtype": (lambda d: d["encoded"][0].__setitem__(2, "I8"), "dtype: found 'I8'; allowed: BF16"),
    "less": (lambda d: d["encoded"][0][3].pop("group"), "settings: found bits, sym; ct-pack"),
    "more": (lambda d: d["encoded"][0][3].update(x=1), "settings: found bits, group, sym, x"),
    "value": (lambda d: d["encoded"][0][3].update(bits=9), "bits: found 9"),
    "type": (lambda d: d["encoded"][0][3].update(sym=1), "sym: found 1"),
    "negative": (lambda d: d["encoded"][0][3].update(group=-1), "group: found -1"),
    "moved": (lambda d: d["encoded"][0].__setitem__(4, 1), "Expected `bool`"),
}
CUT: dict[str, tuple[Callable[[Document], Any], str]] = {
    "within a word": (lambda d: _cut(d, "up_proj.weight_packed", 3), "are no piece of a run"),
    "another cut": (lambda d: _cut(d, "up_proj.weight_scale", 400), "are no piece of a run"),
    "nothing of it": (lambda d: d.update(encoded=d["encoded"][1:]), "has no tensor"),
}


def _cut(document: Document, end: str, at: int) -> None:
    """Two pieces of the first tensor that ends so, in place of its one."""
    name, start, stop, digest = next(p for p in document["pieces"] if p[0].endswith(end))
    document["pieces"].remove([name, start, stop, digest])
    document["pieces"] += [[name, start, at, digest], [name, at, stop, digest]]


@pytest.mark.parametrize("row", [*ODD, *CUT])
def test_a_record_with_a_right_checksum_is_not_believed(
    source: Path, tmp_path: Path, row: str
) -> None:
    out = encoded(source, tmp_path / "out", "ct-pack-quantized")
    document = manifest_of(out)
    change, said = (ODD | CUT)[row]
    change(document)
    write(out, document)
    if row in ODD:
        with pytest.raises(FormatError, match=said):
            anamnesis.verify(out)
    with pytest.raises((FormatError, UsageError), match=said):
        decode_again(out, str(source), 1.0, memory_bytes=1 << 29)


def recipe(source: Path, encode: Any, **output: Any) -> str:
    job = job_from(inputs=[str(source)], output={"path": "out", "encode": encode, **output})
    ((_, plan),) = plan_job(job)
    assert isinstance(plan, Plan)
    return journals.Recipe.of(plan).settings


def test_another_job_is_another_recipe(source: Path, tmp_path: Path) -> None:
    """In all that changes bytes, though the stored tensors have the same names and sizes."""
    assert recipe(source, "nvfp4") == recipe(source, "nvfp4:style=compressed-tensors")
    rules = [{"tensors": "*.0.*", "as": "mxfp4"}, {"tensors": "*.1.*", "as": "mxfp4"}]
    joined = [{"tensors": "*.0.* as mxfp4; *.1.*", "as": "mxfp4"}]
    found = [
        recipe(source, "nvfp4"),
        recipe(source, "nvfp4", dtype="f32"),
        recipe(source, "nvfp4", dtype="f16"),
        recipe(source, "bnb-nf4"),
        recipe(source, "bnb-fp4"),
        recipe(source, rules),
        recipe(source, joined),
    ]
    assert len(set(found)) == len(found)
    small = save_small(tmp_path / "small.safetensors")
    once = encoded(small, tmp_path / "once", "fp8-block:block=64")
    assert recipe(once, "fp8-block") == recipe(once, "fp8-block:block=64")
    assert recipe(once, "fp8-block") != recipe(once, "fp8-block:block=128", allow_requantize=True)


def save_small(path: Path) -> Path:
    save_file({NAMES[0]: np.ones((128, 128), np.float32)}, path)
    return path


def test_values_of_another_dtype_are_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    out = encoded(source, tmp_path / "out", "nvfp4")
    with pytest.raises(UsageError, match="overwrite"):
        encoded(source, tmp_path / "out", "nvfp4", passthrough="f32")
    assert anamnesis.convert(source, out, to="safetensors", encode="nvfp4").resumed == 1
