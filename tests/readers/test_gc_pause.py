"""The garbage collector while records are made."""

from __future__ import annotations

import gc

from anamnesis.readers.gc_pause import gc_paused


def test_what_was_made_in_a_pause_is_old() -> None:
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            held: list[list[int]] = [[number] for number in range(5_000)]
        assert not gc.isenabled()
    assert gc.isenabled()
    young = {id(item) for generation in (0, 1) for item in gc.get_objects(generation=generation)}
    assert not any(id(item) in young for item in held)


def test_what_a_program_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with gc_paused():
            pass
        assert gc.get_freeze_count() >= count
    finally:
        gc.unfreeze()
