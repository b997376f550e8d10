"""Command-line flags that several commands share, and the limits that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from anamnesis.errors import UsageError
from anamnesis.limits import Limits

F = TypeVar("F", bound=Callable[..., Any])


class _Size(click.ParamType[int]):
    """Bytes, as `parse_size` understands them."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from anamnesis.pipeline.config import parse_size

        try:
            return parse_size(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def size_flag(name: str, **settings: Any) -> Callable[[F], F]:
    """An option whose value is a size such as 512MiB."""
    return click.option(name, type=_Size(), default=None, **settings)


_LIMITS = (
    size_flag("--max-single-alloc", help="Most bytes allocated at once for what a file says."),
    size_flag("--max-total-bytes", help="Most bytes of output."),
    click.option(
        "--max-items", type=click.IntRange(min=1), help="Most tensors or entries of a container."
    ),
    click.option(
        "--max-expansion-ratio",
        type=click.IntRange(min=1),
        help="Most bytes of output for each byte stored.",
    ),
)


def limit_flags(command: F) -> F:
    """Add the flags of `Limits` to a command."""
    for option in reversed(_LIMITS):
        command = option(command)
    return command


def limits_from(settings: dict[str, Any]) -> Limits:
    """The limits among a command's settings, which are taken out; the others are the usual ones."""
    names = ("max_single_alloc", "max_total_bytes", "max_items", "max_expansion_ratio")
    given = {name: settings.pop(name) for name in names}
    return Limits(**{name: value for name, value in given.items() if value is not None})
