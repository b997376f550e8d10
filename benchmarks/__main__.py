"""`python -m benchmarks [kernels | end-to-end | files | ... | all | report | check]`."""

from __future__ import annotations

import os
from collections.abc import Sequence

# Peers that bring their own threads get one, and nothing compiles itself; set before their import.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}

import click
from rich.console import Console

from benchmarks.measure import describe, machine, patience

console = Console(highlight=False, width=max(120, Console().width))


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
        context.invoke(everything, publish=False)


@main.command("kernels")
@click.argument("patterns", nargs=-1)
@click.option("--rows", type=click.IntRange(1), default=None, help="Of a matrix of 4096 columns.")
def kernels_command(patterns: Sequence[str], rows: int | None) -> None:
    """Every kernel, or those whose names match, against a copy and against peers."""
    from benchmarks import kernels

    kernels.run(console, patterns, rows or kernels.ROWS)


@main.command("encoders")
@click.argument("patterns", nargs=-1)
def encoders_command(patterns: Sequence[str]) -> None:
    """Every encoder, or those whose names match, against copies and libggml."""
    from benchmarks import encoding

    encoding.run(console, patterns)


@main.command("end-to-end")
@click.argument("models", nargs=-1)
@click.option("--gib", type=click.FloatRange(0, min_open=True), help="Size of the models.")
@click.option("--folder", help="Where the models and outputs go, for a while.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeat", default=3, show_default=True)
def end_to_end_command(
    models: Sequence[str], gib: float | None, folder: str | None, threads: int, repeat: int
) -> None:
    """Whole conversions against their I/O floor: all, or the MODELS named (`list` shows them)."""
    from benchmarks import end_to_end

    if "list" in models:
        console.print("\n".join(end_to_end.MODELS))
    else:
        end_to_end.run(console, models or end_to_end.USUAL, gib, folder, threads, repeat)


@main.command("files")
@click.option("--repeat", default=5, show_default=True)
@click.option("--disk", help="A folder on a disk.  [default: the temporary one]")
def files_command(repeat: int, disk: str | None) -> None:
    """NPZ and .pth to safetensors against `cp`, in memory and on a disk."""
    from benchmarks import files

    files.run(console, repeat, disk)


@main.command("names")
@click.option("--gib", default=0.5, show_default=True, help="Size of the models.")
@click.option("--folder", help="Where the models and outputs go, for a while.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeat", default=5, show_default=True)
def names_command(gib: float, folder: str | None, threads: int, repeat: int) -> None:
    """GGUF to Hugging Face's layouts: permutations and transposes against the I/O floor."""
    from benchmarks import names

    names.run(console, gib, folder, threads, repeat)


@main.command("sizes")
@click.option("--repeat", default=3, show_default=True)
def sizes_command(repeat: int) -> None:
    """Time and memory against the size of the model, beside a script that loads it."""
    from benchmarks import sizes

    sizes.run(console, repeat)


@main.command("shares")
def shares_command() -> None:
    """Where the loop's time goes: system calls, kernels, checksums, Python."""
    from benchmarks import shares

    shares.run(console)


@main.command("tasks")
def tasks_command() -> None:
    """What a task costs besides its work, and how large it must be to hide that."""
    from benchmarks import tasks

    tasks.run(console)


@main.command("startup")
@click.option("--repeat", default=9, show_default=True)
def startup_command(repeat: int) -> None:
    """The interpreter, --help, imports, and inspect of an 11 GB file."""
    from benchmarks import startup

    startup.run(console, repeat)


@main.command("check")
@click.argument("patterns", nargs=-1)
@click.option("--record", is_flag=True, help="Make today's figures what is expected.")
def check_command(patterns: Sequence[str], record: bool) -> None:
    """A guard without a clock: instructions an element, and speed as part of a copy's."""
    from benchmarks import check

    raise SystemExit(check.run(console, patterns, record))


@main.command("report")
@click.option("--plots/--no-plots", default=True, help="Draw them again, too.")
def report_command(plots: bool) -> None:
    """Write docs/performance.md and its plots from docs/performance.json."""
    from benchmarks import page

    page.write()
    if plots:
        from benchmarks import plots as drawn

        drawn.write()
    console.print(*(f"{name} is written" for name in page.PAGES), sep="\n")


@main.command("publish")
@click.pass_context
def publish_command(context: click.Context) -> None:
    """Put the results that runs kept into docs/performance.json, and write the page."""
    from benchmarks import page

    page.gather()
    context.invoke(report_command)


@main.command("all")
@click.option("--publish", is_flag=True, help="Then do what `publish` does.")
@click.pass_context
def everything(context: click.Context, publish: bool) -> None:
    """Everything that docs/performance.md shows; some twenty minutes of a quiet machine."""
    for command in (
        kernels_command,
        encoders_command,
        end_to_end_command,
        files_command,
        sizes_command,
        shares_command,
        tasks_command,
        startup_command,
    ):
        context.invoke(command)
    if publish:
        context.invoke(publish_command)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
