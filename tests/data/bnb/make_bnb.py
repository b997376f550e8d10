"""Write tests/data/bnb/*.safetensors: tensors as bitsandbytes stores them, and what it reads back.

Made with bitsandbytes 0.50.2, torch 2.13.0 (CPU), safetensors 0.8 and numpy 2. `cases` holds the
stored tensors, `expected` for each weight its float32 values (`NAME.float32`) and, for four bits,
its values in the quant state's dtype (`NAME.bfloat16`, as U16 bits, or `NAME.float16`).

The expected values come from the library's own C code, called directly. Through `dequantize_4bit`
it takes rows of 32 and more elements to an AVX-512 path on machines that have one; that path takes
the wrong absmax when a row is no whole number of blocks, and gives +0 for FP4's code 8. The plain
path, which machines without AVX-512 always take, is chosen here by rows of two elements.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import bitsandbytes.cextension
import bitsandbytes.functional
import numpy as np
import torch
from safetensors.torch import save_file

functional: Any = bitsandbytes.functional
lib: Any = bitsandbytes.cextension.lib
FOLDER = Path(__file__).parent
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
SCALES = [
    *(1, -1, 0, -0.0, 1e-3, 70000, 65519, 65520, 2.0**-14, 1e-6, 6e-8, 2.9e-8),
    *(3.4e38, 1e-38, 1e-41, 1e-45, -1e-40, np.inf, -np.inf, np.nan),
]
rng = np.random.default_rng(20)


def random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * 0.02)


def plain_4bit(packed: torch.Tensor, state: Any, dtype: str) -> torch.Tensor:
    """The values in `dtype`, by bitsandbytes' plain C code."""
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    absmax = absmax.float().contiguous()
    codes = packed.contiguous().view(torch.uint8)
    out = torch.empty(codes.numel() * 2, dtype=getattr(torch, dtype))
    function = getattr(lib, f"cdequantize_blockwise_cpu_{state.quant_type}_{DTYPES[dtype]}")
    pointers = [functional.get_ptr(tensor) for tensor in (codes, absmax, out)]
    sizes = [ctypes.c_longlong(size) for size in (state.blocksize, codes.numel(), 2)]
    if codes.numel():
        function(*pointers, *sizes)
    return out[: int(np.prod(state.shape))].reshape(tuple(state.shape))


class Cases:
    def __init__(self) -> None:
        self.stored: dict[str, torch.Tensor] = {}
        self.expected: dict[str, torch.Tensor] = {}

    def four_bit(self, name: str, packed: torch.Tensor, state: Any, dot: str = ".") -> None:
        parts = state.as_dict(packed=True)
        self.stored[name] = packed.contiguous()
        for role, tensor in parts.items():
            kept = "quant_state" if dot == "_" and role.startswith("quant_state") else role
            self.stored[f"{name}{dot}{kept}"] = tensor.clone()
        loaded = functional.QuantState.from_dict(dict(parts), torch.device("cpu"))
        self.expected[f"{name}.float32"] = plain_4bit(packed, loaded, "float32")
        dtype = str(loaded.dtype).removeprefix("torch.")
        native = plain_4bit(packed, loaded, dtype)
        self.expected[f"{name}.{dtype}"] = (
            native.view(torch.uint16) if dtype == "bfloat16" else native
        )

    def quantised(
        self,
        name: str,
        weight: torch.Tensor,
        dot: str = ".",
        *,
        quant_type: str = "nf4",
        blocksize: int = 64,
        nested: bool = False,
        storage: torch.dtype = torch.uint8,
    ) -> None:
        packed, state = functional.quantize_4bit(
            weight,
            blocksize=blocksize,
            quant_type=quant_type,
            compress_statistics=nested,
            quant_storage=storage,
        )
        self.four_bit(name, packed, state, dot)

    def coded(
        self, name: str, absmax: np.ndarray, codes: np.ndarray, quant_type: str, dtype: str
    ) -> None:
        """Chosen bytes and scales, where `quantize_4bit` would not give them."""
        state = functional.QuantState(
            absmax=torch.from_numpy(absmax.copy()),
            shape=torch.Size((1, codes.size * 2)),
            code=functional.get_4bit_type(quant_type, device="cpu"),
            blocksize=codes.size * 2 // absmax.size,
            quant_type=quant_type,
            dtype=getattr(torch, dtype),
        )
        self.four_bit(name, torch.from_numpy(codes.copy()).reshape(-1, 1), state)

    def int8(self, module: str, codes: torch.Tensor, scb: torch.Tensor) -> None:
        self.stored[f"{module}.weight"] = codes
        self.stored[f"{module}.SCB"] = scb
        self.stored[f"{module}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
        values = functional.int8_vectorwise_dequant(codes, scb)
        self.expected[f"{module}.weight.float32"] = values


def main() -> None:
    cases = Cases()
    for size in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        weight = random(3, size // 2).to(torch.bfloat16)
        cases.quantised(f"block{size}.weight", weight, blocksize=size)
    for quant_type in ("nf4", "fp4"):
        for dtype in ("bfloat16", "float16", "float32"):
            weight = random(12, 80).to(getattr(torch, dtype))
            cases.quantised(f"{quant_type}.{dtype}.weight", weight, quant_type=quant_type)
        cases.quantised(
            f"{quant_type}.nested.weight",
            random(137, 61),
            quant_type=quant_type,
            blocksize=32,
            nested=True,
        )
        every = np.tile(np.arange(256, dtype=np.uint8), 8)
        scales = np.concatenate([SCALES, rng.standard_normal(44)]).astype(np.float32)
        for dtype in ("bfloat16", "float16"):
            cases.coded(f"{quant_type}.all_{dtype}.weight", scales, every, quant_type, dtype)
    for storage in (torch.bfloat16, torch.float16, torch.float32):
        name = f"storage.{str(storage).removeprefix('torch.')}.weight"
        cases.quantised(name, random(4, 96), quant_type="fp4", storage=storage)
    cases.quantised("shape.odd.weight", random(13, 17))
    cases.quantised("shape.row.weight", random(1, 200))
    cases.quantised("shape.column.weight", random(67, 1))
    cases.quantised("shape.one.weight", random(1, 1))
    cases.quantised("shape.vector.weight", random(100))
    cases.quantised("shape.stack", random(3, 5, 20))
    cases.quantised("gptqmodel.plain.weight", random(6, 50), "_")
    cases.quantised("gptqmodel.nested.weight", random(64, 80), "_", nested=True)

    codes = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8)
    scb = torch.tensor([*SCALES, 0.25, 3.7, 127, *rng.random(5) * 4], dtype=torch.float32)
    cases.int8("int8.all", codes.repeat(scb.numel(), 1), scb)
    for rows, columns in ((9, 37), (1, 100), (70, 1)):
        codes, stats, _ = functional.int8_vectorwise_quant(random(rows, columns).half())
        cases.int8(f"int8.{rows}x{columns}", codes, stats)
    codes, stats, _ = functional.int8_vectorwise_quant(random(5, 64).half())
    cases.int8("int8.gptqmodel", codes, stats)
    cases.stored["int8.gptqmodel.weight_scb"] = cases.stored.pop("int8.gptqmodel.SCB")
    del cases.stored["int8.gptqmodel.weight_format"]
    cases.stored["norm.weight"] = random(16).to(torch.bfloat16)

    for name, tensor in cases.stored.items():
        if "quant_state" in name:
            json.loads(bytes(tensor.numpy()))
    save_file(cases.stored, FOLDER / "cases.safetensors", {"format": "pt"})
    save_file(cases.expected, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
