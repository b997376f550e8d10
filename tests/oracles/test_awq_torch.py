"""AutoAWQ on this machine: what it packs, and what it reads of random layers and real ones."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from packed_oracle import compare

import anamnesis

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif("ANAMNESIS_ORACLES" not in os.environ, reason="make test-oracles sets it"),
    pytest.mark.filterwarnings("ignore"),  # the library's own, on import
    pytest.mark.timeout(600),
]
CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus" / "awq"


@pytest.fixture(scope="module")
def libraries() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).parent))
    return importlib.import_module("packed_libraries")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "group"),
    [(128, 128, 128), (576, 192, 64), (64, 8, 32), (1, 8, -1), (77, 136, -1), (9000, 72, 1000)],
)
def test_gemm(
    libraries: ModuleType, inputs: int, outputs: int, group: int, dtype: str, tmp_path: Path
) -> None:
    compare(libraries.awq(inputs, outputs, group, scale_dtype=getattr(torch, dtype)), tmp_path)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("inputs", [128, 384, 1152])
def test_gemv(libraries: ModuleType, inputs: int, group: int, tmp_path: Path) -> None:
    compare(libraries.awq_gemv(inputs, 96, group), tmp_path)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("inputs", [128, 384, 1152])
def test_gemv_fast(libraries: ModuleType, inputs: int, group: int, tmp_path: Path) -> None:
    compare(libraries.awq_gemv_fast(inputs, 96, group), tmp_path)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus is not beside the checkout")
@pytest.mark.parametrize("layout", ["autoawq-gemm-w4-g64", "gemm-w4-g64"])
def test_corpus_in_the_library_s_order(libraries: ModuleType, layout: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    dequantize = libraries.load("awq.utils.packing_utils").dequantize_gemm
    out = tmp_path / "out.safetensors"
    anamnesis.remember(CORPUS / layout, out, rounding="reference", threads=1)
    found, stored = anamnesis.open_model(out), load_file(CORPUS / layout / "model.safetensors")
    for name in (n for n in stored if n.endswith(".qweight")):
        prefix = name.removesuffix(".qweight")
        parts = [stored[f"{prefix}.{part}"] for part in ("qweight", "qzeros", "scales")]
        wanted = libraries.bits(dequantize(*parts, 4, 64)).numpy()
        values = found[f"{prefix}.weight"].to_numpy().view(np.uint16)
        np.testing.assert_array_equal(values, wanted)
