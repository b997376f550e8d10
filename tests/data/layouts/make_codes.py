"""Make layouts of this folder by the code of the packages that write them: `COMMANDS` below.

    cd / && python …/tests/data/layouts/make_codes.py [LAYOUT …]

Needs, for all of them, auto-round 0.16.1, comfy-kitchen 0.2.40, ik-llama-cpp-python 0.1.5, torch
2.13.0 (CPU) and safetensors 0.8; those versions made the files that are here. Expected values are
BF16 bits: the library's float32 result, rounded once. Each layout has numbers of its own seed, so
that making one leaves the others as they are.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layout_files import HERE, bf16_bits, write
from safetensors.torch import save_file


def nvfp4_e5m3() -> None:
    """Every byte of a scale but its NaN; as AutoRound's export names the format."""
    from auto_round.data_type.nvfp import e5m3_to_float_tensor
    from auto_round.experimental.qmodules.fp4_utils import unpack_fp4_from_uint8

    codes = torch.randint(0, 256, (32, 64), dtype=torch.uint8)
    scales = torch.arange(256).clamp(max=254).to(torch.uint8).reshape(32, 8)
    weight = unpack_fp4_from_uint8(codes, 32, 128, torch.float32)
    weight = weight * e5m3_to_float_tensor(scales).repeat_interleave(16, 1)
    config = {
        "quant_method": "auto-round",
        "bits": 4,
        "group_size": 16,
        "data_type": "nvfp4_v2",
        "packing_format": "auto_round:llm_compressor_nvfp4_e5m3",
    }
    stored = {"a.weight_packed": codes, "a.weight_scale": scales}
    write("auto-round/nvfp4-v2", stored, {"a.weight": weight}, {"quantization_config": config})


def comfy_mark(mark: dict[str, Any]) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(mark).encode()), dtype=torch.uint8)


def comfy_awq() -> None:
    """By comfy-kitchen's own `dequantize`, in float32."""
    from comfy_kitchen.tensor.awq_w4a16 import TensorCoreAWQW4A16Layout as Layout

    codes = torch.randint(-128, 128, (24, 96), dtype=torch.int8)
    scale, zeros = (torch.rand(3, 24) + 0.1).bfloat16(), torch.randn(3, 24).bfloat16()
    params = Layout.Params(
        scale=scale.float(), orig_dtype=torch.float32, orig_shape=(24, 192), zeros=zeros.float()
    )
    stored = {
        "a.weight": codes,
        "a.weight_scale": scale,
        "a.weight_zero": zeros,
        "a.comfy_quant": comfy_mark({"format": "awq_w4a16", "group_size": 64}),
    }
    write("comfyui/awq-w4a16", stored, {"a.weight": Layout.dequantize(codes, params)}, None)


def comfy_svdquant(tiled: bool) -> None:
    """Codes, scales and tiles by comfy-kitchen's own functions; then smoothing and low rank.

    Its `dequantize` multiplies by a unit matrix that is quantised to 4 bits itself, so what it
    gives is not the weight's own numbers: the sums are made here, as kernels/svdquant.py says.
    """
    from comfy_kitchen.backends.eager import svdquant

    rows, columns, rank = 256, 192, 16
    codes = torch.randint(-128, 128, (2, 3, 32, 128), dtype=torch.int8)
    scale = (torch.rand(2, 3, 128) * 0.1).bfloat16()
    up = (torch.randn(2, rank, 128) * 0.1).bfloat16()
    flat = svdquant._tile_packed_weight_to_row_major(codes)
    lines = svdquant._tile_packed_scales_to_natural(scale)
    natural_up = svdquant._tile_packed_lora_up_to_natural(up)
    smooth = (torch.rand(columns) + 0.5).bfloat16()
    down = (torch.randn(columns, rank) * 0.1).bfloat16()
    numbers = svdquant._unpack_int4_row_major(flat).float().view(rows, 3, 64)
    residual = (numbers * lines.t().float().unsqueeze(-1)).view(rows, columns) / smooth.float()
    low = torch.zeros(rows, columns)
    for k in range(rank):
        product = natural_up[:, k, None].double() * down[None, :, k].double()
        low = (product + low.double()).float()
    bias = torch.randn(rows).bfloat16()
    moved = residual.double().sum(1) * svdquant._GELU_UNSIGNED_SHIFT + bias.double()
    mark: dict[str, Any] = {"format": "svdquant_w4a4", "act_unsigned": tiled}
    if tiled:
        mark["layout"] = "kitchen_tile_packed_w4a4"
    prefix = "a." if tiled else "a.weight_"
    stored = {
        "a.weight": codes if tiled else flat,
        "a.weight_scale": scale if tiled else lines,
        f"{prefix}smooth_factor": smooth,
        f"{prefix}proj_down": down,
        f"{prefix}proj_up": up if tiled else natural_up,
        "a.bias": bias,
        "a.comfy_quant": comfy_mark(mark),
    }
    expected = {"a.weight": residual + low, "a.bias": moved.float() if tiled else bias}
    write(f"comfyui/svdquant-w4a4{'-tiles' if tiled else ''}", stored, expected, None)


# Of ik_llama.cpp's enum ggml_type: number, elements and bytes of a block, bytes before a row's.
IK_TYPES = {
    "q6_0": (133, 32, 26, 0),
    "iq2_k": (137, 256, 76, 0),
    "iq3_k": (138, 256, 110, 0),
    "iq4_k": (139, 256, 144, 0),
    "iq5_k": (140, 256, 176, 0),
    "iq6_k": (141, 256, 212, 0),
    "iq4_ks": (144, 256, 136, 4),
    "iq2_ks": (145, 256, 70, 2),
    "iq4_kss": (146, 256, 128, 4),
    "iq5_ks": (152, 256, 168, 4),
    "iq2_kt": (153, 256, 68, 4),
    "iq3_kt": (154, 256, 100, 4),
    "iq4_kt": (155, 256, 128, 4),
    "iq3_ks": (156, 256, 102, 2),
    "iq2_kl": (157, 256, 86, 2),
    "iq1_kt": (158, 256, 56, 4),
}


# And its types of rows repacked together: number, rows, elements and bytes of a plain block, bytes
# before a row's, scales of binary16 in a plain block.
IK_REPACKED = {
    "q4_0_r8": (202, 8, 32, 18, 0, 1),
    "q5_0_r4": (206, 4, 32, 22, 0, 1),
    "q8_0_r8": (208, 8, 32, 34, 0, 1),
    "q2_k_r4": (210, 4, 256, 84, 0, 2),
    "q3_k_r4": (211, 4, 256, 110, 0, 1),
    "q4_k_r4": (212, 4, 256, 144, 0, 2),
    "q5_k_r4": (213, 4, 256, 176, 0, 2),
    "q6_k_r4": (214, 4, 256, 210, 0, 1),
    "iq2_xxs_r4": (216, 4, 256, 66, 0, 1),
    "iq2_xs_r4": (217, 4, 256, 74, 0, 1),
    "iq3_xxs_r4": (218, 4, 256, 98, 0, 1),
    "iq1_s_r4": (219, 4, 32, 6, 2, 0),
    "iq4_nl_r4": (220, 4, 32, 18, 0, 1),
    "iq3_s_r4": (221, 4, 256, 110, 0, 1),
    "iq2_s_r4": (222, 4, 256, 82, 0, 1),
    "iq4_xs_r8": (223, 8, 256, 136, 0, 1),
    "iq1_m_r4": (229, 4, 32, 7, 2, 0),
    "q6_0_r4": (233, 4, 32, 26, 0, 1),
    "iq2_k_r4": (337, 4, 256, 76, 0, 1),
    "iq3_k_r4": (338, 4, 256, 110, 0, 1),
    "iq4_k_r4": (339, 4, 256, 144, 0, 1),
    "iq5_k_r4": (340, 4, 256, 176, 0, 1),
    "iq4_ks_r4": (344, 4, 256, 136, 4, 0),
    "iq5_ks_r4": (352, 4, 256, 168, 4, 0),
}


class GgmlInit(ctypes.Structure):
    """`struct ggml_init_params`: initialising fills the table of binary16 numbers."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no", ctypes.c_bool))


def ik_library() -> Any:
    """ik_llama.cpp's C from its Python package."""
    spec = importlib.util.find_spec("ik_llama_cpp")
    library = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml.so"))
    library.ggml_init.argtypes, library.ggml_init.restype = [GgmlInit], ctypes.c_void_p
    library.ggml_init(GgmlInit(1024, None, True))
    return library


def ik_values(library: Any, name: str, raw: Any, elems: int) -> Any:
    """What its function of that name makes of lines of bytes, of `elems` elements each."""
    decode = getattr(library, f"dequantize_row_{name}")
    decode.argtypes, decode.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    values = np.empty((len(raw), elems), np.float32)
    for line, out in zip(raw, values, strict=True):
        decode(line.ctypes.data, out.ctypes.data, elems)
    return values


class Gguf:
    """A file of matrices, put together by hand: the types have no name in gguf-py."""

    def __init__(self) -> None:
        self.infos: list[bytes] = []
        self.data = b""

    def add(self, name: str, number: int, shape: tuple[int, int], raw: Any) -> None:
        title = name.encode()
        info = struct.pack("<Q", len(title)) + title
        self.infos.append(info + struct.pack("<IQQIQ", 2, *shape[::-1], number, len(self.data)))
        self.data += raw.tobytes() + bytes(-raw.nbytes % 32)

    def write(self, folder: Path, expected: dict[str, torch.Tensor]) -> None:
        """The file, and the bits of the values that are expected."""
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(self.infos), 0) + b"".join(self.infos)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.gguf").write_bytes(head + bytes(-len(head) % 32) + self.data)
        bits = {name: bf16_bits(values) for name, values in expected.items()}
        save_file(bits, folder / "expected.safetensors")


def gguf_ik() -> None:
    """Random bytes under every scale, decoded by ik_llama.cpp's C from its Python package."""
    library, file = ik_library(), Gguf()
    rng = np.random.default_rng(17)
    expected = {}
    for name, (number, elems, nbytes, meta) in IK_TYPES.items():
        rows, columns = 8, 512
        raw = rng.integers(0, 256, (rows, meta + columns // elems * nbytes), np.uint8)
        kind = "<f4" if meta == 4 else "<f2"
        for start in [0] if meta else range(0, raw.shape[1], nbytes):
            scales = rng.standard_normal(rows).astype(kind).view(np.uint8).reshape(rows, -1)
            raw[:, start : start + scales.shape[1]] = scales
        values = ik_values(library, name, raw, columns)
        expected[f"{name}.weight"] = torch.from_numpy(values)
        file.add(f"{name}.weight", number, (rows, columns), raw)
    file.write(HERE / "gguf" / "ik-llama", expected)


def gguf_ik_repacked() -> None:
    """As `gguf_ik`, of the types of rows repacked together: two groups of each.

    Scales are positive: where a code means 0 the function of Q5_0_R4 and Q6_0_R4 has +0 under any
    scale, and that of the plain types the scale's sign.
    """
    library, file = ik_library(), Gguf()
    rng = np.random.default_rng(18)
    expected = {}
    for name, (number, rows, elems, nbytes, meta, count) in IK_REPACKED.items():
        columns = 2 * elems
        raw = rng.integers(0, 256, (2, rows * (meta + columns // elems * nbytes)), np.uint8)
        kind, count = "<f4" if meta == 4 else "<f2", (count or 1) * rows
        for start in [0] if meta else range(0, raw.shape[1], rows * nbytes):
            scales = np.abs(rng.standard_normal((2, count))).astype(kind).view(np.uint8)
            raw[:, start : start + scales.shape[1]] = scales
        values = ik_values(library, name, raw, rows * columns).reshape(2 * rows, columns)
        expected[f"{name}.weight"] = torch.from_numpy(values)
        file.add(f"{name}.weight", number, (2 * rows, columns), raw)
    file.write(HERE / "gguf" / "ik-llama-repacked", expected)


def ct_sparse(kind: str) -> None:
    """By compressed-tensors 0.9.4, whose later versions have no such layout."""
    from compressed_tensors.compressors.sparse_compressors import sparse_24_bitmask as ct

    weight = torch.randn(24, 72)
    expected = torch.where(ct.get_24_bytemasks(weight), weight, torch.zeros(()))
    extra = {}
    if kind == "fp8":
        scale = torch.rand(24, 1) + 0.5
        weight = expected.to(torch.float8_e4m3fn)
        extra = {"a.weight_scale": scale, "a.input_scale": torch.tensor(0.5)}
        expected = weight.float() * scale
    elif kind == "int8":
        scale = torch.rand(24, 1).bfloat16() + 0.5
        weight = (expected * 30).round().clamp(-128, 127).to(torch.int8)
        extra = {"a.weight_scale": scale}
        expected = weight.float() * scale.float()
    else:
        weight = weight.bfloat16()
        expected = torch.where(
            ct.get_24_bytemasks(weight), weight, torch.zeros((), dtype=weight.dtype)
        )
    parts = ct.Sparse24BitMaskTensor.from_dense(weight).dict("a.weight")
    config = {
        "quant_method": "compressed-tensors",
        "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"},
    }
    folder = f"compressed-tensors/sparse-24-{kind}"
    write(folder, {**parts, **extra}, {"a.weight": expected}, {"quantization_config": config})


def source(path: str) -> Any:
    """A module by its file on the module path, without the packages around it."""
    (file,) = [Path(p) / path for p in sys.path if (Path(p) / path).is_file()][:1]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marlin(size: int) -> None:
    """By AutoGPTQ's own packing, told that there is a GPU."""
    torch.cuda.get_device_capability = lambda: (8, 0)
    module = source("auto_gptq/nn_modules/qlinear/qlinear_marlin.py")
    inputs, outputs = 256, 256
    layer = module.QuantLinear(4, size, inputs, outputs, bias=False)
    codes = torch.randint(-8, 8, (outputs, inputs)).float()
    scales = (torch.rand(outputs, inputs // layer.group_size) * 0.1 + 0.01).half()
    each = scales.float().repeat_interleave(layer.group_size, 1)
    linear = torch.nn.Linear(inputs, outputs, bias=False, dtype=torch.half)
    linear.weight.data = (codes * each).half()
    layer.pack(linear, scales)
    config = {"quant_method": "gptq", "bits": 4, "is_marlin_format": True, "group_size": size}
    stored = {"a.B": layer.B, "a.s": layer.s}
    folder = f"gptq/marlin-{'channel' if size == inputs else size}"
    write(folder, stored, {"a.weight": codes * each}, {"quantization_config": config})


def llm_awq() -> None:
    """By llm-awq's own module (from its sources), without its CUDA kernels."""
    sys.modules["awq_inference_engine"] = types.ModuleType("awq_inference_engine")
    module = source("awq/quantize/qmodule.py")
    linear = torch.nn.Linear(256, 24, bias=False, dtype=torch.half)
    scales = (torch.rand(24, 4) * 0.01 + 0.01).half()
    zeros = torch.randint(0, 16, (24, 4)).half()
    codes = torch.randint(0, 16, (24, 256)).half()
    wide = [part.repeat_interleave(64, 1) for part in (scales, zeros)]
    linear.weight.data = (codes - wide[1]) * wide[0]
    layer = module.WQLinear.from_linear(linear, 4, 64, scales=scales, zeros=zeros)
    added = layer.scaled_zeros[:4].t().float().repeat_interleave(64, 1)
    stored = {f"a.{name}": part for name, part in layer.state_dict().items()}
    expected = codes.float() * wide[0].float() + added
    write("awq/llm-awq", stored, {"a.weight": expected}, None)


COMMANDS: dict[str, Callable[[], None]] = {
    "comfy-awq": comfy_awq,
    "comfy-svdquant": lambda: comfy_svdquant(tiled=False),
    "comfy-svdquant-tiles": lambda: comfy_svdquant(tiled=True),
    "ct-sparse-bf16": lambda: ct_sparse("bf16"),
    "ct-sparse-fp8": lambda: ct_sparse("fp8"),
    "ct-sparse-int8": lambda: ct_sparse("int8"),
    "gguf-ik": gguf_ik,
    "gguf-ik-repacked": gguf_ik_repacked,
    "llm-awq": llm_awq,
    "marlin": lambda: marlin(128),
    "marlin-channel": lambda: marlin(256),
    "nvfp4-e5m3": nvfp4_e5m3,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or COMMANDS:
        torch.manual_seed(17)
        COMMANDS[name]()
