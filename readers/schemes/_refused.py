"""Methods that are recognised and not implemented: why, and which tool can recover the weights.

One table for errors and for docs/formats/README.md. A row's `signs` are parts of names that stand
together in one module and that no other method uses so: they tell the method where no
configuration does. Codes are integers, or FP8; with `floats` they may be called floats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refused:
    """A method: its title, what its tensors are, and what can turn them into dense weights."""

    title: str
    why: str
    tool: str
    signs: tuple[tuple[str, ...], ...] = ()
    floats: bool = False

    def __str__(self) -> str:
        return f"{self.title} ({self.why}) is recognised and not implemented; {self.tool}"


_ROTATED = "its weights are kept in a rotated basis"

# By the canonical name of the method; sorted.
REFUSED: dict[str, Refused] = {
    "deepspeedfp": Refused("DeepSpeed FP", "its numbers have 6 or 12 bits", "DeepSpeed reads it"),
    "dfloat11": Refused(
        "DFloat11",
        "the exponents of its BF16 numbers are Huffman codes, in pieces for the threads of a GPU",
        "the dfloat11 package can load it on a GPU",
        (("encoded_exponent", "sign_mantissa"),),
    ),
    "eetq": Refused(
        "EETQ",
        "its integers lie in the order of the GPU that quantised them, which no file says",
        "the eetq package can load it on a GPU",
        (("weight", "weight_scales"),),
    ),
    "flute": Refused(
        "FLUTE",
        "its codes lie in the order of a kernel that a table inside the package names",
        "the flute-kernel package can load it on a GPU",
    ),
    "qtip": Refused(
        "QTIP",
        "its codes are paths in a trellis",
        "qtip's own code can decode it",
        (("SU", "SV", "trellis"),),
    ),
    "quip": Refused(
        "QuIP#",
        "lattice codes in a basis that mixes all rows and all columns of a matrix",
        "quip-sharp's own code can decode it on a GPU",
        (("Qidxs",), ("SU", "SV")),
    ),
    "spinquant": Refused("SpinQuant", _ROTATED, "its own code can load it"),
    "tensorrt-llm": Refused(
        "TensorRT-LLM's own checkpoints",
        "its integers lie as its kernels take them, four of them in what is called a float16",
        "ModelOpt's export of the model for Hugging Face can be read",
        (("weight", "weights_scaling_factor"), ("weight", "weights_block_scaling_factor")),
        floats=True,
    ),
    "torchao-pickle": Refused(
        "torchao without its metadata",
        "what a tensor is stood in a pickle",
        "torchao can save it as safetensors",
        (("_weight_scale",), ("_weight_zero_point",)),
    ),
}
# Other names that tools write for a method of the table above.
ALIASES: dict[str, str] = {
    "quip-sharp": "quip",
}


def refused(method: str) -> Refused | None:
    """The row of a method by its canonical name."""
    return REFUSED.get(ALIASES.get(method, method))


def by_signs(parts: Iterable[str]) -> Refused | None:
    """The method that the names in one module tell, each relative to the module."""
    there = frozenset(parts)
    for row in REFUSED.values():
        if any(there.issuperset(sign) for sign in row.signs):
            return row
    return None


def table() -> str:
    """The rows as Markdown, for docs/formats/README.md."""
    lines = ["| method | `quant_method` | why | what can help |", "|---|---|---|---|"]
    for name, row in REFUSED.items():
        lines.append(f"| {row.title} | `{name}` | {row.why} | {row.tool} |")
    return "\n".join(lines)
