"""Model files of any size, made by repeating the tensors of one layer."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from anamnesis.kernels import ENCODINGS
from anamnesis.readers.gguf_types import type_named

ALIGNMENT = 32
WEIGHT = "mlp.up_proj"
_ONNX = {"F32": 1, "U4": 21, "U8": 2}
_PLAIN_GGML = {"F32": 0, "F16": 1, "F64": 28, "BF16": 30}


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored tensor of a layer: `suffix` follows the layer's name; `array` holds its bytes."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    array: Any


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of one layer, the container they go in, and the folder's config.json.

    `described` is what the file's metadata says of the layer's weight, as torchao writes it;
    `node` has the attributes of the operator that takes them, in ONNX.
    """

    entries: Sequence[Entry]
    container: str = "safetensors"
    config: Mapping[str, Any] = field(default_factory=dict)
    described: Mapping[str, Any] = field(default_factory=dict)
    node: Mapping[str, int] = field(default_factory=dict)
    operator: str = "MatMulNBits"

    @property
    def nbytes(self) -> int:
        return sum(e.array.nbytes for e in self.entries)


def write_model(folder: Path, layer: Layer, layers: int = 1) -> Path:
    """Write a model of so many equal layers; the path to open it by."""
    if layer.container == "gguf":
        return _write_gguf(folder / "model.gguf", layer, layers)
    if layer.container == "onnx":
        return _write_onnx(folder / "model.onnx", layer, layers)
    path = folder / "model.safetensors"
    _write_safetensors(path, layer, layers)
    config = folder / "config.json"
    config.unlink(missing_ok=True)  # of another layer
    if not layer.config:
        return path
    config.write_text(json.dumps(layer.config))
    return folder


def safetensors_header(layer: Layer, layers: int) -> bytes:
    """The length and the header of a safetensors file, padded to 8 bytes."""
    metadata = {"format": "pt"}
    if layer.described:
        names = [f"model.layers.{number}.{WEIGHT}.weight" for number in range(layers)]
        metadata |= dict.fromkeys(names, json.dumps(layer.described))
        metadata["tensor_names"] = json.dumps(names)
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, entry in _named(layer, layers):
        end = offset + entry.array.nbytes
        header[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def gguf_header(layer: Layer, layers: int, vocabulary: Sequence[str] = ()) -> bytes:
    """A GGUF v3 header, padded to where the data starts."""
    tensors = list(_named(layer, layers))
    values = [("general.architecture", 8, _gguf_string("llama"))]
    values.append(("general.alignment", 4, struct.pack("<I", ALIGNMENT)))
    if vocabulary:
        array = struct.pack("<IQ", 8, len(vocabulary)) + b"".join(map(_gguf_string, vocabulary))
        values.append(("tokenizer.ggml.tokens", 9, array))
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    parts += [_gguf_string(k) + struct.pack("<I", kind) + data for k, kind, data in values]
    offset = 0
    for name, entry in tensors:
        dims = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *entry.shape[::-1])
        parts += [_gguf_string(name), dims, struct.pack("<IQ", _ggml_type(entry.dtype), offset)]
        offset += _padded(entry.array.nbytes)
    header = b"".join(parts)
    return header + bytes(_padded(len(header)) - len(header))


def _write_safetensors(path: Path, layer: Layer, layers: int) -> None:
    with path.open("wb") as file:
        file.write(safetensors_header(layer, layers))
        _write_layers(file, layer, layers, 1)


def _write_gguf(path: Path, layer: Layer, layers: int) -> Path:
    with path.open("wb") as file:
        file.write(gguf_header(layer, layers))
        _write_layers(file, layer, layers, ALIGNMENT)
    return path


def _write_layers(file: BinaryIO, layer: Layer, layers: int, align: int) -> None:
    """The data of so many layers, each tensor filled up to a multiple of `align` bytes."""
    for _ in range(layers):
        for entry in layer.entries:
            file.write(memoryview(entry.array).cast("B"))
            file.write(bytes(-entry.array.nbytes % align))


def _write_onnx(path: Path, layer: Layer, layers: int) -> Path:
    """A node a layer; the numbers are external data."""
    from onnx import helper

    data, offset = path.with_name("model.onnx.data"), 0
    graph = helper.make_graph([], "layers", [], [])
    with data.open("wb") as file:
        for number in range(layers):
            names = [f"model.layers.{number}.{WEIGHT}.{e.suffix}" for e in layer.entries]
            taken = ["x", *names] if layer.operator == "MatMulNBits" else names
            node = helper.make_node(layer.operator, taken, ["y"], **layer.node)
            graph.node.append(node)
            for name, entry in zip(names, layer.entries, strict=True):
                kind = _ONNX[entry.dtype]
                tensor = graph.initializer.add(name=name, data_type=kind, dims=entry.shape)
                tensor.data_location = 1  # external
                for key, value in (("location", data.name), ("offset", str(offset))):
                    tensor.external_data.add(key=key, value=value)
                offset += file.write(memoryview(entry.array).cast("B"))
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def _named(layer: Layer, layers: int) -> Iterator[tuple[str, Entry]]:
    for number in range(layers):
        for entry in layer.entries:
            yield f"model.layers.{number}.{WEIGHT}.{entry.suffix}", entry


def _ggml_type(dtype: str) -> int:
    """By ggml's name; the early Q2_0 shares its number with the published one."""
    name = "gguf-" + dtype.lower().replace("_", "-")
    if name in ENCODINGS:
        number = ENCODINGS[name].ggml_type
        return number if number >= 0 else ENCODINGS[name.removesuffix("-g128")].ggml_type
    found = type_named(dtype)
    return _PLAIN_GGML[dtype] if found is None else found[0]


def _gguf_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
