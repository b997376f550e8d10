"""Make the small layouts of this folder from the quickstart sample, by the canonical libraries.

    python tests/data/layouts/make.py

Needs gguf 0.19.0, libggml-python 0.20.2 (ggml's C, by ctypes), torch 2.13.0, compressed-tensors
0.20.0 and safetensors; those versions made the files that are here. Sources are rows of real
weights (SmolLM2-135M, see configs/sample), so that every scale is one that a tool would choose.
Expected values are BF16 bits: the library's float32 result, rounded once.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import gguf
import libggml
import numpy as np
import torch
from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import (
    FP8BlockDequantizer,
)
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parents[2] / "configs" / "sample" / "smollm2-135m-layer0.gguf"
GGML = ctypes.CDLL(str(Path(libggml.__file__).parent / "lib64" / "libggml-base.so"))
# What ggml can quantise without an importance matrix, and one type of every family.
TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S TQ1_0 TQ2_0 MXFP4"


def real_rows(name: str, rows: int, columns: int) -> np.ndarray:
    tensor = next(t for t in gguf.GGUFReader(SAMPLE).tensors if t.name == name)
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return np.ascontiguousarray(values[:rows, :columns], np.float32)


def bf16_bits(values: torch.Tensor) -> np.ndarray:
    return values.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()


def by_ggml(kind: gguf.GGMLQuantizationType, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`values` as ggml stores them, and what ggml reads back."""
    elems, nbytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.zeros((values.shape[0], values.shape[1] // elems * nbytes), np.uint8)
    GGML.ggml_quantize_init(ctypes.c_int(kind))
    GGML.ggml_quantize_chunk.restype = ctypes.c_size_t
    GGML.ggml_quantize_chunk(
        ctypes.c_int(kind),
        values.ctypes.data_as(ctypes.c_void_p),
        raw.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(values.shape[0]),
        ctypes.c_int64(values.shape[1]),
        None,
    )
    back = np.empty_like(values)
    GGML.ggml_type_name.restype = ctypes.c_char_p
    decode = getattr(GGML, f"dequantize_row_{GGML.ggml_type_name(int(kind)).decode()}")
    decode(
        raw.ctypes.data_as(ctypes.c_void_p),
        back.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(values.size),
    )
    return raw, back


def make_gguf() -> None:
    folder = HERE / "gguf" / "every-family"
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    expected = {}
    for number, name in enumerate(TYPES.split()):
        values = real_rows("blk.0.ffn_down.weight", 4, 512) * (1 + number)
        raw, back = by_ggml(gguf.GGMLQuantizationType[name], values)
        tensor = f"{name.lower()}.weight"
        writer.add_tensor(tensor, raw, raw_dtype=gguf.GGMLQuantizationType[name])
        expected[tensor] = bf16_bits(torch.from_numpy(back))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_numpy(expected, folder / "expected.safetensors")


def make_fp8() -> None:
    weight = torch.from_numpy(real_rows("blk.0.ffn_down.weight", 200, 300))
    for name, kind in (("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)):
        folder = HERE / "fp8" / f"granularities-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        stored, expected = {}, {}
        top = torch.finfo(kind).max

        rows, columns = -(-weight.shape[0] // 128), -(-weight.shape[1] // 128)
        blocks = torch.zeros(rows * 128, columns * 128)
        blocks[: weight.shape[0], : weight.shape[1]] = weight
        grid = blocks.view(rows, 128, columns, 128).abs().amax((1, 3)) / top
        wide = grid.repeat_interleave(128, 0).repeat_interleave(128, 1)
        stored["block.weight"] = (weight / wide[:200, :300]).to(kind)
        stored["block.weight_scale_inv"] = grid
        dequantizer = FP8BlockDequantizer(weight_block_size=(128, 128), dtype=torch.float32)
        expected["block.weight"] = dequantizer._create_dequantized_weight(
            stored["block.weight"], grid
        )

        channel = (weight.abs().amax(1, keepdim=True) / top).to(torch.bfloat16)
        stored["channel.weight"] = (weight / channel.float()).to(kind)
        stored["channel.weight_scale"] = channel
        expected["channel.weight"] = stored["channel.weight"].float() * channel.float()

        scale = (weight.abs().amax() / top).reshape(())
        stored["tensor.weight"] = (weight / scale).to(kind)
        stored["tensor.weight_scale"] = scale
        stored["tensor.input_scale"] = torch.tensor(1.0)
        expected["tensor.weight"] = stored["tensor.weight"].float() * scale

        save_torch(stored, folder / "model.safetensors", metadata={"format": "pt"})
        save_numpy({k: bf16_bits(v) for k, v in expected.items()}, folder / "expected.safetensors")
        config = {
            "quant_method": "fp8",
            "fmt": name,
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        }
        text = json.dumps({"quantization_config": config}, indent=2)
        (folder / "config.json").write_text(text + "\n")


if __name__ == "__main__":
    make_gguf()
    make_fp8()
