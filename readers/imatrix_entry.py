"""What is known of an importance matrix before its sums are read, whichever format it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anamnesis.readers.base import FileId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anamnesis.readers.source import SourceFile


@dataclass(frozen=True, slots=True)
class Entry:
    """The sums of squares of a tensor's inputs: `count` float32 at `offset` of `file`.

    Each of `divisors` is for `count / len(divisors)` of them: how often they were added to, so that
    quotients are means. Under a 0 all means are 1, as nothing is known.
    """

    file: FileId
    offset: int
    count: int
    divisors: tuple[float, ...]

    def means(self, file: SourceFile, first: int, count: int) -> Any:
        """The means of sums `[first, first + count)`: float32, quotients of float32."""
        import numpy as np  # noqa: PLC0415 - headers need no arrays

        found = np.empty(count, np.float32)
        file.read_into(self.offset + 4 * first, found)
        each = self.count // len(self.divisors)
        divisors = np.array(self.divisors, np.float32)[np.arange(first, first + count) // each]
        found[divisors == 0] = 1
        divisors[divisors == 0] = 1
        np.divide(found, divisors, out=found)
        return found


@dataclass(frozen=True, slots=True)
class Imatrix:
    """An importance matrix: entries by the name that a tensor has in a GGUF, and where it is from.

    `digest` is the xxh3-128 of the file, `chunks` the number of texts of `datasets` that ran
    through the model, 0 where that is not said.
    """

    path: str
    digest: str
    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
