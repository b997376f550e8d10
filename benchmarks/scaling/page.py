"""docs/scaling.json to the tables of docs/scaling.md, and what follows from them by arithmetic."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from anamnesis.limits import MiB
from anamnesis.pipeline.estimate import Amounts, Assumed, estimate
from anamnesis.pipeline.plan import TASK_BYTES
from anamnesis.pipeline.reading import MOST_BYTES
from anamnesis.pipeline.requests import (
    FOLDER_READS,
    FOLDER_WRITES,
    RUN_READS,
    RUN_WRITES,
    Requests,
    Sent,
    of_file,
)
from anamnesis.readers.ahead import BLOCK_BYTES
from anamnesis.writers.upload import part_bytes

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "scaling.md"
FIGURES = DOCS / "scaling.json"
WORKERS = (1, 8, 64)
MODELS = {"70 GB": 70e9, "700 GB": 700e9}  # stored as FP8; twice as much comes out
SHARD_BYTES = 5e9
REMOTE_WORKERS = (1, 8, 64)
REMOTE_MODELS = {**MODELS, "5 TB": 5e12}
LINES = {"1 Gbit/s": 125e6, "10 Gbit/s": 1.25e9}  # of a worker, each way

Figures = Mapping[str, Any]


def keep(name: str, found: Figures, machine: Figures, others_cpus: float | None) -> None:
    """Put the figures of one command into docs/scaling.json."""
    document = load() if FIGURES.exists() else {}
    document[name] = {
        **found,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "others_cpus": others_cpus,
    }
    document["machine"] = {k: v for k, v in machine.items() if k != "load"}
    FIGURES.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def load() -> dict[str, Any]:
    """The figures that were kept, by command."""
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def rewritten() -> str:
    """The page with the tables between its markers made from the figures."""
    text = PAGE.read_text()
    tables = sections(load())
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text, count = pattern.subn(lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"{PAGE}: has {count} places for {name}")
    return text


def sections(figures: Figures) -> dict[str, str]:
    """The generated parts of the page by the names of their markers."""
    costs = Costs.of(figures)
    return {
        "machine": _machine(figures),
        "measured": "\n".join(_measured(figures, costs)),
        "whole": "\n".join(_whole(figures["whole"])),
        "projected": "\n".join(_projected(costs)),
        "remote": "\n".join(_remote()),
        "limit": _limit(costs),
    }


@dataclass(frozen=True, slots=True)
class Costs:
    """What a projection needs, in seconds and bytes."""

    gigabyte: float  # of output, a worker of one thread
    task: float  # of a worker's processor, besides the work
    scheduler: float  # a task, of the scheduler's processor
    client: float  # a task, of the client's
    wall: float  # a task, when there is nothing to do; all on one machine
    shard: float
    start: float
    plan: float  # a task
    plan_bytes: float  # a task
    client_bytes: int
    worker_bytes: int
    scheduler_bytes: int

    @classmethod
    def of(cls, figures: Figures) -> Costs:
        tasks, plan, gigabyte = figures["tasks"], figures["plan"], figures["gigabyte"]
        spent = {
            who: 1e-6 * value[0]
            for who, value in tasks["distributed"]["processor_microseconds"].items()
        }
        grown = plan["peak_bytes"] - plan["peak_bytes_before"]
        planning = plan["headers_seconds"] + plan["plan_seconds"] + plan["recipe_seconds"]
        return cls(
            gigabyte=_per_gigabyte(gigabyte, "serial"),
            task=spent["workers"],
            scheduler=spent["scheduler"],
            client=spent["client"],
            wall=1e-6 * tasks["distributed"]["microseconds"][0],
            shard=1e-6 * figures["shards"]["disk"]["microseconds"][0],
            start=gigabyte["distributed"]["start_seconds"],
            plan=planning / plan["tasks"],
            plan_bytes=grown / plan["tasks"],
            client_bytes=gigabyte["distributed"]["peak_bytes"],
            worker_bytes=tasks["peak_bytes"]["worker"],
            scheduler_bytes=tasks["peak_bytes"]["scheduler"],
        )

    @property
    def work(self) -> float:
        """Seconds that a worker of one thread takes for a full task."""
        return self.gigabyte * TASK_BYTES / 1e9

    @property
    def limit(self) -> float:
        """Workers that the scheduler and the client can keep busy, as measured here."""
        return (self.work + self.task) / self.wall

    def seconds(self, out_bytes: float, workers: int) -> float:
        """Wall time when storage keeps up."""
        tasks = out_bytes / TASK_BYTES
        busy = max(tasks * (self.work + self.task) / workers, tasks * self.wall)
        return self.start + tasks * self.plan + busy + out_bytes / SHARD_BYTES * self.shard

    def limited(self, workers: int) -> bool:
        """Whether the scheduler decides, and not the workers."""
        return workers > self.limit


def _machine(figures: Figures) -> str:
    found = figures["machine"]
    versions = found["versions"]
    dates = sorted({value["date"] for key, value in figures.items() if key != "machine"})
    others = max(v["others_cpus"] or 0 for k, v in figures.items() if k != "machine")
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"Measured on {span}: {found['processor']}, {found['cpus']} CPUs, "
        f"{found['memory_bytes'] / 2**30:.0f} GiB, {found['system']}, Python {found['python']}, "
        f"dask {versions['dask']}, numba {versions['numba']}; meanwhile others took at most "
        f"{others:.1f} CPUs."
    )


def _measured(figures: Figures, costs: Costs) -> Iterator[str]:
    tasks, plan, shards = figures["tasks"], figures["plan"], figures["shards"]
    gigabyte = figures["gigabyte"]
    yield "| what | measured |"
    yield "|---|---|"
    for name, words in (
        ("serial", "a task of almost nothing, serial"),
        ("threads", "the same, Dask threads"),
        ("distributed", f"the same, distributed, {tasks['workers']} workers"),
    ):
        yield f"| {words} | {_milliseconds(tasks[name]['microseconds'])} |"
    yield (
        "| of that, processor time of scheduler, client, workers | "
        f"{1e3 * costs.scheduler:.1f} ms, {1e3 * costs.client:.1f} ms, {1e3 * costs.task:.1f} ms |"
    )
    yield f"| a task when pickled, most | {plan['pickled_bytes'][1]:,} bytes |"
    yield f"| a shard more, on the disk | {_milliseconds(shards['disk']['microseconds'])} |"
    yield f"| a shard more, in memory | {_milliseconds(shards['memory']['microseconds'])} |"
    for name, words in (
        ("serial", "one thread"),
        ("threads", "two threads"),
        ("distributed", "two workers of a local cluster"),
    ):
        yield (
            f"| a GB of output, {words}, in memory | {_per_gigabyte(gigabyte, name):.2f} s, "
            f"after {gigabyte[name]['start_seconds']:.1f} s of start |"
        )
    yield (
        f"| plan of {plan['tensors']:,} tensors, {plan['tasks']:,} tasks, "
        f"{plan['out_bytes'] / 1e12:.1f} TB out | {plan['headers_seconds']:.1f} s of headers, "
        f"{plan['plan_seconds']:.1f} s of planning, {plan['recipe_seconds']:.1f} s of digests, "
        f"{plan['peak_bytes'] / 1e6:.0f} MB at its peak |"
    )
    yield (
        f"| peak of a process: threads, worker, scheduler | "
        f"{gigabyte['threads']['peak_bytes'] / MiB:.0f} MiB, {costs.worker_bytes / MiB:.0f} MiB, "
        f"{costs.scheduler_bytes / MiB:.0f} MiB |"
    )


def _whole(found: Figures) -> Iterator[str]:
    run, verify = found["run"], found["verify"]
    yield "| | in | out | `run.memory` | seconds | GB/s out | processor seconds | peak |"
    yield "|---|---|---|---|---|---|---|---|"
    stored, out = found["stored_bytes"] / 1e9, found["out_bytes"] / 1e9
    for words, what, read in (
        ("`amn run`", run, f"{stored:.1f} GB in {found['shards']} shards"),
        ("`amn verify`", verify, f"{out:.1f} GB"),
    ):
        written = f"{out:.1f} GB | {found['memory']}" if what is run else "- | -"
        yield (
            f"| {words} | {read} | {written} | {what['seconds']:.0f} | "
            f"{out / what['seconds']:.2f} | {what['user'] + what['system']:.0f} | "
            f"{what['peak_bytes'][0] / MiB:.0f} MiB |"
        )


def _projected(costs: Costs) -> Iterator[str]:
    yield (
        "| stored as FP8 | tasks | "
        + " | ".join(f"{n} worker{'s' * (n > 1)}" for n in WORKERS)
        + " | memory of a worker, the scheduler, the client |"
    )
    yield "|---|---|" + "---|" * (len(WORKERS) + 1)
    for name, stored in MODELS.items():
        out = 2 * stored
        tasks = out / TASK_BYTES
        cells = [
            _duration(costs.seconds(out, n)) + (" (scheduler)" if costs.limited(n) else "")
            for n in WORKERS
        ]
        client = costs.client_bytes + tasks * costs.plan_bytes
        memory = ", ".join(
            f"{value / MiB:.0f} MiB"
            for value in (costs.worker_bytes, costs.scheduler_bytes, client)
        )
        yield f"| {name}, {out / 1e9:,.0f} GB out | {tasks:,.0f} | {' | '.join(cells)} | {memory} |"


def _remote() -> Iterator[str]:
    """By the model of `amn plan`, from a hub to a bucket, a worker a line."""
    yield (
        "| stored as FP8 | requests in, out | "
        + " | ".join(f"{n} × {line}" for n in REMOTE_WORKERS for line in LINES)
        + " |"
    )
    yield "|---|---|" + "---|" * (len(REMOTE_WORKERS) * len(LINES))
    for name, stored in REMOTE_MODELS.items():
        out, files = 2 * stored, stored / SHARD_BYTES
        amounts = Amounts(
            out_bytes=int(out),
            tasks=int(out / TASK_BYTES),
            files=int(files),
            out_files=round(out / SHARD_BYTES),
            get_bytes=int(stored),
            gets=int(stored / BLOCK_BYTES),
            put_bytes=int(out),
            output=_sent(out),
            opening=2 * int(files) + 4,
            hops=2,
            at_a_time=1 + MOST_BYTES // BLOCK_BYTES,
        )
        cells = [
            _duration(estimate(amounts, 1, Assumed(n, bandwidth, 0.05)).seconds)
            for n in REMOTE_WORKERS
            for bandwidth in LINES.values()
        ]
        found = estimate(amounts, 1, Assumed())
        counts = f"{found.gets:,}, {found.puts:,}"
        yield f"| {name}, {out / 1e9:,.0f} GB out | {counts} | {' | '.join(cells)} |"


def _sent(out: float) -> Requests:
    """Requests of an S3 store that gets so many bytes in shards, each task with two ends."""
    parts, tasks = (round(SHARD_BYTES / size) for size in (part_bytes(SHARD_BYTES), TASK_BYTES))
    sent = Sent(tasks, parts - tasks - 1, tasks, tasks + 1, 2 * tasks)
    files = round(out / SHARD_BYTES)
    whole = Requests(RUN_READS + FOLDER_READS, RUN_WRITES + FOLDER_WRITES)
    return whole + Requests(*(files * count for count in astuple(of_file("s3://a/b", sent))))


def _limit(costs: Costs) -> str:
    rate = 1 / costs.wall
    alone = 1 / max(costs.scheduler, costs.client)
    return (
        f"A full task is {TASK_BYTES // MiB} MiB of output, here {1e3 * costs.work:.0f} ms of work "
        f"for one thread, and the executor adds {1e3 * costs.task:.1f} ms to it on a worker. "
        f"Scheduler, client and workers that share 2 cores pass {rate:.0f} tasks a second, or "
        f"{rate * TASK_BYTES / 1e9:.0f} GB/s of output: **beyond {costs.limit:.0f} workers of that "
        f"speed the scheduler is the limit**, unless storage is before. With cores of their own "
        f"the scheduler and the client, by their processor time, pass at most {alone:.0f} tasks a "
        f"second ({alone * TASK_BYTES / 1e9:.0f} GB/s, "
        f"{alone * (costs.work + costs.task):.0f} workers)."
    )


def _per_gigabyte(found: Figures, name: str) -> float:
    more = found[name]["seconds"] - found[name]["start_seconds"]
    return float(more / (found["model_bytes"] - found["small_bytes"]) * 1e9)


def _milliseconds(spread: list[float]) -> str:
    middle, low, high = (value / 1e3 for value in spread)
    return f"{middle:.2f} ms ({low:.2f}-{high:.2f})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
