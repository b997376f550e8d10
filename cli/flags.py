"""Command-line flags that several commands share, and the limits that they make."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from anamnesis.cli.habits import other_flag, question
from anamnesis.errors import UsageError
from anamnesis.limits import Allow, GiB, Limits
from anamnesis.words import meant

DTYPES = ("bf16", "f16", "f32")
_OVERRIDE = re.compile("(?:int|float|bool|str):")  # of llama.cpp's --override-kv
_USUAL = Limits()

F = TypeVar("F", bound=Callable[..., Any])


if TYPE_CHECKING:
    _IntType = click.ParamType[int]
    _Choice = click.Choice[str]
else:
    _IntType, _Choice = click.ParamType, click.Choice  # cannot be subscripted before click 8.4


class Choice(_Choice):
    """One of several words; a wrong one is told the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter as error:
            near = meant(value, list(map(str, self.choices)))
            hint = question(near) or other_flag(str(value), param, ctx)
            if not hint:
                raise
            self.fail(f"{error.message}{hint}", param, ctx)


class _Outtype(Choice):
    """A dtype, or one of llama.cpp's quantised types, however it is written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from anamnesis.pipeline.mixtures import MIXTURES

        name = str(value).upper()
        return name if name in MIXTURES else super().convert(value, param, ctx)


class _Size(_IntType):
    """Bytes, as `parse_size` understands them."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from anamnesis.sizes import parse_size

        try:
            return parse_size(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Amount(click.FloatRange):
    """A number of what its metavar says."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"found {value!r:.60}; allowed: a number, 0 or more", param, ctx)


def size_flag(*names: str, **settings: Any) -> Callable[[F], F]:
    """An option whose value is a size such as 512MiB."""
    return click.option(*names, type=_Size(), default=None, **settings)


json_flag = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
unit_flag = click.option(
    "--assume-unit-scale", is_flag=True, help="Take FP8 tensors without a scale as a plain cast."
)
loss_flag = click.option(
    "--loss",
    metavar="FILE",
    type=click.Path(),
    help="Write what encoding lost: .json, .parquet, .csv, .arrow, .svg, .html or .png.",
    show_default="a sentence",
)


def _scheduler_flag(default: str) -> Callable[[F], F]:
    return click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Run on this Dask scheduler, e.g. tcp://host:8786.",
        show_default=default,
    )


scheduler_flag = _scheduler_flag("threads of this process")
scheduler_of_job_flag = _scheduler_flag("what JOB says")
names_flag = click.option(
    "--names", type=Choice(["stored", "hf"]), default="stored", help="Of a GGUF's tensors."
)
key_value_flag = click.option(
    "--gguf-kv",
    multiple=True,
    metavar="KEY[:TYPE]=VALUE",
    help="Add or change a key/value of a GGUF output; @FILE.json holds many.",
    show_default="those of the model",
)
outtype_flag = click.option(
    "--outtype",
    type=_Outtype((*DTYPES, "auto")),
    metavar="[bf16|f16|f32|auto|Q8_0|…]",
    help="The --dtype of a GGUF output, or its --encode, by llama.cpp's name; auto is that of the "
    "first matrix in F16 or BF16.",
    show_default="bf16",
)
_PATTERNS = (
    click.option(
        "--include",
        multiple=True,
        metavar="PATTERN",
        help="Take only these tensors; may be given again.",
        show_default="*",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave these out; may be given again.",
        show_default="none",
    ),
)
memory_flag = click.option(
    "--memory",
    metavar="SIZE",
    help="Budget of one process, e.g. 256MiB.",
    show_default="512MiB",
)
_RESOURCES = (
    click.option(
        "--threads",
        metavar="NUMBER",
        default="auto",
        help="A number, or auto: the processors that are free to use.",
    ),
    memory_flag,
)
_LIMITS = (
    size_flag(
        "--max-single-alloc",
        help="Most bytes allocated at once for what a file says.",
        show_default=f"{_USUAL.max_single_alloc // GiB}GiB",
    ),
    size_flag("--max-total-bytes", help="Most bytes of output.", show_default="16TiB"),
    click.option(
        "--max-items",
        type=click.IntRange(min=1),
        help="Most tensors or entries of a container.",
        show_default=str(_USUAL.max_items),
    ),
    click.option(
        "--max-expansion-ratio",
        type=click.IntRange(min=1),
        help="Most bytes of output for each byte stored.",
        show_default=str(_USUAL.max_expansion_ratio),
    ),
    click.option(
        "--follow-links",
        is_flag=True,
        help="Follow links out of a model's folder that are yours, to files of yours.",
    ),
    click.option(
        "--leave-out-unknown",
        is_flag=True,
        help="Leave pickled objects of unknown classes out; nothing is run.",
    ),
)


def all_of(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """One decorator that adds several options, which help lists in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


pattern_flags = all_of(_PATTERNS)
resource_flags = all_of(_RESOURCES)
limit_flags = all_of(_LIMITS)


def limits_from(settings: dict[str, Any]) -> Limits:
    """The limits, and what is allowed, among a command's settings, which are taken out."""
    names = ("max_single_alloc", "max_total_bytes", "max_items", "max_expansion_ratio")
    given = {name: settings.pop(name) for name in names}
    allow = Allow(settings.pop("follow_links"), settings.pop("leave_out_unknown"))
    return Limits(**{k: value for k, value in given.items() if value is not None}, allow=allow)


def types_from(
    outtype: str | None, to: str, dtype: str | None, encode: str | None
) -> tuple[str | None, str | None]:
    """`--dtype` and `--encode`, one of which may be what `--outtype` says.

    Raises UsageError where they do not go together.
    """
    if outtype is None:
        return dtype, encode
    plain = (*DTYPES, "auto")
    flag, given = ("--dtype", dtype) if outtype in plain else ("--encode", encode)
    if to != "gguf":
        raise UsageError(f"--outtype {outtype} with --to {to}: it is for --to gguf; use {flag}")
    if given not in (None, outtype):
        raise UsageError(f"--outtype {outtype} and {flag} {given}: give one of them")
    return (outtype, encode) if flag == "--dtype" else (dtype, outtype)


def key_values_from(given: Sequence[str]) -> dict[str, Any]:
    """What `--gguf-kv` says: values are JSON, and text where they are none."""
    found: dict[str, Any] = {}
    for text in given:
        if text.startswith("@"):
            found |= _key_values_in(text[1:])
            continue
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--gguf-kv {text!r:.100}: allowed: KEY=VALUE, or @FILE.json")
        if _OVERRIDE.match(value) and ":" not in key:
            raise UsageError(
                f"--gguf-kv {text!r:.100}: a type goes behind the key, as in KEY:uint32=5, and "
                "KEY:string=… is text as it stands"
            )
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _key_values_in(path: str) -> dict[str, Any]:
    from anamnesis.readers.source import LocalFile
    from anamnesis.readers.strict_json import loads

    with LocalFile(path) as file:
        document = loads(file.read(0, file.size), path, Limits())
    if not isinstance(document, dict):
        raise UsageError(f"{path}: found a {type(document).__name__}; allowed: a JSON object")
    return document
