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
# Sections of help behind the options that say what a command does, by the parameters in them.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "Options": (),
    "Running": ("threads", "memory", "disk", "staging", "scheduler", "keep_going"),
    "Limits and trust": (
        *("max_single_alloc", "max_total_bytes", "max_items", "max_expansion_ratio"),
        *("follow_links", "leave_out_unknown"),
    ),
}


class Checked(click.Command):
    """A command that refuses flags without effect, and hints at the way out of a wrong line."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """The whole first sentence: lists wrap it, and completions show what there is room for."""
        return super().get_short_help_str(max(limit, _SENTENCE_CHARS))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options in sections: what is done, how it runs, and what a file may ask for."""
        section_of = {name: title for title, names in _SECTIONS.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {title: [] for title in _SECTIONS}
        for parameter in self.get_params(ctx):
            option = isinstance(parameter, click.Option)
            record = parameter.get_help_record(ctx) if option else None
            if record is not None:
                rows[section_of.get(str(parameter.name), "Options")].append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

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
