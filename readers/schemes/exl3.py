"""EXL3: `X.trellis` beside `X.suh` and `X.svh`, whose layout and formula are in `kernels/exl3.py`.

All sizes follow from the shapes, the codebook from which marker is there. exllamav3 stores
matrices whose sides are no multiples of 128 with more rows and columns, and trims them by the
model's configuration: they come out as they are stored, with a note. Source: PyPI exllamav3 1.6.5
modules/quant/exl3.py, modules/linear.py (`load_exl3`, `pad_out`).
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, missing, unsupported
from anamnesis.readers.schemes._padding import note_padding
from anamnesis.readers.schemes.base import Ledger

GROUP, TILE = 128, 16


def resolve(ledger: Ledger) -> None:
    """Claim layers by their trellis.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError for
    half bits with another codebook than mul1.
    """
    found = False
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".")
        if part == "trellis" and len(stored.shape) == 3:
            ledger.claim(_tensor(ledger, f"{layer}{dot}", stored))
            found = True
    if found:
        _note(ledger)


def _tensor(ledger: Ledger, layer: str, trellis: Stored) -> Tensor:
    rows, columns, width = trellis.shape
    inputs, outputs = rows * TILE, columns * TILE
    if trellis.dtype != "I16" or inputs % GROUP or outputs % GROUP or width not in _WIDTHS:
        raise misfit(trellis, "I16 [8 n, 8 m, 16 K], K of 1 to 8, or of 1.5, 2.5 and 3.5")
    suh, signs = _factors(ledger, trellis, f"{layer}suh", f"{layer}su", inputs)
    svh, other = _factors(ledger, trellis, f"{layer}svh", f"{layer}sv", outputs)
    if signs != other:
        raise misfit(svh, f"the kind of {suh.name!r}: numbers, or bits of signs")
    components = [
        Component("trellis", trellis, Strided(GROUP * width, max(1, columns * width * 2))),
        Component("svh", svh, Contiguous(GROUP * (1 if signs else 16))),
        Component("suh", suh),
    ]
    markers = [m for name in ("mcg", "mul1") if (m := ledger.get(f"{layer}{name}"))]
    if len(markers) > 1 or any(m.nbytes != 4 for m in markers):
        raise misfit(markers[-1], "one codebook, mcg or mul1, of one number of 4 bytes")
    kind = markers[0].name.rpartition(".")[2] if markers else "3inst"
    if width % TILE and kind != "mul1":
        raise unsupported(trellis, f"EXL3 of {width / TILE:g} bits and codebook {kind}", "mul1's")
    components += [Component(kind, marker) for marker in markers]
    return Tensor(
        name=f"{layer}weight",
        shape=(outputs, inputs),
        scheme="exl3",
        encoding="exl3",
        components=tuple(components),
        unit_elems=max(1, GROUP * inputs),
        params={"halves": width // 8, "codebook": kind, "signs": signs, "scale_dtype": svh.dtype},
        orientation="transposed",
    )


_WIDTHS = (*(TILE * bits for bits in range(1, 9)), 24, 40, 56)


def _factors(
    ledger: Ledger, trellis: Stored, numbers: str, bits: str, count: int
) -> tuple[Stored, bool]:
    """The factors of inputs or outputs, and whether they are bits of signs."""
    found = ledger.get(numbers) or ledger.get(bits)
    if found is None:
        raise missing(ledger, trellis, numbers, bits)
    signs = found.name == bits
    dtype, shape = ("I16", (count // TILE,)) if signs else ("F16", (count,))
    if (found.dtype, found.shape) != (dtype, shape):
        raise misfit(found, f"{dtype} {list(shape)}")
    return found, signs


def _note(ledger: Ledger) -> None:
    """Say that the numbers are algebra, and which of the model's sizes were padded."""
    ledger.note(
        "EXL3: the rotation of the weights was undone in double precision and rounded once; "
        "exllamav3 rounds to binary16 in between"
    )
    note_padding(ledger, "EXL3", GROUP)
