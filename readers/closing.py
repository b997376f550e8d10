"""Files, whatever they are behind, as context managers."""

from __future__ import annotations

from typing import Self


class Closing:
    """What is closed at the end of a `with`."""

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


__all__ = ["Closing"]
