"""Write tests/data/quark/*.safetensors: Quark's INT4 of four bits, and what Quark reads back.

Made with amd-quark 0.13, torch 2.13.0 (CPU) and safetensors 0.8. Of amd-quark, whose import wants a
GPU's libraries, two pieces run on their own: torch/utils/pack.py (`Pack_4_bits`), and
`dequantize_int_per_group_affine` of torch/kernel/hw_emulation/hw_emulation_interface.py. `signed`
and `unsigned` hold the stored tensors, as RealQuantizer exports them (transposed scales, packed
zero points), `expected` the BF16 bits (U16) of each weight; `int8` and `int8-expected` are of INT8.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
(QUARK,) = (Path(p) / "quark" for p in sys.path if (Path(p) / "quark" / "torch").is_dir())
GROUPED = ("dequantize_int_per_group_affine", "_prepare_scale_for_group_dequant")
generator = torch.Generator().manual_seed(8)


def packing() -> Any:
    """pack.py, with imports that are empty."""
    for name, names in (
        ("quark.torch.quantization.config.type", ("Dtype", "QSchemeType", "ZeroPointType")),
        ("quark.torch.quantization.constants", ("PER_GROUP_INT_TRANSPOSE_DTYPES",)),
        ("quark.torch.quantization.utils", ("get_dtype_params",)),
        ("quark.torch.utils.numerics", ("safe_log2",)),
    ):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        vars(sys.modules[name]).update(dict.fromkeys(names))
    return alone(QUARK / "torch" / "utils" / "pack.py")


def alone(path: Path) -> Any:
    """One file of Quark's as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dequantize(name: str, *before: str) -> Any:
    """A function of the interface, with those that it calls."""
    space: dict[str, Any] = {"torch": torch}
    for place in ("kernel/hw_emulation/hw_emulation_interface.py", "quantization/utils.py"):
        path = QUARK / "torch" / place
        tree = ast.parse(path.read_text())
        tree.body = [
            n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in (name, *before)
        ]
        for function in tree.body:
            function.decorator_list = []
        exec(compile(tree, str(path), "exec"), space)  # noqa: S102
    return space[name]


def main() -> None:
    expected: dict[str, torch.Tensor] = {}
    for kind, dtype, low in (("signed", "int4", -8), ("unsigned", "uint4", 0)):
        pack, state = packing().Pack_4_bits("per_group", dtype), {}
        for name, rows, columns, size, scale_dtype, zeros in (
            ("bf16", 24, 96, 32, torch.bfloat16, "any"),
            ("f16", 16, 128, 128, torch.float16, "any"),
            ("f32", 8, 64, 16, torch.float32, "any"),
            ("symmetric", 16, 64, 32, torch.bfloat16, "none" if low else "any"),
        ):
            codes = torch.randint(low, low + 16, (rows, columns), generator=generator)
            zero = torch.randint(low, low + 16, (rows, columns // size), generator=generator)
            scale = torch.randn(rows, columns // size, generator=generator).to(scale_dtype)
            if zeros == "none":
                zero = torch.zeros_like(zero)
            layer = f"{kind}.{name}"
            state[f"{layer}.weight"] = pack.pack(codes.to(torch.int32), True)
            state[f"{layer}.weight_scale"] = scale.t().contiguous()
            if zeros != "none":
                state[f"{layer}.weight_zero_point"] = pack.pack(zero.to(torch.int32), True)
            back = pack.unpack(state[f"{layer}.weight"], True)
            values = dequantize(*GROUPED)(back, scale, zero, 1, size)
            expected[f"{layer}.weight"] = values.to(torch.bfloat16).view(torch.uint16)
        state[f"{kind}.norm.weight"] = torch.ones(4)
        state[f"{kind}.bf16.input_scale"] = torch.ones(1)
        save_file(state, FOLDER / f"{kind}.safetensors")
    save_file(expected, FOLDER / "expected.safetensors")
    write_int8()
    write_floats()


def write_int8() -> None:
    """INT8 with a scale a tensor and a row: RealQuantizer stores these codes as they are."""
    state, expected = {}, {}
    for name, rows, columns, dtype, zeros in (
        ("tensor", 24, 40, torch.float32, False),
        ("tensor_zeros", 8, 33, torch.bfloat16, True),
        ("rows", 16, 48, torch.float32, False),
        ("rows_zeros", 33, 16, torch.float16, True),
        ("square", 16, 16, torch.bfloat16, True),
    ):
        shape = () if name.startswith("tensor") else (rows,)
        codes = torch.randint(-128, 128, (rows, columns), generator=generator)
        zero = torch.randint(-128, 128, shape, generator=generator)
        zero = zero if zeros else torch.zeros_like(zero)
        scale = torch.randn(shape, generator=generator).to(dtype)
        layer = f"int8.{name}"
        state[f"{layer}.weight"] = codes.to(torch.int8)
        state[f"{layer}.weight_scale"] = scale
        state[f"{layer}.weight_zero_point"] = zero.to(torch.int8)
        state[f"{layer}.input_scale"] = torch.ones(())
        state[f"{layer}.input_zero_point"] = torch.zeros((), dtype=torch.int8)
        if shape:
            values = dequantize("dequantize_int_per_channel_affine")(codes, scale, zero, 0)
        else:
            values = dequantize("dequantize_int_per_tensor_affine")(codes, scale, zero)
        expected[f"{layer}.weight"] = values.to(torch.bfloat16).view(torch.uint16)
    state["int8.norm.weight"] = torch.ones(4)
    save_file(state, FOLDER / "int8.safetensors")
    save_file(expected, FOLDER / "int8-expected.safetensors")


def write_floats() -> None:
    """FP4 and FP6 whose scales are E5M3 or E8M0, and FP4 whose scales are FP8 under another."""
    pack, state, expected = packing(), {}, {}
    e5m3 = alone(QUARK / "torch" / "kernel" / "float8_e5m3" / "lookup.py").E5M3_LOOKUP_TABLE
    unpack = {
        "fp4": pack.Pack_fp4("per_group", "fp4").unpack,
        "fp6_e2m3": pack.Pack_fp6("per_group", "fp6_e2m3", 2, 3).unpack,
        "fp6_e3m2": pack.Pack_fp6("per_group", "fp6_e3m2", 3, 2).unpack,
    }
    dense = dequantize(
        *("dequantize_fp4_fp6_per_group", "prepare_inputs_per_group"),
        *("reshape_to_blocks", "pad_to_blocks"),
    )
    for name, dtype, scales, size in (
        ("amdfp4", "fp4", "e5m3", 32),
        ("amdfp4_16", "fp4", "e5m3", 16),
        ("mxfp4", "fp4", "e8m0", 32),
        ("mxfp6_e2m3", "fp6_e2m3", "e8m0", 32),
        ("mxfp6_e3m2", "fp6_e3m2", "e8m0", 32),
        ("nvfp4", "fp4", "bf16", 16),
    ):
        rows, columns = 9, 96
        width = columns // 2 if dtype == "fp4" else columns * 3 // 4
        layer = f"{name}.up_proj"
        codes = torch.randint(0, 256, (rows, width), generator=generator, dtype=torch.uint8)
        scale = torch.randint(90, 127, (rows, columns // size), generator=generator).byte()
        state[f"{layer}.weight"], state[f"{layer}.weight_scale"] = codes, scale
        if scales == "e5m3":
            numbers = e5m3[scale.device][scale.long()]
        elif scales == "e8m0":
            numbers = (2 ** (scale.to(torch.int16) - 127).float()).float()
        else:
            state[f"{layer}.weight_scale"] = scale.view(torch.float8_e4m3fn)
            second = torch.tensor(0.0173, dtype=torch.bfloat16)
            state[f"{layer}.weight_scale_2"] = second
            fp8 = dequantize("dequantize_fp8_per_tensor_with_scale")
            numbers = fp8(scale.view(torch.float8_e4m3fn), second.float())
        values = dense(unpack[dtype](codes, True), numbers, 1, size)
        expected[f"{layer}.weight"] = values.to(torch.bfloat16).view(torch.uint16)
    save_file(state, FOLDER / "floats.safetensors")
    save_file(expected, FOLDER / "floats-expected.safetensors")


if __name__ == "__main__":
    main()
