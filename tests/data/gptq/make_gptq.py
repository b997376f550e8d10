"""Write tests/data/gptq/*.safetensors: layers as the libraries store them, and what they read back.

Made with GPTQModel 7.7.0, AutoAWQ 0.2.7.post3, AutoRound 0.16.1 and torch 2.13.0 (CPU), through
tests/oracles/packed_libraries.py, which says where the packages are looked for. `cases` holds the
stored tensors as `CASE.qweight` and so on, with the layer's config as JSON in the header's
metadata; `expected` the BF16 bits (U16) as `CASE.exact` and `CASE.reference`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "oracles"))

import packed_libraries as libraries  # type: ignore[import-not-found]  # noqa: E402

INT8, INT16, BF16, F32 = torch.int8, torch.int16, torch.bfloat16, torch.float32


def cases() -> dict[str, libraries.Case]:
    gptq, awq = libraries.gptq, libraries.awq
    found = {
        f"gptq-w{bits}-v{2 if v2 else 1}": gptq(bits, 96, 64, 32, v2=v2, seed=bits)
        for bits in (2, 3, 4, 8)
        for v2 in (False, True)
    }
    found |= {
        f"gptq-w{bits}-act-order": gptq(bits, 128, 32, 32, order="shuffled", seed=bits)
        for bits in (2, 3, 4, 8)
    }
    found |= {
        "gptq-square": gptq(4, 64, 64, 64, seed=20),
        "gptq-square-act-order": gptq(4, 64, 64, 16, order="shuffled", seed=21),
        "gptq-channel": gptq(4, 96, 40, -1, seed=22),
        "gptq-partial-group": gptq(4, 160, 24, 64, seed=23),
        "gptq-partial-act-order": gptq(8, 80, 20, 32, order="shuffled", seed=24),
        "gptq-index-zeros": gptq(4, 128, 16, 32, order="zeros", seed=25),
        "gptq-padded": gptq(4, 60, 21, 32, seed=26),
        "gptq-one-output": gptq(4, 64, 1, 32, seed=27),
        "gptq-one-output-w8": gptq(8, 32, 1, 16, order="shuffled", seed=28),
        "gptq-carry-w2": gptq(2, 64, 32, 32, carry=True, seed=29),
        "gptq-carry-w4": gptq(4, 64, 40, 32, carry=True, seed=30),
        "gptq-carry-w8": gptq(8, 32, 24, 16, carry=True, seed=31),
        "gptq-int8": gptq(4, 64, 24, 32, pack_dtype=INT8, seed=32),
        "gptq-int16": gptq(4, 68, 24, 32, pack_dtype=INT16, seed=33),
        "gptq-int16-w2": gptq(2, 72, 24, 32, pack_dtype=INT16, order="shuffled", seed=34),
        "gptq-int8-w8": gptq(8, 40, 9, -1, pack_dtype=INT8, v2=True, seed=35),
        "gptq-bf16-scales": gptq(4, 64, 32, 32, scale_dtype=BF16, seed=36),
        "gptq-f32-scales": gptq(8, 64, 16, 32, scale_dtype=F32, seed=37),
        "gptq-f32-act-order": gptq(4, 64, 16, 32, scale_dtype=F32, order="shuffled", seed=38),
        "awq-gemm": awq(96, 64, 32, seed=50),
        "awq-square": awq(64, 64, 64, seed=51),
        "awq-channel": awq(72, 136, -1, seed=52),
        "awq-eight-outputs": awq(64, 8, 16, seed=53),
        "awq-bf16-scales": awq(64, 72, 32, scale_dtype=BF16, seed=54),
        "awq-gemv-g32": libraries.awq_gemv(96, 32, 32, seed=55),
        "awq-gemv-g64": libraries.awq_gemv(192, 32, 64, seed=56),
        "awq-gemv-g128": libraries.awq_gemv(256, 32, 128, seed=57),
        "awq-gemv-fast-g32": libraries.awq_gemv_fast(192, 16, 32, seed=58),
        "awq-gemv-fast-g64": libraries.awq_gemv_fast(192, 32, 64, seed=59),
        "awq-gemv-fast-g128": libraries.awq_gemv_fast(256, 16, 128, seed=60),
        "awq-stream-w5": libraries.awq_stream(5, 96, 64, 32, seed=90),
        "awq-stream-w6": libraries.awq_stream(6, 66, 96, -1, seed=91),
        "awq-stream-w7": libraries.awq_stream(7, 64, 32, 16, seed=92),
    }
    for number, packing in enumerate(
        ("auto_round", "auto_round:auto_gptq", "auto_round:gptqmodel")
    ):
        for bits in (2, 3, 4, 5, 6, 7, 8):
            if packing != "auto_round:gptqmodel" or bits == 4:
                name = f"{packing.replace('_', '-').replace(':', '-')}-w{bits}"
                seed = 60 + 10 * number + bits
                found[name] = libraries.auto_round(bits, 64, 32, 32, packing=packing, seed=seed)
    return found


def main() -> None:
    stored: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    configs: dict[str, str] = {}
    for name, case in cases().items():
        stored |= {f"{name}.{part}": t.contiguous() for part, t in case.stored.items()}
        expected[f"{name}.exact"] = case.exact
        if not torch.equal(case.exact, case.reference):
            expected[f"{name}.reference"] = case.reference
        configs[name] = json.dumps(case.config)
    save_file(stored, FOLDER / "cases.safetensors", metadata=configs)
    save_file(expected, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
