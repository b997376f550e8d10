"""Nunchaku's checkpoints, as deepcompressor writes them: layouts are in `kernels/nunchaku.py`.

| tensor | INT4 | FP4 |
|---|---|---|
| `X.qweight` | I8 `[out, in / 2]`, in tiles | the same |
| `X.wscales` | F16 or BF16 `[in / 64, out]` | F8_E4M3 `[in / 16, out]` |
| `X.wcscales`, `X.wtscale` | | the dtype `[out]`, floats of one number; either or both |
| `X.smooth_factor` | F16 or BF16 `[in]`; or `X.smooth` | the same |
| `X.proj_down` | F16 or BF16 `[in, rank]`; or `X.lora_down` | the same |
| `X.proj_up` | F16 or BF16 `[out, rank]`; or `X.lora_up`; both or neither | the same |
| `X.bias` | `[out]`, in the order of the scales | the same |
| `X.smooth_factor_orig` | the smoothing before a move into another layer; or `X.smooth_orig` | |

Layers of adaptive norms are W4A16: `X.qweight` I32 `[out / 4, in / 2]`, `X.wscales` and
`X.wzeros` `[lines, out]`, a line for each 64 inputs and lines of zeros that fill up: those of
GEMV-fast (`kernels/awq.py`). Sizes of W4A4 are multiples of 128: what fills a layer up is part of
it, as nothing tells the two apart.

In INT4 the input of the layer after a GELU is moved by a constant, and its stored bias makes up
for that; no file says so, nunchaku's own classes do: `mlp_fc2` and `mlp_context_fc2` of FLUX,
`net.2` of Qwen-Image's `img_mlp` and `txt_mlp`. SDXL's `net.2` comes after another activation, and
of other layers whose names end so nothing is known. Nunchaku Lite's classes, which diffusers
(`quant_method: nunchaku_lite`) and diffuse-compressor's `runtime_manifest` name, move no input, and
their W4A16 layers are those of the model. Sources: https://github.com/nunchaku-tech/nunchaku
nunchaku/models/linear.py, attention.py, transformers/transformer_flux_v2.py
(`convert_flux_state_dict`), unets/unet_sdxl.py; https://github.com/mit-han-lab/deepcompressor
deepcompressor/backend/nunchaku/convert.py, backend/tinychat/utils.py; diffusers 0.42.1
quantizers/nunchaku/utils.py; https://github.com/rootonchair/diffuse-compressor
docs/nunchaku_lite_manifest_v1.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Strided
from anamnesis.readers.schemes._errors import misfit, need, unsupported
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger

_ROWS, _GROUP, _BLOCK, _PACK = 128, 64, 16, 16
_HALVES = ("BF16", "F16")
_FOURS = 4  # rows of a W4A16 layer that share a line of codes
_MOVED = re.compile(r"(.*\.)?(mlp_fc2|mlp_context_fc2|(img|txt)_mlp\.net\.2)")
_AFTER = re.compile(r"(.*\.)?([a-z0-9_]*fc2|net\.2)")
_PLAIN = re.compile(r"(.*\.)?attentions\.[0-9]+\.transformer_blocks\.[0-9]+\.ff\.net\.2")  # SDXL
NOTE = (
    "Nunchaku's layers are given as the weight that their input would be multiplied with as it is: "
    "codes over their smoothing, and the low-rank part added in float32; this is algebra, as no "
    "library multiplies so. Projections that were made one stay one"
)
_MOVED_NOTE = (
    "Nunchaku: the biases of INT4 layers after a GELU are given for its output as it is, which "
    "nunchaku moves by a constant"
)
_AWQ_NOTE = (
    "Nunchaku's W4A16 layers (adaptive norms) are given as they are stored: their outputs lie "
    "shift by scale by gate for each channel, and their biases may have a 1 added"
)
_LITE = "nunchaku-lite"
_MANIFEST = "nunchaku_lite.runtime_manifest"


def resolve(ledger: Ledger) -> None:
    """Claim layers by `qweight` and `wscales`.

    Raises FormatError for parts that are missing or do not fit, UnsupportedError for an INT4 layer
    of which cannot be told whether its bias makes up for a moved input, and for one that is said
    not to lie in tiles.
    """
    lite = _is_lite(ledger)
    plain = _in_rows(ledger)
    for codes in ledger.free():
        module, dot, part = codes.name.rpartition(".")
        scale = ledger.get(f"{module}{dot}wscales")
        if part != "qweight" or scale is None:
            continue
        if codes.dtype in ("I32", "U32"):
            ledger.claim(_w4a16(ledger, codes, scale, module + dot, lite))
        elif module in plain:
            what = "diffuse-compressor's layer whose tensors lie as they are counted (`logical`)"
            raise unsupported(codes, what, "those in nunchaku's tiles")
        else:
            _w4a4(ledger, codes, scale, module + dot, lite)


def _is_lite(ledger: Ledger) -> bool:
    """Whether the layers are those of Nunchaku Lite, which moves no input."""
    for one in ledger.stated:
        manifest = one.block.get("runtime_manifest")
        schema = manifest.get("schema") if isinstance(manifest, Mapping) else None
        if one.method == _LITE or schema == _MANIFEST:
            return True
    return False


def _in_rows(ledger: Ledger) -> set[str]:
    """The layers that diffuse-compressor's metadata calls logical: not in tiles."""
    targets = (target for one in ledger.stated for target in _targets(one.block))
    return {name for name, layout in targets if layout == "logical"}


def _targets(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = block.get("targets")
    for one in found if isinstance(found, list) else ():
        if isinstance(one, Mapping):
            yield str(one.get("export_name")), str(one.get("runtime_tensor_layout"))


def _w4a4(ledger: Ledger, codes: Stored, scale: Stored, prefix: str, lite: bool) -> None:
    rows, half = codes.shape if len(codes.shape) == 2 else (0, 0)
    columns = 2 * half
    if codes.dtype not in ("I8", "U8") or rows % _ROWS or columns % _ROWS or not rows * columns:
        raise misfit(codes, f"I8 [out, in / 2] of Nunchaku, out and in multiples of {_ROWS}")
    fp4 = scale.dtype == "F8_E4M3"
    groups = columns // (_BLOCK if fp4 else _GROUP)
    if scale.shape != (groups, rows) or not (fp4 or scale.dtype in _HALVES):
        shapes = f"[{columns // _GROUP}, {rows}] or F8_E4M3 [{columns // _BLOCK}, {rows}]"
        raise misfit(scale, f"{', '.join(_HALVES)} {shapes}")
    params: dict[str, Any] = {"in_features": columns, "fp4": fp4}
    if not fp4:
        params["scale_dtype"] = scale.dtype
    scale_bits = 8 if fp4 else 16
    components = [
        Component("codes", codes, Contiguous(_ROWS * 4 * columns)),
        Component("scale", scale, Contiguous(_ROWS * groups * scale_bits)),
        Component("smooth", _named(ledger, codes, prefix, "smooth_factor", "smooth", (columns,))),
    ]
    for name, role in (("wcscales", "channel"), ("wtscale", "whole")):
        found = ledger.get(prefix + name)
        if found is not None:
            if not fp4:
                raise misfit(found, "none beside scales of 16 bits")
            components.append(_factor(found, role, rows, params))
    bias = ledger.get(f"{prefix}bias")
    if bias is not None:
        moved = not (fp4 or lite) and _is_moved(codes, prefix[:-1])
        ledger.claim(_bias(ledger, bias, rows, components if moved else [], params))
    components += _low_rank(ledger, codes, prefix, (rows, columns), params)
    for name in ("smooth_factor_orig", "smooth_orig"):
        unused = ledger.get(prefix + name)
        if unused is not None:
            ledger.drop(unused, "smoothing that Nunchaku does not use")
    ledger.note(NOTE)
    ledger.claim(_tensor(f"{prefix}weight", (rows, columns), components, params))


def _tensor(
    name: str, shape: tuple[int, ...], components: list[Component], params: dict[str, Any]
) -> Tensor:
    return Tensor(
        name=name,
        shape=shape,
        scheme="nunchaku",
        encoding="nunchaku",
        components=tuple(components),
        unit_elems=_ROWS * (shape[1] if len(shape) == 2 else 1),
        params=params,
    )


def _named(
    ledger: Ledger, codes: Stored, prefix: str, name: str, older: str, shape: tuple[int, ...]
) -> Stored:
    """A part under either of its names; raises FormatError."""
    found = ledger.get(prefix + older) or need(ledger, codes, prefix + name)
    if found.dtype not in _HALVES or found.shape != shape:
        raise misfit(found, f"{', '.join(_HALVES)} {list(shape)}")
    return found


def _factor(stored: Stored, role: str, rows: int, params: dict[str, Any]) -> Component:
    """A factor of FP4's scales: of each row, or one number."""
    if role == "whole":
        if stored.dtype not in SCALE_BITS or stored.shape not in ((), (1,)):
            raise misfit(stored, f"{', '.join(SCALE_BITS)}, one number")
        return Component(role, stored)
    if stored.dtype not in _HALVES or stored.shape != (rows,):
        raise misfit(stored, f"{', '.join(_HALVES)} [{rows}]")
    params["channel_dtype"] = stored.dtype
    return Component(role, stored, Contiguous(_ROWS * 16))


def _is_moved(codes: Stored, module: str) -> bool:
    """Whether the input is moved before it is quantised; raises UnsupportedError."""
    if _MOVED.fullmatch(module):
        return True
    if _AFTER.fullmatch(module) and not _PLAIN.fullmatch(module):
        what = "Nunchaku's INT4 layer of a name that does not tell whether its input is moved"
        raise unsupported(codes, what, "FLUX, Qwen-Image and SDXL under nunchaku's own names")
    return False


def _bias(
    ledger: Ledger,
    bias: Stored,
    rows: int,
    components: list[Component],
    params: dict[str, Any],
) -> Tensor:
    """In the order of the rows; with the layer's `components` where its input is moved."""
    if bias.dtype not in _HALVES or bias.shape != (rows,):
        raise misfit(bias, f"{', '.join(_HALVES)} [{rows}]")
    if components:
        ledger.note(_MOVED_NOTE)
    part = Component("bias", bias, Contiguous(_ROWS * 16))
    return _tensor(bias.name, (rows,), [*components, part], {**params, "bias_dtype": bias.dtype})


def _low_rank(
    ledger: Ledger, codes: Stored, prefix: str, shape: tuple[int, int], params: dict[str, Any]
) -> list[Component]:
    """`down` and `up`, or nothing; raises FormatError for one of them, or parts that do not fit."""
    rows, columns = shape
    names = (("proj_down", "lora_down"), ("proj_up", "lora_up"))
    there = [ledger.get(prefix + name) for pair in names for name in pair]
    found = next((stored for stored in there if stored is not None), None)
    if found is None:
        return []
    rank = found.shape[1] if len(found.shape) == 2 else 0
    empty = [stored for stored in there if stored is not None and stored.shape[1:] == (0,)]
    if len(empty) == len(names):
        for stored in empty:
            ledger.drop(stored, "a low-rank part of rank 0")
        return []
    if not rank or rank % _PACK:
        raise misfit(found, f"a matrix of a rank that is a multiple of {_PACK}")
    down = _named(ledger, codes, prefix, *names[0], (columns, rank))
    up = _named(ledger, codes, prefix, *names[1], (rows, rank))
    params["up_dtype"] = up.dtype
    return [Component("down", down), Component("up", up, Contiguous(_ROWS * rank * 16))]


def _w4a16(ledger: Ledger, codes: Stored, scale: Stored, prefix: str, lite: bool) -> Tensor:
    fours, words = codes.shape if len(codes.shape) == 2 else (0, 0)
    rows, columns = _FOURS * fours, 2 * words
    if not rows or columns % _GROUP or not columns:
        raise misfit(codes, f"I32 [out / {_FOURS}, in / 2], in a multiple of {_GROUP}")
    groups = columns // _GROUP
    zeros = need(ledger, codes, f"{prefix}wzeros")
    lines = scale.shape[0] if len(scale.shape) == 2 else 0
    for part in (scale, zeros):
        fits = part.dtype in _HALVES and part.dtype == scale.dtype and part.shape == (lines, rows)
        if not fits or not groups <= lines < groups + _PACK:
            raise misfit(part, f"{', '.join(_HALVES)} [{groups} or filled up, {rows}], both alike")
    if not lite:
        ledger.note(_AWQ_NOTE)
    line = Strided(16 * _FOURS, 2 * rows)
    return Tensor(
        name=f"{prefix}weight",
        shape=(rows, columns),
        scheme="nunchaku",
        encoding="awq-gemv-fast",
        components=(
            Component("qweight", codes, Contiguous(16 * columns)),
            Component("scales", scale, line),
            Component("qzeros", zeros, line),
        ),
        unit_elems=_FOURS * columns,
        params={
            "bits": 4,
            "group_size": _GROUP,
            "act_order": False,
            "version": "gemv_fast",
            "groups": groups,
            "in_features": columns,
            "scale_dtype": scale.dtype,
            "rounding": ledger.options.rounding,
        },
    )
