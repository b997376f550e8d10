"""How long a test may take: ten times what it takes on a quiet machine.

Tests run beside others, on machines that are slower than ours: what is asserted here is that
nothing grows with the square of a file. Tighter bounds are benchmarks, and tell of nothing but
the machine when they fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MARGIN = 10


@contextmanager
def within(quiet: float, clock: Callable[[], float] = time.process_time) -> Iterator[None]:
    """Fail when the block takes `MARGIN` times `quiet` seconds of this clock, or more."""
    begin = clock()
    yield
    took = clock() - begin
    assert took < MARGIN * quiet, f"{took:.2f} s, where a quiet machine takes {quiet} s"
