"""What a scheme sees and does: a ledger of stored tensors and who consumed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from anamnesis.errors import FormatError
from anamnesis.readers.base import Component, Container, Dropped, Stored, Tensor
from anamnesis.readers.schemes._endings import Endings
from anamnesis.readers.schemes._stated import Stated, stated
from anamnesis.readers.schemes._stated_gguf import stated_in_gguf
from anamnesis.readers.schemes._stated_words import method_of


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller may choose about how stored tensors are understood."""

    assume_unit_scale: bool = False
    rounding: Literal["exact", "reference"] = "exact"
    names: Literal["stored", "hf"] = "stored"  # of a GGUF's tensors


@dataclass(slots=True)
class Ledger:
    """The stored tensors of a whole model, and which of them are spoken for.

    A scheme looks at what is free, and claims a group only when the tensors themselves are
    evidence enough; `configs` (JSON objects by file name, those of `_stated.FILES`) is a hint. A
    scheme leaves what it does not know alone: what nobody claimed is dealt with after the last
    one. `notes` are remarks for the user, where a file has two readings and one was chosen;
    `later` is what has to read a little of the payload before it can choose (`settle`); `undone`
    are the parts of configurations about a basis that schemes have changed weights back from.
    `conv1d` are names of matrices that the model's class keeps with their columns as rows, and
    `transposed` those of them that are stored the other way.
    """

    container: Container
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    later: list[Callable[[Ledger], None]] = field(default_factory=list)
    undone: list[Mapping[str, Any]] = field(default_factory=list)
    transposed: frozenset[str] = frozenset()
    conv1d: frozenset[str] = frozenset()
    _stated: tuple[Stated, ...] | None = None
    _dtypes: frozenset[str] | None = None
    _endings: Endings | None = None
    _free: Mapping[str, Stored] = field(init=False)  # the container's own, until some are taken

    def __post_init__(self) -> None:
        self._free = self.container.stored

    @property
    def dtypes(self) -> frozenset[str]:
        """Those of all stored tensors: a scheme need not look for codes that no tensor has."""
        if self._dtypes is None:
            self._dtypes = frozenset({one.dtype for one in self.container.stored.values()})
        return self._dtypes

    @property
    def endings(self) -> Endings:
        """Those of the names of all stored tensors and settings."""
        if self._endings is None:
            self._endings = Endings([*self.container.stored, *self.container.values])
        return self._endings

    def free(self) -> Iterator[Stored]:
        """Stored tensors that nobody has claimed or dropped, in file order.

        What is claimed on the way does not come any more.
        """
        before = len(self._free)
        for stored in list(self._free.values()):
            # Each look-up among a million names waits for memory; on most ways none was taken.
            if len(self._free) == before or stored.name in self._free:
                yield stored

    def get(self, name: str) -> Stored | None:
        """The free stored tensor of that name."""
        return self._free.get(name)

    def _take(self, name: str) -> None:
        left = self._free
        if not isinstance(left, dict) or left is self.container.stored:
            self._free = left = dict(left)
        left.pop(name, None)

    def claim(self, tensor: Tensor) -> None:
        """Enter a logical tensor; its components are spoken for."""
        if tensor.name in self.tensors:
            raise self._twice(tensor)
        self.replace(tensor)

    def claim_rest(self, tensors: list[Tensor]) -> None:
        """Enter logical tensors, each of another name; nothing is free from now on."""
        rest = {tensor.name: tensor for tensor in tensors}
        if not self.tensors.keys().isdisjoint(rest):
            raise self._twice(next(t for name, t in rest.items() if name in self.tensors))
        self.tensors.update(rest)
        self._free = {}

    def replace(self, tensor: Tensor) -> None:
        """Enter a logical tensor in the place of the one of its name, if there is one."""
        self.tensors[tensor.name] = tensor
        for component in tensor.components:
            self._take(component.stored.name)

    def _twice(self, tensor: Tensor) -> FormatError:
        return FormatError(
            f"{tensor.components[0].stored.file.path}: tensor {tensor.name!r} is stored twice, "
            f"as {self.tensors[tensor.name].scheme} and as {tensor.scheme}"
        )

    def drop(self, stored: Stored, why: str) -> None:
        """Leave a stored tensor out of the output."""
        self._take(stored.name)
        self.dropped.append(Dropped(stored, why))

    def settle(self) -> None:
        """Let those schemes choose that have asked to read some of the payload."""
        for choose in self.later:
            choose(self)
        self.later.clear()

    def note(self, text: str) -> None:
        """Tell the user of a choice; the same text counts once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def stated(self) -> tuple[Stated, ...]:
        """Every quantisation method that the checkpoint's configuration states.

        Of a GGUF those of the file itself alone: it gives each tensor's type, and what lies beside
        it may be the configuration of another model.
        """
        if self._stated is None:
            metadata = self.container.metadata
            if self.container.kind == "gguf":
                self._stated = tuple(stated_in_gguf(metadata))
            else:
                self._stated = stated(self.configs, metadata)
        return self._stated

    def restate(self, found: tuple[Stated, ...]) -> None:
        """Let `found` be what the configuration states, after it was looked at by what is known."""
        self._stated = found

    def quantization(self) -> Mapping[str, Any]:
        """The checkpoint's quantisation block, wherever its tool put it; empty if there is none."""
        return next((one.block for one in self.stated if one.block), {})

    def method(self) -> str:
        """What that block calls its method, in the one spelling of the tables; "" for nothing."""
        return method_of(self.quantization())


def matrix(stored: Stored) -> tuple[int, int, int]:
    """`(matrices, rows, columns)` of a stored tensor of rank 1, 2 or 3 (experts stacked first)."""
    shape = stored.shape
    if len(shape) == 1:
        return 1, 1, shape[0]
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    raise FormatError(
        f"{stored.file.path}: tensor {stored.name!r}: rank {len(shape)} where a matrix, or a stack "
        "of matrices, is expected"
    )


__all__ = ["Component", "Ledger", "Options", "matrix"]
