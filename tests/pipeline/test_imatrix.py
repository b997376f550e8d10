"""`--imatrix`: ggml's bytes with weights, what is said without them, and the records of a run."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import libggml
import numpy as np
import pytest
from gguf_files import finish
from imatrix_file import write_imatrix
from llama_folder import llama_folder

import anamnesis
from anamnesis.errors import UsageError
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.jobs import plan_job
from anamnesis.pipeline.journal import Recipe, manifest_path

LIBRARY = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))
EXPERTS = 3


def by_ggml(kind: int, values: np.ndarray, weights: np.ndarray | None) -> bytes:
    call = LIBRARY.ggml_quantize_chunk
    call.restype, size, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    LIBRARY.ggml_quantize_init(kind)
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros(values.nbytes, np.uint8)
    matrix = None if weights is None else np.ascontiguousarray(weights, np.float32)
    where = None if matrix is None else matrix.ctypes.data
    wrote = call(kind, values.ctypes.data, out.ctypes.data, 0, *values.shape, where)
    return out[:wrote].tobytes()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A GGUF of a matrix, a stack of matrices, an embedding and a norm."""
    path = tmp_path / "in.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    rng = np.random.default_rng(5)
    shapes = {
        "token_embd.weight": (16, 256),
        "blk.0.attn_q.weight": (24, 512),
        "blk.0.ffn_up_exps.weight": (EXPERTS, 7, 256),
        "blk.0.attn_norm.weight": (256,),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    finish(writer)
    return path


@pytest.fixture
def sums() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    return {
        "blk.0.attn_q.weight": (rng.standard_normal(512) ** 2).astype(np.float32),
        "blk.0.ffn_up_exps.weight": (rng.standard_normal((EXPERTS, 256)) ** 2).astype(np.float32),
    }


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def text(path: Path, key: str) -> Any:
    field = gguf.GGUFReader(path).fields[key]
    return field.contents()


@pytest.mark.parametrize("suffix", [".dat", ".gguf"])
@pytest.mark.parametrize("encode", ["q4-k", "q6-k"])
def test_blocks_are_ggmls(
    model: Path, sums: dict[str, np.ndarray], tmp_path: Path, encode: str, suffix: str
) -> None:
    file = write_imatrix(tmp_path / f"i{suffix}", sums)
    out = tmp_path / "out.gguf"
    outcome = anamnesis.convert(model, out, to="gguf", encode=encode, imatrix=file)
    before, after = tensors(model), tensors(out)
    kind = int(after["blk.0.attn_q.weight"].tensor_type)
    for name in ("blk.0.attn_q.weight", "token_embd.weight"):
        weights = sums[name] / np.float32(4) if name in sums else None
        assert after[name].data.tobytes() == by_ggml(kind, before[name].data, weights), name
    name = "blk.0.ffn_up_exps.weight"
    rows = sums[name] / np.float32(4)
    each = [by_ggml(kind, v, w) for v, w in zip(before[name].data, rows, strict=True)]
    assert after[name].data.tobytes() == b"".join(each)
    assert any(
        "1 tensor(s), token_embd.weight first, are encoded without" in n for n in outcome.notes
    )
    assert text(out, "quantize.imatrix.file") == str(file)
    assert text(out, "quantize.imatrix.dataset") == "w.txt"
    assert text(out, "quantize.imatrix.entries_count") == 2
    assert text(out, "quantize.imatrix.chunks_count") == 11
    anamnesis.verify(out, against=model, imatrix=file)


def test_a_folder_is_weighed_by_the_names_of_a_gguf(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "model", "fp8")
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    anamnesis.convert(folder, plain, to="gguf", dtype="f32")
    weights = np.linspace(0.1, 3, 128, dtype=np.float32)
    # Rows of queries are in another order in a GGUF; the columns that are weighed are not.
    names = ("blk.0.ffn_up.weight", "blk.1.attn_q.weight")
    file = write_imatrix(tmp_path / "i.dat", dict.fromkeys(names, weights), calls=1)
    anamnesis.convert(
        folder, out, to="gguf", encode="q4-0", imatrix=file, dtype="f32", allow_requantize=True
    )
    for name in names:
        values, found = tensors(plain)[name].data, tensors(out)[name]
        assert found.data.tobytes() == by_ggml(2, values, weights)
        assert found.data.tobytes() != by_ggml(2, values, None)
    anamnesis.verify(out, against=folder, imatrix=file)


def test_small_types_need_weights(model: Path, sums: dict[str, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    for encode, name in (
        ("IQ3_XXS", "attn_q.weight' and 1 more: gguf-iq2-s"),
        ("gguf-iq3-xxs", "attn_q.weight' and 1 more: gguf-iq3-xxs"),
        ("gguf-iq2-xxs", "token_embd.weight' and 2 more: gguf-iq2-xxs"),
        ("Q2_K_S", "attn_q.weight' and 1 more: gguf-q2-k"),
    ):
        said = f"{name} requires an importance matrix.*give one, --imatrix"
        with pytest.raises(UsageError, match=said):
            anamnesis.convert(model, out, to="gguf", encode=encode)
    anamnesis.convert(model, out, to="gguf", encode="q2-k")
    part = write_imatrix(tmp_path / "part.dat", {"blk.0.attn_q.weight": np.ones(512)})
    said = "ffn_up_exps.weight': gguf-iq2-xxs requires .*part.dat has none for it"
    with pytest.raises(UsageError, match=said):
        anamnesis.convert(model, out, to="gguf", encode="IQ2_XXS", imatrix=part, overwrite=True)
    file = write_imatrix(tmp_path / "i.gguf", sums)
    anamnesis.convert(model, out, to="gguf", encode="IQ2_XXS", imatrix=file, overwrite=True)
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors(out).items()}
    assert kinds["token_embd.weight"] == "Q5_K"  # which is the output, too
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.ffn_up_exps.weight"] == "IQ2_XXS"
    assert text(out, "general.file_type") == 19


def test_an_entry_of_another_size_is_refused_but_for_embeddings(
    model: Path, tmp_path: Path
) -> None:
    wrong = write_imatrix(tmp_path / "i.dat", {"blk.0.attn_q.weight": np.ones(256)})
    with pytest.raises(UsageError, match="has 256 numbers, and a tensor of shape"):
        anamnesis.convert(model, tmp_path / "o.gguf", to="gguf", encode="q4-k", imatrix=wrong)
    other = write_imatrix(tmp_path / "e.dat", {"token_embd.weight": np.ones(16)})
    outcome = anamnesis.convert(model, tmp_path / "o.gguf", to="gguf", encode="q4-k", imatrix=other)
    assert any("3 tensor(s)" in note for note in outcome.notes)


def test_the_digest_is_in_every_record(
    model: Path, sums: dict[str, np.ndarray], tmp_path: Path
) -> None:
    file = write_imatrix(tmp_path / "i.dat", sums)
    out = tmp_path / "out.gguf"

    def recipe() -> str:
        output = {"path": str(out), "encode": "q4-k", "imatrix": str(file)}
        ((_, plan),) = plan_job(job_from(inputs=[str(model)], output=output))
        assert not isinstance(plan, BaseException)
        return Recipe.of(plan).settings

    first = recipe()
    anamnesis.convert(model, out, to="gguf", encode="q4-k", imatrix=file)
    rows = json.loads(manifest_path(out).read_text())["encoded"]
    digests = {row[0]: row[6] for row in rows}
    assert digests.pop("token_embd.weight") == ""
    assert len(set(digests.values())) == 1
    assert len(next(iter(digests.values()))) == 32
    with pytest.raises(UsageError, match="was encoded with an importance matrix"):
        anamnesis.verify(out, against=model)
    sums["blk.0.attn_q.weight"][0] += 1
    write_imatrix(file, sums)
    assert recipe() != first
    with pytest.raises(UsageError, match="is not the importance matrix that"):
        anamnesis.verify(out, against=model, imatrix=file)
    with pytest.raises(UsageError, match="overwrite"):
        anamnesis.convert(model, out, to="gguf", encode="q4-k", imatrix=file)


def test_dry_runs_and_threads(
    model: Path, sums: dict[str, np.ndarray], tmp_path: Path, amn: Callable[..., Any]
) -> None:
    file = write_imatrix(tmp_path / "i.dat", sums)
    flags = ("convert", model, "--to", "gguf", "--encode", "q4-k", "--imatrix", file)
    done = amn(*flags, "-o", tmp_path / "a.gguf", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "blk.0.attn_q.weight: gguf-q4-k, with weights" in done.stdout
    assert amn(*flags, "-o", tmp_path / "a.gguf", "--threads", "2").returncode == 0
    anamnesis.convert(
        model, tmp_path / "b.gguf", to="gguf", encode="q4-k", imatrix=file, executor="serial"
    )
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
