"""Widths of packed codes that are not those of the configuration: taken from the tensors, noted.

The shapes of codes, scales and zero points give the width of GPTQ, AWQ, HQQ and compressed-tensors;
their own readers make buffers of the stated width and fail on any other shape. So the tensors
decide. A configuration with overrides (`dynamic`, `extra_config`, groups of layers) states several
widths, and which layer has which is not asked here: any of them agrees. A layer that ends up with
other inputs than the model's is noted as well.
"""

from __future__ import annotations

from collections.abc import Iterator

from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes._errors import first_of
from anamnesis.readers.schemes._left_alone import left_alone
from anamnesis.readers.schemes._model_sizes import ModelSizes, fed
from anamnesis.readers.schemes.base import Ledger

_METHODS = frozenset(("auto-round", "awq", "compressed-tensors", "gptq", "hqq"))
_KEYS = frozenset(("bits", "nbits", "num_bits", "w_bit", "w_bits", "wbits", "weight_bits"))
_SIZES = frozenset(("group_size",))
_GROUPED = frozenset(("auto-round", "compressed-tensors", "modelopt", "quark"))
_INTEGERS = ("ct-int-quantized", "ct-pack-quantized")
_SMALL = {"mxfp4": 32, "mxfp6": 32, "mxfp8": 32, "nvfp4": 16}  # which is part of the format
_OTHERS = ("act", "input", "kv", "output")  # what is not about weights, such as input_activations
_BYTES = ("I8", "U8")  # integers of a byte each hold narrower ones, too
_DEPTH = 6
_MOST = 8  # bits of codes: two readings differ by the ratio of their widths


def note_widths(ledger: Ledger) -> None:
    """Add a note on decoded weights of a width that no part of the configuration states."""
    if any(one.method not in _METHODS for one in ledger.stated):
        return
    stated = {bits for one in ledger.stated for bits in _numbers(one.block, _KEYS, 0)}
    if not stated:
        return
    found = [
        tensor
        for tensor in ledger.tensors.values()
        if tensor.quantised
        and tensor.components[0].stored.dtype not in _BYTES
        and tensor.params.get("bits", next(iter(stated))) not in stated
    ]
    if found:
        ledger.note(
            f"{first_of(found)}: the configuration says bits "
            f"{', '.join(map(str, sorted(stated)))}, and the shapes hold "
            f"{found[0].params['bits']}, which were taken"
        )


def note_groups(ledger: Ledger) -> None:
    """Add a note on codes in groups of a size that no part of the configuration states.

    GPTQ's and AWQ's own are noted by their schemes, which know of each layer what is stated.
    """
    sizes = {size for one in ledger.stated for size in _numbers(one.block, _SIZES, 0)}
    methods = {one.method for one in ledger.stated}
    grouped = not methods.isdisjoint(_GROUPED)
    exact = "modelopt" not in methods  # which says 32 of NVFP4 with activations of FP8
    found = []
    for tensor in ledger.tensors.values() if sizes and grouped else ():
        inputs, groups = tensor.params.get("in_features"), tensor.params.get("groups")
        size = _SMALL.get(tensor.scheme, 0) if exact else 0
        if tensor.scheme in _INTEGERS and inputs and groups and not tensor.params["act_order"]:
            size = -(-inputs // groups) if groups > 1 else 0
        if size and size not in sizes:
            found.append((tensor, size))
    if found:
        layers, groups_of = zip(*found, strict=True)
        ledger.note(
            f"{first_of(layers)}: the configuration says group_size "
            f"{', '.join(map(str, sorted(sizes)))}, and the scales make groups of "
            f"{groups_of[0]}, which were taken"
        )


def note_inputs(ledger: Ledger) -> None:
    """Add a note on decoded layers whose inputs are not those that the model must have.

    Where a scheme knows several widths of the same product it has chosen by them already (MLX).
    """
    if ledger.container.kind == "gguf" or not ledger.stated:
        return
    sizes = ModelSizes(ledger.configs)

    def shape_of(name: str) -> tuple[int, ...]:
        other = ledger.tensors.get(name)
        return () if other is None else other.shape

    found = []
    for tensor in ledger.tensors.values():
        layer, _, part = tensor.name.rpartition(".")
        if tensor.quantised and part == "weight" and len(tensor.shape) == 2:
            inputs = sizes.other(layer, tensor.shape[1])
            right = inputs and tensor.shape[1] in fed(tensor.name, shape_of)
            mlx = tensor.scheme.startswith("mlx-")  # of which only a product is in the shapes
            if mlx and not inputs:
                inputs = sizes.perhaps_packed(tensor.name, tensor.shape, _MOST)
            settled = mlx and bool(sizes.reads(layer).sizes)
            if inputs and not right and not settled:
                found.append((tensor, inputs))
    if found:
        tensor, inputs = found[0]
        ledger.note(
            f"{first_of([layer for layer, _ in found])}: decoded with {tensor.shape[1]:,} "
            f"inputs, and by the model's configuration such a layer has {inputs:,}: the width of "
            "its codes, or the configuration, may be another's"
        )


def note_parts(ledger: Ledger) -> None:
    """Add a note on dense matrices of any name with the part of `hidden_size` that codes fill."""
    if ledger.container.kind == "gguf" or not ledger.stated:
        return
    sizes, alone = ModelSizes(ledger.configs), left_alone(ledger)
    found = []
    for tensor in ledger.tensors.values() if sizes.hidden else ():
        row = DTYPES[tensor.out_dtype]
        if not tensor.quantised and row.kind == "float":
            size = sizes.perhaps_packed(tensor.name, tensor.shape, row.bits)
            if size and not alone.lists(tensor.name):
                found.append((tensor, size))
    if found:
        ledger.note(
            f"{first_of([tensor for tensor, _ in found])}: kept as floats, of which a row has the "
            f"part of hidden_size ({found[0][1]:,}) that codes would fill, and no number of the "
            "configuration says that such a layer has so many inputs"
        )


def _numbers(value: object, keys: frozenset[str], depth: int) -> Iterator[int]:
    """Every number of such a key about weights in a block, those of its overrides included."""
    if isinstance(value, list):
        for item in value if depth < _DEPTH else ():
            yield from _numbers(item, keys, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in keys and type(item) is int:
                yield item
            elif depth < _DEPTH and not str(key).startswith(_OTHERS):
                yield from _numbers(item, keys, depth + 1)
