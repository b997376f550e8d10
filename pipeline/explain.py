"""What a plan would do, in words."""

from __future__ import annotations

from anamnesis.limits import MiB
from anamnesis.pipeline.estimate import Assumed, Estimate
from anamnesis.pipeline.plan import WINDOW_BYTES, Plan
from anamnesis.pipeline.remarks import collapsed


def explain(plan: Plan, found: Estimate | None = None, assumed: Assumed | None = None) -> str:
    """A page for `--dry-run`: what would be read, decoded and written, and what it takes.

    With an estimate, how long it should take for what is assumed.
    """
    model, layout = plan.model, plan.layout
    schemes: dict[str, int] = {}
    for tensor in model.tensors:
        schemes[tensor.scheme] = schemes.get(tensor.scheme, 0) + 1
    read = sum(t.stored_bytes for t in model.tensors)
    lines = [
        f"input    {model.path}  ({model.container}, {len(model.files)} file(s))",
        "tensors  "
        + f"{len(model.tensors)}: "
        + ", ".join(f"{count} {name}" for name, count in sorted(schemes.items())),
        f"read     {read:,} bytes",
        f"write    {plan.out_bytes:,} bytes, {plan.spec.format}, {len(layout.files)} file(s)",
    ]
    if plan.spec.storage.compression != "none":
        lines[-1] += f", before {plan.spec.storage.compression}"
    lines += [f"         {file.path}  {file.nbytes:,} bytes" for file in layout.files]
    largest = max((task.work_bytes for task in plan.tasks), default=0)
    lines += [
        f"tasks    {len(plan.tasks)} of up to {-(-largest // MiB)} MiB of output, "
        f"windows of about {WINDOW_BYTES // MiB} MiB",
        f"memory   {plan.memory_bytes / MiB:.0f} MiB projected for {plan.threads} thread(s)",
    ]
    if plan.disk_bytes or plan.disk_limit is not None:
        lines.append(f"disk     {plan.disk_bytes:,} bytes of spools and caches")
    if found is not None and assumed is not None:
        lines += _expected(plan, found, assumed)
    lines += [f"left out {text}" for text in collapsed(model.broken)]
    lines += [f"note     {note}" for note in collapsed(model.notes)]
    lines += [f"encode   {name}: {choice}" for name, choice in plan.choices]
    for dropped in model.dropped:
        lines.append(f"dropped  {dropped.stored.name} ({dropped.why})")
    return "\n".join(lines)


def _expected(plan: Plan, found: Estimate, assumed: Assumed) -> list[str]:
    who = f"{assumed.workers} worker(s)" if assumed.workers else f"{plan.threads} thread(s)"
    slowest = max(
        ("read", "decode", "write", "schedule", "join"), key=lambda name: found.parts[name]
    )
    text = f"expected {found.seconds:,.0f} s with {who}, most of it to {slowest}"
    if not found.gets and not found.puts:
        return [f"{text}, if storage keeps up"]
    text += f"; {assumed.bandwidth / 1e6:,.0f} MB/s and {1e3 * assumed.latency:.0f} ms a line"
    lines = [f"requests {found.gets:,} to read, {found.puts:,} to write", text]
    if found.cost is not None:
        lines.append(f"cost     {found.cost:,.2f} for requests ({assumed.price_source})")
    return lines
