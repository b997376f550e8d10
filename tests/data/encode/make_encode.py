"""Write tests/data/encode/expected.safetensors: what the libraries' own code writes for one matrix.

    pip install torch==2.13.0 compressed-tensors==0.20.0 transformers==5.23.0 \
        bitsandbytes==0.50.2 mlx==0.32.4 mlx-cpu==0.32.4 nvidia-modelopt==0.47.0 \
        optimum-quanto==0.2.7 safetensors
    python make_encode.py

The matrix is `matrix("plain", 32, 128)` of `tests/builders/encode_cases.py` in BF16, whose first
two rows are 0 and 0.25; a tensor `LABEL/PART` is what is stored of it under a case, BF16 and FP8 as
unsigned bits.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from safetensors.numpy import save_file

TESTS = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A file of the tests as a module."""
    path = TESTS / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ours, libraries = load("builders/encode_cases.py"), load("oracles/encode_libraries.py")
weight = torch.from_numpy(ours.golden_matrix()).to(torch.bfloat16)
kept = {}
for case in ours.cases():
    if case[1].get("style") == "transformers":
        continue  # takes whole blocks only
    for part, array in libraries.written(*case, weight).items():
        kept[f"{ours.label(case)}/{part}"] = array
save_file(kept, Path(__file__).with_name("expected.safetensors"))
