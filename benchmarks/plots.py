"""The plots of docs/performance.md, as SVG. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anamnesis.limits import GiB, MiB
from benchmarks.cases import by_family
from benchmarks.page import figures

DOCS = Path(__file__).resolve().parents[1] / "docs"
# Okabe and Ito's colours, which colour-blind readers tell apart; markers differ besides.
INK, GREY, OURS = "#222222", "#767676", "#0072B2"
PEERS = {
    "libggml": ("#D55E00", "^"),
    "gguf-py": ("#E69F00", "v"),
    "torch": ("#CC79A7", "D"),
    "numpy + ml_dtypes": ("#56B4E9", "s"),
    "bitsandbytes": ("#009E73", "P"),
    "GPTQModel": ("#8C6D31", "X"),
    "AutoAWQ": ("#5E4FA2", "*"),
}
STYLE = {
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "svg.hashsalt": "anamnesis",  # so that the same figures make the same file
}
WHOLE, WINDOW, COPY = "anamnesis, 45 M elements", "anamnesis, a window of 1 M", "copy, 45 M"
Result = Mapping[str, Any]


def write(folder: Path = DOCS, suffix: str = "svg") -> list[Path]:
    """Draw all of them into a folder; the files."""
    import matplotlib as mpl

    mpl.use("agg")
    with mpl.rc_context(STYLE):
        found = figures()
        drawn = {
            "performance-kernels": kernels(found["kernels"]["results"]["cases"]),
            "performance-sizes": sizes(found["sizes"]["results"]),
        }
        files = []
        for name, figure in drawn.items():
            files.append(folder / f"{name}.{suffix}")
            metadata = {"Date": None} if suffix == "svg" else {}
            figure.savefig(files[-1], metadata=metadata, dpi=110)
    return files


def kernels(cases: Sequence[Result]) -> Any:
    """Dots for kernels, a tick for the copy of the output, marks for peers; one panel a family."""
    from matplotlib.figure import Figure

    families = list(by_family(cases))
    heights = [len(members) for _, members in families]
    figure = Figure(figsize=(8.6, 0.186 * sum(heights) + 0.32 * len(heights) + 1.1))
    axes = figure.subplots(
        len(families), 1, sharex=True, height_ratios=[h + 0.6 for h in heights], squeeze=False
    )[:, 0]
    for axis, (name, members) in zip(axes, families, strict=True):
        _family(axis, name, members)
    rates = [p["mel_s"] for case in cases for p in case["peers"].values()]
    axes[0].set_xscale("log")
    axes[0].set_xticks([10, 30, 100, 300, 1000, 3000, 10_000, 30_000])
    axes[0].set_xticklabels(["10 M", "30 M", "100 M", "300 M", "1 G", "3 G", "10 G", "30 G"])
    axes[0].minorticks_off()
    axes[0].set_xlim(0.8 * min([*rates, 100]), 34_000)
    axes[-1].set_xlabel("output elements a second, one thread (logarithmic)")
    inches = figure.get_figheight()
    figure.subplots_adjust(
        left=0.215, right=0.965, top=1 - 0.78 / inches, bottom=0.5 / inches, hspace=0.17
    )
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = [n for n in (WHOLE, WINDOW, COPY, *PEERS) if n in handles]
    figure.legend(
        [handles[n] for n in order],
        order,
        loc="upper center",
        ncols=5,
        fontsize=8.5,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.4,
        borderaxespad=0.2,
    )
    return figure


def _family(axis: Any, name: str, members: Sequence[Result]) -> None:
    rows = range(len(members))
    for row, case in zip(rows, members, strict=True):
        copy, ours = case["matrix"]["copy_mel_s"], case["matrix"]["mel_s"]
        axis.plot([ours, copy], [row, row], color="#B9D6EA", linewidth=2.4, zorder=1)
        for peer, found in case["peers"].items():
            colour, marker = PEERS[peer]
            area = 46 if marker == "*" else 26
            axis.scatter(
                found["mel_s"],
                row,
                s=area,
                c=colour,
                marker=marker,
                linewidths=0,
                label=peer,
                zorder=3,
            )
    for label, size, key, look in (
        (COPY, "matrix", "copy_mel_s", {"s": 70, "c": INK, "marker": "|", "linewidths": 1.6}),
        (WINDOW, "window", "mel_s", {"s": 26, "facecolors": "white", "edgecolors": OURS}),
        (WHOLE, "matrix", "mel_s", {"s": 34, "c": OURS, "linewidths": 0}),
    ):
        axis.scatter([case[size][key] for case in members], rows, label=label, zorder=4, **look)
    axis.set_yticks(rows, [_short(case["name"]) for case in members])
    axis.set_ylim(len(members) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.set_title(name, loc="left", pad=2, fontsize=9, fontweight="bold")


def _short(name: str) -> str:
    """As the family's panel needs it."""
    return name.removeprefix("gguf-").removeprefix("bnb ").removeprefix("fp8-")


def sizes(results: Sequence[Result]) -> Any:
    """Seconds and peak memory of whole commands; lines named where they end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.5))
    time, memory = figure.subplots(1, 2)
    # What a line is called, and where its name stands from an end of it.
    lines = {
        "command": ("amn remember", OURS, "o", {"wall": (-8, 4), "peak_bytes": (4, 7)}),
        "torch script": ("torch script", "#D55E00", "^", {"wall": (-8, 4), "peak_bytes": (-8, 4)}),
    }
    for work, (label, colour, marker, places) in lines.items():
        found = [r for r in results if work in r]
        if not found:
            continue
        x = [r["stored_bytes"] / GiB for r in found]
        for axis, key, unit in ((time, "wall", 1.0), (memory, "peak_bytes", MiB)):
            y = [[v / unit for v in r[work][key]] for r in found]
            low, high = [v[1] for v in y], [v[2] for v in y]
            axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
            axis.plot(x, [v[0] for v in y], color=colour, marker=marker, markersize=5)
            _name(axis, label, (x[-1], y[-1][0]), places[key], colour, "right")
    x = [r["stored_bytes"] / GiB for r in results]
    outs = [r["out_bytes"] / MiB for r in results]
    memory.plot(x, outs, color=GREY, linestyle=":", zorder=0)
    middle = (x[len(x) // 2], outs[len(x) // 2])
    _name(memory, "size of the output", middle, (8, -9), GREY, "left")
    _frame(time, x, "Wall time", [0.5, 1, 2, 4, 8, 16, 32, 64, 128], "{:g} s")
    _frame(memory, x, "Peak resident memory", [128, 256, 512, 1024, 2048, 4096, 8192], None)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.9, bottom=0.14, wspace=0.22)
    return figure


def _name(axis: Any, label: str, point: Any, place: Any, colour: str, side: str) -> None:
    axis.annotate(label, point, place, textcoords="offset points", color=colour, ha=side)


def _frame(
    axis: Any, x: Sequence[float], title: str, ticks: Sequence[float], form: str | None
) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    low, high = axis.get_ylim()
    shown = [t for t in ticks if low * 0.8 <= t <= high * 1.25]
    axis.set_yticks(shown, [form.format(t) if form else _size(t) for t in shown])
    axis.set_xticks([0.125, 0.25, 0.5, 1, 2, 4], ["⅛", "¼", "½", "1", "2", "4"])
    axis.set_xlim(x[0] * 0.85, x[-1] * 1.12)
    axis.minorticks_off()
    axis.grid(color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel("GiB stored as FP8")


def _size(mib: float) -> str:
    return f"{mib:g} MiB" if mib < 1024 else f"{mib / 1024:g} GiB"
