"""HIGGS: `X.tables2` beside `X.weight` and `X.scales`; the layout is in `kernels/higgs.py`.

Shapes tell the bits and the groups. The order of the codes is that of the kernel of FLUTE that a
layer was tuned for: `tune_metadata` of the configuration has the number of its template, and that
the tile of its outputs. `hadamard_size` is there as well. Sources: PyPI transformers 5.23
integrations/higgs.py, quantizers/quantizer_higgs.py; https://github.com/HanGuo97/flute (9eb83a1)
flute/utils.py, flute/data/qgemm_kernel_raw_generated_configs.pth (`TileP`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, where
from anamnesis.readers.schemes._padding import note_padding
from anamnesis.readers.schemes.base import Ledger

_OUTPUTS = {2: 8, 3: 16, 4: 4}  # of a row of words, of 3 bits of one in the first third
_TEMPLATES = {2: 36, 4: 144}  # nine runs of them have tiles of 64, 32 and 32 outputs in turn
_MOST = 1 << 15  # the largest rotation that FLUTE has
_NOTE = (
    "HIGGS: the rotation of the weights was undone in double precision and rounded once; FLUTE "
    "computes in the dtype of the scales, and rotates the inputs"
)


def resolve(ledger: Ledger) -> None:
    """Claim layers by their tables of pairs.

    Raises FormatError for parts that do not fit one another, UnsupportedError for a layer whose
    order or rotation no configuration says.
    """
    blocks = [one.block for one in ledger.stated if one.method == "higgs"]
    found = False
    for table in ledger.free():
        layer, dot, part = table.name.rpartition(".")
        if part == "tables2":
            tensor = _tensor(ledger, layer, f"{layer}{dot}", table, blocks[0] if blocks else {})
            ledger.claim(tensor)
            found = True
            stored = ledger.get(f"{layer}{dot}tables")
            if stored is not None:
                ledger.drop(stored, "its numbers are in tables2")
    if found:
        ledger.note(_NOTE)
        note_padding(ledger, "HIGGS", int(blocks[0]["hadamard_size"]))
    ledger.undone += blocks


def _tensor(
    ledger: Ledger, layer: str, stem: str, table: Stored, block: Mapping[str, Any]
) -> Tensor:
    weight, scales = (need(ledger, table, f"{stem}{part}") for part in ("weight", "scales"))
    codes = table.shape[0] if table.shape else 0
    bits = codes.bit_length() - 1
    numbers = 4 if table.dtype == "F32" else 2  # bytes: two numbers, or one of both
    if (
        bits not in _OUTPUTS
        or table.shape != (codes, codes, 4 // numbers)
        or (table.dtype not in ("F32", "F16", scales.dtype))
    ):
        raise misfit(table, "F16 [n, n, 2], n of 4, 8 or 16")
    inputs = weight.shape[-1] if weight.shape else 0
    outputs, groups = scales.shape if len(scales.shape) == 2 else (0, 0)
    if weight.dtype != "I16" or weight.shape != (outputs * bits // 16, inputs) or not inputs:
        raise misfit(weight, f"I16 [out * {bits} / 16, in], of scales {list(scales.shape)}")
    if scales.dtype not in ("F16", "BF16") or not groups or inputs % groups:
        raise misfit(scales, f"F16 or BF16 [out, groups], of {inputs:,} inputs in whole groups")
    tile, size = _tile(ledger, weight, layer, bits, block), _hadamard(weight, block)
    chunk = tile * _OUTPUTS[bits]
    if inputs % size or outputs % chunk:
        raise misfit(weight, f"outputs in chunks of {chunk}, inputs in blocks of {size}")
    return Tensor(
        name=f"{stem}weight",
        shape=(outputs, inputs),
        scheme="higgs",
        encoding="higgs",
        components=(
            *_payload(weight, bits, tile, inputs),
            Component("scales", scales, Contiguous(16 * chunk * groups)),
            Component("tables2", table),
        ),
        unit_elems=chunk * inputs,
        params={
            "bits": bits,
            "tile": tile,
            "inputs": inputs,
            "hadamard": size,
            "scale_dtype": scales.dtype,
        },
    )


def _payload(weight: Stored, bits: int, tile: int, inputs: int) -> list[Component]:
    unit = 16 * tile * inputs
    if bits != 3:
        return [Component("weight", weight, Contiguous(unit))]
    view = weight.view
    if view is not None and (view.strides is not None or view.rows is not None):
        raise UnsupportedError(f"{where(weight)}: HIGGS of 3 bits is read from rows in order")
    third = weight.nbytes // 3
    first = replace(weight, shape=(weight.shape[0] // 3, inputs), nbytes=third)
    others = replace(
        weight,
        shape=(weight.shape[0] // 3 * 2, inputs),
        offset=weight.offset + third,
        nbytes=2 * third,
    )
    return [
        Component("weight", first, Contiguous(unit)),
        Component("rest", others, Contiguous(2 * unit)),
    ]


def _tile(ledger: Ledger, weight: Stored, layer: str, bits: int, block: Mapping[str, Any]) -> int:
    """The tile of outputs of a layer's template."""
    if bits == 3:
        return 32  # FLUTE packs them for no other
    tuned = block.get("tune_metadata")
    about = tuned.get(layer) if isinstance(tuned, Mapping) else None
    number = about.get("template_id") if isinstance(about, Mapping) else None
    if type(number) is not int:
        raise UnsupportedError(
            f"{where(weight)}: HIGGS whose order nobody says: there is no template_id of "
            f"{layer!r} in tune_metadata of the configuration; transformers does not load it either"
        )
    count = _TEMPLATES[bits]
    if not 0 <= number < count:
        raise FormatError(
            f"{where(weight)}: template_id {number} of tune_metadata; allowed: 0 to {count - 1} "
            f"of {bits} bits"
        )
    return 32 if number // (count // 9) % 3 else 64


def _hadamard(weight: Stored, block: Mapping[str, Any]) -> int:
    size = block.get("hadamard_size")
    if type(size) is not int:
        raise UnsupportedError(
            f"{where(weight)}: HIGGS without a hadamard_size in the configuration: nobody knows "
            "in what blocks it was rotated"
        )
    if not 0 < size <= _MOST or size & (size - 1):
        raise FormatError(
            f"{where(weight)}: hadamard_size {size}; allowed: a power of two up to {_MOST:,}"
        )
    return size
