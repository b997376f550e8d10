"""TensorRT-LLM's own checkpoints: integers that are called floats are no dense weights.

Names, dtypes and shapes: TensorRT-LLM docs/source/architecture/checkpoint.md, ModelOpt's
export_tensorrt_llm_checkpoint.
"""

from __future__ import annotations

from typing import Any

import pytest
from small_models import Parts, ledger_of

from anamnesis.errors import UnsupportedError
from anamnesis.readers.schemes import resolve

QKV = "transformer.layers.0.attention.qkv"
AWQ: Parts = {
    f"{QKV}.weight": ("F16", (512, 64)),  # 512 inputs, 256 outputs of four bits
    f"{QKV}.weights_scaling_factor": ("F16", (4, 256)),
    f"{QKV}.prequant_scaling_factor": ("F16", (512,)),
}
FP8: Parts = {
    f"{QKV}.weight": ("F8_E4M3", (256, 512)),
    f"{QKV}.weights_scaling_factor": ("F32", (1,)),
    f"{QKV}.activation_scaling_factor": ("F32", (1,)),
}
FP4: Parts = {
    f"{QKV}.weight": ("U8", (256, 256)),
    f"{QKV}.weights_block_scaling_factor": ("F8_E4M3", (256, 32)),
    f"{QKV}.weights_block_scaling_factor_interleaved": ("F8_E4M3", (256, 32)),
    f"{QKV}.weights_global_scaling_factor": ("F32", (1,)),
}


@pytest.mark.parametrize("parts", [AWQ, FP8, FP4], ids=["awq", "fp8", "nvfp4"])
@pytest.mark.parametrize("stated", [False, True])
def test_refused_by_name(parts: Parts, stated: bool) -> None:
    config: dict[str, Any] = {"quantization": {"quant_algo": "W4A16_AWQ", "group_size": 128}}
    ledger = ledger_of(parts, configs={"config.json": config if stated else {}})
    with pytest.raises(UnsupportedError, match=r"TensorRT-LLM's own checkpoints.*Hugging Face"):
        resolve(ledger)


def test_without_scales_it_is_dense() -> None:
    ledger = ledger_of({f"{QKV}.weight": ("F16", (512, 256)), f"{QKV}.bias": ("F16", (256,))})
    resolve(ledger)
    assert {tensor.scheme for tensor in ledger.tensors.values()} == {"passthrough"}
