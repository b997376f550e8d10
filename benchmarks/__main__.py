"""`python -m benchmarks [kernels | end-to-end | startup | experiments NAME | all]`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console

from benchmarks.experiments import EXPERIMENTS
from benchmarks.measure import describe, machine, patience

console = Console(highlight=False, width=max(110, Console().width))


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quiet",
    type=click.FloatRange(0),
    metavar="CPUS",
    help="Wait until others take at most so many CPUs, and repeat what they disturbed.",
)
@click.pass_context
def main(context: click.Context, quiet: float | None) -> None:
    """Figures with their ratios to a plain copy or to plain I/O; everything without a command."""
    patience.begin(quiet)
    console.print(describe(machine()))
    if context.invoked_subcommand is None:
        context.invoke(everything)


@main.command("kernels")
@click.argument("patterns", nargs=-1)
@click.option("--rows", type=click.IntRange(1), default=None, help="Of a matrix of 4096 columns.")
def kernels_command(patterns: Sequence[str], rows: int | None) -> None:
    """Every kernel, or those whose names match."""
    from benchmarks import kernels

    kernels.run(console, patterns, rows or kernels.ROWS)


@main.command("end-to-end")
@click.argument("models", nargs=-1)
@click.option("--gib", type=click.FloatRange(0, min_open=True), help="Size of the models.")
@click.option("--folder", help="Where the models and outputs go, for a while.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeat", default=5, show_default=True)
def end_to_end_command(
    models: Sequence[str], gib: float | None, folder: str | None, threads: int, repeat: int
) -> None:
    """Whole conversions against their I/O floor: fp8, or the MODELS named (`list` shows them)."""
    from benchmarks import end_to_end

    if "list" in models:
        console.print("\n".join(end_to_end.MODELS))
    else:
        end_to_end.run(console, models or ("fp8",), gib, folder, threads, repeat)


@main.command("startup")
@click.option("--repeat", default=9, show_default=True)
def startup_command(repeat: int) -> None:
    """The interpreter, --help, imports, and inspect of an 11 GB file."""
    from benchmarks import startup

    startup.run(console, repeat)


@main.command("experiments")
@click.argument("names", nargs=-1, type=click.Choice(sorted(EXPERIMENTS)))
def experiments_command(names: Sequence[str]) -> None:
    """Repeat experiments of docs/performance-experiments.md; all of them without a name."""
    from benchmarks.experiments import run

    for name in names or sorted(EXPERIMENTS):
        run(name, console)


@main.command("all")
@click.pass_context
def everything(context: click.Context) -> None:
    """Kernels, start-up, and the FP8 conversion."""
    context.invoke(kernels_command)
    context.invoke(startup_command)
    context.invoke(end_to_end_command)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
