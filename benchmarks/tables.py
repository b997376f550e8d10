"""The tables of docs/performance.md, from the results that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anamnesis.limits import GiB, MiB
from benchmarks.cases import by_family
from benchmarks.shares import PARTS

Result = Mapping[str, Any]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns are right-aligned after the first."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(times: Sequence[float], digits: int = 2, scale: float = 1.0) -> str:
    """The median and the range."""
    median, low, high = (f"{scale * t:,.{digits}f}" for t in times)
    return f"{median} ({low}–{high})"


def kernels(cases: Sequence[Result]) -> str:
    rows = []
    for family, members in by_family(cases):
        rows.append([f"**{family}**", *[""] * 7])
        for case in members:
            window, matrix = case["window"], case["matrix"]
            missed = case["goal"] and matrix["to_copy"] < case["goal"]
            rows.append(
                [
                    case["name"],
                    f"{window['mel_s']:,.0f}",
                    f"{matrix['mel_s']:,.0f}",
                    f"{matrix['mel_s_range'][0]:,.0f}–{matrix['mel_s_range'][1]:,.0f}",
                    _to_copy(matrix, missed),
                    f"{case['goal']:.2f}" if case["goal"] else "",
                    f"{case['two_threads']['speedup']:.2f}",
                    f"{case['two_threads']['machine']:.2f}",
                ]
            )
    heads = ("", "window", "45 M", "range", "× copy", "goal", "two threads, ×", "machine, ×")
    return markdown(heads, rows)


def peers(results: Result) -> str:
    """Their rates, and how many times as fast ours is to an output of the same width."""
    versions = results["peers"]
    cases = [case for case in results["cases"] if case["peers"]]
    names = sorted({name for case in cases for name in case["peers"]})
    rows = []
    for _, members in by_family(cases):
        for case in members:
            cells = [case["name"]]
            for name in names:
                peer = case["peers"].get(name)
                cells.append(f"{peer['mel_s']:,.0f}, {_times(peer['ours'])}" if peer else "")
            rows.append(cells)
    return markdown(["", *(f"{name} {versions[name]}" for name in names)], rows)


def encoders(cases: Sequence[Result]) -> str:
    names = sorted({name for case in cases for name in case["peers"]})
    rows = []
    for case in cases:
        window, matrix = case["window"], case.get("matrix")
        cells = [case["name"], f"{window['mel_s']:,.0f}", f"{window['to_copy']:.2f}", "", "", ""]
        if matrix:
            missed = case["goal"] and matrix["to_copy"] < case["goal"]
            goal = f"{case['goal']:.2f}" if case["goal"] else ""
            cells[3:] = f"{matrix['mel_s']:,.0f}", _to_copy(matrix, missed), goal
        peers = (case["peers"].get(name) for name in names)
        cells += [f"{p['mel_s']:,.0f}, {_times(p['ours'])}" if p else "" for p in peers]
        rows.append(cells)
    return markdown(("", "window", "× copy", "45 M", "× copy", "goal", *names), rows)


def _to_copy(one: Result, missed: bool) -> str:
    return f"{one['to_copy']:.2f}{' ✗' if missed else ''}"


def _times(ratio: float) -> str:
    return f"{ratio:,.1f}×" if ratio < 10 else f"{ratio:,.0f}×"


def end_to_end(results: Sequence[Result]) -> str:
    rows = []
    for r in results:
        floor, loop, command = (r[work] for work in ("floor", "loop", "command"))
        apart = r["floor, own process"]
        missed = r["loop_to_floor"] > r["goal"]
        rows.append(
            [
                f"{r['model']}, {r['stored_bytes'] / GiB:.2f} → {r['out_bytes'] / GiB:.2f} GiB",
                spread(floor["wall"]),
                spread(loop["wall"]),
                f"{r['loop_to_floor']:.2f}{' ✗' if missed else ''}",
                f"{r['goal']:.1f}",
                spread(command["wall"]),
                f"{command['startup'][0]:.2f}",
                f"{apart['work'][0]:.2f} → {command['work'][0]:.2f}",
                f"{r['work_to_floor']:.2f}",
                f"{command['peak_bytes'][0] / MiB:.0f}",
            ]
        )
    heads = ("", "floor, s", "loop, s", "× floor", "goal", "command, s", "start-up")
    return markdown((*heads, "floor → command, after start-up", "×", "peak MiB"), rows)


def files(results: Sequence[Result]) -> str:
    rows = []
    for r in results:
        seconds = r["seconds"]
        missed = r["loop_to_cp"] > r["goal"]
        rows.append(
            [
                f"{r['name']}, {'disk, synced' if r['on_disk'] else 'tmpfs'}",
                f"{r['out_bytes'] / 1e6:,.0f}",
                spread(seconds["cp"]),
                spread(seconds["loop"]),
                f"{r['loop_to_cp']:.2f}{' ✗' if missed else ''}",
                f"{r['goal']:.1f}",
                spread(seconds["command"]),
                f"{r['command_startup']:.2f}",
            ]
        )
    heads = ("", "MB out", "`cp`, s", "loop, s", "× `cp`", "goal", "command, s", "start-up")
    return markdown(heads, rows)


def sizes(results: Sequence[Result]) -> str:
    rows = []
    for r in results:
        cells = [f"{r['stored_bytes'] / MiB:,.0f} → {r['out_bytes'] / MiB:,.0f} MiB"]
        for name in ("command", "torch script"):
            one = r.get(name)
            cells += (
                [spread(one["wall"]), f"{one['peak_bytes'][0] / MiB:,.0f}"] if one else ["", ""]
            )
        rows.append(cells)
    return markdown(("", "`amn`, s", "peak MiB", "torch script, s", "peak MiB"), rows)


def shares(results: Sequence[Result]) -> str:
    rows = []
    for r in results:
        python = 1e6 * r["shares"]["Python"] * r["thread_seconds"] / r["windows"]
        parts = [f"{100 * r['shares'][part]:.0f} %" for part in PARTS]
        kernel_mode = f"{100 * r['system'] / (r['user'] + r['system']):.0f} %"
        rows.append([r["model"], str(r["threads"]), *parts, f"{python:.0f}", kernel_mode])
    heads = ("", "threads", *PARTS, "Python, µs a window", "of CPU time in system")
    return markdown(heads, rows)


def tasks(results: Result) -> str:
    rows = []
    for name, one in results["executors"].items():
        rows.append(
            [
                name,
                spread(one["microseconds"], 0),
                f"{one['hiding_bytes'] / MiB:,.0f}",
                f"{100 * one['share_of_task']:.1f} %",
            ]
        )
    size = f"of a task of {results['task_bytes'] / MiB:.0f} MiB"
    return markdown(("", "µs a task", "MiB that make it 2 %", size), rows)


def startup(results: Result) -> str:
    rows = []
    for name, times in results["seconds"].items():
        peak = results["peak_bytes"].get(name)
        rows.append([name, spread(times, 0, 1e3), f"{peak / MiB:.0f}" if peak else ""])
    return markdown(("", "ms", "peak MiB"), rows)
