"""GPTQ's and AWQ's words as gptqmodel and AutoAWQ pack them, on a CPU, from the same numbers.

The numbers are those of `ct-int-quantized`, which other tests hold against compressed-tensors. Each
weight is exactly one of its codes, so that the libraries' own rounding finds that code.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anamnesis

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif("ANAMNESIS_ORACLES" not in os.environ, reason="make test-oracles sets it"),
    pytest.mark.filterwarnings("ignore"),  # the libraries' own, on import
    pytest.mark.timeout(600),
]
NAME = "model.layers.0.mlp.up_proj"
OUTPUTS, INPUTS = 64, 256


def _libraries() -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    return importlib.import_module("packed_libraries")


def encoded(source: Path, out: Path, encode: str) -> dict[str, Any]:
    anamnesis.convert(source, out, to="safetensors", encode=encode)
    found = safetensors.load_file(out)
    return {name.removeprefix(f"{NAME}."): tensor for name, tensor in found.items()}


def layer(tmp_path: Path, bits: int, group: int, *, sym: bool) -> tuple[Path, Any, Any, Any]:
    """A file of weights, and them as a module with its scales and zero points `[out, groups]`."""
    rng = np.random.default_rng(bits)
    values = rng.standard_normal((OUTPUTS, INPUTS)).astype(np.float16)
    values[3] = np.abs(values[3])
    source = tmp_path / "source.safetensors"
    safetensors.save_file({f"{NAME}.weight": torch.from_numpy(values)}, source)
    settings = f"bits={bits},group={group},sym={str(sym).lower()}"
    parts = encoded(source, tmp_path / "ints.safetensors", f"ct-int-quantized:{settings}")
    scales = parts["weight_scale"]
    half = 1 << bits - 1
    signed = parts.get("weight_zero_point", torch.zeros(scales.shape))
    zeros = signed.int() + half
    codes = parts["weight"].float().view(OUTPUTS, -1, group) - signed.float()[..., None]
    linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
    linear.weight.data = (codes * scales.float()[..., None]).view(OUTPUTS, INPUTS)
    return source, linear, scales.float(), zeros


GPTQ = [
    (bits, group, sym, version)
    for bits in (2, 3, 4, 8)
    for group, sym, version in ((128, True, 1), (32, True, 2), (64, False, 2))
]


@pytest.mark.parametrize(("bits", "group", "sym", "version"), GPTQ)
def test_gptqmodel_packs_the_same_words(
    tmp_path: Path, bits: int, group: int, sym: bool, version: int
) -> None:
    libraries = _libraries()
    source, linear, scales, zeros = layer(tmp_path, bits, group, sym=sym)
    kind = libraries.load("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    module = kind(bits, group, sym, False, INPUTS, OUTPUTS, pack_dtype=torch.int32)
    index = torch.arange(INPUTS, dtype=torch.int32) // group
    module.pack_original(linear, scales, zeros, index)
    if version == 1:
        model = libraries.load("gptqmodel.utils.model")
        own = SimpleNamespace(bits=bits, pack_dtype=torch.int32)
        module = model.convert_gptq_v2_to_v1_format_module(module, own) or module
    settings = f"bits={bits},group={group},sym={str(sym).lower()},version={version}"
    found = encoded(source, tmp_path / "out.safetensors", f"gptq:{settings}")
    assert found.keys() == {"qweight", "qzeros", "scales", "g_idx"}
    for name, tensor in found.items():
        assert torch.equal(tensor, getattr(module, name)), name


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("group", [32, 128])
def test_autoawq_packs_the_same_words(tmp_path: Path, group: int, sym: bool) -> None:
    libraries = _libraries()
    source, linear, scales, zeros = layer(tmp_path, 4, group, sym=sym)
    kind = libraries.load("awq.modules.linear.gemm").WQLinear_GEMM
    module = kind.from_linear(
        linear, 4, group, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    settings = f"group={group},sym={str(sym).lower()}"
    found = encoded(source, tmp_path / "out.safetensors", f"awq:{settings}")
    assert found.keys() == {"qweight", "qzeros", "scales"}
    for name, tensor in found.items():
        assert torch.equal(tensor, getattr(module, name)), name
