"""Files, whatever they are behind, as context managers."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """What is closed at the end of a `with`."""

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


__all__ = ["Closing"]
