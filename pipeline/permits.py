"""What a job lets its inputs do: the sections `limits` and `allow` of a job file."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from anamnesis.limits import Allow, Limits
from anamnesis.pipeline.sizes import Size
from anamnesis.sizes import parse_size

Count = Annotated[int, Meta(ge=1, extra={"form": "a whole number, 1 or more"})]
_FLOORS = Limits()


class JobLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an input may make this program allocate; fixed floors hold whatever is said here."""

    max_items: Annotated[
        Count, Meta(description="Most tensors or other entries of one container.")
    ] = _FLOORS.max_items
    max_single_alloc: Annotated[Size, Meta(description="Most bytes allocated at once.")] = (
        _FLOORS.max_single_alloc
    )
    max_total_bytes: Annotated[
        Size | None, Meta(description="Most bytes of output. null: 16 TiB.")
    ] = _FLOORS.max_total_bytes
    max_expansion_ratio: Annotated[
        Count, Meta(description="Most bytes of output for each byte stored.")
    ] = _FLOORS.max_expansion_ratio

    def resolve(self, allow: JobAllow) -> Limits:
        """The readers' `Limits`, in bytes, and what is allowed."""
        total = self.max_total_bytes
        return Limits(
            max_single_alloc=parse_size(self.max_single_alloc),
            max_total_bytes=None if total is None else parse_size(total),
            max_items=self.max_items,
            max_expansion_ratio=self.max_expansion_ratio,
            allow=Allow(allow.follow_links, allow.leave_out_unknown),
        )


class JobAllow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is refused without a word of yours; nothing of it runs code."""

    follow_links: Annotated[
        bool,
        Meta(
            description="Follow links out of a model's folder that belong to you, to regular files "
            "that belong to you."
        ),
    ] = False
    leave_out_unknown: Annotated[
        bool,
        Meta(description="Leave pickled objects of unknown classes out instead of refusing them."),
    ] = False
