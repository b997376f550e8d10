"""HQQ as transformers stores it in safetensors and as hqq itself does in `qmodel.pt`.

A layer `X` is `X.W_q`, `X.scale`, `X.zero` and settings (`_hqq_layer`), of which the output's shape
is needed. Of `R` rows of `C` codes, `W_q` packs several a line:

| axis | `W_q` | `scale`, `zero` | rows `R`, columns `C` |
|---|---|---|---|
| 1 | `[lines, group_size]` | `[groups, 1]` | groups, group_size |
| 0 | `[lines, groups]` | `[1, groups]` | group_size, groups |

U8 lines hold 1, 2, 4 or 8 codes a byte, I32 lines ten of 3 bits. With `view_as_float` the same
bytes are called numbers of the compute dtype. Scales and zeros may be codes themselves
(`_hqq_coded.py`). Either way the codes, row after row, are the output
in row-major order. Source: https://github.com/mobiusml/hqq 0.2.8 hqq/core/quantize.py, bitpack.py.
"""

from __future__ import annotations

from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.files import Files
from anamnesis.readers.placement import Contiguous, Planar
from anamnesis.readers.schemes._errors import where
from anamnesis.readers.schemes._hqq_coded import with_codes
from anamnesis.readers.schemes._hqq_layer import SINQ_SIDECAR, Layer, read_layer
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

# Of what W_q is called, bytes a number; any of them with view_as_float.
_CODES = {"U8": 1, "I32": 4, "BF16": 2, "F16": 2, "F32": 4}
_UNIT = 4096  # elements of a unit along axis 0, at most


def resolve(ledger: Ledger) -> None:
    """Claim layers that have `W_q`, `scale`, `zero` and a shape; their settings are dropped.

    Raises FormatError for what is missing or does not fit, UnsupportedError for
    unpacked codes and scales of whole tensors.
    """
    if any(one.method == "sinq" for one in ledger.stated) or SINQ_SIDECAR in ledger.configs:
        return  # its layers have these names too, and scales besides
    files = Files()
    try:
        for stored in list(ledger.free()):
            if stored.name.rpartition(".")[2] != "W_q":
                continue
            layer, settings = read_layer(ledger, stored, files)
            tensor = layer_tensor(ledger, layer)
            if layer.coded:
                reference = ledger.options.rounding == "reference"
                numbers = layer.compute_dtype if reference else "F32"
                tensor = with_codes(tensor, layer.coded, numbers)
            ledger.claim(tensor)
            for setting in settings:
                ledger.drop(setting, "setting of HQQ")
        files.check_unchanged()
    finally:
        files.close()


def layer_tensor(ledger: Ledger, layer: Layer) -> Tensor:
    """The codes of a layer with their scales and zero points, as its settings have them.

    Raises FormatError for what does not fit.
    """
    groups, axis = _groups(layer)
    elems = layer.shape[0] * layer.shape[1]
    size, rest = divmod(elems, groups)
    if rest or (layer.group_size is not None and layer.group_size != size):
        raise layer.error(
            f"{groups:,} groups for {elems:,} elements of shape {list(layer.shape)}, and a group "
            f"size of {layer.group_size}",
            layer.scale,
        )
    rows, columns = (groups, size) if axis == 1 else (size, groups)
    bits, lines = _packing(layer, rows, columns)
    width = 4 if bits == 3 else 1
    params: dict[str, Any] = {
        "bits": bits,
        "axis": axis,
        "group_size": size,
        "groups": groups,
        "scale_dtype": layer.scale.dtype,
        "zero_dtype": layer.zero.dtype,
        "compute_dtype": layer.compute_dtype,
        "rounding": ledger.options.rounding,
    }
    beside = (("scale", layer.scale), ("zero", layer.zero))
    if axis == 1:
        unit, period = size, lines
        numbers = [Component(n, s, Contiguous(SCALE_BITS[s.dtype])) for n, s in beside]
    else:
        unit = _divisor(columns, layer.shape[1])
        period = lines * columns // unit
        params |= {"unit": unit, "columns": columns // unit}
        numbers = [
            Component(n, s, Planar(unit * SCALE_BITS[s.dtype], columns // unit)) for n, s in beside
        ]
    # Bytes of one code each do not begin again.
    codes = Contiguous(8 * unit) if bits == 8 else Planar(8 * unit * width, period)
    return Tensor(
        name=f"{layer.prefix}weight",
        shape=layer.shape,
        scheme="hqq",
        encoding=f"hqq-axis{axis}",
        components=(Component("W_q", layer.codes, codes), *numbers),
        unit_elems=unit,
        params=params | {"period": period},
    )


def _groups(layer: Layer) -> tuple[int, int]:
    """How many groups there are, and along which axis their scales lie."""
    shape = layer.scale.shape
    if len(shape) != 2 or 1 not in shape or 0 in shape or layer.zero.shape != shape:
        raise FormatError(
            f"{where(layer.scale)} and {where(layer.zero)}: allowed is [groups, 1] for both, or "
            "[1, groups]"
        )
    for stored in (layer.scale, layer.zero):
        if stored.dtype not in SCALE_BITS:
            raise layer.error(f"allowed is {', '.join(SCALE_BITS)}", stored)
    axis = layer.axis
    if axis is None:
        axis = 1 if shape[1] == 1 else 0
    if shape[axis] != 1:
        raise layer.error(f"does not lie along axis {axis}", layer.scale)
    return shape[1 - axis], axis


def _packing(layer: Layer, rows: int, columns: int) -> tuple[int, int]:
    """Bits a code, and lines of `W_q`, that `rows` rows of `columns` codes make."""
    codes = layer.codes
    if codes.dtype not in _CODES or len(codes.shape) != 2:
        raise layer.error(f"allowed is a matrix of {', '.join(_CODES)}")
    lines, nbytes = codes.shape[0], codes.shape[1] * _CODES[codes.dtype]
    for bits in (8, 4, 2, 1, 3) if layer.bits is None else (layer.bits,):
        width, fields = (4, 10) if bits == 3 else (1, 8 // bits)
        # Packing takes whole lines, but for 3 bits, where the last rows are filled up.
        whole = -(-rows // fields) if bits == 3 else rows // fields
        if nbytes == columns * width and lines == whole and (bits == 3 or not rows % fields):
            return bits, lines
    raise layer.error(
        f"{lines:,} lines of {nbytes:,} bytes do not hold {rows:,} rows of {columns:,} codes of "
        f"{layer.bits or 'any number of'} bits"
    )


def _divisor(columns: int, inputs: int) -> int:
    """Elements of a unit: a divisor of both, or else the largest of `columns` that is small."""
    if not columns % inputs and inputs <= _UNIT:
        return inputs
    return next(d for d in range(min(columns, _UNIT), 0, -1) if not columns % d)
