"""Other people's decoders of the same layers, one thread, as their users call them.

A peer decodes to the dtype of its own choice; it is compared with ours to float32 when that is
float32, else with ours to BF16. What it allocates in its call is part of the call. Every result is
checked against ours first. Packages that are not installed are left out; `make bench-peers`
installs them.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks import decoders
from benchmarks.decoders import Call, Problem, packages


@dataclass(frozen=True, slots=True)
class Peer:
    """`bind` makes a call that gives the decoded layer, or raises for a type it does not have."""

    name: str
    module: str  # whose absence leaves it out
    encodings: tuple[str, ...]  # beginnings of names
    out: str
    bind: Callable[[Problem], Call]


PEERS = (
    Peer("AutoAWQ", "awq", ("awq-gemm",), "float16", decoders.autoawq),
    Peer("GPTQModel", "gptqmodel", ("gptq",), "float16", decoders.gptqmodel),
    Peer("bitsandbytes", "bitsandbytes", ("bnb-4bit",), "bfloat16", decoders.bitsandbytes),
    Peer("bitsandbytes", "bitsandbytes", ("bnb-int8",), "float32", decoders.bitsandbytes),
    Peer("gguf-py", "gguf", ("gguf-",), "float32", decoders.gguf_py),
    Peer("libggml", "libggml", ("gguf-",), "float32", decoders.libggml),
    Peer("numpy + ml_dtypes", "ml_dtypes", ("fp8-",), "bfloat16", decoders.ml_dtypes_numpy),
    Peer("torch", "torch", ("bf16",), "float32", decoders.torch_ops),
    Peer(
        "torch", "torch", ("f16", "f32", "f64", "fp8-", "bnb-int8"), "bfloat16", decoders.torch_ops
    ),
)


def calls(problem: Problem, ours: Any) -> Iterator[tuple[Peer, Call]]:
    """The peers that decode this layer, each checked against `ours`, float32 `[rows * columns]`."""
    with warnings.catch_warnings(action="ignore"):
        for peer in PEERS:
            if not problem.encoding.startswith(peer.encodings) or not available(peer.module):
                continue
            try:
                call = peer.bind(problem)
            except (AttributeError, KeyError, ValueError):
                continue  # a type that it does not have
            try:
                found = call()
            except NotImplementedError:
                continue
            if problem.encoding != "gguf-nvfp4":  # its scale of the tensor is not in the block
                _compare(peer, problem, found, ours)
            yield peer, call


def _compare(peer: Peer, problem: Problem, found: Any, ours: Any) -> None:
    if hasattr(found, "detach"):
        found = found.detach().float().numpy()
    theirs = np.asarray(found).astype(np.float32).reshape(-1)
    if not np.allclose(theirs, ours, rtol=0.02, atol=float(np.abs(ours).max()) * 2e-3):
        raise ArithmeticError(f"{peer.name} and {problem.encoding}: other numbers")


@cache
def available(module: str) -> bool:
    if module in ("awq", "gptqmodel"):
        return (packages() / module).is_dir() and available("torch")
    if importlib.util.find_spec(module) is None:
        return False
    if module in ("bitsandbytes", "torch"):
        import torch

        torch.set_num_threads(1)
    return True


def installed() -> dict[str, str]:
    """The version of every peer that is there."""
    from importlib.metadata import distributions, version

    names = {"gguf-py": "gguf", "libggml": "libggml-python", "numpy + ml_dtypes": "ml_dtypes"}
    found = {}
    for peer in PEERS:
        if not available(peer.module):
            continue
        if peer.module in ("awq", "gptqmodel"):
            by_name = {d.name.lower(): d.version for d in distributions(path=[str(packages())])}
            found[peer.name] = by_name[peer.name.lower()]
        else:
            found[peer.name] = version(names.get(peer.name, peer.name))
    return found
