"""A table with a row a tensor, as Python has it: by place, by name, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import index
from typing import Generic, Protocol, SupportsIndex, TypeVar

from anamnesis.keywords import missing
from anamnesis.pipeline.tabular import Tabular


class _OfTensor(Protocol):
    @property
    def tensor(self) -> str: ...


R = TypeVar("R", bound=_OfTensor)


class TensorRows(Tabular, Generic[R]):
    """What classes with `rows`, each of which has a `tensor`, share.

    `table["name"]` is the row of a tensor, `table[0]` the first one and `table[-1]` the last.
    """

    __slots__ = ()
    rows: Sequence[R]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows)

    def __getitem__(self, tensor: str | SupportsIndex) -> R:
        """Raises KeyError for a name, and IndexError for a place, that is not there."""
        if not isinstance(tensor, str):
            return self.rows[index(tensor)]
        for row in self.rows:
            if row.tensor == tensor:
                return row
        raise missing("tensor", tensor, [row.tensor for row in self.rows])


__all__ = ["TensorRows"]
