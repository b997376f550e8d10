"""What a run tells its user: every line by a clock of our own, bars by what they draw."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from anamnesis.errors import UsageError
from anamnesis.pipeline.progress import (
    Lines,
    Progress,
    Silent,
    format_bytes,
    format_seconds,
    make_progress,
)

GB = 10**9
FILES = [(f"out/model-0000{n}-of-00003.safetensors", n * GB) for n in (1, 2, 3)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream that takes `lines` writes and then fails, as a closed pipe does."""

    def __init__(self, lines: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self.left = lines
        self.error = error or BrokenPipeError()
        self.tries = 0

    def write(self, text: str) -> int:
        self.tries += 1
        if self.left <= 0:
            raise self.error
        self.left -= 1
        return super().write(text)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def play(progress: Progress) -> None:
    """A whole run, with what may come before, twice and after."""
    progress.note("hello")
    progress.start(6 * GB, FILES)
    for number, (_, nbytes) in enumerate(FILES):
        progress.advance(number, nbytes)
        progress.done(number)
        progress.done(number)
    progress.close()
    progress.close()
    progress.advance(0, 1)


# --- plain lines


def test_lines(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(6 * GB, FILES)
    clock.now += 0.5
    lines.advance(0, GB)  # over 10 %, and too soon
    lines.done(0)
    clock.now += 0.75
    lines.advance(1, 2 * GB)
    clock.now += 0.25
    lines.done(1)
    lines.note("two of three")
    lines.close()
    assert out.getvalue().splitlines() == [
        "shard 1/3 out/model-00001-of-00003.safetensors done 1.0 GB, 2.0 GB/s",
        "50 %, 3.0 GB of 6.0 GB, 2.4 GB/s, 1 s left",
        "shard 2/3 out/model-00002-of-00003.safetensors done 2.0 GB, 2.0 GB/s",
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
    lines.start(GB, [("a", GB)])
    clock.now += 60
    lines.advance(0, 0)
    assert out.getvalue() == ""


def test_files_that_were_there_are_no_work(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.done(0)  # a file without tasks may be finished before the start
    lines.start(6 * GB, FILES)
    lines.done(1)
    clock.now += 6
    lines.advance(2, GB)
    assert out.getvalue().splitlines() == [
        "shard 2/3 out/model-00002-of-00003.safetensors done 2.0 GB, there already",
        "33 %, 1.0 GB of 3.0 GB, 166.7 MB/s, 12 s left",
    ]


def test_more_bytes_than_said_stay_within_the_whole(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(GB, [("a", GB)])
    clock.now += 6
    lines.advance(0, 2 * GB)
    assert out.getvalue().startswith("100 %, 2.0 GB of 2.0 GB")


def test_one_reporter_serves_runs_in_turn(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    for _ in range(2):
        lines.start(GB, [("a", GB)])
        clock.now += 2
        lines.advance(0, GB)
        lines.done(0)
        lines.close()
    assert (
        out.getvalue().splitlines()
        == [
            "100 %, 1.0 GB of 1.0 GB, 500.0 MB/s, 0 s left",
            "shard 1/1 a done 1.0 GB, 500.0 MB/s",
        ]
        * 2
    )


def test_a_closed_run_leaves_nothing_to_the_next(clock: Clock) -> None:
    out = io.StringIO()
    lines = Lines(out, clock)
    lines.start(6 * GB, FILES)
    lines.done(0)
    lines.close()
    said = out.getvalue()
    clock.now += 60
    lines.advance(1, GB)  # late
    lines.done(1)  # before the next start
    assert out.getvalue() == said
    lines.start(6 * GB, FILES)
    assert lines.total == 4 * GB


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


# --- bars


def bars(stream: io.StringIO, clock: Clock) -> Any:
    from anamnesis.pipeline.bars import Bars

    return Bars(stream, clock, auto_refresh=False)


def drawn(shown: Any, stream: io.StringIO) -> list[str]:
    """The lines of one refresh, without escape sequences."""
    stream.seek(0)
    stream.truncate()
    shown._rich.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue())
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("wide")
def test_bars_come_and_go(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GB, FILES)
    assert [line.split()[0] for line in drawn(shown, out)] == ["out"]
    for _ in range(2):
        clock.now += 1
        shown.advance(0, GB // 4)
        shown.advance(1, GB // 4)
    overall, first, second = drawn(shown, out)
    assert re.fullmatch(r"out +\S+ +17% 1\.0/6\.0 GB +\S+ [MG]B/s +\d\d:\d\d", overall)
    assert re.match(r"model-00001-of-00003\.safetensors +\S+ +50% 0\.5/1\.0 GB", first)
    assert re.match(r"model-00002-of-00003\.safetensors +\S+ +25% 0\.5/2\.0 GB", second)
    shown.done(0)
    assert [line.split()[0] for line in drawn(shown, out)] == [
        "out",
        "model-00002-of-00003.safetensors",
    ]
    shown.close()
    assert "\x1b[?25h" in out.getvalue()  # the cursor is back


@pytest.mark.usefixtures("wide")
def test_on_80_columns_shards_go_by_their_number(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names would be cut before they differ."""
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GB, FILES)
    shown.advance(0, GB // 4)
    shown.advance(2, GB // 4)
    names = [line.split()[:2] for line in drawn(shown, out)]
    assert names[1:] == [["shard", "1/3"], ["shard", "3/3"]]
    shown.close()


@pytest.mark.usefixtures("wide")
def test_nothing_is_drawn_of_what_was_there_already(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GB, FILES)
    for number in range(3):
        shown.done(number)
    out.truncate(0)
    shown.close()
    assert "100%" not in out.getvalue()


@pytest.mark.usefixtures("wide")
def test_one_file_has_one_bar(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(GB, [("out/model.safetensors", GB)])
    shown.advance(0, GB // 2)
    (line,) = drawn(shown, out)
    assert re.match(r"model\.safetensors +\S+ +50% 0\.5/1\.0 GB", line)
    shown.close()


@pytest.mark.usefixtures("wide")
def test_a_short_run_has_the_speed_of_all_of_it(clock: Clock) -> None:
    """Not that of the header, which is the second and last report."""
    out = Terminal()
    shown = bars(out, clock)
    shown.start(GB, [("out/model.safetensors", GB)])
    clock.now += 2
    shown.advance(0, GB - 50)
    clock.now += 0.001
    shown.done(0)
    (line,) = drawn(shown, out)
    assert "499." in line or "500." in line
    assert "MB/s" in line
    shown.close()


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("header", [0, 50])
def test_headers_fill_the_bar(clock: Clock, header: int) -> None:
    """The sizes of files hold headers, which no task writes; the total may hold them or not."""
    out = Terminal()
    shown = bars(out, clock)
    shown.start(2000 + 2 * header, [("out/a", 1050), ("out/b", 1050)])
    for number in (0, 1):
        clock.now += 1
        shown.advance(number, 1000)
        shown.done(number)
    clock.now += 1
    (line,) = drawn(shown, out)
    assert re.search(r"100% .* kB/s 00:00$", line)
    shown.close()


@pytest.mark.usefixtures("wide")
def test_bars_do_not_count_files_that_were_there(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GB, FILES)
    shown.done(2)
    shown.advance(0, GB)
    assert "33% 1.0/3.0 GB" in drawn(shown, out)[0]
    shown.close()


@pytest.mark.parametrize("columns", [72, 50, 38])
def test_bars_fit(clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GB, FILES)
    clock.now += 1
    shown.advance(0, GB // 2)
    clock.now += 1
    shown.advance(0, GB // 4)
    lines = drawn(shown, out)
    assert len(lines) == 2  # none is wrapped
    assert all(len(line) <= columns for line in lines)
    shown.close()


@pytest.mark.usefixtures("wide")
def test_bars_serve_runs_in_turn(clock: Clock) -> None:
    shown = bars(out := Terminal(), clock)
    for name in ("first", "second"):
        shown.start(GB, [(name, GB)])
        shown.advance(0, GB)
        shown.done(0)
        assert [line.split()[:3:2] for line in drawn(shown, out)] == [[name, "100%"]]
        shown.close()


def test_standard_output_is_left_alone(clock: Clock) -> None:
    shown = bars(Terminal(), clock)
    before = sys.stdout
    shown.start(GB, [("a", GB)])
    try:
        assert sys.stdout is before
    finally:
        shown.close()


# --- all of them


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


def test_only_bars_import_rich() -> None:
    code = (
        "import sys, io; from anamnesis.pipeline.progress import make_progress as m\n"
        "m('plain', io.StringIO()), m('auto', io.StringIO()), m('quiet')\n"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1.0 kB"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes(nbytes: float, text: str) -> None:
    assert format_bytes(nbytes) == text


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
