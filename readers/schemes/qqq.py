"""QQQ, as its package and GPTQModel save it: `X.B`, `X.s_channel`, `X.s_group`; `kernels/qqq.py`.

Without groups `s_group` has no elements, or is not there. `X.workspace` and `X.reduce_buffer` are
memory of the kernel.
"""

from __future__ import annotations

from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.schemes import _tiles
from anamnesis.readers.schemes._errors import misfit
from anamnesis.readers.schemes.base import Ledger

_INPUTS = 16


def resolve(ledger: Ledger) -> None:
    """Claim layers by `B` and `s_channel`; raises FormatError for parts that do not fit."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        scale = ledger.get(f"{prefix}{dot}s_channel")
        if part != "B" or stored.dtype not in ("I32", "U32") or scale is None:
            continue
        groups = ledger.get(f"{prefix}{dot}s_group")
        if groups is not None and 0 in groups.shape:
            ledger.drop(groups, "scales of no groups")
            groups = None
        ledger.claim(_tensor(ledger, f"{prefix}{dot}weight", stored, scale, groups))
        memory = ("workspace", "reduce_buffer")
        _tiles.leave_out(ledger, prefix + dot, memory, "memory of QQQ's kernel")


def _tensor(
    ledger: Ledger, name: str, codes: Stored, scale: Stored, groups: Stored | None
) -> Tensor:
    lines, width = codes.shape if len(codes.shape) == 2 else (0, 0)
    inputs, outputs = lines * _INPUTS, width // 2
    if not lines or width % (2 * _tiles.OUTPUTS) or not width:
        raise misfit(codes, "I32 [in / 16, 2 * out] of QQQ, out a multiple of 64")
    if scale.dtype != "F32" or scale.shape != (1, outputs):
        raise misfit(scale, f"F32 {[1, outputs]}")
    components = [
        _tiles.lines("B", codes, outputs, 64),
        _tiles.lines("s_channel", scale, outputs, 32),
    ]
    if groups is not None:
        _tiles.groups_of(groups, "F16", outputs, inputs, _INPUTS)
        components.append(_tiles.lines("s_group", groups, outputs, 16))
    about = _tiles.params(ledger, outputs, inputs, 1, scale)
    return _tiles.tensor(name, "qqq", components, about, bits=8)
