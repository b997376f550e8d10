"""What a stated method says of its own layout: values that no scheme knows are refused by name.

Several layouts share containers: AutoRound's `mx_int` has the tensors of MXFP4, and other numbers
in them. So a field that selects a layout may only have values whose layout is read, or refused
where its tensors are (then with more to say).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anamnesis.errors import FormatError, UnsupportedError
from anamnesis.readers.schemes._errors import first_of, where
from anamnesis.readers.schemes._stated import Stated, texts
from anamnesis.readers.schemes._stated_words import is_of_others
from anamnesis.readers.schemes.base import Ledger

_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Detail:
    """A field of a method's block, or of a mapping inside of it (one `*` for any of its keys)."""

    path: tuple[str, ...]
    known: re.Pattern[str]  # of a whole value, in lower case with dashes


def _known(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_GPTQ = _known("auto", "gptq(-v2|-p)?", "gemm", "marlin", "bitblas", "qqq", "ipex", "safetensors")
_AWQ = _known(
    "gemm", "gemv", "gemv[-_]fast", "exllama(v2)?", "ipex", "llm-awq", "marlin", "awq", "auto"
)
_ROUND = _known(
    "(opt-)?(rtn-)?int(-(a?sym|asym-float-zp|sym-gptq|sym-neuqi))*[0-9]*",
    "(opt-)?(rtn-)?(mx-?fp[468]?(e[0-9]m[0-9])?(-rceil|-even)?)",
    "mx-?int4?",
    "(opt-)?(rtn-)?(nv-?fp4?(-v2|-e5m3)?(-rtn)?(-with-(static|global)-(gs|scale))?)",
    "(block-)?fp(8|-8)?(-e4m3|-e5m2)?(-sym)?(-unit-scale|-gaudi3-sym)?",
)
_PACKING = _known(
    *("auto", "auto-(round|gptq|awq)", "auto-round:(auto-)?(gptq|awq)(model)?(-.*)?"),
    *(
        "auto-round:(fake|fp8.*)",  # fake: rounded, and stored as floats
        "(auto-round:)?mlx",
        "auto-round:(llm-compressor-?)?((mx|nv)-?fp[0-9]*(-v2|-e5m3)?|mx-?int4?)?(-with-.*)?",
    ),
)
_CT = _known(
    *("dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized"),
    *(
        "mixed-precision",
        "nvfp4(-e5m3)?-pack-quantized",
        "mxfp[46]-pack-quantized",
        "mxfp8-quantized",
    ),
    *("marlin-24", "sparse-bitmask", "sparse-?24-bitmask"),
)
_MODELOPT = _known(
    "(w4a16-|w4a8-)?(nvfp4|mxfp4)(-.*)?",
    "fp8(-.*)?",
    "w[48]a(8|16)(-.*)?",
    "mxfp8(-.*)?",
    "int[48](-.*)?",
    "mixed-precision",
    "none",
)

_NUMBER = "v?[0-9].*"  # of a version
_FLOATS = ("auto", "(torch[.])?(b?float16|bf16|fp16|float32|fp32)")
_FORMAT = _known(
    *(one.pattern for one in (_AWQ, _CT, _GPTQ, _MODELOPT, _PACKING, _ROUND)),
    *("float8-e[45]m[23](fn|fnuz)?", "int8-tensorwise", "jang", "mlx", "pt"),
)

# Fields of any method that has no row of its own for them.
ANY: dict[str, re.Pattern[str]] = {
    "checkpoint_format": _FORMAT,
    "data_type": _known(_ROUND.pattern, *_FLOATS, "u?int[0-9]*", "float8-e[45]m[23](fn|fnuz)?"),
    "fmt": _known("((float|fp)8-)?e[45]m[23](fn|fnuz)?"),
    "format": _FORMAT,
    "mode": _known("affine", "auto", "default", "dynamic", "mxfp[48]", "nvfp4", "static"),
    "quant_algo": _known(_MODELOPT.pattern, "awq", "gptq"),
    "scale_fmt": _known("u?e8m0(fnu)?", "fp?32", "float(32)?", *_FLOATS),
    "version": _known(_NUMBER, _AWQ.pattern, _GPTQ.pattern),
}

# Of these in blocks inside of a method's, each of a layer, and what they say of one left alone.
_LAYOUTS = ("checkpoint_format", "data_type", "fmt", "format", "mode", "quant_algo", "scale_fmt")
_ALONE = ("", "dense", "float", "none")
_DEPTH = 32  # as deep as JSON is read

# By method; sorted.
DETAILS: dict[str, tuple[Detail, ...]] = {
    "auto-round": (
        Detail(("data_type",), _ROUND),
        # float: a layer that is left alone, of 16 bits
        Detail(("extra_config", "*", "data_type"), _known(_ROUND.pattern, "float")),
        Detail(("packing_format",), _PACKING),
    ),
    "awq": (
        *(Detail((key,), _AWQ) for key in ("checkpoint_format", "format")),
        Detail(("version",), _known(_NUMBER, _AWQ.pattern)),
    ),
    "bitsandbytes": tuple(  # as GPTQModel has it
        Detail((key,), _known("bitsandbytes", "fp4", "int8", "nf4"))
        for key in ("checkpoint_format", "format")
    ),
    "compressed-tensors": (
        Detail(("format",), _CT),
        Detail(("config_groups", "*", "format"), _CT),
        Detail(("config_groups", "*", "weights", "type"), _known("int", "float")),
        Detail(
            ("config_groups", "*", "weights", "strategy"),
            _known("attn-head", "block", "channel", "group", "tensor", "tensor-group", "token"),
        ),
        Detail(
            ("config_groups", "*", "weights", "actorder"),
            _known("dynamic", "group", "none", "static", "weight"),
        ),
        Detail(("sparsity_config", "format"), _CT),
    ),
    "exl3": tuple(Detail((key,), _known("exl3")) for key in ("checkpoint_format", "format")),
    "fp8": (Detail(("weight_scale_semantics",), _known("inverse")),),
    "gguf": tuple(
        Detail((key,), _known("gguf", "q-[0-9k](-[sml]|-g128)?"))
        for key in ("checkpoint_format", "format")
    ),
    "gptq": (
        *(Detail((key,), _GPTQ) for key in ("checkpoint_format", "format")),
        Detail(("data_type",), _known("u?int.*", *_FLOATS)),
    ),
    "mlx": (
        Detail(("mode",), _known("affine", "mxfp[48]", "nvfp4")),
        Detail(("*", "mode"), _known("affine", "mxfp[48]", "nvfp4")),
    ),
    "modelopt": (
        Detail(("quant_algo",), _MODELOPT),
        Detail(("quantized_layers", "*", "quant_algo"), _MODELOPT),
    ),
    "paroquant": tuple(
        Detail((key,), _known("paroquant")) for key in ("checkpoint_format", "format")
    ),
    "vptq": tuple(Detail((key,), _known("vptq")) for key in ("checkpoint_format", "format")),
}

_CT_INTEGERS = ("ct-int-quantized", "ct-pack-quantized")
_GROUPED = frozenset(("True", "dynamic", "group"))  # by the size of their inputs' activations
_FOUR_BIT_FLOATS = ("mxfp4", "mxfp6", "nvfp4")


def check_numbers(ledger: Ledger) -> None:
    """Hold what compressed-tensors says of all weights against what their layouts are.

    It says of each group of layers whether codes are integers or floats, whose containers are
    shared, and whether integers have zero points. Raises UnsupportedError for codes of the other
    kind, FormatError for an asymmetric layer without zero points.
    """
    for stated in ledger.stated:
        kinds, symmetric = _of_weights(stated, "type"), _of_weights(stated, "symmetric")
        _note_order(ledger, stated)
        for tensor in ledger.tensors.values() if len(kinds) == 1 else ():
            payload = tensor.components[0].stored
            integers = tensor.scheme in _CT_INTEGERS
            if (kinds == {"int"} and tensor.scheme in _FOUR_BIT_FLOATS) or (
                kinds == {"float"} and integers
            ):
                raise UnsupportedError(
                    f"{where(payload)}: has the layout of {tensor.scheme}, and its {stated} says "
                    f"that all weights are of type {min(kinds)}: such codes are not implemented"
                )
            zeros = any(part.role == "weight_zero_point" for part in tensor.components)
            if integers and symmetric == {"False"} and not zeros:
                raise FormatError(
                    f"{where(payload)}: no zero points beside it, and its {stated} says that all "
                    "weights are asymmetric"
                )
            if integers and symmetric == {"True"} and zeros:
                ledger.note(
                    f"{where(payload)}: used with the zero points beside it, while its {stated} "
                    "says that all weights are symmetric"
                )


def _note_order(ledger: Ledger, stated: Stated) -> None:
    """Add a note where inputs are said to be grouped by their activations, and none says how."""
    said = _of_weights(stated, "actorder")
    found = [
        tensor
        for tensor in ledger.tensors.values()
        if said and said <= _GROUPED
        if tensor.scheme in _CT_INTEGERS and tensor.params.get("act_order") is False
        if tensor.components[1].stored.shape[-1] > 1
    ]
    if found:
        ledger.note(
            f"{first_of(found)}: no weight_g_idx beside it, and its {stated} says actorder "
            f"{min(said)}: inputs were taken in groups in their order"
        )


def _of_weights(stated: Stated, key: str) -> set[str]:
    """What the groups of compressed-tensors' configuration say of their weights, as text."""
    groups = stated.block.get("config_groups") if stated.method == "compressed-tensors" else None
    found = set()
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        found.add(str(weights.get(key)) if isinstance(weights, Mapping) else "")
    return found


def note_layers(ledger: Ledger) -> None:
    """Add a note on what BitNet's layers do as they run and a dense layer in their place does not.

    Weights that are floats are rounded to three values there, with `quantization_mode: online`
    (microsoft/bitnet-b1.58-2B-4T-bf16); `use_rms_norm` has them norm their inputs.
    """
    for stated in ledger.stated:
        settings = (stated.block.get("linear_class"), stated.block.get("quantization_mode"))
        online = settings == ("autobitlinear", "online")
        found = [
            *(("rounds its floats to three values",) if online else ()),
            *(("norms its inputs",) if stated.block.get("use_rms_norm") is True else ()),
        ]
        if stated.method == "bitnet" and found:
            ledger.note(
                f"{ledger.container.files[0].path}: its {stated}: a layer {' and '.join(found)} as "
                "it runs, which is not part of the weights; what loads them as those of an "
                "ordinary Linear computes other numbers"
            )


def check_codes(ledger: Ledger) -> None:
    """Raise UnsupportedError for FP8 stored as one of E4M3 and E5M2 and stated as the other.

    And for what is stated as FNUZ, whose codes are half of what the same ones are without it.
    """
    for stated in ledger.stated:
        text = next((text for text in texts(stated.block) if "fnuz" in text.lower()), "")
        fnuz = bool(text)
        text = text or f"fmt: {stated.block.get('fmt')}".lower()
        other = {"e5m2": "F8_E4M3", "e4m3": "F8_E5M2"}
        wrong = tuple(dtype for name, dtype in other.items() if name in text or fnuz)
        for tensor in ledger.tensors.values() if wrong else ():
            stored = tensor.components[0].stored
            same = fnuz and stored.dtype.endswith("FNUZ")
            if tensor.quantised and stored.dtype.startswith(wrong) and not same:
                raise UnsupportedError(
                    f"{where(stored)}: is {stored.dtype}, and its {stated} says {text:.80}"
                )


def check_details(ledger: Ledger) -> None:
    """Raise UnsupportedError for a value that selects a layout which no scheme knows."""
    for stated in ledger.stated:
        own = DETAILS.get(stated.method, ())
        paths = {detail.path for detail in own}
        general = (Detail((key,), known) for key, known in ANY.items() if (key,) not in paths)
        for detail in (*own, *(general if stated.method else ())):
            for path, value in _values(stated.block, detail.path):
                text = value.strip().lower().replace("_", "-")
                if text and not detail.known.fullmatch(text[:200]):
                    raise _error(ledger, stated, path, value)
        for parts, value in _of_layers(stated.block, ()) if stated.method else ():
            text = value.strip().lower().replace("_", "-")
            own_field = any(_fits(parts, one) for one in paths)
            if not (own_field or text in _ALONE or ANY[parts[-1]].fullmatch(text[:200])):
                raise _error(ledger, stated, f".{'.'.join(parts)}", value)


def _of_layers(block: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[_Path, str]]:
    """The texts of such fields in the blocks inside of a method's: those of single layers."""
    for name, value in block.items():
        if isinstance(value, Mapping) and len(path) < _DEPTH and not is_of_others(name):
            yield from _of_layers(value, (*path, name))
        elif path and name in _LAYOUTS and isinstance(value, str):
            yield (*path, name), value


def _fits(path: _Path, pattern: _Path) -> bool:
    """Whether a path is one of those that a detail is for."""
    pairs = zip(path, pattern, strict=False)
    return len(path) == len(pattern) and all(two in ("*", one) for one, two in pairs)


def _values(block: object, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """`(path, text)` of every field at `path`; a number is the text that it is written as."""
    if not path:
        if isinstance(block, (str, int, float)) and not isinstance(block, bool):
            yield "", str(block)
        return
    if not isinstance(block, Mapping):
        return
    inner: Mapping[str, Any] = block
    for key in inner if path[0] == "*" else (path[0],):
        for rest, text in _values(inner.get(key), path[1:]):
            yield f".{key}{rest}", text


def _error(ledger: Ledger, stated: Stated, path: str, value: str) -> UnsupportedError:
    return UnsupportedError(
        f"{ledger.container.files[0].path}: its {stated}: {path[1:]}: {value!r:.80} is a layout "
        f"of {stated.method} that is not implemented; its tensors could be taken for another's"
    )
