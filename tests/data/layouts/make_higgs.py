"""Make the HIGGS layouts in this folder.

    cd / && FLUTE=…/flute python …/tests/data/layouts/make_higgs.py

Needs https://github.com/HanGuo97/flute (9eb83a1), torch 2.13.0 (CPU), transformers 5.23,
jaxtyping, scipy, click and safetensors. Layers are quantised by `quantize_with_higgs`, which packs
them by FLUTE's functions; both run on the CPU once nothing measures kernels: the template is
given. FLUTE unpacks on a GPU alone, so what the codes mean is taken from before they
are packed, by the function of its own test, `vector_dequantize_higgs`, in double. The rotation is
turned back as the reference of fast-hadamard-transform does it, `hadamard_transform_ref` (scipy's
matrix, in double), and the root of its size, and the result is rounded to float32.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as in what is run
from layout_files import write
from scipy.linalg import hadamard
from transformers.integrations import higgs

FLUTE = Path(os.environ.get("FLUTE", ""))


def module(name: str, path: Path | None = None) -> Any:
    """A module of FLUTE from its file, or an empty one in the place of what is compiled."""
    if path is None:
        found = types.ModuleType(name)
    else:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, found)
    if path is not None:
        spec.loader.exec_module(found)
    return found


def flute() -> Any:
    """FLUTE without its kernels."""
    root = module("flute")
    root.__path__ = []
    root.qgemm = root.qgemm_hadamard = None
    file = FLUTE / "flute/data/qgemm_kernel_raw_generated_configs.pth"
    root.TEMPLATE_CONFIGS = torch.load(file, weights_only=True)
    for name in ("triton", "triton.testing"):
        module(name)
    sys.modules["triton.testing"].do_bench = None
    for name in ("packbits_utils", "utils", "tune"):
        module(f"flute.{name}", FLUTE / f"flute/{name}.py")
    module("flute.integrations").__path__ = []
    module("flute.integrations.higgs", FLUTE / "flute/integrations/higgs.py")
    root.utils.get_device_num_sms = lambda device: 108
    return root


def hadamard_transform(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """`hadamard_transform_ref`, for a size that is a power of two."""
    matrix = torch.tensor(hadamard(x.shape[-1], dtype=float), dtype=x.dtype)
    return F.linear(x, matrix) * scale


def functions(path: Path, *names: str) -> dict[str, Any]:
    """Functions of a file that imports what is not here."""
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    space: dict[str, Any] = {"torch": torch}
    exec(compile(tree, str(path), "exec"), space)  # noqa: S102 - the library's own code
    return space


def layer(bits: int, p: int, dtype: torch.dtype, size: int, group: int, template: int) -> Any:
    """A quantised layer, its metadata and its weight."""
    library = sys.modules["flute"]
    library.tune._tune = lambda **_: template
    codes: list[Any] = []

    def watched(*arguments: Any, **settings: Any) -> Any:
        codes[:] = [a.clone() for a in arguments[:3]]
        return library.integrations.higgs.prepare_data_transposed(*arguments, **settings)

    higgs.prepare_data_transposed = watched
    higgs.hadamard_transform = hadamard_transform
    outputs = {2: 512, 3: 1024, 4: 256}[bits]
    blocks = 1 if bits == 3 else 2
    weight = torch.randn(outputs, blocks * size, dtype=torch.float32) * 0.02
    stored = higgs.quantize_with_higgs(weight.to(dtype), bits, p, group, size)
    about = stored.pop("tune_metadata").to_dict()
    dequantise = functions(FLUTE / "tests/higgs.py", "vector_dequantize_higgs")
    indices, scales, grid = codes
    turned = dequantise["vector_dequantize_higgs"](indices.int(), scales.double(), grid.double())
    turned = turned.reshape(outputs, -1, size)
    back = hadamard_transform(turned).reshape(outputs, -1) / float(size) ** 0.5
    error = (back.float() - weight).norm() / weight.norm()
    assert error < 0.5, error  # it is the weight, coarsely
    return stored, about, back.float()


def make(folder: str, bits: int, p: int, dtype: torch.dtype, template: int, size: int = 64) -> None:
    stored, about, weight = layer(bits, p, dtype, size, 64, template)
    block = {
        "quant_method": "higgs",
        "bits": bits,
        "p": p,
        "group_size": 64,
        "hadamard_size": size,
        "modules_to_not_convert": ["lm_head"],
        "tune_metadata": {"a": about},
    }
    named = {f"a.{name}": tensor for name, tensor in stored.items()}
    write(f"higgs/{folder}", named, {"a.weight": weight}, {"quantization_config": block})


if __name__ == "__main__":
    torch.manual_seed(17)
    flute()
    make("4-bits-pairs", 4, 2, torch.float16, 3)
    make("4-bits-tile-32", 4, 1, torch.bfloat16, 70)
    make("3-bits", 3, 2, torch.bfloat16, 4)
    make("2-bits", 2, 2, torch.float16, 12)
    make("2-bits-tile-32", 2, 1, torch.float16, 20)
