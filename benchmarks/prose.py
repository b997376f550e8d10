"""The sentences with figures in docs/performance.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anamnesis.limits import GiB, MiB

Result = Mapping[str, Any]


def machines(found: Mapping[str, Result], describe: Callable[[Result], str]) -> str:
    """What was measured on what, and how busy others kept it."""
    machine = {k: v for k, v in found["kernels"]["machine"].items() if k != "load"}
    lines = describe({**machine, "load": 0}).replace(", load 0.0", "").splitlines()
    about = [f"{line}  " for line in lines[:-1]] + lines[-1:]
    for name, document in found.items():
        other = document["machine"]
        if other["processor"] != machine["processor"] or other["versions"] != machine["versions"]:
            about.append(f"\n{name}: {' '.join(describe(other).splitlines())}")
    # Beside `tasks` its own workers are others.
    busy = [document["others_cpus"] for name, document in found.items() if name != "tasks"]
    known = [b for b in busy if b is not None]
    if known:
        about.append("")
        loud = ": **these are not quiet figures**" if max(known) > 0.2 else ""
        about.append(
            f"While it was measured, other work took {min(known):.2f} to {max(known):.2f} of the "
            f"{machine['cpus']} CPUs{loud}."
        )
    return "\n".join(about)


def summary(results: Mapping[str, Any]) -> str:
    cases = results["kernels"]["cases"]
    judged = [c for c in cases if c["goal"]]
    met = [c for c in judged if c["matrix"]["to_copy"] >= c["goal"]]
    ratios = [c["matrix"]["to_copy"] for c in cases]
    floors = [r for r in results["end-to-end"] if not r.get("target")]
    loops = [r["loop_to_floor"] for r in floors]
    peaks = [r["command"]["peak_bytes"][2] / MiB for r in floors]
    sizes = results["sizes"]
    smallest, largest = sizes[0]["stored_bytes"] / GiB, sizes[-1]["stored_bytes"] / GiB
    grown = [r["command"]["peak_bytes"][0] / MiB for r in sizes]
    speedups, machine = ([c["two_threads"][key] for c in cases] for key in ("speedup", "machine"))
    lines = [
        f"- **Kernels**: on one thread, {len(met)} of {len(judged)} reach their goal against a "
        f"plain copy of their output; the median is {statistics.median(ratios):.2f} of the copy's "
        f"speed. Two threads are {statistics.median(speedups):.2f} times as fast as one "
        f"(median; {min(speedups):.2f} to {max(speedups):.2f}), where the machine itself gives "
        f"{statistics.median(machine):.2f} ({min(machine):.2f} to {max(machine):.2f}).",
        f"- **Whole conversions**: the loop takes {min(loops):.2f} to {max(loops):.2f} times its "
        f"I/O floor; peak memory is at most {max(peaks):.0f} MiB.",
        f"- **Memory** does not grow with the model: {min(grown):.0f} to {max(grown):.0f} MiB "
        f"from {smallest:.2f} to {largest:.2f} GiB stored.",
    ]
    for name, line in _peer_lines(cases):
        lines.append(f"- Against **{name}**: {line}")
    encoders = results.get("encoders", {"cases": []})["cases"]
    if not encoders:
        return "\n".join(lines)
    judged = [c for c in encoders if c["goal"]]
    met = [c for c in judged if c["matrix"]["to_copy"] >= c["goal"]]
    lines.append(
        f"- **Encoders**: on one thread, {len(met)} of {len(judged)} reach their goal against a "
        "plain copy of their input."
    )
    for name, line in _peer_lines(encoders):
        lines.append(f"- Encoding, against **{name}**: {line.replace('layout', 'target')}")
    return "\n".join(lines)


def _peer_lines(cases: Sequence[Result]) -> list[tuple[str, str]]:
    names = sorted({name for case in cases for name in case["peers"]})
    lines = []
    for name in names:
        found = [case["peers"][name]["ours"] for case in cases if name in case["peers"]]
        text = f"{_round(min(found))} to {_round(max(found))} times as fast on one thread"
        if len(found) == 1:
            text = f"{_round(found[0])} times as fast on one thread"
        lines.append((name, f"{text}, {len(found)} layout{'s' * (len(found) > 1)}."))
    return lines


def _round(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"


def behind(cases: Sequence[Result]) -> str:
    """Which kernels, or encoders, miss their goal."""
    if not cases:
        return "Nothing of this was measured yet."
    missed = [c for c in cases if c["goal"] and c["matrix"]["to_copy"] < c["goal"]]
    if not missed:
        return "All of them reach their goal."
    names = ", ".join(
        f"{c['name']} ({c['matrix']['to_copy']:.2f} of {c['goal']:.2f})" for c in missed
    )
    return f"Behind their goal: {names}."


def encoding(encoders: Sequence[Result], floors: Sequence[Result]) -> str:
    """The speeds of encoders that have a goal, and of whole runs that encode."""
    judged = [case for case in encoders if case["goal"]]
    speeds = ", ".join(f"`{case['name']}` {case['matrix']['to_copy']:.2f}" for case in judged)
    runs = "; ".join(f"{r['model']}: {r['loop_to_floor']:.2f}" for r in floors if r["target"])
    return (
        f"Times the speed of a copy, of a matrix in memory; the goal is a half:\n{speeds}.\n\n"
        f"Whole runs from BF16, times their I/O floor: {runs}."
    )
