"""The Python API: what the command line does, as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anamnesis.limits import Limits, MiB
from anamnesis.pipeline.report import Report, report
from anamnesis.readers.base import FileId, Tensor
from anamnesis.readers.model import Model, load_model
from anamnesis.readers.schemes.base import Options
from anamnesis.readers.source import SourceFile

if TYPE_CHECKING:
    import pyarrow as pa

    from anamnesis.pipeline.config import Job
    from anamnesis.pipeline.run import Outcome

Rounding = Literal["exact", "reference"]


def inspect(path: str | Path, *, limits: Limits | None = None, **options: Any) -> Report:
    """What a model holds, from its headers alone: container, schemes, stored and BF16 bytes.

    `limits.max_total_bytes` is held against the BF16 bytes. Raises FormatError, UnsupportedError,
    LimitError, SecurityError or OSError.
    """
    limits = limits or Limits()
    found = report(load_model(str(path), Options(**options), limits))
    limits.total(found.bf16_bytes, f"{path}: as BF16")
    return found


def open_model(path: str | Path, *, limits: Limits | None = None, **options: Any) -> OpenModel:
    """A lazy mapping of names to tensors; nothing but headers is read until one is used."""
    return OpenModel(load_model(str(path), Options(**options), limits), limits)


class OpenModel(Mapping[str, "LazyTensor"]):
    """The tensors of a model by output name."""

    def __init__(self, model: Model, limits: Limits | None = None) -> None:
        self.model = model
        self._limits = limits or Limits()
        self._tensors = {t.name: t for t in model.tensors}

    def __getitem__(self, name: str) -> LazyTensor:
        return LazyTensor(self._tensors[name], self._limits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<OpenModel {self.model.path!r}: {len(self)} tensors, {self.model.container}>"


class LazyTensor:
    """One logical tensor, decoded on demand."""

    def __init__(self, tensor: Tensor, limits: Limits) -> None:
        self.tensor = tensor
        self._limits = limits

    @property
    def shape(self) -> tuple[int, ...]:
        """The output shape, outermost dimension first."""
        return self.tensor.shape

    @property
    def scheme(self) -> str:
        """How it is stored, e.g. `fp8-block`, `gguf-q4-k` or `passthrough`."""
        return self.tensor.scheme

    def to_numpy(self) -> Any:
        """An owned array: `ml_dtypes.bfloat16`, or the stored dtype of a dense tensor."""
        from anamnesis.pipeline.plan import charge_tensor, value_bytes
        from anamnesis.pipeline.values import to_numpy

        charge_tensor(self.tensor, self._limits)
        self._limits.alloc(value_bytes(self.tensor), f"tensor {self.tensor.name!r:.200}: values")
        with _files() as open_file:
            return to_numpy(self.tensor, open_file)

    def batches(self, max_bytes: int = MiB) -> Iterator[pa.RecordBatch]:
        """The raw quantised blocks, about `max_bytes` a batch; each batch owns its memory.

        Whole-tensor parameters come first, as a batch of their own, when there are any.
        """
        from anamnesis.pipeline.plan import charge_tensor
        from anamnesis.pipeline.values import raw_batches

        charge_tensor(self.tensor, self._limits)
        with _files() as open_file:
            yield from raw_batches(self.tensor, open_file, max_bytes)

    def __repr__(self) -> str:
        return f"<LazyTensor {self.tensor.name!r} {list(self.shape)} {self.scheme}>"


def scan(
    path: str | Path, tensors: Sequence[str] = ("*",), *, limits: Limits | None = None
) -> pa.RecordBatchReader:
    """Raw blocks of the matching tensors (shell patterns) as one stream.

    Columns: `tensor`, `scheme`, `component` and `row` (its number in the tensor's component), and
    `data`, the raw bytes of one block or packed line, as views over what was read.
    """
    from anamnesis.pipeline.plan import charge_tensor
    from anamnesis.pipeline.values import scan_reader

    limits = limits or Limits()
    model = load_model(str(path), Options(), limits).select(tensors, ())
    for tensor in model.tensors:
        charge_tensor(tensor, limits)
    return scan_reader(model)


def remember(
    path: str | Path,
    out: str | Path,
    *,
    to: str = "safetensors",
    dtype: str | None = None,
    rounding: Rounding = "exact",
    threads: int | Literal["auto"] = "auto",
    memory: int | str | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    **settings: Any,
) -> Outcome:
    """Recover the precision of `path` into `out`: a file (by its suffix) or a folder.

    `dtype` is `bf16`, `f16` or `f32`; without one, recovered tensors become BF16 and the others
    keep their dtype. Raises the classes of `anamnesis.errors`, or OSError.
    """
    from anamnesis.pipeline.jobs import job_for, run_job

    job = job_for(
        str(path),
        str(out),
        to=to,
        dtype=dtype,
        rounding=rounding,
        threads=threads,
        memory=memory,
        overwrite=overwrite,
        **settings,
    )
    return run_job(job, limits=limits).outcomes[0]


def convert(path: str | Path, out: str | Path, *, to: str, **settings: Any) -> Outcome:
    """Any input to any target; `remember` with the target named."""
    return remember(path, out, to=to, **settings)


def run(job: Job | str | Path) -> Sequence[Outcome]:
    """Run a job file, or a job made in Python; one outcome an input. Run again, it resumes."""
    from anamnesis.pipeline.config import load_job
    from anamnesis.pipeline.jobs import run_job

    loaded = load_job(str(job)) if isinstance(job, str | Path) else job
    return run_job(loaded, resume=True).outcomes


def verify(
    out: str | Path, *, against: str | Path | None = None, sample: float = 1.0
) -> dict[str, int]:
    """Compare an output with its recorded checksums; IntegrityError names what differs.

    With `against`, that input is decoded again, a `sample` (a share) of the pieces or all, and
    compared with the checksums too.
    """
    from anamnesis.pipeline.journal import verify_output

    counts = verify_output(Path(out))
    if against is not None:
        from anamnesis.pipeline.against import decode_again

        counts |= decode_again(Path(out), str(against), sample)
    return counts


@contextmanager
def _files() -> Iterator[Callable[[FileId], SourceFile]]:
    from anamnesis.readers.files import Files

    files = Files()
    try:
        yield files
        files.check_unchanged()
    finally:
        files.close()


__all__ = [
    "LazyTensor",
    "OpenModel",
    "convert",
    "inspect",
    "open_model",
    "remember",
    "run",
    "scan",
    "verify",
]
