"""Sizes as a job file has them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from anamnesis.sizes import SIZE_FORM, SIZE_PATTERN, meant_size, parse_size

Size = Annotated[
    Annotated[int, Meta(ge=1)] | Annotated[str, Meta(pattern=SIZE_PATTERN)],
    Meta(extra={"form": SIZE_FORM, "check": parse_size, "meant": meant_size}),
]
