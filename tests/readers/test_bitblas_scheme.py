"""BitBLAS's layers: what is read and what does not fit; exact values are held in conformance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_models import resolved
from written_layers import assert_reference

from anamnesis.errors import FormatError, UnsupportedError

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "layouts" / "bitblas"
STATED = {"quant_method": "gptq", "bits": 4, "group_size": 32, "format": "bitblas"}
LAYER: dict[str, Any] = {
    "x.qweight": ("I8", (24, 64)),
    "x.scales": ("F16", (24, 4)),
    "x.qzeros": ("I8", (4, 12)),
}


def opened(parts: dict[str, Any], block: dict[str, Any]) -> Any:
    return resolved({n: part for n, part in (LAYER | parts).items() if part}, block)


@pytest.mark.parametrize("layer", ["2-bits", "4-bits", "4-bits-symmetric"])
def test_the_roundings_of_f16(layer: str, tmp_path: Path) -> None:
    assert_reference(GOLDEN, layer, tmp_path)


@pytest.mark.parametrize("block", [{}, STATED, {"quant_method": "bitblas", "bits": 4}])
@pytest.mark.parametrize("zeros", ["qzeros", "zeros"])
def test_the_tensors_tell(block: Any, zeros: str) -> None:
    parts = {"x.qzeros": None, f"x.{zeros}": LAYER["x.qzeros"]}
    tensor = opened(parts, block).tensors["x.weight"]
    told = tensor.params["bits"], tensor.params["mixed"], tensor.params["group_size"]
    assert (tensor.scheme, tensor.shape, told) == ("bitblas", (24, 128), (4, True, 32))


@pytest.mark.parametrize(("bits", "shape"), [(2, (24, 256)), (4, (24, 128))], ids=["2", "4"])
def test_bits_come_from_the_zero_points(bits: int, shape: tuple[int, int]) -> None:
    zeros = {"x.qzeros": ("I8", (4, 24 * bits // 8))}
    tensor = opened(zeros, STATED | {"bits": 2}).tensors["x.weight"]
    assert (tensor.params["bits"], tensor.shape) == (bits, shape)


def test_gptq_in_bytes_is_no_bitblas() -> None:
    parts = {
        "x.qweight": ("I8", (64, 24)),
        "x.scales": ("F16", (4, 24)),
        "x.qzeros": ("I8", (4, 12)),
    }
    assert opened(parts, {"quant_method": "gptq", "bits": 4}).tensors["x.weight"].scheme == "gptq"


@pytest.mark.parametrize(
    ("parts", "bits", "error", "message"),
    [
        ({"x.qzeros": ("I8", (4, 3))}, 4, UnsupportedError, "BitBLAS of 1 bit"),
        ({"x.qzeros": ("I8", (4, 24))}, 4, UnsupportedError, "BitBLAS of 8 bits"),
        ({"x.qzeros": ("I8", (0,))}, 8, UnsupportedError, "BitBLAS of 8 bits"),
        ({"x.qzeros": ("I8", (0,))}, None, FormatError, "does not fit"),
        ({"x.qzeros": ("I8", (0,))}, 3, FormatError, "does not fit"),
        ({"x.qzeros": ("I8", (4, 11))}, 4, FormatError, "does not fit"),
        ({"x.qzeros": ("I8", (3, 12))}, 4, FormatError, "does not fit"),
        ({"x.qzeros": ("F16", (24, 4))}, 4, FormatError, "does not fit"),
        ({"x.scales": ("F16", (24, 3)), "x.qzeros": ("I8", (3, 12))}, 4, FormatError, "not fit"),
        ({"x.scales": ("F16", (23, 4))}, 4, FormatError, "does not fit"),
        ({"x.scales": ("F16", (24, 0))}, 4, FormatError, "does not fit"),
        ({"x.qweight": ("I8", (24, 63))}, 4, FormatError, "does not fit"),
        ({"x.scales": None}, 4, FormatError, "x.scales"),
    ],
)
def test_what_does_not_fit(parts: Any, bits: Any, error: Any, message: str) -> None:
    block = STATED | {"bits": bits}
    with pytest.raises(error, match=message):
        opened(parts, {key: value for key, value in block.items() if value})
