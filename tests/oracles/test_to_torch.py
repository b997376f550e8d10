"""`to_torch`: torch's own view of the decoded memory, of every dtype, against safetensors.torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis
from anamnesis.pipeline import values

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = pytest.mark.oracle

DTYPES = ["bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"]


@pytest.mark.parametrize("dtype", [*DTYPES, "bool", "complex64"])
def test_dense(tmp_path: Path, dtype: str) -> None:
    generator = torch.Generator().manual_seed(1)
    numbers = (torch.randn(7, 5, 3, generator=generator) * 9).to(getattr(torch, dtype))
    save_file({"x": numbers, "scalar": numbers[0, 0, 0].clone()}, tmp_path / "m.safetensors")
    model = anamnesis.open_model(tmp_path / "m.safetensors")
    whole = model["x"].to_torch()
    assert whole.dtype == numbers.dtype
    assert whole.is_contiguous()
    assert torch.equal(whole, numbers)
    assert torch.equal(model["x"].to_torch(slice(2, 5)), numbers[2:5])
    assert torch.equal(model["x"].to_torch((3, slice(None), -1)), numbers[3, :, -1])
    assert torch.equal(model["x"].to_torch((1, 2, 0)), numbers[1, 2, 0])
    assert torch.equal(model["scalar"].to_torch(), numbers[0, 0, 0])


def test_bits_of_bfloat16(tmp_path: Path) -> None:
    """All of them, NaNs too."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    save_file({"x": every.reshape(256, 256)}, tmp_path / "m.safetensors")
    got = anamnesis.open_model(tmp_path / "m.safetensors")["x"].to_torch()
    assert got.dtype == torch.bfloat16
    assert torch.equal(got.view(torch.int16).reshape(-1), every.view(torch.int16))


def test_recovered_weights_without_a_copy(fp8_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensor lies where the kernel wrote, is writable, and outlives the model."""
    outs: list[int] = []
    fill = values.Values.fill

    def spy(self: Any, first: int, out: Any) -> None:
        outs.append(out.ctypes.data)
        fill(self, first, out)

    monkeypatch.setattr(values.Values, "fill", spy)
    tensor = anamnesis.open_model(fp8_model)["a.weight"]
    got = tensor.to_torch()
    assert got.data_ptr() == outs[-1]
    assert tensor.to_torch(slice(10, 20)).data_ptr() == outs[-1]
    wanted = tensor.to_numpy().view(np.int16)
    assert np.array_equal(got.view(torch.int16).numpy(), wanted)
    got.mul_(2)
    assert torch.equal(tensor.to_torch() * 2, got)
