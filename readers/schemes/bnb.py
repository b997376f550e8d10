"""bitsandbytes: NF4 and FP4 with their quant states, and INT8 rows.

| part | bitsandbytes, transformers | GPTQModel |
|---|---|---|
| four-bit codes, `U8 [n / 2, 1]` or the same bytes as another dtype | `X` | `X` |
| `absmax` F32, or U8 codes when quantised again, one a block | `X.absmax` | `X_absmax` |
| `quant_map` F32 `[16]` | `X.quant_map` | `X_quant_map` |
| `nested_absmax` F32, `nested_quant_map` F32 `[256]` | `X.nested_…` | `X_nested_…` |
| quant state, JSON | `X.quant_state.bitsandbytes__nf4` or `__fp4` | `X_quant_state` |
| INT8 codes, `I8 [o, i]` | `M.weight` | `M.weight` |
| scale of a row, F32 `[o]` | `M.SCB` | `M.weight_scb` |
| format of the rows, U8 `[]`: 0 | `M.weight_format` | |

The four-bit tensor's shape is the state's, as stored: GPT-2's `Conv1D` weights were transposed
(`_conv1d.py`).
The stacked experts of `Experts4bit` have no state: see `_bnb_experts.py`.
Sources: bitsandbytes 0.50.2 `functional.py`, `nn/modules.py`
(https://github.com/bitsandbytes-foundation/bitsandbytes); GPTQModel 7.7.0
`nn_modules/qlinear/bitsandbytes.py` (https://github.com/ModelCloud/GPTQModel).
"""

from __future__ import annotations

import math
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.schemes._bnb_experts import claim_experts
from anamnesis.readers.schemes._bnb_state import QUANT_TYPES, QuantState, read_state
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

_STATE = ".quant_state.bitsandbytes__"
_STATE_ALONE = "_quant_state"
_PAYLOADS = ("BF16", "F16", "F32", "F64", "I8", "U8")  # any quant_storage: the bytes are the same
_LAYOUTS = ("row", "col32", "col_turing", "col_ampere")


def resolve(ledger: Ledger) -> None:
    """Claim four-bit tensors by their quant states, INT8 ones by their row scales.

    Raises FormatError for a group whose parts are missing or do not fit one another,
    UnsupportedError for other types of state and for the column layouts of old INT8 files.
    """
    claim_experts(ledger)
    files = Files()
    try:
        for stored in list(ledger.free()):
            name, found, kind = stored.name.rpartition(_STATE)
            if found and kind in QUANT_TYPES:
                _claim_4bit(ledger, stored, name, ".", read_state(stored, kind, files))
            elif found:
                raise UnsupportedError(
                    f"{where(stored)}: bitsandbytes {kind!r:.40}: recognised, not implemented; "
                    f"implemented are {', '.join(QUANT_TYPES)} and INT8"
                )
            elif stored.name.endswith("weight" + _STATE_ALONE):
                name = stored.name[: -len(_STATE_ALONE)]
                _claim_4bit(ledger, stored, name, "_", read_state(stored, None, files))
            elif stored.name.endswith((".SCB", ".weight_scb")):
                _claim_int8(ledger, stored, files)
        files.check_unchanged()
    finally:
        files.close()


def _claim_4bit(ledger: Ledger, text: Stored, name: str, dot: str, state: QuantState) -> None:
    codes = _part(ledger, text, name)
    if codes.dtype not in _PAYLOADS or codes.nbytes != (state.elems + 1) // 2:
        raise _misfit(
            codes,
            f"{codes.nbytes:,} bytes",
            f"{(state.elems + 1) // 2:,} bytes of codes for shape {list(state.shape)}, "
            f"as {', '.join(_PAYLOADS)}",
        )
    params: dict[str, Any] = {
        "bits": 4,
        "group_size": state.blocksize,
        "quant_type": state.quant_type,
        "dtype": state.dtype,
        "rounding": ledger.options.rounding,
    }
    absmax = _part(ledger, text, f"{name}{dot}absmax")
    allowed = {"U8": 8} if state.nested_blocksize else SCALE_BITS
    _check(absmax, tuple(allowed), state.blocks)
    params["absmax_dtype"] = absmax.dtype
    components = [
        Component("payload", codes, Contiguous(4 * state.blocksize)),
        Component("absmax", absmax, Contiguous(allowed[absmax.dtype])),
    ]
    wholes = {"quant_map": 16}
    if state.nested_blocksize:
        wholes["nested_absmax"] = -(-state.blocks // state.nested_blocksize)
        wholes["nested_quant_map"] = 256
        params["nested_blocksize"] = state.nested_blocksize
        params["nested_offset"] = state.nested_offset
    for role, elems in wholes.items():
        stored = _part(ledger, text, f"{name}{dot}{role}")
        _check(stored, ("F32",), elems)
        components.append(Component(role, stored))
    ledger.claim(
        Tensor(
            name=name,
            shape=state.shape,
            scheme=f"bnb-{state.quant_type}",
            encoding="bnb-4bit",
            components=tuple(components),
            unit_elems=state.blocksize,
            params=params,
        )
    )
    ledger.drop(text, "bitsandbytes quant state")


def _claim_int8(ledger: Ledger, scb: Stored, files: Files) -> None:
    module = scb.name.rpartition(".")[0]
    codes = _part(ledger, scb, f"{module}.weight")
    if codes.dtype != "I8" or len(codes.shape) != 2:
        raise _misfit(codes, "no matrix of I8", f"I8 [rows, columns], since {scb.name!r} exists")
    rows, columns = codes.shape
    _check(scb, ("F32",), rows)
    layout = ledger.get(f"{module}.weight_format")
    if layout is not None:
        _check_layout(layout, files)
        ledger.drop(layout, "bitsandbytes INT8 layout, always rows")
    ledger.claim(
        Tensor(
            name=codes.name,
            shape=codes.shape,
            scheme="bnb-int8",
            encoding="bnb-int8",
            components=(
                Component("payload", codes, Contiguous(8 * max(1, columns))),
                Component("SCB", scb, Contiguous(32)),
            ),
            unit_elems=max(1, columns),
            params={"bits": 8},
        )
    )


def _check_layout(stored: Stored, files: Files) -> None:
    _check(stored, ("U8",), 1)
    layout = files(stored.file).read(stored.offset, 1)[0]
    if layout >= len(_LAYOUTS):
        raise _misfit(stored, f"layout {layout}", f"0 (row) to {len(_LAYOUTS) - 1}")
    if layout:
        raise UnsupportedError(
            f"{where(stored)}: bitsandbytes INT8 in layout {_LAYOUTS[layout]!r}: recognised, not "
            "implemented; implemented is 'row'"
        )


def _part(ledger: Ledger, evidence: Stored, name: str) -> Stored:
    stored = ledger.get(name)
    if stored is None:
        raise FormatError(f"{where(evidence)}: its tensor {name!r} is missing, or not its own")
    return stored


def _check(stored: Stored, dtypes: tuple[str, ...], elems: int) -> None:
    if stored.dtype not in dtypes or math.prod(stored.shape) != elems:
        raise _misfit(
            stored, f"{math.prod(stored.shape):,} numbers", f"{elems:,} of {', '.join(dtypes)}"
        )


def _misfit(stored: Stored, found: str, allowed: str) -> FormatError:
    return FormatError(f"{where(stored)}: found {found}; allowed: {allowed}")
