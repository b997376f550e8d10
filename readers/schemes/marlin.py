"""Marlin, as AutoGPTQ and IST-DASLab's package save it: `X.B`, `X.s`; see `kernels/marlin.py`.

Codes are symmetric and of 4 bits. GPTQModel's QQQ has `X.s_channel` beside them, and other codes;
Marlin 2:4 has `X.meta` or `X.B_meta`: both are refused by name. `X.workspace` is memory of the
kernel.
"""

from __future__ import annotations

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Strided
from anamnesis.readers.schemes._errors import misfit, unsupported
from anamnesis.readers.schemes._packed_linear import note_group_sizes, settings
from anamnesis.readers.schemes.base import Ledger

_OUTPUTS, _INPUTS = 64, 16
_IMPLEMENTED = "Marlin of 4 bits, with one scale a column or a group of its inputs"


def resolve(ledger: Ledger) -> None:
    """Claim layers by `B` and `s`.

    Raises FormatError for parts that do not fit one another, UnsupportedError by name for QQQ and
    for 2:4 sparse layers.
    """
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "B" or stored.dtype not in ("I32", "U32"):
            continue
        scale = ledger.get(f"{prefix}{dot}s")
        if ledger.get(f"{prefix}{dot}s_channel") is not None:
            raise unsupported(stored, "QQQ (B, s_channel)", _IMPLEMENTED)
        if any(ledger.get(f"{prefix}{dot}{name}") for name in ("meta", "B_meta")):
            raise unsupported(stored, "Marlin 2:4 (B, meta)", _IMPLEMENTED)
        if scale is not None:
            ledger.claim(_tensor(ledger, f"{prefix}{dot}weight", stored, scale))
            workspace = ledger.get(f"{prefix}{dot}workspace")
            if workspace is not None:
                ledger.drop(workspace, "memory of Marlin's kernel")
    note_group_sizes(ledger, "marlin", settings(ledger))


def _tensor(ledger: Ledger, name: str, codes: Stored, scale: Stored) -> Tensor:
    lines, width = codes.shape if len(codes.shape) == 2 else (0, 0)
    inputs, outputs = lines * _INPUTS, width // 2
    if not lines or width % (2 * _OUTPUTS) or not width:
        raise misfit(codes, "I32 [in / 16, 2 * out] of Marlin, out a multiple of 64")
    groups = scale.shape[0] if len(scale.shape) == 2 else 0
    fits = groups and inputs % groups == 0 and (inputs // groups) % _INPUTS == 0
    if scale.dtype != "F16" or not fits or scale.shape != (groups, outputs):
        raise misfit(scale, f"F16 [groups, {outputs}], of {inputs:,} inputs")
    return Tensor(
        name=name,
        shape=(outputs, inputs),
        scheme="marlin",
        encoding="marlin",
        components=(
            Component("B", codes, Strided(8 * 512, 8 * outputs)),
            Component("s", scale, Strided(16 * _OUTPUTS, 2 * outputs)),
        ),
        unit_elems=_OUTPUTS * inputs,
        params={
            "bits": 4,
            "padded": False,
            "zero": "",
            "row_bytes": inputs // 2,
            "group_size": inputs // groups,
            "groups": groups,
            "lines": outputs,
            "block_rows": 1,
            "rows": outputs,
            "matrices": 1,
            "unit_rows": _OUTPUTS,
            "in_features": inputs,
            "act_order": False,
            "scale_dtype": "F16",
            "rounding": ledger.options.rounding,
        },
        orientation="transposed",
    )
