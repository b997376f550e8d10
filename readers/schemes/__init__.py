"""The table of schemes: how stored tensors make up logical ones; one file a family.

A row says where its `resolve(ledger)` is, what tells it apart (a stored dtype, or a name's ending)
and of which stated methods it understands the tensors. A module is imported only when a
checkpoint shows its evidence. Rows are sorted by name and run in that order; each claims only
groups that are complete by their tensors. What is left over is `passthrough`'s, which runs last.

A method that the configuration states is never ignored (`_stated`): one that no row understands
is refused before anything else, and at the end every tensor is decoded (with a note where the row
understands none of the methods stated), or dense by evidence (`_leftovers`), or the model is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice

from anamnesis.errors import UnsupportedError
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.schemes._basis import check_basis
from anamnesis.readers.schemes._choices import note_choices, note_integers, note_numbers
from anamnesis.readers.schemes._conv1d import find_conv1d
from anamnesis.readers.schemes._ct_transform import undo_transforms
from anamnesis.readers.schemes._details import (
    check_codes,
    check_details,
    check_numbers,
    note_layers,
)
from anamnesis.readers.schemes._empty import note_empty
from anamnesis.readers.schemes._left_alone import note_left_alone
from anamnesis.readers.schemes._other_formats import note_formats
from anamnesis.readers.schemes._parents import note_input_scales, note_parents
from anamnesis.readers.schemes._refusal import foreign_layout, unknown_method
from anamnesis.readers.schemes._refused import REFUSED
from anamnesis.readers.schemes._stated import Stated
from anamnesis.readers.schemes._stated_words import is_format
from anamnesis.readers.schemes._twofold import check_twofold
from anamnesis.readers.schemes._unheeded import note_words
from anamnesis.readers.schemes._widths import note_groups, note_inputs, note_parts, note_widths
from anamnesis.readers.schemes.base import Ledger


@dataclass(frozen=True, slots=True)
class Scheme:
    """A row: the module, the container kinds it may appear in, and the evidence for it.

    `methods` are those whose tensors it understands, in the spelling of `_stated.canonical`. `page`
    is the one of docs/formats that says what is read and what is not, by default the row's name.
    """

    target: str  # "module:function" inside anamnesis.readers.schemes
    containers: tuple[str, ...] = ()  # empty: any
    dtypes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    page: str = ""


SCHEMES: dict[str, Scheme] = {
    "aqlm": Scheme("aqlm:resolve", suffixes=(".codebooks",), methods=("aqlm",)),
    "awq": Scheme(
        "awq:resolve", suffixes=(".qweight",), methods=("auto-round", "awq", "paroquant")
    ),
    "bitblas": Scheme(
        "bitblas:resolve", suffixes=(".qweight",), methods=("awq", "bitblas", "gptq"), page="marlin"
    ),
    "bitnet": Scheme("bitnet:resolve", dtypes=("U8",), methods=("bitnet",)),
    "bnb": Scheme(
        "bnb:resolve",
        suffixes=(
            ".SCB",
            ".quant_map",
            "_absmax",
            ".weight_scb",
            "quant_state.bitsandbytes__fp4",
            "quant_state.bitsandbytes__nf4",
            "weight_quant_state",
        ),
        methods=("bitsandbytes",),
        page="bitsandbytes",
    ),
    "comfy": Scheme("comfy:resolve", suffixes=(".weight",), methods=("comfyui",), page="comfyui"),
    "compressed-tensors": Scheme(
        "ct:resolve",
        suffixes=("_packed", "_scale", "bitmask"),
        methods=("auto-round", "compressed-tensors"),
    ),
    "exl2": Scheme("exl2:resolve", suffixes=(".q_weight",), methods=("exl2", "exllamav2")),
    "exl3": Scheme("exl3:resolve", suffixes=(".trellis",), methods=("exl3", "exllamav3")),
    "fouroversix": Scheme(
        "fouroversix:resolve", suffixes=("quantized_weight_values",), methods=("fouroversix",)
    ),
    "fp-quant": Scheme(
        "fp_quant:resolve",
        suffixes=("forward_hadamard_matrix",),
        methods=("fp-quant", "fpquant"),
    ),
    "fp4": Scheme(
        "fp4:resolve",
        dtypes=("F8_E8M0",),
        suffixes=(".scale", "_packed", "_scale", "_scale_2", "_scale_inv"),
        methods=(
            *("auto-round", "bfl", "comfyui", "compressed-tensors", "fp8", "modelopt", "mxfp4"),
            *("mxfp8", "nvfp4", "quark"),
        ),
    ),
    "fp8": Scheme(
        "fp8:resolve",
        dtypes=("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"),
        suffixes=("_scale_inv",),
        methods=(
            *("auto-round", "bfl", "comfyui", "compressed-tensors", "fbgemm-fp8", "fp8"),
            *("modelopt", "mxfp4", "mxfp8", "nvfp4", "quark", "w4afp8"),
        ),
    ),
    "gemma": Scheme(
        "gemma:resolve", suffixes=("weight_scale", "embedding_scale"), methods=("gemma",)
    ),
    "gguf": Scheme("gguf:resolve", containers=("gguf",), suffixes=("",), methods=("gguf",)),
    "gguf-packed": Scheme("gguf_packed:resolve", suffixes=(".qweight",), methods=("gguf",)),
    "gptq": Scheme("gptq:resolve", suffixes=(".qweight",), methods=("auto-round", "gptq")),
    "gptq-for-llama": Scheme(
        "gptq_for_llama:resolve",
        suffixes=(".zeros",),
        methods=("gptq", "gptq-for-llama"),
        page="gptq",
    ),
    "higgs": Scheme("higgs:resolve", suffixes=("tables2",), methods=("higgs",)),
    "hqq": Scheme("hqq:resolve", suffixes=("W_q",), methods=("hqq",)),
    "int8": Scheme("int8:resolve", dtypes=("I8",), methods=("w8a8-int8",)),
    "marlin": Scheme("marlin:resolve", suffixes=(".B",), methods=("gptq", "marlin")),
    "marlin-24": Scheme(
        "marlin_24:resolve",
        suffixes=("meta",),
        methods=("compressed-tensors", "gptq", "gptq-marlin-24", "marlin-24"),
        page="marlin",
    ),
    "mlx": Scheme(
        "mlx:resolve",
        dtypes=("U32",),
        suffixes=(".biases", ".qbiases"),
        methods=("auto-round", "jang", "metal", "mlx"),
    ),
    "modelopt": Scheme("modelopt:resolve", suffixes=("_scale",), methods=("modelopt",)),
    "modelslim": Scheme(
        "modelslim:resolve",
        suffixes=("deq_scale", "weight_scale", "weight_offset"),
        methods=("modelslim",),
    ),
    "mxfp4": Scheme(
        "mxfp4:resolve",
        suffixes=("_blocks", "_scales", ".blocks", ".scales"),
        methods=("mxfp4", "quark"),
        page="fp4",
    ),
    "nunchaku": Scheme(
        "nunchaku:resolve", suffixes=(".wscales",), methods=("nunchaku-lite", "svdquant")
    ),
    "onnx": Scheme("onnx:resolve", containers=("onnx",), suffixes=("",)),
    "qqq": Scheme("qqq:resolve", suffixes=("s_channel",), methods=("gptq", "qqq"), page="marlin"),
    "quanto": Scheme("quanto:resolve", suffixes=("._data",), methods=("quanto",)),
    "quark": Scheme("quark:resolve", suffixes=("weight_scale",), methods=("quark",)),
    "sdnq": Scheme("sdnq:resolve", suffixes=(".scale",), methods=("sdnq",)),
    "sinq": Scheme("sinq:resolve", suffixes=(".W_q",), methods=("sinq",)),
    "spqr": Scheme("spqr:resolve", suffixes=("dense_weights",), methods=("spqr",)),
    "squeezellm": Scheme("squeezellm:resolve", suffixes=("lookup_table",), methods=("squeezellm",)),
    "torchao": Scheme(
        "torchao:resolve",
        containers=("pth", "safetensors"),
        suffixes=("_qdata", "._torchao"),
        methods=("torchao",),
    ),
    "vptq": Scheme("vptq:resolve", suffixes=(".centroids.weight",), methods=("vptq",)),
    "w4afp8": Scheme("w4afp8:resolve", suffixes=("weight_scale_inv",), methods=("w4afp8",)),
}


# All that are known by name: those that rows understand, and those that are refused.
_UNDERSTOOD = frozenset(method for row in SCHEMES.values() for method in row.methods)
METHODS = _UNDERSTOOD.union(REFUSED)
_PAGES = "docs/"


def resolve(ledger: Ledger) -> None:
    """Run every scheme that shows evidence, then the leftovers' rules.

    Raises UnsupportedError for a stated method that no scheme understands. A layout of another
    method than those stated, complete by its own tensors, is decoded and noted: mixed checkpoints
    are normal. What no row of SCHEMES refuses is told with the page of all.
    """
    try:
        _resolve_all(ledger)
    except UnsupportedError as error:
        if _PAGES not in str(error):
            error.args = (f"{error} ({_PAGES}inputs.md)",)
        raise


def _resolve_all(ledger: Ledger) -> None:
    """`resolve` without the page."""
    implemented = ", ".join(SCHEMES)
    _settle_names(ledger, implemented)
    check_details(ledger)
    used: set[str] = set()  # methods of which anything was decoded
    for name, row in SCHEMES.items():
        if row.containers and ledger.container.kind not in row.containers:
            continue
        if not ledger.dtypes.isdisjoint(row.dtypes) or ledger.endings.any(*row.suffixes):
            before = len(ledger.tensors)
            _resolve(name, row, ledger)
            _check_methods(ledger, row, before)
            used |= set(row.methods) if len(ledger.tensors) > before else set()
    undo_transforms(ledger)
    check_basis(ledger)
    check_codes(ledger)
    check_numbers(ledger)
    check_twofold(ledger)
    note_choices(ledger)
    note_formats(ledger, used)
    note_widths(ledger)
    note_groups(ledger)
    note_left_alone(ledger)
    note_layers(ledger)
    passthrough = import_module("anamnesis.readers.schemes.passthrough")
    passthrough.resolve(ledger, implemented, METHODS)
    note_words(ledger, METHODS)
    note_integers(ledger)
    note_numbers(ledger)
    note_inputs(ledger)
    find_conv1d(ledger)
    note_parts(ledger)
    note_parents(ledger)
    note_empty(ledger)
    note_input_scales(ledger)


def _settle_names(ledger: Ledger, implemented: str) -> None:
    """Raise UnsupportedError for a stated method that no row understands.

    A label that its author gave the block is none, and noted; nor is what a GGUF says of a method
    that is known, since its types are followed.
    """
    found = []
    for one in ledger.stated:
        unknown = one.method and one.method not in _UNDERSTOOD
        if ledger.container.kind == "gguf":
            unknown = one.method not in METHODS
        elif one.method not in METHODS and (one.label or _is_width(ledger, one)):
            what = (
                "a label, since no method of that name is known and nothing else of the block "
                "names one"
                if one.label
                else "a width, which is no method; every tensor is of floats and stays as it is"
            )
            ledger.note(f"{ledger.container.files[0].path}: its {one}: taken for {what}")
            one, unknown = replace(one, method=""), False
        if unknown:
            raise unknown_method(ledger, one, implemented)
        found.append(one)
    ledger.restate(() if ledger.container.kind == "gguf" else tuple(found))


def _is_width(ledger: Ledger, one: Stated) -> bool:
    """Whether it says only how wide numbers are, of a model in which all are floats."""
    found = ledger.container.stored.values()
    return is_format(one.named) and all(
        DTYPES[stored.dtype].kind == "float" or len(stored.shape) < 2 for stored in found
    )


def _check_methods(ledger: Ledger, row: Scheme, before: int) -> None:
    """Hold what a row has claimed, the tensors from number `before` on, against what is stated."""
    claimed = list(islice(ledger.tensors.values(), before, None))
    methods = {one.method for one in ledger.stated}
    if claimed and methods and "" not in methods and methods.isdisjoint(row.methods):
        ledger.note(foreign_layout(ledger, claimed))


def _resolve(name: str, row: Scheme, ledger: Ledger) -> None:
    """Run one row; what it refuses by name is told with its page."""
    try:
        _function(row.target)(ledger)
    except UnsupportedError as error:
        error.args = (f"{error} ({_PAGES}formats/{row.page or name}.md)",)
        raise


def _function(target: str) -> Callable[[Ledger], None]:
    module, _, name = target.partition(":")
    function: Callable[[Ledger], None] = getattr(
        import_module(f"anamnesis.readers.schemes.{module}"), name
    )
    return function
