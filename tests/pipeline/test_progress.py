"""Progress as lines of text, and what holds for lines and bars."""

from __future__ import annotations

import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from progress_runs import FILES, Broken, Clock, GiB, Terminal, bars, drawn, play

from anamnesis.errors import UsageError
from anamnesis.pipeline.progress import Lines, Silent, format_seconds, make_progress


def test_lines(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(6 * GiB, FILES)
    clock.now += 0.5
    lines.advance(0, GiB)  # over 10 %, and too soon
    lines.done(0)
    clock.now += 0.75
    lines.advance(1, 2 * GiB)
    clock.now += 0.25
    lines.done(1)
    lines.note("two of three")
    lines.close()
    assert out.getvalue().splitlines() == [
        "shard 1/3 out/model-00001-of-00003.safetensors done 1.0 GiB, 2.1 GB/s",
        "50 %, 3.0 GiB of 6.0 GiB, 2.6 GB/s, 1 s left",
        "shard 2/3 out/model-00002-of-00003.safetensors done 2.0 GiB, 2.1 GB/s",
        "two of three",
    ]


def percents(clock: Clock, steps: int, seconds: float) -> list[int]:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(steps, [("a", steps)])
    for _ in range(steps):
        clock.now += seconds / steps
        lines.advance(0, 1)
    return [int(percent) for percent in re.findall(r"^(\d+) %", out.getvalue(), re.M)]


def test_a_slow_run_has_a_line_each_five_seconds(clock: Clock) -> None:
    found = percents(clock, 1024, 1024.0)  # one step a second, exact in binary
    assert len(found) in range(1024 // 5, 1024 // 5 + 12)


def test_a_run_of_a_minute_has_a_line_each_tenth_or_five_seconds(clock: Clock) -> None:
    found = percents(clock, 64, 32.0)
    assert {n // 10 for n in found} == set(range(1, 11))
    assert len(found) <= 10 + 32 // 5


def test_a_quick_run_has_no_line(clock: Clock) -> None:
    assert percents(clock, 1000, 0.9) == []


def test_a_stalled_run_says_nothing_absurd(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(GiB, [("a", GiB)])
    clock.now += 60
    lines.advance(0, 0)
    assert out.getvalue() == ""


def test_files_that_were_there_are_no_work(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.done(0)  # a file without tasks may be finished before the start
    lines.start(6 * GiB, FILES)
    lines.done(1)
    clock.now += 6
    lines.advance(2, GiB)
    assert out.getvalue().splitlines() == [
        "shard 2/3 out/model-00002-of-00003.safetensors done 2.0 GiB, there already",
        "33 %, 1.0 GiB of 3.0 GiB, 179.0 MB/s, 12 s left",
    ]


def test_more_bytes_than_said_stay_within_the_whole(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(GiB, [("a", GiB)])
    clock.now += 6
    lines.advance(0, 2 * GiB)
    assert out.getvalue().startswith("100 %, 2.0 GiB of 2.0 GiB")


def test_one_reporter_serves_runs_in_turn(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    for _ in range(2):
        lines.start(GiB, [("a", GiB)])
        clock.now += 2
        lines.advance(0, GiB)
        lines.done(0)
        lines.close()
    assert (
        out.getvalue().splitlines()
        == [
            "100 %, 1.0 GiB of 1.0 GiB, 536.9 MB/s, 0 s left",
            "shard 1/1 a done 1.0 GiB, 536.9 MB/s",
        ]
        * 2
    )


def test_a_closed_run_leaves_nothing_to_the_next(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(6 * GiB, FILES)
    lines.done(0)
    lines.close()
    said = out.getvalue()
    clock.now += 60
    lines.advance(1, GiB)  # late
    lines.done(1)  # before the next start
    assert out.getvalue() == said
    lines.start(6 * GiB, FILES)
    assert lines.total == 4 * GiB


def test_one_thread_at_a_time() -> None:
    """The clock is read while a report is made: no two threads may be in it at once."""
    inside, most = 0, 0

    def clock() -> float:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1
        return 0.0

    lines = Lines(io.StringIO(), clock)
    lines.start(100, [("a", 100)])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: lines.advance(0, 1), range(40)))
    assert most == 1


@pytest.mark.usefixtures("wide")
def test_bars_come_and_go(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GiB, FILES)
    assert [line.split()[0] for line in drawn(shown, out)] == ["out"]
    for _ in range(2):
        clock.now += 1
        shown.advance(0, GiB // 4)
        shown.advance(1, GiB // 4)
    overall, first, second = drawn(shown, out)
    assert re.fullmatch(r"out +\S+ +17% 1\.0/6\.0 GiB +\S+ [MG]B/s +\d\d:\d\d", overall)
    assert re.match(r"model-00001-of-00003\.safetensors +\S+ +50% 0\.5/1\.0 GiB", first)
    assert re.match(r"model-00002-of-00003\.safetensors +\S+ +25% 0\.5/2\.0 GiB", second)
    shown.done(0)
    assert [line.split()[0] for line in drawn(shown, out)] == [
        "out",
        "model-00002-of-00003.safetensors",
    ]
    shown.close()
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


@pytest.mark.parametrize("mode", ["bar", "plain"])
def test_names_are_shown_and_not_obeyed(clock: Clock, mode: Any) -> None:
    out = Terminal()
    progress = make_progress(mode, out, clock=clock)
    progress.start(2, [("o/\x1b]0;owned\x07\n\udc80[red]x", 1), ("o/b", 1)])
    progress.advance(0, 1)
    progress.note("note \x1b]0;owned\x07")
    progress.done(0)
    progress.close()
    assert "\x1b]" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "note \\x1b]0;owned\\x07" in out.getvalue()
    if mode == "plain":
        assert "shard 1/2 o/\\x1b]0;owned\\x07\\n\\udc80[red]x done" in out.getvalue()


@pytest.mark.parametrize("mode", ["bar", "plain", "quiet"])
def test_any_thread_may_report(clock: Clock, mode: Any) -> None:
    out = Terminal()
    progress = make_progress(mode, out, clock=clock)
    files = [(f"out/{n}", 1000) for n in range(8)]
    progress.start(8000, files)

    def work(number: int) -> None:
        for _ in range(1000):
            progress.advance(number, 1)
        progress.done(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    if mode != "quiet":
        assert progress.moved == progress.total == 8000  # type: ignore[attr-defined]
    progress.close()
    if mode == "plain":
        assert sorted(re.findall(r"^shard (\d)/8", out.getvalue(), re.M)) == list("12345678")


@pytest.mark.parametrize("mode", ["bar", "plain"])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "EIO"), ValueError("closed")])
@pytest.mark.parametrize("lines", [0, 1])
def test_a_terminal_that_goes_away(clock: Clock, mode: Any, error: Exception, lines: int) -> None:
    out = Broken(lines, error)
    play(make_progress(mode, out, clock=clock))
    assert out.tries == lines + 1


def test_a_stream_that_cannot_spell(clock: Clock) -> None:
    raw = io.BytesIO()
    progress = make_progress("plain", io.TextIOWrapper(raw, encoding="ascii"), clock=clock)
    progress.note("né")
    progress.note("go on")
    assert raw.getvalue() == b"n\\xe9\ngo on\n"


def test_modes(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    from anamnesis.pipeline.bars import Bars

    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress("auto", Terminal()), Bars)
    assert isinstance(make_progress("auto", io.StringIO()), Lines)
    assert isinstance(make_progress("bar", io.StringIO()), Bars)
    assert isinstance(make_progress("quiet", Terminal()), Silent)
    assert isinstance(make_progress("plain"), Lines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress("auto", Terminal()), Lines)
    with pytest.raises(UsageError, match=r"allowed: auto \| bar \| plain \| quiet"):
        make_progress("loud")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["bar", "plain", "quiet"])
def test_the_whole_protocol(clock: Clock, mode: Any) -> None:
    out = io.StringIO()
    play(make_progress(mode, out, clock=clock))
    assert bool(out.getvalue()) == (mode != "quiet")


@pytest.mark.parametrize("mode", ["bar", "plain", "quiet"])
def test_nothing_to_do(clock: Clock, mode: Any) -> None:
    progress = make_progress(mode, io.StringIO(), clock=clock)
    progress.start(0, [])
    progress.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
