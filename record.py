"""Frozen records that are as cheap to make as others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen: bool, slots: bool) -> Any:
        """As `dataclass`, frozen for type checkers alone.

        A model may have millions of these records, and holding them frozen at run time makes each
        five times as slow to make: 1.1 us against 0.2 for one of seven fields.
        """
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["record"]
