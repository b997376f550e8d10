"""SIGTERM, SIGHUP and SIGINT end a run at any moment, within a stated time, with nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from signal_lab import Lab, write_input

from anamnesis import stopping

Start = Callable[..., subprocess.Popen[str]]
CLI = "\nimport sys; from anamnesis.cli.main import main; main(sys.argv[1:])"


def test_random_moments(tmp_path: Path) -> None:
    """A few of what the lab does a thousand times; docs/failures.md has the record."""
    lab = Lab(tmp_path, seed=int(os.environ.get("SIGNAL_SEED", "3")))
    for _ in range(int(os.environ.get("SIGNALS", "12"))):
        lab.once()
    assert lab.wrong == []
    assert lab.counts["stopped"]


def heed() -> None:
    """Ignore no signal, also where tests run below nohup or in a shell's background."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a conversion whose code is changed by `patch`, up to its `.part` file."""
    started = []
    write_input(tmp_path / "in.safetensors")
    (tmp_path / "o").mkdir()

    def run(patch: str, **settings: object) -> subprocess.Popen[str]:
        arguments = ["remember", str(tmp_path / "in.safetensors"), "-o", str(tmp_path / "o/x/out")]
        process = subprocess.Popen(
            [sys.executable, "-c", patch + CLI, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            **{"preexec_fn": heed, **settings},  # type: ignore[call-overload]
        )
        started.append(process)
        while not list((tmp_path / "o").rglob(".*.part")):
            assert process.poll() is None, process.stderr
            time.sleep(0.005)
        return process

    yield run
    for process in started:
        process.kill()
        with process:  # closes its pipes, of which some were read to the end, and waits
            pass


# By force it would end after ten minutes.
SLOW = """
import time, anamnesis.stopping as stopping, anamnesis.writers.safetensors as s
stopping.GRACE_SECONDS = 600
write = s.RawSlot.write
def slow(*a): time.sleep(1.0); write(*a)
s.RawSlot.write = slow
"""
# Whatever was raised in here would be lost, and the code never comes to an end.
STUCK = """
import time, anamnesis.stopping as stopping, anamnesis.pipeline.task as task
stopping.GRACE_SECONDS = {grace}
def stuck(*a):
    while True:
        try: time.sleep(1000)
        except BaseException: pass
task._run_piece = stuck
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_ends_soon_and_leaves_nothing(
    number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    process = start(SLOW)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith(stopping.MESSAGE)
    assert not list((tmp_path / "o").iterdir())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_is_ignored_from_the_start_stays_so(
    number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    """SIGHUP by nohup, SIGINT by a shell for its jobs in the background."""
    process = start(SLOW, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def test_a_run_that_is_stuck_is_ended_by_force(start: Start, tmp_path: Path) -> None:
    process = start(STUCK.format(grace=1))
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert time.monotonic() - begin > 0.9
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith(stopping.MESSAGE)
    assert not list((tmp_path / "o").iterdir())


def test_ctrl_c_again_does_not_wait(start: Start, tmp_path: Path) -> None:
    process = start(STUCK.format(grace=1000))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not list((tmp_path / "o").iterdir())


def test_whoever_waits_is_woken_and_others_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    reader, writer = os.pipe()
    ends: list[int] = []
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(stopping.os, "_exit", ends.append)
    monkeypatch.setattr(stopping.owned, "remove_unfinished", lambda: told.append("removed"))
    os.write(writer, bytes([signal.SIGCHLD, signal.SIGTERM]))
    try:
        with stopping.waking(lambda: told.append("woken")):
            stopping._watch(reader)
        with pytest.raises(KeyboardInterrupt):
            stopping.check()
    finally:
        stopping._asked = False
        os.close(reader)
        os.close(writer)
    assert told == ["woken", "removed"]
    assert ends == [130]
    stopping.check()
