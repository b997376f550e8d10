"""`amn diff A B`: the comparison as a table, a file, a picture, and an exit code for scripts."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anamnesis.cli.checked import Checked
from anamnesis.cli.flags import (
    json_flag,
    limit_flags,
    limits_from,
    pattern_flags,
    resource_flags,
    scheduler_flag,
    unit_flag,
)
from anamnesis.cli.streams import print_json, remark
from anamnesis.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anamnesis.analytics.diff.record import Row
    from anamnesis.analytics.diff.report import Diff

DIFFERS = 8  # the exit code when --exact or --fail-under does not hold


@click.command("diff", cls=Checked)
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@json_flag
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(),
    help="Write the table here: .parquet, .arrow, .csv or .json.",
    show_default="print it",
)
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(),
    help="Draw error by layer and module here: .svg, .html or .png.",
    show_default="no picture",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Print so many of the worst tensors; 0 prints all.",
)
@click.option("--exact", is_flag=True, help="Exit 8 unless all tensors have the same BF16 bits.")
@click.option(
    "--fail-under",
    type=float,
    metavar="DB",
    help="Exit 8 if the SQNR of a tensor is under so many dB.",
    show_default="exit 0 whatever it is",
)
@pattern_flags
@resource_flags
@scheduler_flag
@click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks and no table.")
@unit_flag
@limit_flags
def diff_command(
    a: str,
    b: str,
    as_json: bool,
    out: str | None,
    plot: str | None,
    overwrite: bool,
    top: int,
    quiet: bool,
    **settings: Any,
) -> int:
    """Compare two checkpoints of any formats, tensor by tensor.

    A is what B is measured against; the worst tensors come first. Exits 0 whatever the
    difference, unless --exact or --fail-under asks for more.

    \b
    Example: amn diff llama llama-fp8 --plot loss.svg
    """
    from anamnesis.analytics.diff.run import diff
    from anamnesis.pipeline.progress import make_progress, printable

    _check_targets((a, b), out, plot, overwrite)
    exact, fail_under = settings.pop("exact"), settings.pop("fail_under")
    if fail_under is not None and math.isnan(fail_under):
        raise UsageError("--fail-under: found nan; allowed: a number of dB")
    limits = limits_from(settings)
    threads = settings.pop("threads")
    found = diff(
        a,
        b,
        include=settings.pop("include") or ("*",),
        threads=int(threads) if threads.isdecimal() else threads,
        limits=limits,
        progress=make_progress("quiet" if quiet else "auto"),
        **settings,
    )
    if out is not None:
        found.write(out, overwrite=overwrite)
    if plot is not None:
        found.plot(plot, overwrite=overwrite)
    if not quiet:
        remark(found.notes)
    if as_json:
        print_json(found.to_dict())
    elif not quiet:
        from anamnesis.analytics.diff.table import print_diff

        print_diff(found, top)
        if out is not None:
            click.echo(f"{printable(out)}: {len(found.rows)} tensors")
        if plot is not None:
            click.echo(f"{printable(plot)}: the picture of them")
    failures = _failures(found, exact, fail_under)
    for failure in failures:
        click.echo(f"differs: {printable(failure)}", err=True)
    return DIFFERS if failures else 0


def _check_targets(
    inputs: tuple[str, str], out: str | None, plot: str | None, overwrite: bool
) -> None:
    """UsageError for a table or a picture that cannot be made there, before anything is read."""
    from anamnesis.analytics.diff.plot import check_plot
    from anamnesis.analytics.table_files import check_target

    if out is not None:
        check_target(Path(out), overwrite)
    if plot is not None:
        check_plot(Path(plot), overwrite)
    for path in inputs:
        there = out is not None and os.path.exists(out) and os.path.exists(path)
        if there and os.path.samefile(out or "", path):
            raise UsageError(f"{out}: is an input; choose another output")


def _failures(found: Diff, exact: bool, fail_under: float | None) -> list[str]:
    """What --exact and --fail-under have to complain of, a line each."""
    failures = []
    if exact:
        rows = [row for row in found.rows if not row.identical]
        if rows:
            text = "are not the same BF16 bits in both, or not in both"
            failures.append(_complaint(rows, len(found.rows), text))
    if fail_under is not None:
        rows = [row for row in found.compared if row.broken or row.rank < fail_under]
        # A pair that could not be compared may not pass for a good one.
        rows += [row for row in found.others if row.status == "not compared"]
        if rows:
            text = f"have an SQNR under {fail_under:g} dB, or NaN or infinity on one side"
            failures.append(_complaint(rows, len(found.rows), text))
    return failures


def _complaint(rows: Sequence[Row], total: int, text: str) -> str:
    from anamnesis.analytics.diff.record import decibels

    first = rows[0]
    level = decibels(first.sqnr_db) if first.status == "compared" else first.why or first.status
    return f"{len(rows)} of {total} tensors {text}; the first is {first.tensor} ({level})"
