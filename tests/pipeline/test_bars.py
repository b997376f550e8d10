"""Bars of progress on a terminal."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from progress_runs import FILES, Clock, GiB, Terminal, bars, drawn


@pytest.mark.usefixtures("wide")
def test_on_80_columns_shards_go_by_their_number(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names would be cut before they differ."""
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GiB, FILES)
    shown.advance(0, GiB // 4)
    shown.advance(2, GiB // 4)
    names = [line.split()[:2] for line in drawn(shown, out)]
    assert names[1:] == [["shard", "1/3"], ["shard", "3/3"]]
    shown.close()


@pytest.mark.usefixtures("wide")
def test_nothing_is_drawn_of_what_was_there_already(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GiB, FILES)
    for number in range(3):
        shown.done(number)
    out.truncate(0)
    shown.close()
    assert "100%" not in out.getvalue()


@pytest.mark.usefixtures("wide")
def test_one_file_has_one_bar(clock: Clock) -> None:
    out = Terminal()
    shown = bars(out, clock)
    shown.start(GiB, [("out/model.safetensors", GiB)])
    shown.advance(0, GiB // 2)
    (line,) = drawn(shown, out)
    assert re.match(r"model\.safetensors +\S+ +50% 0\.5/1\.0 GiB", line)
    shown.close()


@pytest.mark.usefixtures("wide")
def test_a_short_run_has_the_speed_of_all_of_it(clock: Clock) -> None:
    """Not that of the header, which is the second and last report."""
    out = Terminal()
    shown = bars(out, clock)
    shown.start(GiB, [("out/model.safetensors", GiB)])
    clock.now += 2
    shown.advance(0, GiB - 50)
    clock.now += 0.001
    shown.done(0)
    (line,) = drawn(shown, out)
    assert "536." in line
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
    shown.start(6 * GiB, FILES)
    shown.done(2)
    shown.advance(0, GiB)
    assert "33% 1.0/3.0 GiB" in drawn(shown, out)[0]
    shown.close()


@pytest.mark.parametrize("columns", [72, 50, 38])
def test_bars_fit(clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    shown = bars(out, clock)
    shown.start(6 * GiB, FILES)
    clock.now += 1
    shown.advance(0, GiB // 2)
    clock.now += 1
    shown.advance(0, GiB // 4)
    lines = drawn(shown, out)
    assert len(lines) == 2  # none is wrapped
    assert all(len(line) <= columns for line in lines)
    shown.close()


@pytest.mark.usefixtures("wide")
def test_bars_serve_runs_in_turn(clock: Clock) -> None:
    shown = bars(out := Terminal(), clock)
    for name in ("first", "second"):
        shown.start(GiB, [(name, GiB)])
        shown.advance(0, GiB)
        shown.done(0)
        assert [line.split()[:3:2] for line in drawn(shown, out)] == [[name, "100%"]]
        shown.close()


def test_standard_output_is_left_alone(clock: Clock) -> None:
    shown = bars(Terminal(), clock)
    before = sys.stdout
    shown.start(GiB, [("a", GiB)])
    try:
        assert sys.stdout is before
    finally:
        shown.close()


def test_only_bars_import_rich() -> None:
    code = (
        "import sys, io; from anamnesis.pipeline.progress import make_progress as m\n"
        "m('plain', io.StringIO()), m('auto', io.StringIO()), m('quiet')\n"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
