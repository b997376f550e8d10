"""bitsandbytes on this machine: what it quantises, saves and reads back, against ours, bit for bit.

`dequantize_4bit` is asked where it is right on every CPU. Its AVX-512 path (rows of 32 and more
elements, blocks below 2048) takes the wrong absmax when a row is no whole number of blocks, so
other shapes are held against `_dequantize_4bit_compute`, the library's own fallback. Only the plain
C path gives -0 for FP4's code 8 (see tests/data/bnb); there, zeros are compared as equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoding import decoded as in_windows

import anamnesis
from anamnesis.readers.base import Tensor
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Options

torch = pytest.importorskip("torch")
functional = pytest.importorskip("bitsandbytes.functional")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = pytest.mark.oracle

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "bitsandbytes"
SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
SHAPES = [(1, 1), (1, 64), (64, 1), (3, 7), (13, 129), (64, 64), (5, 4096), (300, 80), (2, 3, 96)]
DTYPES = ["float32", "bfloat16", "float16"]


def decoded(tensor: Tensor, dtype: Any) -> Any:
    return in_windows(tensor, 37, dtype).reshape(-1)


def library(packed: Any, state: Any, dtype: str, *, whole: bool) -> Any:
    """Values in `dtype`, by `dequantize_4bit`, or by the library's fallback where that fails."""
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    if whole:
        state.dtype, kept = getattr(torch, dtype), state.dtype
        values = functional.dequantize_4bit(packed, state)
        state.dtype = kept
        return values.reshape(-1)
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return _dequantize_4bit_compute.__wrapped__(
        packed.view(torch.uint8).reshape(-1),
        absmax,
        functional.get_4bit_type(state.quant_type, device="cpu"),
        state.blocksize,
        state.shape,
        getattr(torch, dtype),
    ).reshape(-1)


def same(found: Any, wanted: Any, *, zeros_equal: bool) -> None:
    if zeros_equal:  # BF16 bits, or float32
        found = np.where(found == 0x8000, 0, found) if found.dtype == np.uint16 else found + 0
        wanted = np.where(wanted == 0x8000, 0, wanted) if wanted.dtype == np.uint16 else wanted + 0
    bits = "u2" if found.dtype == np.uint16 else "u4"
    np.testing.assert_array_equal(found.view(bits), wanted.view(bits))


def bf16(values: Any) -> Any:
    return values.to(torch.bfloat16).view(torch.uint16).numpy()


def save(path: Path, name: str, packed: Any, state: Any) -> None:
    parts = {f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}
    save_file({name: packed.contiguous(), **parts}, path)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("blocksize", SIZES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_four_bit(tmp_path: Path, quant_type: str, blocksize: int, nested: bool) -> None:
    generator = torch.Generator().manual_seed(blocksize)
    path = tmp_path / "model.safetensors"
    for shape in SHAPES:
        for dtype in DTYPES:
            weight = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
            packed, state = functional.quantize_4bit(
                weight, blocksize=blocksize, quant_type=quant_type, compress_statistics=nested
            )
            save(path, "a.weight", packed, state)
            whole = shape[-1] % blocksize == 0 and packed.shape[0] > 1
            exact = library(packed, state, "float32", whole=whole)
            native = library(packed, state, dtype, whole=whole)
            fp4 = quant_type == "fp4"
            tensor = load_model(str(path)).tensors[0]
            assert tensor.shape == shape
            same(decoded(tensor, np.uint16), bf16(exact), zeros_equal=fp4)
            same(decoded(tensor, np.float32), exact.numpy(), zeros_equal=fp4)
            tensor = load_model(str(path), Options(rounding="reference")).tensors[0]
            same(decoded(tensor, np.uint16), bf16(native), zeros_equal=fp4)
            same(decoded(tensor, np.float32), native.float().numpy(), zeros_equal=fp4)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_every_byte_and_scale(tmp_path: Path, quant_type: str) -> None:
    """All byte values under scales of every exponent, in blocks of 512."""
    exponents = np.arange(-149, 128)
    absmax = np.concatenate([np.ldexp(1.3, exponents), -np.ldexp(1.7, exponents), [0]])
    packed = torch.arange(256, dtype=torch.uint8).repeat(absmax.size).reshape(-1, 1)
    state = functional.QuantState(
        absmax=torch.from_numpy(absmax.astype(np.float32)),
        shape=torch.Size((absmax.size, 512)),
        code=functional.get_4bit_type(quant_type, device="cpu"),
        blocksize=512,
        quant_type=quant_type,
        dtype=torch.float16,
    )
    save(tmp_path / "model.safetensors", "a.weight", packed, state)
    for rounding, dtype in (("exact", "float32"), ("reference", "float16")):
        (tensor,) = load_model(str(tmp_path), Options(rounding=rounding)).tensors  # type: ignore[arg-type]
        wanted = library(packed, state, dtype, whole=True)
        same(decoded(tensor, np.uint16), bf16(wanted), zeros_equal=quant_type == "fp4")
        same(
            decoded(tensor, np.float32),
            wanted.float().numpy(),
            zeros_equal=quant_type == "fp4",
        )


@pytest.mark.parametrize("storage", ["uint8", "bfloat16", "float16", "float32"])
def test_storage_dtypes(tmp_path: Path, storage: str) -> None:
    packed, state = functional.quantize_4bit(
        torch.randn(64, 128), quant_type="nf4", quant_storage=getattr(torch, storage)
    )
    save(tmp_path / "model.safetensors", "a.weight", packed, state)
    (tensor,) = load_model(str(tmp_path)).tensors
    assert (
        tensor.components[0].stored.dtype
        == {
            "uint8": "U8",
            "bfloat16": "BF16",
            "float16": "F16",
            "float32": "F32",
        }[storage]
    )
    wanted = functional.dequantize_4bit(packed, state).reshape(-1)
    same(decoded(tensor, np.uint16), bf16(wanted), zeros_equal=False)


def test_linear4bit_module(tmp_path: Path) -> None:
    """The state dict that a real module writes, biases and all."""
    module = pytest.importorskip("bitsandbytes.nn").Linear4bit(
        128, 96, quant_type="nf4", compute_dtype=torch.bfloat16
    )
    module.to("cpu")
    state = {f"m.{k}": v.contiguous() for k, v in module.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    found = {t.name: t for t in load_model(str(tmp_path)).tensors}
    assert {t.scheme for t in found.values()} == {"bnb-nf4", "passthrough"}
    wanted = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    same(decoded(found["m.weight"], np.uint16), bf16(wanted.reshape(-1)), zeros_equal=False)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_gpt2_comes_back_as_its_class_has_it(tmp_path: Path, bits: str) -> None:
    """What transformers quantises of `Conv1D`'s layers, recovered, and loaded by the class."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 32}
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path / "m")
    load = transformers.GPT2LMHeadModel.from_pretrained
    how = transformers.BitsAndBytesConfig(bnb_4bit_quant_type="nf4", **{f"load_in_{bits}": True})
    quantised = load(tmp_path / "m", quantization_config=how, dtype=torch.float32)
    quantised.save_pretrained(tmp_path / "quantised")
    anamnesis.remember(tmp_path / "quantised", tmp_path / "out", dtype="f32", executor="serial")
    model, info = load(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not any(info.values())
    found = {
        name: layer for name, layer in quantised.named_modules() if hasattr(layer, "in_features")
    }
    layers = {name: layer for name, layer in found.items() if name.startswith("transformer.h.")}
    assert len(layers) == 4
    for name, layer in layers.items():
        weight = layer.weight
        if bits == "4bit":
            wanted = functional.dequantize_4bit(weight.data, weight.quant_state)
        else:
            wanted = functional.int8_vectorwise_dequant(weight.data, weight.SCB)
        same(model.state_dict()[f"{name}.weight"].numpy(), wanted.T.numpy(), zeros_equal=False)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (33, 65), (128, 512)])
def test_int8(tmp_path: Path, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).half()
    codes, scb, _ = functional.int8_vectorwise_quant(weight)
    parts = {"m.weight": codes, "m.SCB": scb, "m.weight_format": torch.tensor(0).byte()}
    save_file(parts, tmp_path / "model.safetensors")
    wanted = functional.int8_vectorwise_dequant(codes, scb).reshape(-1)
    for rounding in ("exact", "reference"):
        (tensor,) = load_model(str(tmp_path), Options(rounding=rounding)).tensors
        same(decoded(tensor, np.uint16), bf16(wanted), zeros_equal=False)
        same(decoded(tensor, np.float32), wanted.numpy(), zeros_equal=False)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not here")
@pytest.mark.parametrize("layout", ["nf4", "nf4-double", "nf4-fp32", "fp4"])
def test_real_weights(layout: str) -> None:
    from safetensors.torch import load_file

    path = CORPUS / layout / "model.safetensors"
    stored = load_file(path)
    for tensor in load_model(str(path), Options(rounding="reference")).tensors:
        if tensor.quantised:
            parts = {
                k[len(tensor.name) + 1 :]: v
                for k, v in stored.items()
                if k.startswith(tensor.name + ".")
            }
            state = functional.QuantState.from_dict(parts, torch.device("cpu"))
            wanted = functional.dequantize_4bit(stored[tensor.name], state).reshape(-1)
            assert json.dumps(list(state.shape)) == json.dumps(tensor.shape)
            same(decoded(tensor, np.uint16), bf16(wanted), zeros_equal=layout == "fp4")
