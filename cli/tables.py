"""Reports as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anamnesis.pipeline.outcome import Outcome
from anamnesis.pipeline.progress import printable
from anamnesis.pipeline.report import Report
from anamnesis.pipeline.units import size, speed

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def print_report(found: Report, *, entries: bool = False) -> None:
    """A model's schemes as a table, and with `entries` its tensors as another."""
    from rich.table import Table
    from rich.text import Text

    from anamnesis.pipeline.console import open_console, print_table

    console = open_console()
    console.print(
        Text.assemble(
            (printable(found.path), "bold"),
            f": {found.container}, {found.tensors} tensors ({found.stored_tensors} stored), "
            f"{size(found.stored_bytes)} -> {size(found.bf16_bytes)} as BF16",
        )
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("scheme", "left"), ("tensors", "right"), ("stored", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("details", overflow="fold")
    for name, scheme in found.schemes.items():
        table.add_row(name, str(scheme.tensors), size(scheme.stored_bytes), _plain(scheme.about))
    print_table(console, table)
    if entries:
        print_table(console, _entries(found))


def _entries(found: Report) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("tensor", "shape", "scheme", "out", "components"):
        table.add_column(name, overflow="fold")
    for entry in found.entries:
        components = ", ".join(f"{c['dtype']} {c['shape']}" for c in entry["components"])
        table.add_row(
            _plain(entry["name"]),
            _plain(entry["shape"]),
            entry["scheme"],
            entry["out_dtype"],
            _plain(components),
        )
    return table


def _plain(value: object) -> Text:
    """What a file says, which may look like rich's markup or move the cursor."""
    from rich.text import Text

    return Text(printable(value))


def loss_sentence(outcome: Outcome) -> str:
    """One line on what encoding lost."""
    from anamnesis.kernels.diff import Sums, metrics

    total, clipped = Sums(), 0
    for row in outcome.loss:
        total += row.compared
        clipped += row.clipped
    count = f"{len(outcome.loss)} tensor{'s' if len(outcome.loss) > 1 else ''} encoded"
    lossy = [row for row in outcome.loss if row.sqnr_db is not None]
    broken = [row for row in outcome.loss if row.compared.finite < row.compared.elems]
    if broken:
        count += f" (NaN or infinity in {len(broken)}, {printable(broken[0].tensor)} first)"
    if not lossy:
        return f"{count}: nothing lost"
    worst = min(lossy, key=lambda row: row.sqnr_db or 0.0)
    share = clipped / max(1, total.elems)
    return (
        f"{count}: SQNR {metrics(total)['sqnr_db']:.1f} dB, {share:.2%} clipped; worst "
        f"{printable(worst.tensor)}, {worst.sqnr_db:.1f} dB"
    )


def sentence(outcome: Outcome) -> str:
    """One line on what a run made."""
    if outcome.resumed == len(outcome.files):
        return (
            f"{printable(outcome.path)}: {outcome.tensors} tensors, all done before: "
            f"checked again in {outcome.seconds:.2f} s"
        )
    rate = speed(outcome.out_bytes / max(outcome.seconds, 1e-9))
    files = f"{len(outcome.files)} files" if len(outcome.files) > 1 else "1 file"
    if outcome.resumed:
        files += f" ({outcome.resumed} done before)"
    return (
        f"{printable(outcome.path)}: {outcome.tensors} tensors, {files}, {size(outcome.out_bytes)} "
        f"in {outcome.seconds:.2f} s ({rate})"
    )
