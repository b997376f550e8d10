"""Sizes of what bodies do at a time, which glue checks arrays by."""

from __future__ import annotations

STEP_BYTES = 16  # packed bytes that `bodies/_nibbles.py` looks up at a time; twice as many elements
SPLIT_WORDS = 32  # words that `bodies/_split.py` takes apart at a time
