"""A command whose writes take their time, so that it can be stopped in the middle."""

from __future__ import annotations

SLOW = (
    "import sys, time, anamnesis.writers.safetensors as s\n"
    "write = s.RawSlot.write\n"
    "def slow(*a): time.sleep(0.03); write(*a)\n"
    "s.RawSlot.write = slow\n"
    "from anamnesis.cli.main import main; main(sys.argv[1:])"
)
