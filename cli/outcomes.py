"""What `remember`, `convert` and `run` did, or would do, as sentences or as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from anamnesis.cli.failure import SeveralError, line, plain
from anamnesis.cli.streams import print_json, remark

if TYPE_CHECKING:
    from anamnesis.pipeline.estimate import Assumed
    from anamnesis.pipeline.jobs import Summary
    from anamnesis.pipeline.outcome import Outcome
    from anamnesis.pipeline.plan import Plan

Failures = Sequence[tuple[str, BaseException]]


def finish(summary: Summary, *, quiet: bool, as_json: bool) -> None:
    """Print what a job made; raises an error when an input failed."""
    from anamnesis.cli.tables import loss_sentence, sentence

    if as_json:
        outcomes = [_outcome(outcome) for outcome in summary.outcomes]
        failures = _failures(summary.failures)
        print_json({"outcomes": outcomes, "failures": failures, "notes": list(summary.notes)})
    elif not quiet:
        remark(summary.notes)
        for outcome in summary.outcomes:
            click.echo(sentence(outcome))
            if outcome.loss:
                click.echo(loss_sentence(outcome))
    _fail(summary.failures, summary.inputs)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    from msgspec import to_builtins

    made = asdict(outcome)
    if outcome.loss:
        made["loss"] = to_builtins(outcome.loss)
    else:
        del made["loss"]
    return made


def show_plans(
    planned: Sequence[tuple[str, Plan | BaseException]],
    notes: Sequence[str],
    *,
    quiet: bool,
    as_json: bool,
    assumed: Assumed | None = None,
) -> None:
    """Print what would be done; raises an error when an input cannot be planned.

    The seconds are for what is `assumed`, None for the usual line.
    """
    from anamnesis.pipeline import estimate as estimates
    from anamnesis.pipeline.explain import explain

    usual = assumed or estimates.Assumed()

    plans = [plan for _, plan in planned if not isinstance(plan, BaseException)]
    failures = [(source, plan) for source, plan in planned if isinstance(plan, BaseException)]
    if as_json:
        document = {
            "plans": [_plan(plan, usual) for plan in plans],
            "failures": _failures(failures),
        }
        print_json({**document, "notes": list(notes)})
    elif not quiet:
        found = [
            estimates.estimate(estimates.amounts_of(plan), plan.threads, usual) for plan in plans
        ]
        pages = [explain(plan, one, usual) for plan, one in zip(plans, found, strict=True)]
        click.echo("\n\n".join(pages))
        explained = {note for plan in plans for note in plan.model.notes}
        remark([note for note in notes if note not in explained])
    _fail(failures, len(planned))


def _plan(plan: Plan, assumed: Assumed) -> dict[str, Any]:
    from anamnesis.pipeline.estimate import amounts_of, estimate

    found = estimate(amounts_of(plan), plan.threads, assumed)
    return {
        "input": plan.model.path,
        "container": plan.model.container,
        "path": plan.spec.path,
        "format": plan.spec.format,
        "files": [{"path": file.path, "nbytes": file.nbytes} for file in plan.layout.files],
        "tensors": len(plan.items),
        "read_bytes": sum(tensor.stored_bytes for tensor in plan.model.tensors),
        "out_bytes": plan.out_bytes,
        "tasks": len(plan.tasks),
        "threads": plan.threads,
        "memory_bytes": plan.memory_bytes,
        "disk_bytes": plan.disk_bytes,
        "requests": {"get": found.gets, "put": found.puts},
        "seconds": found.seconds,
        "seconds_of": found.parts,
        "cost": found.cost,
        "assumed": asdict(assumed),
        "dropped": [{"name": d.stored.name, "why": d.why} for d in plan.model.dropped],
        "notes": list(plan.model.notes),
    }


def _failures(failures: Failures) -> list[dict[str, str]]:
    return [{"input": source, "error": line(error)} for source, error in failures]


def _fail(failures: Failures, inputs: int) -> None:
    """Name every input that failed, and end with an error, if there are any."""
    for source, error in failures:
        click.echo(f"failed: {plain(source)}: {line(error)}", err=True)
    if failures:
        raise SeveralError(failures, inputs) from failures[0][1]


__all__ = ["finish", "show_plans"]
