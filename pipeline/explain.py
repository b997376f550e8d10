"""What a plan would do, in words."""

from __future__ import annotations

from anamnesis.limits import MiB
from anamnesis.pipeline.plan import WINDOW_BYTES, Plan
from anamnesis.pipeline.remarks import collapsed


def explain(plan: Plan) -> str:
    """A page for `--dry-run`: what would be read, decoded and written, and what it takes."""
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
    lines += [f"left out {text}" for text in collapsed(model.broken)]
    lines += [f"note     {note}" for note in collapsed(model.notes)]
    lines += [f"encode   {name}: {choice}" for name, choice in plan.choices]
    for dropped in model.dropped:
        lines.append(f"dropped  {dropped.stored.name} ({dropped.why})")
    return "\n".join(lines)
