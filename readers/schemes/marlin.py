"""Marlin, as AutoGPTQ and IST-DASLab's package save it: `X.B`, `X.s`; see `kernels/marlin.py`.

Codes are symmetric and of 4 bits. GPTQModel's QQQ has `X.s_channel` beside them, and other codes
(`qqq.py`). `X.workspace` is memory of the kernel.
"""

from __future__ import annotations

from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.schemes import _tiles
from anamnesis.readers.schemes._errors import misfit
from anamnesis.readers.schemes._packed_linear import note_group_sizes, settings
from anamnesis.readers.schemes.base import Ledger

_INPUTS = 16


def resolve(ledger: Ledger) -> None:
    """Claim layers by `B` and `s`; raises FormatError for parts that do not fit one another."""
    for stored in ledger.free():
        prefix, dot, part = stored.name.rpartition(".")
        if part != "B" or stored.dtype not in ("I32", "U32"):
            continue
        scale = ledger.get(f"{prefix}{dot}s")
        if scale is not None and ledger.get(f"{prefix}{dot}s_channel") is None:
            ledger.claim(_tensor(ledger, f"{prefix}{dot}weight", stored, scale))
            _tiles.leave_out(ledger, prefix + dot, ("workspace",), "memory of Marlin's kernel")
    note_group_sizes(ledger, "marlin", settings(ledger))


def _tensor(ledger: Ledger, name: str, codes: Stored, scale: Stored) -> Tensor:
    lines, width = codes.shape if len(codes.shape) == 2 else (0, 0)
    inputs, outputs = lines * _INPUTS, width // 2
    if not lines or width % (2 * _tiles.OUTPUTS) or not width:
        raise misfit(codes, "I32 [in / 16, 2 * out] of Marlin, out a multiple of 64")
    groups = _tiles.groups_of(scale, "F16", outputs, inputs, _INPUTS)
    about = _tiles.params(ledger, outputs, inputs, groups, scale)
    components = [_tiles.lines("B", codes, outputs, 64), _tiles.lines("s", scale, outputs, 16)]
    own = {"bits": 4, "padded": False, "row_bytes": inputs // 2}
    return _tiles.tensor(name, "marlin", components, about, **own)
