"""SqueezeLLM: `X.qweight` and `X.lookup_table`, with outliers beside them or not.

The layout and the formula are in `kernels/squeezellm.py`; all sizes follow from the shapes. Source:
https://github.com/SqueezeAILab/SqueezeLLM squeezellm/quant.py, quantization/pack.py, llama.py
(`load_quant`).
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, need
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

_BITS = {8: 3, 16: 4}  # by the length of a table


def resolve(ledger: Ledger) -> None:
    """Claim layers by their tables.

    Raises FormatError for parts that are missing or do not fit one another.
    """
    for stored in ledger.free():
        layer, dot, part = stored.name.rpartition(".")
        codes = ledger.get(f"{layer}{dot}qweight") if part == "lookup_table" else None
        if codes is not None:
            ledger.claim(_tensor(ledger, f"{layer}{dot}", codes, stored))


def _tensor(ledger: Ledger, layer: str, codes: Stored, table: Stored) -> Tensor:
    bits = _BITS.get(table.shape[-1], 0) if len(table.shape) == 2 else 0
    outputs = table.shape[0] if bits else 0
    if not outputs or table.dtype not in SCALE_BITS:
        raise misfit(table, f"{', '.join(SCALE_BITS)} [out, 8] or [out, 16]")
    lines = codes.shape[0] if codes.shape[1:] == (outputs,) else 0
    if codes.dtype != "I32" or not lines or lines % bits:
        raise misfit(codes, f"I32 [in * {bits} / 32, {outputs}], in a multiple of 32")
    inputs = lines * 32 // bits
    start = ledger.get(f"{layer}startrows")
    if start is not None:
        ledger.drop(start, "where the threads of a kernel begin")
    return Tensor(
        name=f"{layer}weight",
        shape=(outputs, inputs),
        scheme="squeezellm",
        encoding="squeezellm",
        components=(
            Component("qweight", codes, Strided(32, 4 * outputs)),
            Component("table", table, Contiguous(SCALE_BITS[table.dtype] << bits)),
            *_sparse(ledger, layer, outputs),
            *_full(ledger, layer, inputs),
        ),
        unit_elems=inputs,
        params={"bits": bits, "inputs": inputs, "outputs": outputs, "table_dtype": table.dtype},
        orientation="transposed",
    )


def _sparse(ledger: Ledger, layer: str, outputs: int) -> list[Component]:
    """The sparse matrix of outliers, if there is one."""
    names = ("rows", "cols", "vals")
    found = next((one for name in names if (one := ledger.get(f"{layer}{name}"))), None)
    if found is None:
        return []
    rows, columns, values = (need(ledger, found, f"{layer}{name}") for name in names)
    if (rows.dtype, rows.shape) != ("I32", (outputs + 1,)):
        raise misfit(rows, f"I32 [{outputs + 1}]")
    if values.dtype != "F32" or len(values.shape) != 1:
        raise misfit(values, "F32 [outliers]")
    if (columns.dtype, columns.shape) != ("I32", values.shape):
        raise misfit(columns, f"I32 {list(values.shape)}")
    return [Component("rows", rows), Component("cols", columns), Component("vals", values)]


def _full(ledger: Ledger, layer: str, inputs: int) -> list[Component]:
    """Outputs that are kept whole, if there are some."""
    names = ("full_rows", "full_row_indices")
    found = next((one for name in names if (one := ledger.get(f"{layer}{name}"))), None)
    if found is None:
        return []
    whole, indices = (need(ledger, found, f"{layer}{name}") for name in names)
    if indices.dtype != "I32" or len(indices.shape) != 1:
        raise misfit(indices, "I32 [n]")
    if (whole.dtype, whole.shape) != ("F32", (inputs, *indices.shape)):
        raise misfit(whole, f"F32 [{inputs}, {indices.shape[0]}]")
    return [Component("full_rows", whole), Component("full_row_indices", indices)]
