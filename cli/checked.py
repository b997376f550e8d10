"""Flags that mean something beside others only; given without those they are usage errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from anamnesis.cli.habits import hinted
from anamnesis.errors import UsageError

# By command and parameter: what the flag is for, and whether that is so.
FLAGS: dict[tuple[str, str], tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    ("diff", "overwrite"): ("-o or --plot", lambda given: bool(given["out"] or given["plot"])),
    ("diff", "top"): (
        "the printed table, without --json and -q",
        lambda given: not given["as_json"] and not given["quiet"],
    ),
    ("inspect", "assume_unit_scale"): (
        "inspect without --globals",
        lambda given: not given["only_globals"],
    ),
    ("plan", "price_source"): (
        "--price-get and --price-put",
        lambda given: given["price_get"] is not None or given["price_put"] is not None,
    ),
    ("stats", "overwrite"): ("-o", lambda given: bool(given["out"])),
    ("verify", "imatrix"): ("--against", lambda given: given["against"] is not None),
    ("verify", "sample"): ("--against", lambda given: given["against"] is not None),
}


_SENTENCE_CHARS = 100


class Checked(click.Command):
    """A command that refuses flags without effect, and hints at the way out of a wrong line."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """The whole first sentence: lists wrap it, and completions show what there is room for."""
        return super().get_short_help_str(max(limit, _SENTENCE_CHARS))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise hinted(error, self) from None

    def invoke(self, ctx: click.Context) -> Any:
        for parameter in self.params:
            words, means = FLAGS.get((str(self.name), str(parameter.name)), ("", _always))
            source = ctx.get_parameter_source(str(parameter.name))
            if source is ParameterSource.COMMANDLINE and not means(ctx.params):
                raise UsageError(f"{parameter.opts[-1]}: is for {words}; it has no effect here")
        return super().invoke(ctx)


def _always(given: Mapping[str, Any]) -> bool:
    return True


__all__ = ["FLAGS", "Checked"]
