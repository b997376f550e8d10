"""The garbage collector, held back while many records are made that have no cycles.

Frozen records of a million tensors would be walked again and again: measured as a third of the time
of opening 100,000 tensors and of planning them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 100_000  # objects


@contextmanager
def gc_paused() -> Iterator[None]:
    """No collection inside, unless it was off before; pauses may nest."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            _count_as_old()
            gc.enable()


def _count_as_old() -> None:
    """Spare the next collections of young objects a walk over all that was made meanwhile.

    Only where that is much: what the program itself had frozen must stay so, and asking for it
    walks that. (Python allows no less than all objects to be moved.)
    """
    if gc.get_count()[0] > _MANY and not gc.get_freeze_count():
        gc.freeze()
        gc.unfreeze()
