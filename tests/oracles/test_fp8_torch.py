"""FP8 files as torch writes them, against compressed-tensors, transformers and torch itself.

Whole files: saved by safetensors, opened and decoded by the package, compared bit for bit; of
NaNs only that they are NaNs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import decoder, preparer
from anamnesis.readers.batch import BlockReader, iter_windows
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Options

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = pytest.mark.oracle


def codes(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Any:
    """Random bytes, all 256 of them, as an FP8 tensor."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).view(dtype)


def scales(shape: tuple[int, ...], dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(1)
    if dtype == torch.float8_e8m0fnu:
        exponents = torch.randint(100, 140, shape, dtype=torch.uint8, generator=generator)
        return exponents.view(dtype)
    return (torch.randn(shape, generator=generator) * 1e-3).to(dtype)


def recovered(
    folder: Path, tensors: dict[str, Any], config: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """What the package makes of a file, as BF16 bits by name; quantised tensors only."""
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": config or {}}))
    model = load_model(str(folder), Options(**options))
    found, files = {}, Files()
    for tensor in (t for t in model.tensors if t.quantised):
        reader = BlockReader(tensor, files, reuse=True)
        prepare = preparer(tensor.encoding)
        assert prepare is not None
        params = {**tensor.params, **prepare(tensor.params, reader.wholes())}
        out = np.empty(tensor.elems, np.uint16)
        for window in iter_windows(tensor, 37):
            part = out[window.start * tensor.unit_elems : window.stop * tensor.unit_elems]
            decoder(tensor.encoding)(reader.read(window).views, params, window, part)
        found[tensor.name] = out.reshape(tensor.shape)
    files.close()
    return found


def assert_same(found: Any, wanted: Any) -> None:
    bits = wanted.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
    nan = torch.isnan(wanted).numpy()
    assert found.shape == bits.shape
    np.testing.assert_array_equal((found & 0x7FFF) > 0x7F80, nan)
    np.testing.assert_array_equal(found[~nan], bits[~nan])


@pytest.mark.parametrize("shape", [(256, 384), (200, 256), (576, 448), (130, 65), (1, 129)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_blocks_of_compressed_tensors(tmp_path: Path, shape: tuple[int, int], kind: Any) -> None:
    convert = pytest.importorskip("compressed_tensors.entrypoints.convert")
    weight = codes(shape, torch.float8_e4m3fn)
    scale = scales((-(-shape[0] // 128), -(-shape[1] // 128)), kind)
    tensors = {"a.weight": weight, "a.weight_scale_inv": scale}
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    found = recovered(tmp_path, tensors, config)
    dequantizer = convert.FP8BlockDequantizer(targets=["a"])
    assert_same(found["a.weight"], dequantizer.process(dict(tensors))["a.weight"])


@pytest.mark.parametrize(
    ("shape", "grid", "kind", "config"),
    [
        ((256, 384), (2, 3), torch.float32, [128, 128]),
        ((3, 256, 128), (3, 2, 1), torch.float32, [128, 128]),
        ((64, 96), (2, 3), torch.float8_e8m0fnu, [32, 32]),
        ((40, 96), (40, 3), torch.uint8, [1, 32]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_blocks_of_transformers(
    tmp_path: Path,
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    kind: Any,
    config: list[int],
    dtype: Any,
) -> None:
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    weight = codes(shape, dtype)
    eight = kind in (torch.uint8, torch.float8_e8m0fnu)
    scale = scales(grid, torch.float8_e8m0fnu).view(kind) if eight else scales(grid, kind)
    name = "a.weight" if len(shape) == 2 else "experts.gate_up_proj"
    found = recovered(
        tmp_path, {name: weight, f"{name}_scale_inv": scale}, {"weight_block_size": config}
    )
    wanted = fp8.Fp8Dequantize(None)._dequantize_one(weight, scale, torch.bfloat16)
    assert_same(found[name], wanted)


@pytest.mark.parametrize(
    ("strategy", "shape", "more"),
    [
        ("tensor", (1,), {}),
        ("channel", (192, 1), {}),
        ("group", (192, 5), {"group_size": 128}),
        ("block", (2, 5), {"block_structure": [128, 128]}),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_compressed_tensors(
    tmp_path: Path, strategy: str, shape: tuple[int, ...], more: dict[str, Any], kind: Any
) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    compressors = pytest.importorskip("compressed_tensors.compressors")
    columns = 640 if strategy == "group" else 576
    weight, scale = codes((192, columns), torch.float8_e4m3fn), scales(shape, kind)
    about = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy, **more}
    scheme = quantization.QuantizationScheme(
        targets=["Linear"], weights=quantization.QuantizationArgs(**about)
    )
    compressor = compressors.BaseCompressor.get_value_from_registry("float-quantized")
    state = {"weight": weight, "weight_scale": scale.to(torch.float32)}
    wanted = compressor.decompress(state, scheme)["weight"]
    config = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": about, "targets": ["Linear"]}},
    }
    tensors = {"a.weight": weight, "a.weight_scale": scale}
    assert_same(recovered(tmp_path, tensors, config)["a.weight"], wanted)


@pytest.mark.parametrize(
    "dtype",
    [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz],
)
def test_casts(tmp_path: Path, dtype: Any) -> None:
    tensors = {"a.weight": codes((64, 320), dtype), "b": codes((3, 5, 3, 3), dtype, 2)}
    found = recovered(tmp_path, tensors, assume_unit_scale=True)
    for name, tensor in tensors.items():
        assert_same(found[name], tensor.to(torch.float32))


@pytest.mark.parametrize("shape", [(4, 1, 96), (4, 40, 1), (4, 1, 1), ()])
def test_experts_of_fbgemm(tmp_path: Path, shape: tuple[int, ...]) -> None:
    weight, scale = codes((4, 40, 96), torch.float8_e4m3fn), scales(shape)
    tensors = {"experts.gate_up_proj": weight, "experts.gate_up_proj_scale": scale}
    found = recovered(tmp_path, tensors, {"quant_method": "fbgemm_fp8"})
    assert_same(found["experts.gate_up_proj"], weight.to(torch.float32) * scale)


@pytest.mark.parametrize("fmt", ["float", "ue8m0"])
@pytest.mark.parametrize("block", [(32, 32), (1, 32), None])
def test_experts_that_transformers_quantised(tmp_path: Path, block: Any, fmt: str) -> None:
    """Codes an expert, scales of all of them fused, as `save_pretrained` writes these modules."""
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    config: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": block, "scale_fmt": fmt}
    quantizer = type("Q", (), {"quantization_config": type("C", (), config)})
    tensors, expected = {}, {}
    generator = torch.Generator().manual_seed(2)
    for name, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        shape = (3, 64 * len(parts), 96)
        weight = torch.randn(shape, generator=generator).bfloat16()
        made = fp8.Fp8Quantize(quantizer)._quantize_one(f"m.experts.{name}", weight)
        codes, scale = made.values()
        tensors[f"m.experts.{name}_scale_inv"] = scale
        wanted = fp8.Fp8Dequantize(None)._dequantize_one(codes, scale, torch.bfloat16)
        for number in range(3):
            for at, part in enumerate(parts):
                rows = slice(64 * at, 64 * at + 64)
                tensors[f"m.experts.{number}.{part}.weight"] = codes[number][rows]
                expected[f"m.experts.{number}.{part}.weight"] = wanted[number][rows]
    found = recovered(tmp_path, tensors, config | {"weight_block_size": block and list(block)})
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        assert np.array_equal(found[name], want.contiguous().view(torch.uint16).numpy()), name
