"""Files that are something else than their name says, known by their first bytes, or by the name.

A download that failed leaves a Git-LFS pointer or an error page under the model's name; a
checkpoint of another tool may sit in the same folder. The error should say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from anamnesis.errors import AnamnesisError, FormatError, UnsupportedError
from anamnesis.readers.text_links import path_in

HEAD_BYTES = 512  # enough for every row
_LINK = re.compile(r"(?!.*://)[^\s{}\[\]<>]*/[^\s{}\[\]<>]*")  # and no sentence, JSON, or URL


class Impostor(NamedTuple):
    """A row: the bytes that the other container has at `magic_at`."""

    magic: bytes
    what: str
    magic_at: int = 0


_FIRST = ", which has to be unpacked first"
_FROM_TF = "transformers 4 reads it (from_tf=True) and saves safetensors"
_KERAS = f"a Keras checkpoint (HDF5); {_FROM_TF}"
_TENSORFLOW = f"of TensorFlow; {_FROM_TF}"
_PADDLE = "of PaddlePaddle; paddlenlp saves safetensors of its models"
_TFLITE = "a LiteRT (TensorFlow Lite) program"
_OPENVINO = "weights without names, which an OpenVINO graph (.xml) describes"
_CORE_ML = "a Core ML model, a program for Apple's devices"
_EXECUTORCH = "a program of ExecuTorch, or its data"
_TENSORRT = "a TensorRT engine, compiled for one kind of GPU"
_CTRANSLATE2 = (
    "a model of CTranslate2 (faster-whisper is one); name the model that it was made from"
)
_MLC = "a part of a model that MLC-LLM packed for its kernels; name the one that it was made from"
_BEFORE_GGUF = "the format before GGUF; llama.cpp's convert_llama_ggml_to_gguf.py converts most"
IMPOSTORS: tuple[Impostor, ...] = (
    Impostor(b"PK\x03\x04", "a ZIP archive (PyTorch checkpoint, NumPy .npz, …)"),
    Impostor(b"PK\x05\x06", "an empty ZIP archive"),
    Impostor(b"\x93NUMPY", "a NumPy .npy array"),
    Impostor(b"\x89HDF\r\n\x1a\n", _KERAS),
    Impostor(b"\x1f\x8b", f"gzip-compressed data{_FIRST}"),
    Impostor(b"\x28\xb5\x2f\xfd", f"Zstandard-compressed data{_FIRST}"),
    Impostor(b"\xfd7zXZ\0", f"xz-compressed data{_FIRST}"),
    Impostor(b"BZh", f"bzip2-compressed data{_FIRST}"),
    Impostor(b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive{_FIRST}"),
    Impostor(b"Rar!\x1a\x07", f"a RAR archive{_FIRST}"),
    Impostor(b"FEA1", "a Feather file of version 1"),
    Impostor(b"PAR1", "a Parquet file, for other engines (--to arrow writes what is read)"),
    Impostor(b"lmgg", f"a GGML file, {_BEFORE_GGUF}"),
    Impostor(b"fmgg", f"a GGMF file, {_BEFORE_GGUF}"),
    Impostor(b"tjgg", f"a GGJT file, {_BEFORE_GGUF}"),
    Impostor(b"algg", "a GGLA file, an adapter in the format before GGUF"),
    Impostor(b"TFL3", _TFLITE, 4),
    Impostor(b"ET12", _EXECUTORCH, 4),
    Impostor(b"FT01", _EXECUTORCH, 4),
    Impostor(
        b"ORTM", "a model in ONNX Runtime's own format; name the .onnx that it was made from", 4
    ),
    Impostor(b"LITERTLM", _TFLITE),
    Impostor(b"ftrt", _TENSORRT),
    *(  # after a version (four bytes) and a length (two)
        Impostor(kind + b"Spec\0", _CTRANSLATE2, 6)
        for kind in (
            b"Transformer",
            b"TransformerDecoder",
            b"TransformerEncoder",
            b"Whisper",
            b"Wav2Vec2",
            b"Wav2Vec2Bert",
            b"Moonshine",
        )
    ),
    *(
        Impostor(bytes((0x80, n)), "a Python pickle that torch.save did not write")
        for n in (2, 3, 4, 5)
    ),
    Impostor(b"ustar", f"a tar file (PyTorch's format before 0.2 is one){_FIRST}", 257),
)

_ORBAX = (
    "a part of an Orbax checkpoint (JAX), whose arrays are spread over a key-value store; "
    "orbax.checkpoint restores it"
)
# Patterns of names, in small letters: files without a signature, or with one that says less, and
# what lies in folders.
_NAMED: dict[str, str] = {
    "*.h5": _KERAS,
    "*.msgpack": "a Flax checkpoint (msgpack), whose names and layouts are Flax's; transformers 4 "
    "reads it (from_flax=True) and saves safetensors",
    "*_checkpoint_metadata": _ORBAX,
    "*_metadata": _ORBAX,
    "*manifest.ocdbt": _ORBAX,
    "*.nemo": "a tar file of NeMo; unpack it and name the checkpoint in it (model_weights.ckpt)",
    "*.mlmodel": _CORE_ML,
    "*.mlpackage": _CORE_ML,
    "*.mlmodelc": _CORE_ML,
    "model.mil": _CORE_ML,
    "*openvino*.bin": _OPENVINO,
    "*openvino*.xml": "a graph of OpenVINO, whose weights lie beside it without names",
    "*.pte": _EXECUTORCH,
    "*.ptd": _EXECUTORCH,
    "*.tflite": _TFLITE,
    "*.litertlm": _TFLITE,
    "*.engine": _TENSORRT,
    "*.plan": _TENSORRT,
    "*.trt": _TENSORRT,
    "*.pb": f"a graph {_TENSORFLOW}",
    "*.ckpt.index": f"a checkpoint {_TENSORFLOW}",
    "*.ckpt.meta": f"a checkpoint {_TENSORFLOW}",
    "*.data-?????-of-?????": f"a checkpoint {_TENSORFLOW}",
    "*.pdparams": f"a checkpoint {_PADDLE}",
    "*.pdiparams": f"a checkpoint {_PADDLE}",
    "ndarray-cache.json": _MLC,
    "tensor-cache.json": _MLC,
    "params_shard_*.bin": _MLC,
    "*.onnx_data": "the data of an ONNX model; name the .onnx that it belongs to",
    "*.onnx.data": "the data of an ONNX model; name the .onnx that it belongs to",
}

_TEXTS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git-LFS pointer, not the file that it points to (run `git lfs pull`)",
    ),
    (b"<!doctype html", "an HTML page, not a model: the download gave an error or a login page"),
    (b"<html", "an HTML page, not a model: the download gave an error or a login page"),
    (b"<?xml", "an XML document, not a model: the download gave an error"),
    (b'{"error"', "a JSON error message, not a model: the download failed"),
    (b"Entry not found", "a server's error message, not a model: the download failed"),
)


def recognise(path: str, head: bytes, readable: str) -> AnamnesisError | None:
    """The error for a file whose first bytes are known to be something else, or None.

    FormatError for what is no container at all, UnsupportedError for those of another kind;
    `readable` lists what is understood instead.
    """
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<net " in text:
        return UnsupportedError(f"{path}: is a graph of OpenVINO; readable are {readable}")
    for start, what in _TEXTS:
        if text.startswith(start.lower()):
            return FormatError(f"{path}: is {what}")
    link = path_in(head) if len(head) < HEAD_BYTES else None
    if link is not None and _LINK.fullmatch(link):
        return FormatError(
            f"{path}: holds the path {link!r} alone: a link stored as text, whose file is not here"
        )
    what = by_name(path) or next(
        (row.what for row in IMPOSTORS if head.startswith(row.magic, row.magic_at)), ""
    )
    return UnsupportedError(f"{path}: is {what}; readable are {readable}") if what else None


def by_name(path: str) -> str:
    """What the name of a file, or of a folder, says; empty for most."""
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1].lower()
    return next((what for pattern, what in _NAMED.items() if fnmatchcase(name, pattern)), "")


def foreign(path: str, names: Iterable[str]) -> str:
    """What the folder at `path` holds that has no weights of a kind that is read, or is itself.

    Empty for nothing known.
    """
    return next((f"{name} is {what}" for name in (path, *names) if (what := by_name(name))), "")
