"""Other people's encoders of the same numbers, one thread: libggml, bitsandbytes, MLX, torch.

Each is a call that encodes a BF16 matrix, and gives its codes; KeyError where a library is not
installed or has no such target. Codes are compared with ours before anything is timed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from anamnesis.kernels import ENCODINGS
from anamnesis.kernels.encoders import ENCODERS
from benchmarks.decoders import libggml_base

Call = Callable[[], Any]


def calls(name: str, bits: Any) -> Iterator[tuple[str, Call]]:
    """The libraries that have a target, each with its call on BF16's `bits [rows, columns]`."""
    for library, make in _LIBRARIES.items():
        try:
            yield library, make(name, bits)
        except (ImportError, KeyError):
            continue


def _wide(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _libggml(name: str, bits: Any) -> Call:
    """`ggml_quantize_chunk`, which takes float32."""
    row = ENCODINGS[ENCODERS[name].reads_back]
    if row.ggml_type < 0:
        raise KeyError(name)
    library, values = libggml_base(), _wide(bits)
    blocks = np.zeros(values.size // row.block_elems * row.block_bytes, np.uint8)
    library.ggml_quantize_init(row.ggml_type)
    call, size, pointer = library.ggml_quantize_chunk, ctypes.c_int64, ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    call.restype = ctypes.c_size_t

    def encode() -> Any:
        source, target = values.ctypes.data, blocks.ctypes.data
        call(row.ggml_type, source, target, 0, *values.shape, None)
        return blocks

    return encode


def _tensor(bits: Any) -> Any:
    import torch

    torch.set_num_threads(1)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def _bitsandbytes(name: str, bits: Any) -> Call:
    kind = {"bnb-fp4": "fp4", "bnb-int8": "int8", "bnb-nf4": "nf4"}[name]
    from bitsandbytes import functional

    weight = _tensor(bits)
    if kind == "int8":
        return lambda: functional.int8_vectorwise_quant(weight.half())[0].numpy()
    return lambda: functional.quantize_4bit(weight, blocksize=64, quant_type=kind)[0].numpy()


def _mlx(name: str, bits: Any) -> Call:
    modes = {
        "mlx-affine": (4, 64, "affine"),
        "mlx-mxfp4": (4, 32, "mxfp4"),
        "mlx-mxfp8": (8, 32, "mxfp8"),
        "mlx-nvfp4": (4, 16, "nvfp4"),
    }
    width, group, mode = modes[name]
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    array = mx.array(_wide(bits)).astype(mx.bfloat16)
    mx.eval(array)

    def encode() -> Any:
        found = mx.quantize(array, group_size=group, bits=width, mode=mode)
        mx.eval(*found)
        return np.array(found[0])

    return encode


def _torch(name: str, bits: Any) -> Call:
    """DeepSeek's formula for blocks, and one for the rows, in torch's operations."""
    if name not in ("fp8-block", "fp8-channel"):
        raise KeyError(name)
    weight = _tensor(bits)
    import torch

    def by_blocks() -> Any:
        rows, columns = weight.shape
        blocks = weight.float().view(rows // 128, 128, columns // 128, 128)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448.0
        return (blocks / scales).to(torch.float8_e4m3fn).view(rows, columns)

    def by_rows() -> Any:
        scales = (weight.abs().amax(1, keepdim=True).float() / 448.0).bfloat16()
        return (weight / scales).clamp(-448, 448).to(torch.float8_e4m3fn)

    encode = by_blocks if name == "fp8-block" else by_rows
    return lambda: encode().view(torch.uint8).numpy()


_LIBRARIES: dict[str, Callable[[str, Any], Call]] = {
    "MLX": _mlx,
    "bitsandbytes": _bitsandbytes,
    "libggml": _libggml,
    "torch": _torch,
}
