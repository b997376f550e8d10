"""`amn stats`: figures of every tensor's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from anamnesis.cli.checked import Checked
from anamnesis.cli.flags import (
    Choice,
    json_flag,
    limit_flags,
    limits_from,
    names_flag,
    pattern_flags,
    resource_flags,
    scheduler_flag,
    unit_flag,
)
from anamnesis.cli.streams import print_json, remark


@click.command("stats", cls=Checked)
@click.argument("path", type=click.Path())
@json_flag
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    type=click.Path(),
    help="Write a .parquet, .arrow, .csv or .json file instead.",
    show_default="print a table",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@pattern_flags
@click.option(
    "--sort",
    metavar="COLUMN",
    help="Sort by a column, e.g. absmax: the largest comes first.",
    show_default="file order",
)
@click.option(
    "--dtype",
    type=Choice(["bf16", "f16", "f32"]),
    help="Dtype of the values, as remember's.",
    show_default="bf16 for recovered tensors, others keep theirs",
)
@names_flag
@resource_flags
@scheduler_flag
@click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks.")
@unit_flag
@limit_flags
def stats_command(
    path: str,
    as_json: bool,
    out: str | None,
    overwrite: bool,
    include: tuple[str, ...],
    sort: str | None,
    threads: str,
    quiet: bool,
    **settings: Any,
) -> None:
    """Figures of every tensor of PATH, in one pass over its values.

    Range, mean, deviation, zeros, NaN, infinities, exponents, stored scales and checksum. A
    terminal is shown the columns that it has room for; a pipe and --json get all of them.

    \b
    Example: amn stats model.gguf --sort absmax -o stats.csv
    """
    from anamnesis.analytics.stats.run import check_column, stats
    from anamnesis.pipeline.progress import make_progress, printable

    if out is not None:
        from anamnesis.analytics.table_files import check_target

        check_target(Path(out), overwrite)
    if sort is not None:
        check_column(sort)
    found = stats(
        path,
        include or ("*",),
        threads=int(threads) if threads.isdecimal() else threads,  # type: ignore[arg-type]
        limits=limits_from(settings),
        progress=make_progress("quiet" if quiet else "auto"),
        **settings,
    )
    if sort is not None:
        found = found.sort(sort)
    if not quiet:
        remark(found.notes)
    if out is not None:
        found.write(out, overwrite=overwrite)
        if not quiet and not as_json:
            click.echo(f"{printable(out)}: {len(found)} tensors")
    if as_json:
        print_json(found.to_dict())
    elif out is None:
        from anamnesis.analytics.stats.table import print_stats

        print_stats(found)
