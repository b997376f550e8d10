"""Write tests/data/mlx/*.safetensors: layers as MLX and Metal store them, and what they read back.

    pip install mlx==0.32.4 mlx-cpu==0.32.4 safetensors      python make_mlx.py mlx
    pip install torch transformers==5.23.0 safetensors       python make_mlx.py metal

Each run writes `NAME-cases.safetensors`, the stored tensors as `CASE.weight` and so on, with the
layer's config as JSON in the header's metadata, and `NAME-expected.safetensors`, BF16 bits (U16) as
`CASE.exact` and, where it differs, `CASE.reference`. Exact is the library's own arithmetic with
scales and biases that were made float32 before, reference what it gives for the stored ones; both
are rounded to BF16 at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
DTYPES = ("bfloat16", "float16", "float32")
BITS, GROUP_SIZES = (1, 2, 3, 4, 5, 6, 8), (32, 64, 128)
ODD = [0.0, -0.0, 2.0**-24, -3e-8, 6e-5, 1e-40, 400.0, 65504.0, np.inf, -np.inf, np.nan, 0.3]


def numbers(seed: int, *shape: int) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * 0.05).astype(np.float32)


def save(
    name: str, cases: dict[str, Any], expected: dict[str, Any], config: dict[str, Any]
) -> None:
    """Arrays by name, BF16 as pairs `("BF16", uint16 array)`; no library writes all of these."""
    kinds = {"u1": "U8", "u2": "U16", "u4": "U32", "f2": "F16", "f4": "F32"}
    for part, tensors in (("cases", cases), ("expected", expected)):
        header: dict[str, Any] = {}
        if part == "cases":
            header["__metadata__"] = {key: json.dumps(value) for key, value in config.items()}
        data = b""
        for key, value in tensors.items():
            dtype, array = value if isinstance(value, tuple) else ("", value)
            dtype = dtype or kinds[array.dtype.str[1:]]
            ends = [len(data), len(data) + array.nbytes]
            header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": ends}
            data += array.tobytes()
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path = FOLDER / f"{name}-{part}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def keep(expected: dict[str, Any], case: str, exact: Any, reference: Any) -> None:
    expected[f"{case}.exact"] = exact
    if not np.array_equal(exact, reference):
        expected[f"{case}.reference"] = reference


def make_mlx() -> None:
    import mlx.core as mx  # type: ignore[import-not-found]

    cases: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    configs: dict[str, Any] = {}

    def stored(array: Any) -> Any:
        if array.dtype == mx.bfloat16:
            return "BF16", np.array(array.view(mx.uint16))
        return np.array(array)

    def bf16(array: Any) -> Any:
        return np.array(array.astype(mx.bfloat16).view(mx.uint16))

    def add(case: str, parts: list[Any], mode: str, bits: int, size: int, **more: Any) -> None:
        settings = {"group_size": size, "bits": bits, "mode": mode}
        weight, scales, *biases = parts
        cases[f"{case}.weight"], cases[f"{case}.scales"] = stored(weight), stored(scales)
        native = mx.dequantize(weight, scales, *biases, **settings, **more)
        if biases:
            cases[f"{case}.biases"] = stored(biases[0])
            wide = [scales.astype(mx.float32), biases[0].astype(mx.float32)]
            exact = mx.dequantize(weight, *wide, **settings)
        else:
            exact = mx.dequantize(weight, scales, **settings, **more, dtype=mx.float32)
        for key, value in more.items():
            cases[f"{case}.{key}"] = stored(value)
        configs[case] = {"quantization": settings}
        keep(expected, case, bf16(exact), bf16(native))

    for number, bits in enumerate(BITS):
        for place, size in enumerate(GROUP_SIZES):
            dtype = DTYPES[(number + place) % 3]
            weight = mx.array(numbers(8 * bits + place, 3, 256)).astype(getattr(mx, dtype))
            parts = mx.quantize(weight, size, bits)
            add(f"affine-w{bits}-g{size}-{dtype}", parts, "affine", bits, size)
    for dtype in DTYPES:
        weight = mx.array(numbers(90, 2, 3, 128)).astype(getattr(mx, dtype))
        add(f"experts-{dtype}", mx.quantize(weight, 32, 4), "affine", 4, 32)
        every = mx.array(np.arange(256, dtype=np.uint8).view(np.uint32))
        odd = np.array(ODD, np.float32)
        for bits in (4, 8):  # every byte, and pairs of odd numbers as scale and bias
            groups = 64 // bits
            rows = 4 * len(ODD) // groups
            biases = np.concatenate([np.roll(odd, by) for by in (0, 1, 5, 7)])
            grids = [
                mx.array(pairs.reshape(rows, groups)).astype(getattr(mx, dtype))
                for pairs in (np.tile(odd, 4), biases)
            ]
            add(
                f"odd-w{bits}-{dtype}",
                [mx.repeat(every[None], rows, 0), *grids],
                "affine",
                bits,
                32,
            )
    modes = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
    for mode, (bits, size) in modes.items():
        for case, shape in ((mode, (4, 128)), (f"{mode}-experts", (2, 3, 64))):
            weight = mx.array(numbers(100 + bits, *shape))
            add(case, mx.quantize(weight, size, bits, mode), mode, bits, size)
        codes = np.tile(np.arange(256, dtype=np.uint8), (4, 1)).view(np.uint32)
        last = 255 if mode == "nvfp4" else 254  # MLX has infinity where the specification has NaN
        groups = 2048 // bits // size
        scales = np.linspace(0, last, 4 * groups).astype(np.uint8).reshape(4, groups)
        add(f"{mode}-every", [mx.array(codes), mx.array(scales)], mode, bits, size)
    weight = mx.array(numbers(120, 4, 128))
    for case, of_one in (("nvfp4-global", (1,)), ("nvfp4-global-scalar", ())):
        factor = mx.array(np.full(of_one, np.abs(np.array(weight)).max(), np.float32))
        parts = mx.quantize(weight, 16, 4, "nvfp4", global_scale=factor)
        add(case, parts, "nvfp4", 4, 16, global_scale=factor)
    save("mlx", cases, expected, configs)


def make_metal() -> None:
    import torch
    from transformers import MetalConfig
    from transformers.integrations import metal_quantization

    metal: Any = metal_quantization

    class Quantizer:
        def __init__(self, bits: int, size: int) -> None:
            self.quantization_config = MetalConfig(bits, size)

    def stored(tensor: Any) -> Any:
        if tensor.dtype == torch.bfloat16:
            return "BF16", tensor.view(torch.uint16).numpy()
        return tensor.numpy()

    def bf16(tensor: Any) -> Any:
        return tensor.to(torch.bfloat16).view(torch.uint16).numpy()

    cases: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    for number, bits in enumerate((2, 4, 8)):
        for place, dtype in enumerate(DTYPES):
            size = GROUP_SIZES[(number + place) % 3]
            case, quantizer = f"metal-w{bits}-g{size}-{dtype}", Quantizer(bits, size)
            weight = torch.from_numpy(numbers(200 + number, 3, 256)).to(getattr(torch, dtype))
            parts = metal.MetalQuantize(quantizer).convert({"weight": weight})
            read = metal.MetalDequantize(quantizer)
            native, exact = (
                read.convert({key: [p] for key, p in some.items()}, full_layer_name="x")["x"]
                for some in (
                    parts,
                    {k: p.float() if k != "weight" else p for k, p in parts.items()},
                )
            )
            cases |= {f"{case}.{key}": stored(part) for key, part in parts.items()}
            configs[case] = {"quantization_config": quantizer.quantization_config.to_dict()}
            configs[case]["quantization_config"]["quant_method"] = "metal"
            keep(expected, case, bf16(exact), bf16(native))
    save("metal", cases, expected, configs)


if __name__ == "__main__":
    {"mlx": make_mlx, "metal": make_metal}[sys.argv[1]]()
