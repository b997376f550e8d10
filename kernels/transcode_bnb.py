"""bitsandbytes' four bits to themselves: codes, statistics and maps are copied.

The quant state is written again, with the dtype and the offset that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels.encode_bnb import quant_map, quant_state
from anamnesis.kernels.types import Array, Bytes, Outputs, Params, Views


class Four(NamedTuple):
    """A window's codes, bytes, and its statistics, F32 or bytes; the rest is of the tensor.

    `nested` are the statistics of statistics, `nested_map` and `map` the stored ones, if any;
    `state` is of the quant state: `quant_type`, `dtype` and `nested_offset`.
    """

    codes: Bytes
    absmax: Array
    state: Mapping[str, Any]
    nested: Array | None = None
    nested_map: Array | None = None
    map: Array | None = None


def read_four(views: Views, params: Params, window: Window) -> Four:
    """A window of blocks."""
    wholes = params["wholes"]
    parts = {
        field: wholes[role].array.reshape(-1)
        for field, role in (
            ("nested", "nested_absmax"),
            ("nested_map", "nested_quant_map"),
            ("map", "quant_map"),
        )
        if role in wholes
    }
    absmax = views["absmax"].reshape(-1)
    absmax = absmax if "nested" in parts else absmax.view("<f4")
    return Four(views["payload"].reshape(-1), absmax, params, **parts)


def write_four(found: Four, params: Params, out: Outputs) -> None:
    """The same; the last block is filled up where it was read."""
    kind, state = found.state["quant_type"], found.state
    out["weight"][:] = found.codes[: len(out["weight"])]
    out["absmax"][:] = found.absmax
    out["map"][:] = quant_map(kind) if found.map is None else found.map
    if found.nested is not None:
        first, last = params["spans"]["nested"]
        out["nested"][:] = found.nested[first:last]
        out["nested_map"][:] = found.nested_map
    offset = state.get("nested_offset")
    text = quant_state(kind, state["shape"], state["dtype"], params, offset)
    out["state"][:] = np.frombuffer(text, np.uint8)
