"""The garbage collector, held back while many records are made that have no cycles.

Frozen records of a million tensors would be walked again and again: measured as a third of the time
of opening 100,000 tensors and of planning them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_paused() -> Iterator[None]:
    """No collection inside, unless it was off before; pauses may nest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
