"""`python -m benchmarks.scaling record` measures all of docs/scaling.md and writes the page.

Each command prints its figures and keeps them in docs/scaling.json; `page` makes the tables of
docs/scaling.md from that file, and nothing else does.
"""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

from benchmarks.measure import Neighbours, describe, machine, patience
from benchmarks.scaling import overheads, page, recordings, whole
from benchmarks.scaling.processes import apart

console = Console(highlight=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quiet",
    type=click.FloatRange(0),
    metavar="CPUS",
    help="Wait until others take at most so many CPUs before every repetition.",
)
def main(quiet: float | None) -> None:
    """What a large job costs."""
    patience.begin(quiet)


@main.command("plan")
@click.option("--tasks", default=100_000, show_default=True)
def plan_command(tasks: int) -> None:
    """Headers and plan of a model of so many tasks; nothing but headers is on the disk."""
    with _kept("plan") as found:
        found |= apart(overheads.plan_costs, tasks)


@main.command("tasks")
@click.option("--tasks", default=2_000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--repeat", default=5, show_default=True)
def tasks_command(tasks: int, workers: int, repeat: int) -> None:
    """Overhead of a task in each executor, and who spends the time."""
    with _kept("tasks") as found:
        found |= overheads.task_costs(tasks, workers, repeat)


@main.command("shards")
@click.option("--shards", default=200, show_default=True)
@click.option("--repeat", default=5, show_default=True)
@click.option("--folder", default=None, help="On the disk to measure.")
def shards_command(shards: int, repeat: int, folder: str | None) -> None:
    """What a shard adds to its tasks: creating, syncing, checking, journal and rename."""
    with _kept("shards") as found:
        found |= overheads.shard_costs(shards, repeat, folder)


@main.command("gigabyte")
@click.option("--gb", default=2.0, show_default=True, help="Of input.")
@click.option("--repeat", default=3, show_default=True)
def gigabyte_command(gb: float, repeat: int) -> None:
    """A GB of output by one thread, by two, and by two workers of a cluster; in memory."""
    with _kept("gigabyte") as found:
        found |= whole.gigabyte_costs(gb, repeat)


@main.command("whole")
@click.option("--gb", default=20.0, show_default=True, help="Of input.")
@click.option("--folder", default=None, help="With room for 2.45 times as much.")
@click.option("--memory", default="190MiB", show_default=True)
def whole_command(gb: float, folder: str | None, memory: str) -> None:
    """Convert a model without holes in shards of 1 GB on the disk, and verify it.

    The input is 100 times the memory setting.
    """
    with _kept("whole") as found:
        found |= whole.on_disk(gb, folder, memory)


@main.command("record")
@click.option("--gb", default=20.0, show_default=True, help="Of input, of the run on the disk.")
@click.option("--folder", default=None, help="On the disk, with room for 2.45 times as much.")
@click.pass_context
def record_command(context: click.Context, gb: float, folder: str | None) -> None:
    """All of these, and the page: about ten minutes, and 49 GB of disk for 20 GB."""
    context.invoke(plan_command)
    context.invoke(tasks_command)
    context.invoke(shards_command, folder=folder)
    context.invoke(gigabyte_command)
    context.invoke(whole_command, gb=gb, folder=folder)
    context.invoke(page_command)


@main.command("page")
def page_command() -> None:
    """Write the tables of docs/scaling.md from docs/scaling.json."""
    page.PAGE.write_text(page.rewritten())
    console.print(f"wrote {page.PAGE}")


@main.command("recordings")
@click.option("--gb", default=2.1, show_default=True, help="Of input.")
@click.option(
    "--folder", default="/dev/shm", show_default=True, help="With room for six times as much."
)
def recordings_command(gb: float, folder: str) -> None:
    """Run, kill and resume a job on a cluster, and show that in docs/cluster.md."""
    found = recordings.record(gb, folder)
    recordings.PAGE.write_text(recordings.rewritten(found))
    console.print("\n\n".join(found.values()), markup=False)


class _kept:  # noqa: N801 - used as a function
    """Collects figures, prints them, and keeps them with what others took meanwhile."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        patience.wait()
        console.print(f"[bold]{self._name}[/bold]\n{describe(machine())}")
        self._others = Neighbours()
        return self._found

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            console.print_json(json.dumps(self._found))
            console.print(self._others.text())
            page.keep(self._name, self._found, machine(), self._others.cpus())


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.scaling")
