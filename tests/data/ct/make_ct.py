"""Write tests/data/ct/*.safetensors: layers as compressed-tensors stores them, and reads them back.

Made with compressed-tensors 0.20.0, and of its files before: 0.17.1 packs 3, 5, 6 and 7 bits in
padded words, 0.9.4 reads `weight_g_idx`; torch 2.13.0 (CPU). The older ones are run from folders
that `CT_0_17_1` and `CT_0_9_4` name (`pip install --no-deps --target`). `cases` holds the stored
tensors as `CASE.weight_packed` and so on, with the layer's config as JSON in the header's metadata;
`expected` the BF16 bits (U16) as `CASE.exact`, and what the library gives as `CASE.native` where
that is binary16.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
SPECIAL = [float("inf"), float("nan"), 0.0, -0.0, -0.01, 3e38, 1e-40, 6e-8]

# name: bits, shape, group size (-1: a row, 0: the tensor, or a block), and what differs.
DENSE: dict[str, tuple[int, tuple[int, ...], Any, dict[str, Any]]] = {
    **{f"w{b}-sym": (b, (3, 96), 32, {}) for b in range(1, 9)},
    **{f"w{b}-asym": (b, (36, 48), 16, {"asym": True}) for b in (1, 2, 4, 8)},
    **{f"w{b}-asym": (b, (67, 16), 8, {"asym": True}) for b in (3, 5, 6, 7)},
    "w4-channel": (4, (9, 100), -1, {}),
    "w8-channel-asym": (8, (9, 64), -1, {"asym": True}),
    "w4-tensor": (4, (6, 48), 0, {"scale": F32}),
    "w4-tensor-asym": (4, (6, 48), 0, {"asym": True}),
    "w4-group-24": (4, (10, 72), 24, {"asym": True}),
    "w4-f16": (4, (10, 64), 32, {"asym": True, "scale": F16}),
    "w5-f16": (5, (10, 64), 64, {"scale": F16}),
    "w8-f32": (8, (7, 64), 16, {"asym": True, "scale": F32}),
    "w8-blocks-asym": (8, (20, 48), (8, 32), {"asym": True}),
    "w4-special": (4, (8, 64), 64, {"scale": F32, "special": True}),
    "w4-experts": (4, (3, 16, 32), 16, {}),
    "w4-experts-asym": (4, (3, 16, 32), 16, {"asym": True}),
    "w3-experts-ragged": (3, (3, 20, 32), 16, {"asym": True}),
    "w8-experts-channel": (8, (2, 5, 32), -1, {"scale": F16}),
    "int8-channel": (8, (9, 100), -1, {"plain": True}),
    "int8-channel-asym": (8, (9, 64), -1, {"plain": True, "asym": True}),
    "int8-tensor": (8, (6, 50), 0, {"plain": True, "scale": F32}),
    "int8-tensor-f16-asym": (8, (6, 50), 0, {"plain": True, "scale": F16, "asym": True}),
    "int8-group": (8, (6, 96), 32, {"plain": True, "asym": True}),
    "int8-group-24": (8, (6, 72), 24, {"plain": True, "scale": F16}),
    "int8-group-8": (8, (6, 40), 8, {"plain": True, "asym": True}),
    "int8-blocks": (8, (20, 50), (8, 32), {"plain": True, "scale": F32}),
    "int8-blocks-asym": (8, (20, 50), (16, 16), {"plain": True, "asym": True}),
    "int8-special": (8, (8, 64), -1, {"plain": True, "scale": F32, "special": True}),
    "int8-experts": (8, (3, 5, 64), 32, {"plain": True, "asym": True}),
}
PADDED: dict[str, tuple[int, tuple[int, ...], Any, dict[str, Any]]] = {
    **{f"w{b}-padded": (b, (3, 96), 32, {}) for b in (3, 5, 6, 7)},
    **{f"w{b}-padded-asym": (b, (23, 48), 16, {"asym": True}) for b in (3, 5, 6, 7)},
    "w3-padded-experts": (3, (2, 20, 32), 32, {"asym": True}),
    "w6-padded-ragged": (6, (2, 7, 64), 64, {"asym": True, "scale": F16}),
}
# Blocks of one row, the last of which is what is left.
RESTS: dict[str, tuple[int, tuple[int, ...], Any, dict[str, Any]]] = {
    "w4-row-blocks": (4, (6, 160), (1, 128), {"asym": True}),
    "int8-row-blocks": (8, (5, 100), (1, 64), {"plain": True}),
}
INDEXED: dict[str, tuple[int, tuple[int, ...], Any, dict[str, Any]]] = {
    "w4-g-idx": (4, (6, 96), 32, {}),
    "w4-g-idx-f16": (4, (6, 96), 16, {"scale": F16}),
    "w8-g-idx-f32": (8, (6, 64), 16, {"scale": F32}),
    "w4-g-idx-plain-zeros": (4, (6, 96), 32, {"asym": True}),
    "w4-g-idx-unused": (4, (6, 96), 32, {"unused": True}),
    "int8-g-idx": (8, (6, 96), 32, {"plain": True, "asym": True}),
}


def parts(seed: int, name: str, case: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random codes, scales and zero points of one layer, and the config of its weights."""
    bits, shape, size, about = case
    gen = torch.Generator().manual_seed(seed)
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    lead, inputs = shape[:-1], shape[-1]
    weights: dict[str, Any] = {"num_bits": bits, "type": "int", "symmetric": not about.get("asym")}
    if isinstance(size, tuple):
        grid: tuple[int, ...] = (-(-shape[0] // size[0]), -(-inputs // size[1]))
        weights |= {"strategy": "block", "block_structure": list(size)}
    elif size == 0:
        grid = (1,)
        weights |= {"strategy": "tensor"}
    elif size == -1:
        grid = (*lead, 1)
        weights |= {"strategy": "channel"}
    else:
        grid = (*lead, inputs // size)
        weights |= {"strategy": "group", "group_size": size}
    found = {
        "codes": torch.randint(low, high, shape, generator=gen).to(torch.int8),
        "scale": (torch.rand(grid, generator=gen) * 0.05 + 0.001).to(about.get("scale", BF16)),
    }
    if about.get("special"):
        found["scale"][: len(SPECIAL), 0] = torch.tensor(SPECIAL)
    if about.get("asym"):
        found["zero"] = torch.randint(low, high, grid, generator=gen).to(torch.int8)
    if "g-idx" in name:
        index = torch.arange(inputs, dtype=torch.int32) // size
        found["g_idx"] = index[torch.randperm(inputs, generator=gen)]
        if about.get("unused"):
            found["g_idx"] = torch.full((inputs,), -1, dtype=torch.int32)
    return found, weights


def stored(found: dict[str, Any], bits: int, about: Any, packs: bool, pack: Any) -> dict[str, Any]:
    """The tensors as the library's compressors name and pack them."""
    tensors = {"weight_scale": found["scale"]}
    if about.get("plain"):
        tensors["weight"] = found["codes"]
    else:
        tensors["weight_packed"] = pack(found["codes"], bits)
        tensors["weight_shape"] = torch.tensor(found["codes"].shape)
    if "zero" in found:
        tensors["weight_zero_point"] = pack(found["zero"], bits, 0) if packs else found["zero"]
    if "g_idx" in found:
        tensors["weight_g_idx"] = found["g_idx"]
    return {k: v.contiguous() for k, v in tensors.items()}


def decompressed(tensors: dict[str, Any], weights: dict[str, Any], plain: bool) -> Any:
    """What compressed-tensors 0.20.0 makes of a layer."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    kind = "int-quantized" if plain else "pack-quantized"
    compressor = BaseCompressor.get_value_from_registry(kind)
    return compressor.decompress(dict(tensors), scheme)["weight"]


def new() -> None:
    """The cases of 0.20.0, into the file that is the last argument."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    helpers = importlib.util.spec_from_file_location(
        "old_helpers",
        Path(os.environ["CT_0_17_1"], "compressed_tensors/compressors/pack_quantized/helpers.py"),
    )
    assert helpers is not None
    assert helpers.loader is not None
    old = importlib.util.module_from_spec(helpers)
    helpers.loader.exec_module(old)
    out: dict[str, Any] = {}
    for seed, (name, case) in enumerate({**DENSE, **PADDED, **RESTS}.items()):
        bits, _, _, about = case
        found, weights = parts(seed, name, case)
        plain = bool(about.get("plain"))
        packs = "zero" in found and not plain and weights["strategy"] in ("group", "channel")
        tensors = stored(found, bits, about, packs, pack_to_int32)
        native = decompressed(tensors, weights, plain)
        wide = {**tensors, "weight_scale": tensors["weight_scale"].float()}
        exact = decompressed(wide, weights, plain)
        version = "0.20.0"
        if name in PADDED:  # the same codes, packed by the older version
            version = "0.17.1"
            older = stored(found, bits, about, packs, old.pack_to_int32)
            shape = torch.Size(tensors["weight_shape"].tolist())
            unpacked = old.unpack_from_int32(older["weight_packed"], bits, shape)
            assert torch.equal(unpacked, found["codes"])
            tensors = older
        out |= result(name, tensors, weights, version, exact, native)
    save(out)


def old() -> None:
    """The cases of 0.9.4, which is on the path."""
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import (
        pack_to_int32,
        unpack_from_int32,
    )
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    out: dict[str, Any] = {}
    for seed, (name, case) in enumerate(INDEXED.items()):
        bits, shape, _, about = case
        found, weights = parts(100 + seed, name, case)
        weights["actorder"] = "group"
        tensors = stored(found, bits, about, False, pack_to_int32)
        codes = found["codes"]
        if "weight_packed" in tensors:
            codes = unpack_from_int32(tensors["weight_packed"], bits, torch.Size(shape))
        values = [
            dequantize(
                x_q=codes, scale=scale, zero_point=found.get("zero"),
                args=QuantizationArgs(**weights), g_idx=found["g_idx"],
            )
            for scale in (found["scale"].float(), found["scale"])
        ]  # fmt: skip
        out |= result(name, tensors, weights, "0.9.4", *values)
    save(out)


def result(name: str, tensors: Any, weights: Any, version: str, exact: Any, native: Any) -> Any:
    config = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "format": "pack-quantized" if "weight_packed" in tensors else "int-quantized",
        "version": version,
    }
    found = {f"stored.{name}.{role}": tensor for role, tensor in tensors.items()}
    found[f"expected.{name}.exact"] = exact.to(BF16).view(torch.uint16)
    if native.dtype == F16:
        found[f"expected.{name}.native"] = native
    else:
        assert torch.equal(native.to(BF16).view(torch.uint16), exact.to(BF16).view(torch.uint16))
    text = json.dumps(config)
    found[f"config.{name}"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return found


def save(out: Any) -> None:
    save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[-1])


def main() -> None:
    merged: dict[str, Any] = {}
    for which, folder in (("new", ""), ("old", os.environ["CT_0_9_4"])):
        part = FOLDER / f"{which}.part"
        subprocess.run(
            [sys.executable, __file__, which, str(part)],
            env={**os.environ, "PYTHONPATH": folder},
            check=True,
        )
        merged |= load_file(part)
        part.unlink()
    groups: dict[str, dict[str, Any]] = {"stored": {}, "expected": {}, "config": {}}
    for key, tensor in merged.items():
        kind, _, name = key.partition(".")
        groups[kind][name] = tensor
    configs = {k: bytes(v.tolist()).decode() for k, v in groups["config"].items()}
    save_file(groups["stored"], FOLDER / "cases.safetensors", metadata=configs)
    save_file(groups["expected"], FOLDER / "expected.safetensors")


if __name__ == "__main__":
    {"new": new, "old": old}.get(sys.argv[1] if len(sys.argv) > 1 else "", main)()
