"""The table of schemes: how stored tensors make up logical ones; one file a family.

A row says where its `resolve(ledger)` is and what tells it apart: a stored dtype, or a name's
ending. A module is imported only when a checkpoint shows one of these. Rows are sorted by
name and run in that order; each claims only groups that are complete by their tensors. What
is left over is `passthrough`'s, which runs last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from anamnesis.readers.schemes.base import Ledger


@dataclass(frozen=True, slots=True)
class Scheme:
    """A row: the module, the container kinds it may appear in, and the evidence for it."""

    target: str  # "module:function" inside anamnesis.readers.schemes
    containers: tuple[str, ...] = ()  # empty: any
    dtypes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()


SCHEMES: dict[str, Scheme] = {
    "awq": Scheme("awq:resolve", suffixes=(".qweight",)),
    "bitnet": Scheme("bitnet:resolve", dtypes=("U8",)),
    "bnb": Scheme(
        "bnb:resolve",
        suffixes=(
            ".SCB",
            ".quant_map",
            "_absmax",
            ".weight_scb",
            "quant_state.bitsandbytes__fp4",
            "quant_state.bitsandbytes__nf4",
            "weight_quant_state",
        ),
    ),
    "compressed-tensors": Scheme(
        "ct:resolve",
        suffixes=("_packed", "_scale", "bitmask"),
    ),
    "fp4": Scheme(
        "fp4:resolve",
        dtypes=("F8_E8M0",),
        suffixes=("_packed", "_scale", "_scale_2"),
    ),
    "fp8": Scheme(
        "fp8:resolve",
        dtypes=("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"),
    ),
    "gguf": Scheme("gguf:resolve", containers=("gguf",), suffixes=("",)),
    "gptq": Scheme("gptq:resolve", suffixes=(".qweight", ".B")),
    "hqq": Scheme("hqq:resolve", suffixes=("W_q",)),
    "mlx": Scheme("mlx:resolve", dtypes=("U32",), suffixes=(".biases", ".qbiases")),
    "modelslim": Scheme("modelslim:resolve", suffixes=("weight_scale", "weight_offset")),
    "mxfp4": Scheme("mxfp4:resolve", suffixes=("_blocks", "_scales", ".blocks", ".scales")),
    "quanto": Scheme("quanto:resolve", suffixes=("._data",)),
    "quark": Scheme("quark:resolve", suffixes=("weight_scale",)),
    "torchao": Scheme("torchao:resolve", containers=("safetensors",), suffixes=("_qdata",)),
}


def resolve(ledger: Ledger) -> None:
    """Run every scheme that shows evidence, then the leftovers' rules."""
    kinds = {stored.dtype for stored in ledger.container.stored.values()}
    names = list(ledger.container.stored)
    for row in SCHEMES.values():
        if row.containers and ledger.container.kind not in row.containers:
            continue
        if kinds.intersection(row.dtypes) or any(n.endswith(row.suffixes) for n in names):
            _function(row.target)(ledger)
    _function("passthrough:resolve")(ledger)


def _function(target: str) -> Callable[[Ledger], None]:
    module, _, name = target.partition(":")
    function: Callable[[Ledger], None] = getattr(
        import_module(f"anamnesis.readers.schemes.{module}"), name
    )
    return function
