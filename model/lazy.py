"""An open model: tensors by name, and slices of them, decoded when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex, TypeAlias, get_args

from anamnesis.errors import ArgumentError
from anamnesis.keywords import Dtype, Patterns, Size, keywords, missing, wrong_word
from anamnesis.limits import Limits, MiB
from anamnesis.readers.base import FileId, Tensor
from anamnesis.readers.model import Model
from anamnesis.readers.patterns import patterns
from anamnesis.readers.source import SourceFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    import torch

Decode: TypeAlias = Literal["bf16", "f32"] | None
Along: TypeAlias = SupportsIndex | slice | EllipsisType
Index: TypeAlias = Along | tuple[Along, ...]


class OpenModel(Mapping[str, "LazyTensor"]):
    """The tensors of a model by output name; as an Arrow stream, its raw blocks (see `scan`).

    `with open_model(path) as model:` works as it does for other readers, and needs no end: a file
    is open while it is read from, and at no other time.
    """

    def __init__(self, model: Model, limits: Limits | None = None) -> None:
        self.model = model
        self._limits = limits or Limits()
        self._tensors = {t.name: t for t in model.tensors}

    def __getitem__(self, name: str) -> LazyTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise missing("tensor", name, list(self._tensors))
        return LazyTensor(tensor, self._limits)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between two reads."""

    @keywords
    def scan(
        self,
        tensors: Patterns = "*",
        columns: str | Sequence[str] | None = None,
        decode: Decode = None,
        memory: Size | None = None,
    ) -> pa.RecordBatchReader:
        """As `anamnesis.scan`, of this model; a new stream at every call."""
        from anamnesis.analytics.scan.run import scan_reader

        names = [columns] if isinstance(columns, str) else columns
        chosen = self.model.select(patterns(tensors, "tensors"), ()).tensors
        return scan_reader(chosen, names, decode, _bytes(memory), self._limits)

    @keywords
    def batches(self, max_bytes: int = MiB) -> Iterator[pa.RecordBatch]:
        """The raw blocks of all tensors, one after the other: see `LazyTensor.batches`."""
        for tensor in self.values():
            yield from tensor.batches(max_bytes)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.scan().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The columns of the raw blocks; nothing is read."""
        from anamnesis.analytics.scan.run import RAW

        return RAW.__arrow_c_schema__()

    if not TYPE_CHECKING:  # or a type checker would take any name

        def __getattr__(self, name: str) -> Any:
            from anamnesis.model.habits import no_attribute_of_model

            raise no_attribute_of_model(name, _public(self))

    def __repr__(self) -> str:
        from anamnesis.model.show import model_text

        return model_text(self.model)

    def _repr_html_(self) -> str:
        from anamnesis.model.show import model_html

        return model_html(self.model)


class LazyTensor:
    """One logical tensor, decoded on demand.

    `tensor[10:20]` reads and decodes only the blocks that hold those rows. As an Arrow stream it is
    its raw blocks (see `scan`).
    """

    def __init__(self, tensor: Tensor, limits: Limits) -> None:
        self.tensor = tensor
        self._limits = limits

    @property
    def shape(self) -> tuple[int, ...]:
        """The output shape, outermost dimension first."""
        return self.tensor.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.tensor.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.tensor.elems

    @property
    def nbytes(self) -> int:
        """Bytes of the values, once decoded."""
        from anamnesis.pipeline.plan import value_bytes

        return value_bytes(self.tensor)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of the values: `ml_dtypes.bfloat16`, or what a dense tensor has."""
        from anamnesis.pipeline.values import public_dtype

        return public_dtype(self.tensor.out_dtype)

    @property
    def scheme(self) -> str:
        """How it is stored, e.g. `fp8-block`, `gguf-q4-k` or `passthrough`."""
        return self.tensor.scheme

    def __eq__(self, other: object) -> bool:
        """Whether both are the same tensor of the same file and dtype; values are not compared.

        `numpy.array_equal(a, b)` compares those.
        """
        return self.tensor == other.tensor if isinstance(other, LazyTensor) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.tensor.name, self.tensor.shape, self.tensor.out_dtype))

    def __len__(self) -> int:
        if not self.tensor.shape:
            raise TypeError(f"{self.tensor.name}: a tensor without dimensions has no length")
        return self.tensor.shape[0]

    def __getitem__(self, index: Index) -> npt.NDArray[Any]:
        """The values of integers and slices (any step, and `...`), in an owned numpy array.

        An integer for every axis gives a numpy scalar, as numpy's own arrays do.
        Only blocks that hold some of them are read, and what lies between two of them where that is
        short. Raises IndexError. No checksum of an archive is compared, as it is of the whole.
        """
        from anamnesis.model.slices import pick, read_index
        from anamnesis.pipeline.plan import charge_tensor

        picked = pick(index, self.tensor.shape, self.tensor.name)
        charge_tensor(self.tensor, self._limits)
        where = f"tensor {self.tensor.name!r:.200}: values"
        self._limits.alloc(picked.elems * self.dtype.itemsize, where)
        with _files() as open_file:
            return read_index(self.tensor, picked, open_file)

    @keywords
    def astype(self, dtype: Dtype | npt.DTypeLike) -> LazyTensor:
        """The same tensor with values of another dtype; nothing is read, as of h5py's datasets.

        dtype: `bf16`, `f16` or `f32`, or numpy's dtype of one. A quantised tensor is decoded to it:
        `f32` are its numbers before any rounding to BF16, which `to_numpy().astype("f4")` is not.
        Raises ArgumentError for another dtype, UnsupportedError for integers.
        """
        from anamnesis.model.habits import dtype_word
        from anamnesis.pipeline.plan import with_dtype

        word = dtype_word(dtype)
        if word is None:
            raise ArgumentError(f"astype: dtype: {wrong_word(dtype, get_args(Dtype))}")
        return LazyTensor(with_dtype(self.tensor, word.upper()), self._limits)

    @keywords
    def to_numpy(self) -> npt.NDArray[Any]:
        """Read and decode all of it into an owned array of `dtype`."""
        from anamnesis.pipeline.plan import charge_tensor
        from anamnesis.pipeline.values import to_numpy

        charge_tensor(self.tensor, self._limits)
        self._limits.alloc(self.nbytes, f"tensor {self.tensor.name!r:.200}: values")
        with _files() as open_file:
            return to_numpy(self.tensor, open_file)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError(
                f"{self.tensor.name}: decoding makes a new array; copy=False cannot be"
            )
        values = self.to_numpy()
        return values if dtype is None else values.astype(dtype, copy=False)

    @keywords
    def to_torch(self, index: Index = ...) -> torch.Tensor:
        """The values, or those of an index, as a torch tensor over the decoded memory: no copy.

        BF16 is `torch.bfloat16`. Raises ImportError without torch.
        """
        from importlib import import_module
        from importlib.util import find_spec

        import numpy as np

        if find_spec("torch") is None:
            raise ImportError("to_torch needs torch: pip install torch", name="torch")
        torch = import_module("torch")
        values = self.to_numpy() if index is ... else np.asarray(self[index])
        if values.dtype.name == "bfloat16":  # which torch does not take from numpy
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)

    @keywords
    def scan(
        self,
        columns: str | Sequence[str] | None = None,
        decode: Decode = None,
        memory: Size | None = None,
    ) -> pa.RecordBatchReader:
        """As `anamnesis.scan`, of this tensor alone; a new stream at every call."""
        from anamnesis.analytics.scan.run import scan_reader

        names = [columns] if isinstance(columns, str) else columns
        return scan_reader((self.tensor,), names, decode, _bytes(memory), self._limits)

    @keywords
    def batches(self, max_bytes: int = MiB) -> Iterator[pa.RecordBatch]:
        """The raw quantised blocks, about `max_bytes` a batch; each batch owns its memory.

        Whole-tensor parameters come first, as a batch of their own, when there are any.
        """
        from anamnesis.pipeline.plan import charge_tensor
        from anamnesis.pipeline.values import raw_batches

        charge_tensor(self.tensor, self._limits)
        with _files() as open_file:
            yield from raw_batches(self.tensor, open_file, max_bytes)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.scan().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The columns of the raw blocks; nothing is read."""
        from anamnesis.analytics.scan.run import RAW

        return RAW.__arrow_c_schema__()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            from anamnesis.model.habits import no_attribute_of_tensor

            raise no_attribute_of_tensor(name, _public(self))

    def __repr__(self) -> str:
        from anamnesis.model.show import tensor_text

        return tensor_text(self.tensor)

    def _repr_html_(self) -> str:
        from anamnesis.model.show import tensor_html

        return tensor_html(self.tensor)


def _public(value: object) -> list[str]:
    return [name for name in dir(type(value)) if not name.startswith("_")]


def _bytes(size: Size | None) -> int | None:
    from anamnesis.sizes import memory_bytes

    return None if size is None else memory_bytes(size)


@contextmanager
def _files() -> Iterator[Callable[[FileId], SourceFile]]:
    from anamnesis.readers.files import Files

    files = Files()
    try:
        yield files
        files.check_unchanged()
    finally:
        files.close()
