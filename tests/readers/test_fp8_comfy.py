"""FP8 as ComfyUI marks it: by the scales of older files, by a tensor, by metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fp8_parts import E4M3, F32, FILE, free, resolved, stored

from anamnesis.errors import FormatError
from anamnesis.readers.base import Container, FileId, Stored
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.fp8 import resolve


def test_old_comfy_files() -> None:
    book = resolved(
        ("scaled_fp8", E4M3, (2,)),
        ("model.diffusion_model.scaled_fp8", "F8_E5M2", (0,)),
        ("a.weight", E4M3, (6, 8)),
        ("a.scale_weight", F32, (1,)),
        ("a.scale_input", F32, (1,)),
        ("a.norm.scale", "BF16", (8,)),
    )
    assert [d.stored.name for d in book.dropped] == [
        "scaled_fp8", "model.diffusion_model.scaled_fp8", "a.scale_input",
    ]  # fmt: skip
    assert free(book) == ["a.norm.scale"]
    assert book.tensors["a.weight"].scheme == "fp8-tensor"


def comfy(tmp_path: Path, text: bytes, dtype: str = E4M3) -> Ledger:
    path = tmp_path / "model.safetensors"
    path.write_bytes(text)
    file = FileId(str(path), len(text), 0, 0, 0)
    entries = {
        "a.weight": stored("a.weight", dtype, (6, 8)),
        "a.weight_scale": stored("a.weight_scale", F32, ()),
        "a.comfy_quant": Stored("a.comfy_quant", "U8", (len(text),), file, 0, len(text)),
    }
    return Ledger(Container("safetensors", (FILE,), entries))


def test_new_comfy_files(tmp_path: Path) -> None:
    book = comfy(tmp_path, b'{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}')
    resolve(book)
    assert book.tensors["a.weight"].scheme == "fp8-tensor"
    assert [d.stored.name for d in book.dropped] == ["a.comfy_quant"]
    book = comfy(tmp_path, b'{"format":"float8_e5m2"}', "F8_E5M2")
    resolve(book)
    assert free(book) == []


@pytest.mark.parametrize(
    "text",
    [
        b'{"format": "mxfp8"}',
        b'{"format": "float8_e5m2"}',
        b'{"format": "float8_e4m3fn", "convrot": true}',
        b'{"format": "convrot_fp8"}',
        b"",
        bytes(29),
    ],
)
def test_other_comfy_formats_are_left(tmp_path: Path, text: bytes) -> None:
    book = comfy(tmp_path, text)
    resolve(book)
    assert free(book) == ["a.weight", "a.weight_scale", "a.comfy_quant"]


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"format": 3}', b'{"format": "a"}' + b" " * 70000])
def test_comfy_marks_that_are_broken(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(FormatError, match=r"a\.comfy_quant"):
        resolve(comfy(tmp_path, text))


def test_comfy_metadata() -> None:
    tensors = [
        ("a.weight", E4M3, (6, 8)),
        ("a.weight_scale", F32, ()),
        ("b.weight", E4M3, (6, 8)),
        ("b.weight_scale", "U8", (128, 4)),
    ]
    layers = {"a": {"format": "float8_e4m3fn"}, "b": {"format": "mxfp8"}}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    book = resolved(*tensors, metadata={"_quantization_metadata": text})
    assert free(book) == ["b.weight", "b.weight_scale"]
    for bad in ("[", "[]", '{"layers": 1}', '{"layers": {"a": "x"}}'):
        with pytest.raises(FormatError, match=r"_quantization_metadata|'a'"):
            resolved(*tensors, metadata={"_quantization_metadata": bad})
