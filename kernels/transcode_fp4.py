"""E2M1 codes between layouts: compressed-tensors, ModelOpt, DeepSeek, MLX and ggml.

| layout | a row's codes | scales |
|---|---|---|
| all but ggml | pairs of neighbours, the first in the low half | bytes beside them |
| ggml MXFP4 | a block: e, then 16 pairs of j and j + 16 | in the block |
| ggml NVFP4 | four scales, then four times 8 pairs of j and j + 8 | in the block |

Scales of the tensor: compressed-tensors divides by its number, ModelOpt multiplies. Where the
inverse is rounded, a neighbour of it is taken under which every code has the same BF16 number (or
of the dtype asked for). ggml reads the exponent 255 as a number, and takes no E4M3 scale that has a
sign; it and ModelOpt have no -0: the code stays, and is read as 0 there.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._narrow import narrow
from anamnesis.kernels.encode_fp4 import e4m3_values
from anamnesis.kernels.transcoders import Inexact, Micro
from anamnesis.kernels.types import Array, Bytes, Outputs, Params, Views

_NAN_EXPONENT, _MX_BLOCK, _NV_BLOCK, _NV_GROUP = 255, 32, 64, 16
_SIZES = np.array([0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_NEIGHBOURS = 64  # of an inverse that are tried, on each side


def read_micro(views: Views, params: Params, window: Window) -> Micro:
    """Codes and scales of neighbours in a row."""
    codes, scales = views["payload"], views["scale"]
    rows = len(codes)
    whole = params["wholes"].get("global")
    repeats = params.get("block_elems", _NV_GROUP) // _NV_GROUP
    if repeats > 1:
        # A scale of several groups is that of each.
        scales = np.repeat(scales, repeats, axis=1)
    number = None
    if whole is not None:
        numbers = whole.array.reshape(-1).astype(np.float32)
        if (numbers != numbers[0]).any():
            raise Inexact("its matrices have numbers of their own")
        number = numbers[0]
        if "global_unit" in params:
            number = np.float32(number / np.float32(params["global_unit"]))
    return Micro(
        codes.reshape(rows, -1), scales.reshape(rows, -1), number, params.get("global") == "divide"
    )


def write_micro(found: Micro, params: Params, out: Outputs) -> None:
    """Codes and scales beside one another, under the number of the tensor that the target has."""
    style = params["style"]
    if "global" in out:
        _write_whole(found, params, out["global"], divide=style != "modelopt")
    elif found.whole is not None and found.whole != 1:
        raise Inexact(f"its scales are under a number of the tensor, {found.whole!s:.40}")
    out["scale"][:] = found.scales.reshape(-1)
    out["weight"].view(np.uint8)[:] = found.codes.reshape(-1)


def _write_whole(found: Micro, params: Params, out: Array, *, divide: bool) -> None:
    whole = np.float32(1) if found.whole is None else found.whole
    out[:] = whole if divide == found.divide else _inverse(whole, found.divide, params["dtype"])


def _inverse(whole: np.float32, divide: bool, dtype: str) -> np.float32:
    """The number that, multiplied with where `divide`, gives what dividing by `whole` gives.

    Raises Inexact where none gives the same numbers of `dtype`, for all scales and codes.
    """
    scales = e4m3_values(np.arange(0x7F, dtype=np.uint8))
    with np.errstate(all="ignore"):
        middle = np.float32(1) / whole
        wanted = _numbers(scales / whole if divide else scales * whole, dtype)
        below = above = middle
        for _ in range(_NEIGHBOURS):
            for other in (below, above):
                if (_numbers(scales * other if divide else scales / other, dtype) == wanted).all():
                    return other
            # The quotient that rounds to the same numbers is near the rounded inverse, on either
            # side.
            below = np.nextafter(below, np.float32(0))
            above = np.nextafter(above, np.float32(np.inf))
    raise Inexact(f"no inverse of its number, {whole!s:.40}, gives the same {dtype}")


def _numbers(scales: Array, dtype: str) -> Array:
    return narrow(np.outer(scales, _SIZES).astype(np.float32), dtype)


def read_gguf_mxfp4(views: Views, params: Params, window: Window) -> Micro:
    """ggml's MXFP4."""
    data, rows = views["payload"], len(views["payload"]) * _MX_BLOCK // params["shape"][-1]
    if (data[:, 0] == _NAN_EXPONENT).any():
        raise Inexact("an exponent is 255: 2**128 in a GGUF, NaN elsewhere")
    # A block: the exponent, then 16 bytes with elements i and 16 + i.
    codes = _neighbours(data[:, 1:].reshape(-1, 16))
    return Micro(codes.reshape(rows, -1), data[:, 0].reshape(rows, -1))


def write_gguf_mxfp4(found: Micro, params: Params, out: Outputs) -> None:
    """ggml's MXFP4."""
    scales = found.scales.reshape(-1)
    if (scales == _NAN_EXPONENT).any():
        raise Inexact("an exponent is 255: NaN there, 2**128 in a GGUF")
    data = out["blocks"].reshape(len(scales), -1)
    data[:, 0] = scales
    data[:, 1:] = _halves(found.codes.reshape(-1, 16))


def read_gguf_nvfp4(views: Views, params: Params, window: Window) -> Micro:
    """ggml's NVFP4, and the number of its tensor, if there is one."""
    data, rows = views["payload"], len(views["payload"]) * _NV_BLOCK // params["shape"][-1]
    # A block: four E4M3 scales, whose sign is not read, then four times eight bytes.
    scales = data[:, :4] & np.uint8(0x7F)
    if (scales == 0x7F).any():
        raise Inexact("a scale is 0x7F: 0 in a GGUF, NaN elsewhere")
    whole = params["wholes"].get("scale")
    numbers = np.ones(1, np.float32) if whole is None else whole.array.reshape(-1)
    if (numbers != numbers[0]).any():
        raise Inexact("its matrices have numbers of their own")
    codes = _neighbours(data[:, 4:].reshape(-1, 8))
    return Micro(codes.reshape(rows, -1), scales.reshape(rows, -1), numbers[0])


def write_gguf_nvfp4(found: Micro, params: Params, out: Outputs) -> None:
    """ggml's NVFP4, of a tensor whose number is 1."""
    scales = found.scales.reshape(-1, 4)
    if found.whole is not None and found.whole != 1:
        raise Inexact(f"its scales are under a number of the tensor, {found.whole!s:.40}")
    if (scales >= 0x7F).any():
        raise Inexact("a scale is negative, or NaN")
    data = out["blocks"].reshape(len(scales), -1)
    data[:, :4] = scales
    data[:, 4:] = _halves(found.codes.reshape(-1, 8)).reshape(len(scales), -1)


def _neighbours(halves: Bytes) -> Array:
    """Pairs of j and j + n, in n bytes a row, as pairs of neighbours."""
    codes = np.concatenate([halves & np.uint8(15), halves >> np.uint8(4)], axis=1)
    # The first of two in the low half.
    return codes[:, ::2] | codes[:, 1::2] << np.uint8(4)


def _halves(pairs: Bytes) -> Array:
    """Pairs of neighbours, in n bytes a row, as pairs of j and j + n."""
    codes = np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=2).reshape(len(pairs), -1)
    half = codes.shape[1] // 2
    return codes[:, :half] | codes[:, half:] << np.uint8(4)
