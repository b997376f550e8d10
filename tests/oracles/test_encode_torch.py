"""Encoders against the libraries on this machine, over dtypes, shapes and classes of input."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("compressed_tensors")
pytest.importorskip("bitsandbytes")
pytest.importorskip("mlx.core")

pytestmark = pytest.mark.oracle
TESTS = Path(__file__).resolve().parents[1]
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ours = _load(TESTS / "kernels" / "encode_cases.py")
libraries = _load(TESTS / "oracles" / "encode_libraries.py")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("case", list(ours.cases()), ids=ours.label)
def test_bytes_are_the_librarys(case, dtype) -> None:  # type: ignore[no-untyped-def]
    if case[1].get("style") in ("modelopt", "gpt-oss"):
        pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor")
    for number, kind in enumerate(ours.CLASSES):
        values = ours.matrix(kind, 128, 256, seed=number)
        weight = torch.from_numpy(values).to(TORCH[dtype])
        expected = libraries.written(*case, weight)
        try:
            ours.assert_same(ours.encoded(case, values, dtype, step=1), expected)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from error
