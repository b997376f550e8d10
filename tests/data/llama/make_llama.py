"""Write tests/data/llama/{fp8,gptq,nf4}: a tiny Llama quantised, and what it stands for.

Made with transformers 5.23.0, compressed-tensors 0.20.0, bitsandbytes 0.50.2, GPTQModel 7.7.0 and
torch 2.13.0 (CPU) through tests/oracles/tiny_llama.py. Beside each model folder's own files,
`recovered.sha256` holds the SHA-256 of the little-endian BF16 bits of every tensor as the library
recovers it.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1] / "oracles"))

llama = importlib.import_module("tiny_llama")


def digest(tensor: torch.Tensor) -> str:
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()


def make(folder: Path, method: str) -> None:
    """A model folder, and the digests."""
    found = llama.quantise(method, llama.save_llama(folder, seed=1))
    llama.save_quantised(folder, found)
    lines = [f"{digest(tensor)}  {name}\n" for name, tensor in sorted(found.recovered.items())]
    (folder / "recovered.sha256").write_text("".join(lines))


if __name__ == "__main__":
    for method in llama.METHODS:
        make(FOLDER / method, method)
