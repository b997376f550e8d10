"""MLX's quantised layers, affine and in its four floating-point modes, and transformers' Metal.

| mode | `X.weight`, U32 | `X.scales` | and |
|---|---|---|---|
| affine | `[…, out, in * b / 32]` | BF16, F16, F32 `[…, out, in / g]` | `X.biases`, the same |
| Metal | the same | the same | `X.qbiases`, the same |
| mxfp4 | `[…, out, in / 8]`, E2M1 | U8 `[…, out, in / 32]`, E8M0 | |
| mxfp8 | `[…, out, in / 4]`, E4M3 | U8 `[…, out, in / 32]`, E8M0 | |
| nvfp4 | `[…, out, in / 8]`, E2M1 | U8 `[…, out, in / 16]`, E4M3 | `X.global_scale` F32, or none |

What comes out is `X.weight` `[…, out, in]`; `X.bias` is a Linear's own and stays. The words and
the scales of a row tell `b * g` of b bits in groups of g: the modes with U8 scales by that alone.
Of an affine layer that is mostly more than one `b`, so that the config has to say which. Layout
and sources: `kernels/mlx.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Stored, Tensor
from anamnesis.readers.placement import Contiguous, Placement
from anamnesis.readers.schemes._errors import missing
from anamnesis.readers.schemes._mlx_config import BITS, Hint, Stated, stated
from anamnesis.readers.schemes._mlx_sizes import Inputs
from anamnesis.readers.schemes.base import Ledger

_SCALE_BITS = {"BF16": 16, "F16": 16, "F32": 32, "U8": 8}
_WORDS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
_GROUP_SIZES = (32, 64, 128)  # that MLX makes
_STEP = 32  # which the kernel's groups are multiples of
# With U8 scales: bits of a group -> mode, bits, group size.
_MODES = {64: ("nvfp4", 4, 16), 128: ("mxfp4", 4, 32), 256: ("mxfp8", 8, 32)}
_ENCODINGS = {"mxfp4": "fp4-mx", "nvfp4": "fp4-nv", "mxfp8": "fp8-e4m3"}
_NVFP4_UNIT = 448.0 * 6.0  # of `global_scale`: the largest E4M3 times the largest E2M1


@dataclass(frozen=True, slots=True)
class _Module:
    """The stored tensors of one layer; `biases` are MLX's or Metal's."""

    stem: str  # the name of the layer with its dot
    weight: Stored
    scales: Stored
    biases: Stored | None
    global_scale: Stored | None

    @property
    def lead(self) -> tuple[int, ...]:
        return self.weight.shape[:-1]

    def error(self, what: str, stored: Stored | None = None) -> FormatError:
        stored = stored or self.weight
        parts = (self.weight, self.scales, self.biases, self.global_scale)
        shapes = ", ".join(
            f"{s.name[len(self.stem) :]} {s.dtype} {list(s.shape)}" for s in parts if s is not None
        )
        return FormatError(f"{stored.file.path}: tensor {stored.name!r}: {what} ({shapes})")


def resolve(ledger: Ledger) -> None:
    """Claim every layer of U32 words with scales.

    Raises FormatError for a layer that lacks a part, for shapes that fit no mode, and for those
    that fit several where no config decides.
    """
    config, inputs, modules = stated(ledger), Inputs(ledger), []
    for stored in ledger.free():
        stem = stored.name.removesuffix("weight")
        if stem == stored.name:
            _refuse_orphan(ledger, stored)
            continue
        module = _module(ledger, stored, stem, config)
        if module is not None:
            _check(module)
            _learn(module, config, inputs)
            modules.append(module)
    for module in modules:
        ledger.claim(_tensor(ledger, module, config, inputs))
    for note in inputs.notes():
        ledger.note(f"{ledger.container.files[0].path}: {note}")


def _module(ledger: Ledger, weight: Stored, stem: str, config: Stated) -> _Module | None:
    """The layer that `weight` is of; None for a weight that is not MLX's."""
    scales, biases = ledger.get(f"{stem}scales"), _biases(ledger, stem)
    if weight.dtype != "U32":
        if weight.dtype in _WORDS and scales is not None and biases is not None:
            raise _Module(stem, weight, scales, biases, None).error(
                f"dtype {weight.dtype}; allowed beside scales and biases is U32"
            )
        return None
    if scales is None:
        if biases is not None or (config.found and len(weight.shape) > 1):
            raise missing(ledger, weight, f"{stem}scales", why="MLX's packed weights have them")
        return None
    return _Module(stem, weight, scales, biases, ledger.get(f"{stem}global_scale"))


def _biases(ledger: Ledger, stem: str) -> Stored | None:
    mlx, metal = ledger.get(f"{stem}biases"), ledger.get(f"{stem}qbiases")
    if mlx is not None and metal is not None:
        raise FormatError(
            f"{mlx.file.path}: tensor {mlx.name!r}: and {metal.name!r}; allowed is one of the two"
        )
    return mlx or metal


def _refuse_orphan(ledger: Ledger, stored: Stored) -> None:
    """Scales and biases of a weight that is not there."""
    stem = stored.name.removesuffix("scales")
    if stem == stored.name or f"{stem}weight" in ledger.container.stored:
        return
    biases = _biases(ledger, stem)
    if biases is not None and biases.shape == stored.shape and len(stored.shape) > 1:
        raise missing(ledger, stored, f"{stem}weight")


def _tensor(ledger: Ledger, module: _Module, config: Stated, known: Inputs) -> Tensor:
    dtype = module.scales.dtype
    product = _group_bits(module)
    if dtype == "U8":
        return _floats(module, product)
    biases = module.biases
    if biases is None:
        raise module.error("no biases (MLX) and no qbiases (Metal) beside it")
    if (biases.dtype, biases.shape) != (dtype, module.scales.shape):
        raise module.error("biases have the dtype and the shape of scales", biases)
    if module.global_scale is not None:
        raise module.error("a global_scale, which only nvfp4 has", module.global_scale)
    bits, size = _affine_sizes(module, product, config, known)
    if product:
        layer, groups = module.stem.removesuffix("."), module.scales.shape[-1]
        bits, size = known.settle(layer, groups, (bits, size), _usual(product))
    inputs = module.scales.shape[-1] * size
    metal = biases.name.endswith("qbiases")
    params = {
        "bits": bits,
        "group_size": size,
        "scale_dtype": dtype,
        "order": "metal" if metal else "mlx",
        "rounding": ledger.options.rounding,
    }
    roles = {"payload": module.weight, "scales": module.scales, "biases": biases}
    components = tuple(Component(role, s, _rows(s)) for role, s in roles.items())
    return _logical(module, "affine", "mlx-affine", components, inputs, params)


def _check(module: _Module) -> None:
    dtype = module.scales.dtype
    if dtype not in _SCALE_BITS:
        raise module.error(f"dtype {dtype}; allowed is {', '.join(_SCALE_BITS)}", module.scales)
    if len(module.weight.shape) < 2 or module.scales.shape[:-1] != module.lead:
        raise module.error("scales are [rows, groups] of a weight of [rows, words], or of stacks")


def _learn(module: _Module, config: Stated, known: Inputs) -> None:
    """Tell `known` of an affine layer, before any layer is settled."""
    product = _group_bits(module) if module.scales.dtype != "U8" else 0
    if product and module.biases is not None:
        layer, groups = module.stem.removesuffix("."), module.scales.shape[-1]
        sizes = _affine_sizes(module, product, config, known)
        known.learn(layer, groups, sizes, _usual(product))


def _floats(module: _Module, product: int) -> Tensor:
    """mxfp4, mxfp8 and nvfp4."""
    if module.biases is not None:
        raise module.error("biases beside scales of U8, which the modes with such do not have")
    product = product or 128  # nothing is stored; only the shape matters
    if product not in _MODES:
        allowed = ", ".join(f"{bits} ({m[0]})" for bits, m in _MODES.items())
        raise module.error(f"groups of {product} bits under U8 scales; allowed are {allowed}")
    mode, bits, size = _MODES[product]
    groups, extra = module.scales.shape[-1], module.global_scale
    inputs, rows = groups * size, max(1, module.lead[-1])
    components = [Component("payload", module.weight, _rows(module.weight))]
    params: dict[str, Any] = {"bits": bits, "group_size": size, "rows": rows}
    if mode == "mxfp8":
        matrices = math.prod(module.lead[:-1])
        params |= {"block": (1, size), "grid": (matrices, module.lead[-1], groups)}
        components.append(Component("scale", module.scales))
    else:
        components.append(Component("scale", module.scales, _rows(module.scales)))
    if extra is not None:
        matrices = math.prod(module.lead[:-1])
        fits = math.prod(extra.shape) in (1, matrices) and len(extra.shape) <= len(module.lead)
        if mode != "nvfp4" or extra.dtype != "F32" or not fits:
            raise module.error(
                f"of mode {mode}; allowed is F32 of one number, or one a matrix, of nvfp4", extra
            )
        params |= {"global": "multiply", "global_unit": _NVFP4_UNIT}
        components.append(Component("global", extra))
    return _logical(module, mode, _ENCODINGS[mode], tuple(components), inputs, params)


def _logical(
    module: _Module,
    mode: str,
    encoding: str,
    components: tuple[Component, ...],
    inputs: int,
    params: Mapping[str, Any],
) -> Tensor:
    return Tensor(
        name=module.weight.name,
        shape=(*module.lead, inputs),
        scheme=f"mlx-{mode}",
        encoding=encoding,
        components=components,
        unit_elems=max(1, inputs),
        params=params,
    )


def _rows(stored: Stored) -> Placement:
    bits = 32 if stored.dtype == "U32" else _SCALE_BITS[stored.dtype]
    return Contiguous(bits * max(1, stored.shape[-1]))


def _group_bits(module: _Module) -> int:
    """Bits of the codes of a group: their number times the group size; 0 where there is nothing."""
    words, groups = module.weight.shape[-1], module.scales.shape[-1]
    if not words and not groups:
        return 0
    if not groups or not words or words * 32 % groups:
        raise module.error(f"{words:,} words of 32 bits do not divide into {groups:,} groups")
    return words * 32 // groups


def _affine_sizes(module: _Module, product: int, config: Stated, known: Inputs) -> tuple[int, int]:
    """`(bits, group size)`: what the config says if it fits, or the only ones that do."""
    if not product:
        return 4, 64  # nothing is stored; only the shape matters
    usual = _usual(product)
    hints = list(config.of(module.stem.removesuffix(".")))
    for hint in (*hints, Hint()):
        found = _fitting(hint, product, usual)
        if len(found) == 1:
            return found[0]
    jang = known.by_jang(product)
    if jang is not None:
        return jang
    said = next((h for h in hints if h.bits or h.group_size), None)
    what = f"groups of {product:,} bits, which "
    if usual:
        what += "may be " + " or ".join(f"{b} bits in groups of {s}" for b, s in usual)
    else:
        sizes = ", ".join(map(str, _GROUP_SIZES))
        what += f"no bits of {', '.join(map(str, BITS))} in groups of {sizes} make"
    if said:
        what += f"; the config says bits {said.bits}, group_size {said.group_size}"
    elif usual:
        what += (
            "; the tensors do not tell which: put a config.json beside the file that says "
            '{"quantization": {"group_size": …, "bits": …}}'
        )
    raise module.error(what)


def _usual(product: int) -> list[tuple[int, int]]:
    return [(b, s) for s in _GROUP_SIZES for b in BITS if b * s == product]


def _fitting(hint: Hint, product: int, usual: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What a hint leaves: its own sizes, or of the usual ones those that it allows."""
    if hint.bits and hint.group_size:
        fits = hint.bits * hint.group_size == product and not hint.group_size % _STEP
        return [(hint.bits, hint.group_size)] if fits else []
    return [(b, s) for b, s in usual if hint.bits in (None, b) and hint.group_size in (None, s)]
