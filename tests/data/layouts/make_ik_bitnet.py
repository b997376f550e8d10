"""Make `gguf/ik-llama-bitnet` in this folder: IQ1_BN, IQ2_BN, IQ2_BN_R4 and MXFP4_R8.

    cd / && IK_LLAMA=…/ik_llama.cpp python …/tests/data/layouts/make_ik_bitnet.py

Needs ik-llama-cpp-python 0.1.5, https://github.com/ikawrakow/ik_llama.cpp (8337e4c), g++, torch
2.13.0 (CPU), gguf 0.19.0 and safetensors. The functions of IQ1_BN and IQ2_BN give codes without
their row's scale, which only its products apply: rows are quantised once as each of the two and
once as IQ2_BN_R4, whose function applies it, and all three have to have its values. MXFP4_R8 is of
later versions, whose own function reads eight times as many blocks as there are: rows of MXFP4 are
repacked by their `repack_mxfp4`, and have the values that gguf gives them before.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, dequantize
from layout_files import HERE
from make_codes import Gguf, ik_library, ik_values

SOURCE = Path(os.environ.get("IK_LLAMA", ""), "ggml/src/iqk/iqk_quantize.cpp")
ROWS, COLUMNS = 16, 192
SHIM = """#include <cstdint>
#define GGML_ASSERT(x) if (!(x)) throw 1
#define QK_MXFP4 32
struct block_mxfp4 { uint8_t e; uint8_t qs[16]; };
struct block_mxfp4_r8 { uint8_t e[8]; uint8_t qs[128]; };
"""
CALL = """
extern "C" void repack(int rows, int columns, void* x, void* y) {
    repack_mxfp4(rows, columns, (const block_mxfp4*) x, (block_mxfp4_r8*) y, false);
}
"""


def quantised(library: Any, name: str, values: Any, nbytes: int) -> Any:
    """Rows of float32 as the type of that name, uint8 `[rows, bytes]`."""
    function = getattr(library, f"quantize_{name}")
    numbers = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2 + [ctypes.c_void_p] * 2
    function.argtypes, function.restype = numbers, ctypes.c_size_t
    raw = np.zeros((len(values), nbytes), np.uint8)
    size = function(values.ctypes.data, raw.ctypes.data, *values.shape, None, None)
    assert size == raw.nbytes, size
    return raw


def repacked(rows: Any) -> Any:
    """Rows of MXFP4, eight together."""
    text = SOURCE.read_text()
    begin = text.index("static void repack_mxfp4(")
    body = text[begin : text.index("\n}\n", begin) + 3]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "repack.cpp")
        file.write_text(SHIM + body + CALL)
        library = file.with_suffix(".so")
        options = ["-O1", "-std=c++17", "-shared", "-fPIC"]
        subprocess.run(["g++", *options, str(file), "-o", str(library)], check=True)
        out = np.zeros_like(rows)
        call = ctypes.CDLL(str(library)).repack
        call(
            len(rows), COLUMNS, ctypes.c_void_p(rows.ctypes.data), ctypes.c_void_p(out.ctypes.data)
        )
    return out


def main() -> None:
    rng, library, file = np.random.default_rng(19), ik_library(), Gguf()
    # Ternary rows, the largest of each a number that binary16 has.
    scales = rng.standard_normal((ROWS, 1)).astype(np.float16).astype(np.float32)
    weight = rng.integers(-1, 2, (ROWS, COLUMNS)).astype(np.float32) * scales
    four = quantised(library, "iq2_bn_r4", weight, 4 + COLUMNS // 4)
    values = ik_values(library, "iq2_bn_r4", four.reshape(ROWS // 4, -1), 4 * COLUMNS)
    wanted = torch.from_numpy(values.reshape(ROWS, COLUMNS))
    assert np.array_equal(weight, wanted.numpy())
    expected = {}
    for name, number, each in (("iq1_bn", 134, 2 + COLUMNS // 64 * 13), ("iq2_bn", 135, 0)):
        raw = quantised(library, name, weight, each or four.shape[1])
        file.add(f"{name}.weight", number, weight.shape, raw)
        expected[f"{name}.weight"] = wanted
        codes = ik_values(library, name, raw[:, 2 if each else 4 :].copy(), COLUMNS)
        assert np.array_equal(codes * np.abs(scales), wanted.numpy())
    file.add("iq2_bn_r4.weight", 335, weight.shape, four)
    expected["iq2_bn_r4.weight"] = wanted
    rows = rng.integers(0, 256, (ROWS, COLUMNS // 32, 17), np.uint8)
    rows[..., 0] = rng.integers(110, 140, rows.shape[:2])
    flat = rows.reshape(ROWS, -1)
    file.add("mxfp4_r8.weight", 353, weight.shape, repacked(flat))
    plain = dequantize(flat, GGMLQuantizationType.MXFP4)
    expected["mxfp4_r8.weight"] = torch.from_numpy(plain)
    file.write(HERE / "gguf" / "ik-llama-bitnet", expected)


if __name__ == "__main__":
    main()
