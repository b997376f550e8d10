"""SpQR: `X.dense_weights` and what stands beside it; layout and formula are in `kernels/spqr.py`.

The order of the inputs says how many they are, and with that the words how many rows. The layout is
that of 3 bits and tiles of 16 by 16, which the configuration has to say if it says anything.
Sources: https://github.com/Vahe1994/SpQR inference_lib/src/spqr_quant/inference.py and
convert_to_hf.py; https://github.com/huggingface/transformers integrations/spqr.py.
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes.base import Ledger

TILE = 16
_WORD = 64  # bits
_SETTINGS = {"bits": 3, "beta1": TILE, "beta2": TILE}


def resolve(ledger: Ledger) -> None:
    """Claim layers by their words.

    Raises FormatError for parts that are missing or do not fit one another, UnsupportedError for
    other widths and tiles, and for a layer that does not say how many inputs it has.
    """
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".")
        if part == "dense_weights" and len(stored.shape) == 1:
            _check_settings(ledger, stored)
            ledger.claim(_tensor(ledger, f"{layer}{dot}", stored))


def _check_settings(ledger: Ledger, dense: Stored) -> None:
    for one in ledger.stated:
        for key, value in _SETTINGS.items():
            if one.method == "spqr" and one.block.get(key, value) != value:
                what = f"SpQR with {key} {one.block[key]!r:.20}"
                raise unsupported(dense, what, "3 bits in tiles of 16 by 16")


def _tensor(ledger: Ledger, layer: str, dense: Stored) -> Tensor:
    offsets = need(ledger, dense, f"{layer}row_offsets")
    values = need(ledger, dense, f"{layer}col_vals")
    order = need(ledger, dense, f"{layer}in_perm")
    if order.dtype == "I16":
        raise unsupported(order, "SpQR (spqr) with an order of its inputs in I16", "I32 [in / 2]")
    if order.dtype != "I32" or len(order.shape) != 1:
        raise misfit(order, "I32 [in / 2]")
    inputs, words = 2 * order.shape[0], dense.shape[0]
    if not inputs:
        what = "SpQR without an order of its inputs, which says how many they are,"
        raise unsupported(order, what, "I32 [in / 2]")
    if dense.dtype != "I64" or inputs % TILE or words % inputs:
        raise misfit(dense, f"I64, of {inputs:,} inputs in whole tiles of {TILE} by {TILE}")
    tile_rows = words // inputs
    rows = TILE * tile_rows
    if offsets.dtype != "I32" or offsets.shape not in ((rows + 1,), (tile_rows + 1,)):
        raise misfit(offsets, f"I32 [{rows + 1}] or [{tile_rows + 1}]")
    # Without outliers SpQR stores an empty tensor of floats.
    if len(values.shape) != 1 or (values.dtype != "I32" and values.nbytes):
        raise misfit(values, "I32 [outliers]")
    return Tensor(
        name=f"{layer}weight",
        shape=(rows, inputs),
        scheme="spqr",
        encoding="spqr",
        components=(
            Component("dense_weights", dense, Contiguous(_WORD * inputs)),
            Component("row_offsets", offsets),
            Component("col_vals", values),
            Component("in_perm", order),
        ),
        unit_elems=TILE * inputs,
        params={
            "by_tile": offsets.shape[0] == tile_rows + 1,
            "rounding": ledger.options.rounding,
        },
    )
