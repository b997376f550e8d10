"""What will be done, decided before a payload byte is read; pure arithmetic on frozen records.

Two sizes rule the loop. A *window* is about 2 MiB of output: read, decoded and written while it
stays in cache, through buffers that are reused. A *task* is tens of MiB of output in one file:
what a scheduler moves around. Neither depends on the number of workers, so every executor
writes the same bytes and records the same checksums.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TypeAlias

from anamnesis.errors import UnsupportedError
from anamnesis.kernels import ENCODINGS
from anamnesis.limits import RECORD_BYTES, Limits, MiB
from anamnesis.names.derived import Derived
from anamnesis.pipeline.companions import has_config
from anamnesis.pipeline.disk import disk_bytes, refuse_over_disk, staged_bytes
from anamnesis.pipeline.fit import BASE_BYTES, BASE_TENSORS, fit_threads
from anamnesis.pipeline.importance import refuse_unweighted
from anamnesis.pipeline.kept import metadata_of, stem_of
from anamnesis.pipeline.quant_config import Chosen, metadata_blocks
from anamnesis.pipeline.reading import reading
from anamnesis.pipeline.sending import Sending, sending
from anamnesis.pipeline.targets import KEEP, Choice, Encode
from anamnesis.pipeline.transcode import refuse_lossy, refuse_twice
from anamnesis.pipeline.work import PackTask, Piece, Step, Task, WriteTask, load, pack
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.gc_pause import gc_paused
from anamnesis.readers.model import Model
from anamnesis.readers.strides import RUN_BYTES
from anamnesis.writers import WRITERS, writer
from anamnesis.writers.base import PLAIN, Item, Layout, Slot, Storage
from anamnesis.writers.stores import located

WINDOW_BYTES = 2 * MiB
TASK_BYTES = 64 * MiB
# Small outputs are cut into about so many tasks, so that a few threads end together; but not finer.
TASKS, LEAST_TASK_BYTES = 32, 8 * MiB
# Read at once from layouts stored in columns, and from strided rows: whole lines of most matrices,
# which is one call instead of one a line.
READ_AHEAD_BYTES = 24 * MiB
TRANSPOSED_BYTES = 32 * MiB  # of a matrix whose rows become columns: what is held in its own order

# Bytes of an element, units of a window and of a batch, and bytes of memory.
Sizes: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Spec:
    """How to write: `dtype` and `passthrough` are None when the caller asked for nothing."""

    path: str
    format: str = "safetensors"
    dtype: str | None = None  # bf16, f16, f32
    passthrough: str | None = None  # keep, bf16, f16, f32
    max_shard_bytes: int = 5_000_000_000
    storage: Storage = PLAIN
    encode: Encode | None = None
    manifest: str = "beside"  # or inside, of a folder
    staging: str = ""  # the folder where files are made that are then sent to a store


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a job's work for one input."""

    model: Model
    spec: Spec
    layout: Layout
    items: tuple[Item, ...]
    tasks: tuple[WriteTask, ...]
    threads: int
    memory_bytes: int  # projected peak of one process
    choices: tuple[tuple[str, Choice], ...] = ()  # of a run that encodes, for each tensor
    disk_bytes: int = 0  # of spools and caches, and of files that are staged
    disk_limit: int | None = None

    @property
    def out_bytes(self) -> int:
        return self.layout.nbytes


def make_plan(
    model: Model, spec: Spec, *, memory_bytes: int, threads: int, limits: Limits | None = None
) -> Plan:
    """Lay out the output and cut the work into tasks.

    Raises LimitError when the output or a tensor is over `limits`, spools and caches do not fit on
    the disk, or one window of one tensor does not fit in `memory_bytes`; uses fewer than `threads`
    threads when only so many fit.
    """
    with gc_paused():
        return _make_plan(model, spec, memory_bytes, threads, limits or Limits())


def _make_plan(model: Model, spec: Spec, memory_bytes: int, threads: int, limits: Limits) -> Plan:
    tensors = [with_dtype(t, out_dtype_of(t, spec)) for t in model.tensors]
    for tensor in tensors:
        charge_tensor(tensor, limits)
    encode = replace(spec.encode, conv1d=model.conv1d) if spec.encode else None
    choices = [encode.choose(tensor) if encode else KEEP for tensor in tensors]
    if encode:
        tensors = [
            with_dtype(t, c.kept_as or t.out_dtype) for t, c in zip(tensors, choices, strict=True)
        ]
    items = [item for t, choice in zip(tensors, choices, strict=True) for item in choice.items(t)]
    chosen: tuple[tuple[str, Choice], ...] = ()
    if spec.encode:
        chosen = tuple((t.name, c) for t, c in zip(tensors, choices, strict=True))
        refuse_lossy(spec.path, ((name, c.target, c.lossy) for name, c in chosen))
        needing = ((name, str(c.target)) for name, c in chosen if c.unweighted == "needed")
        refuse_unweighted(spec.path, spec.encode.imatrix, needing)
        refuse_twice(spec.path, str(spec.encode), items)
    module = writer(spec.format)
    spec = with_input(spec, model, chosen)
    layout = module.layout(items, located(spec.path), spec.max_shard_bytes, spec.storage)
    limits.total(layout.nbytes, f"{spec.path}: output")
    known: dict[Hashable, Sizes] = {}
    whole = [
        choice.piece(step_for(choice.aligned(tensor), slots[0], known), slots)
        for tensor, choice, slots in zip(tensors, choices, _slots(layout, choices), strict=True)
    ]
    base = BASE_BYTES + RECORD_BYTES * max(0, len(model.stored) - BASE_TENSORS)
    send = sending(spec.path, spec.format, layout.files, staged=bool(spec.staging))
    base += send.base
    read = reading(file.path for file in model.files)
    base += read.base
    more = read.each + send.each
    needs = [(send.times * p.memory_bytes + more, p.step.tensor.name) for p in whole]
    threads = fit_threads(needs, base, memory_bytes, threads)
    tasks = tuple(_cut(_placed(items, whole), layout, _task_bytes(whole), send))
    tasks = read.shared(tasks, memory_bytes - base, threads)
    widest = max((t.memory_bytes for t in tasks), default=0)
    memory_bytes = base + threads * widest
    disk = disk_bytes(whole, model.files, threads)
    if spec.staging:
        disk += staged_bytes(layout.files, threads, together=bool(model.members))
    refuse_over_disk(spec.path, disk, limits.disk_bytes)
    return Plan(
        model=model,
        spec=spec,
        layout=layout,
        items=tuple(items),
        tasks=tasks,
        threads=threads,
        memory_bytes=memory_bytes,
        choices=chosen,
        disk_bytes=disk,
        disk_limit=limits.disk_bytes,
    )


def _slots(layout: Layout, choices: Sequence[Choice]) -> Iterator[tuple[Slot, ...]]:
    """The slots of each tensor's stored tensors."""
    places = iter(layout.places)
    for choice in choices:
        yield tuple(slot for _, slot in islice(places, choice.parts))


def _placed(items: Sequence[Item], whole: Iterable[Piece]) -> dict[int, Piece]:
    """The pieces by the number of the item that they are placed by, the first of joined ones."""
    return dict(zip((n for n, item in enumerate(items) if not item.joined), whole, strict=True))


def decoded_dtype(model: Model, spec: Spec) -> str | None:
    """The dtype (bf16, f16, f32) that recovered tensors get; None when all stay as they are."""
    decoded = any(tensor.quantised for tensor in model.tensors)
    return spec.dtype or ("bf16" if decoded else None)


def with_input(spec: Spec, model: Model, choices: Chosen = ()) -> Spec:
    """The same with what the output keeps of its input: the stem of names, and metadata.

    What a reader has to know of `choices` goes into the metadata where no `config.json` is written.
    """
    if WRITERS[spec.format].module != "safetensors":
        return spec
    alone = len(model.files) == 1 and model.files[0].path == model.path
    names = [file.path for file in model.files]
    if model.index:  # of which libraries know the name, whatever its shards are called
        names = [re.sub(r"\.index(\.\w+)?\.json$", "", model.index)]
    stem = stem_of(names, folder=not alone)
    metadata = metadata_of(model, decoded_dtype(model, spec))
    made = spec.format == "hf" and model.container == "gguf" and model.options.names == "hf"
    if _is_file(spec) or not (made or has_config(model.folder)):
        metadata += metadata_blocks(choices)
    return replace(spec, storage=replace(spec.storage, stem=stem, metadata=metadata))


def _is_file(spec: Spec) -> bool:
    return located(spec.path).suffix == WRITERS[spec.format].suffix


def charge_tensor(tensor: Tensor, limits: Limits) -> None:
    """Charge what decoding one tensor allocates besides its windows, and how much it grows."""
    if tensor.encoding == "copy" and type(tensor) is Tensor:  # no more than is stored
        return
    where = f"{tensor.components[0].stored.file.path}: tensor {tensor.name!r:.200}"
    for component in tensor.components:
        if not component.placement.windowed:
            # As stored, and as the float32 that kernels make of it.
            nbytes = max(component.stored.nbytes, 4 * math.prod(component.stored.shape))
            limits.alloc(nbytes, f"{where}: {component.role}")
    limits.expansion(value_bytes(tensor), tensor.stored_bytes, f"{where}: expansion")


def value_bytes(tensor: Tensor) -> int:
    """Bytes of all values of a tensor in its output dtype."""
    return tensor.elems * DTYPES[tensor.out_dtype].bits // 8


def out_dtype_of(tensor: Tensor, spec: Spec) -> str:
    if tensor.quantised:
        return (spec.dtype or "bf16").upper()
    if DTYPES[tensor.out_dtype].kind != "float":
        return tensor.out_dtype
    policy = spec.passthrough or spec.dtype
    return tensor.out_dtype if policy in (None, "keep") else policy.upper()


def with_dtype(tensor: Tensor, dtype: str) -> Tensor:
    """A dense tensor whose dtype changes is decoded like any other; else its bytes are copied."""
    if tensor.out_dtype == dtype:
        return tensor
    if tensor.encoding != "copy":
        return replace(tensor, out_dtype=dtype)
    encoding = tensor.out_dtype.lower()
    if encoding not in ENCODINGS:
        raise UnsupportedError(
            f"{tensor.name}: {tensor.out_dtype} to {dtype} is not implemented; "
            "numbers.passthrough: keep stores it as it is"
        )
    return replace(tensor, encoding=encoding, out_dtype=dtype)


def source_dtype(tensor: Derived) -> str:
    """What the sources of a derived tensor are decoded to before it is made of them."""
    return "F32" if tensor.changed else tensor.out_dtype


def source_steps(tensor: Derived) -> Callable[[int], Step]:
    """The step of each source of a derived tensor."""
    dtype = source_dtype(tensor)
    return lambda number: step_for(with_dtype(tensor.sources[number], dtype))


def _derived_step(tensor: Derived, slot: Slot | None) -> Step:
    itemsize = DTYPES[tensor.out_dtype].bits // 8
    multiple = tensor.unit_multiple
    window = WINDOW_BYTES // max(1, tensor.unit_elems * itemsize)
    window = max(1, window // multiple) * multiple
    step = source_steps(tensor)
    widest = sorted(step(n).memory_bytes for n in range(len(tensor.sources)))
    gathered = DTYPES[source_dtype(tensor)].bits // 8
    batch = window
    if tensor.scattered:  # whose lines are read again for each batch
        most = max(1, TRANSPOSED_BYTES // max(1, tensor.unit_elems * gathered * window))
        windows = -(-tensor.units // window)
        batch = window * -(-windows // -(-windows // most))  # all of one size, but for the last
    values = tensor.unit_elems * (window * itemsize + batch * gathered)
    if tensor.scattered:
        values += tensor.unit_elems * window * gathered
    memory = sum(widest[-tensor.together :]) + values + RUN_BYTES
    return Step(tensor, tensor.out_dtype, itemsize, slot, window, batch, memory)


def step_for(
    tensor: Tensor, slot: Slot | None = None, known: dict[Hashable, Sizes] | None = None
) -> Step:
    """The window sizes of one tensor; without a slot, for values that stay in memory.

    What is `known` of tensors before it is looked up and added to: a model has many that are alike.
    """
    if isinstance(tensor, Derived):
        return _derived_step(tensor, slot)
    known = {} if known is None else known
    key = (
        tensor.out_dtype,
        tensor.encoding == "copy",
        tensor.shape,
        tensor.unit_elems,
        tensor.unit_multiple,
        *[(c.placement, c.stored.nbytes, _strided(c)) for c in tensor.components],
    )
    sizes = known.get(key)
    if sizes is None:
        sizes = known[key] = _sizes(tensor)
    return Step(tensor, tensor.out_dtype, sizes[0], slot, *sizes[1:])


def _sizes(tensor: Tensor) -> Sizes:
    itemsize = DTYPES[tensor.out_dtype].bits // 8
    unit_bytes = tensor.unit_elems * itemsize
    multiple = tensor.unit_multiple
    window = max(multiple, WINDOW_BYTES // max(1, unit_bytes) // multiple * multiple)
    most = 4 * WINDOW_BYTES // max(1, unit_bytes)
    window = tensor.components[0].placement.window_units(window, most, multiple)
    units = tensor.matrix_units or tensor.units  # that can be read, and decoded, together
    window = min(window, -(-units // multiple) * multiple)
    batch = window
    columns = [c for c in tensor.components if c.placement.in_lines or _strided(c)]
    if columns and window:
        per_window = sum(c.window_bytes(window) for c in columns)
        windows = -(-units // window)
        reads_ahead = -(-windows // max(1, READ_AHEAD_BYTES // max(1, per_window)))
        if any(c.placement.wraps for c in columns):  # read again where it begins again
            once = sum(c.window_bytes(tensor.units) for c in columns)
            reads_ahead = 1 if once <= READ_AHEAD_BYTES else reads_ahead
        batch = window * -(-windows // reads_ahead)  # all of one size, but for the last
        batch = min(batch, -(-units // multiple) * multiple)
    reads = sum(c.window_bytes(batch) for c in tensor.components)
    if columns:
        reads += RUN_BYTES  # through which parts of lines are read
    # Whole parameters are held as stored, and again as the float32 that `prepare` makes of them.
    wholes = sum(3 * c.stored.nbytes for c in tensor.components if not c.placement.windowed)
    scratch = 2 if tensor.out_dtype == "F16" and tensor.encoding != "copy" else 0
    out = window * tensor.unit_elems * itemsize * (1 + scratch)
    return itemsize, window, batch, reads + wholes + out


def _strided(component: Component) -> bool:
    view = component.stored.view
    return view is not None and view.strides is not None


def is_deflated(tensor: Tensor) -> bool:
    """Whether some component can only be read from its start, or from that of long stretches."""
    views = [c.stored.view for c in tensor.components if c.stored.view is not None]
    if any(v.member is not None and v.member.deflated for v in views):
        return True
    return any(v.rows is not None and v.rows.longest_packed > TASK_BYTES for v in views)


def _task_bytes(whole: Iterable[Piece]) -> int:
    """The most output of a task: by what is decoded, and never by who writes it."""
    nbytes = sum(piece.value_bytes for piece in whole)
    return min(TASK_BYTES, max(LEAST_TASK_BYTES, nbytes // TASKS))


def _cut(
    placed: Mapping[int, Piece], layout: Layout, task_bytes: int, send: Sending
) -> Iterator[WriteTask]:
    """The tasks, in file order; of files that are packed by whoever decodes them, one for each."""
    count = 0
    for file, numbers in groupby(layout.order, lambda number: layout.places[number][0]):
        whole = (placed[number] for number in numbers if number in placed)
        pieces = (
            piece if at == (piece.start, piece.stop) else replace(piece, start=at[0], stop=at[1])
            for piece in whole
            for at in _ranges(piece.step, task_bytes)
        )
        if send.packs:
            group = tuple(pieces)
            work, memory = load(group)
            memory, out = send.times * memory + send.each, layout.files[file]
            yield PackTask(f"task-{count:06d}", group, work, memory, file, out=out)
            count += 1
            continue
        for group in pack(pieces, task_bytes):
            work, memory = load(group)
            yield WriteTask(f"task-{count:06d}", group, work, memory + send.each, file)
            count += 1


def _ranges(step: Step, task_bytes: int) -> list[tuple[int, int]]:
    """Cut a tensor where a task must end; cuts fall on batch boundaries."""
    units = step.tensor.units
    if not step.tensor.elems:
        return []
    per_batch = max(1, step.batch_units * step.tensor.unit_elems * step.itemsize)
    batches = max(1, task_bytes // per_batch)
    matrix = step.tensor.matrix_units or units
    each = -(-matrix // step.batch_units)  # batches a matrix
    if (matrix == units and each <= batches) or is_deflated(step.tensor):
        return [(0, units)]
    if each > batches:
        stride = step.batch_units * batches
        cuts = [m + at for m in range(0, units, matrix) for at in range(0, matrix, stride)]
    else:
        cuts = list(range(0, units, matrix * (batches // each)))
    return list(zip(cuts, [*cuts[1:], units], strict=True))


__all__ = ["WRITERS", "Piece", "Plan", "Spec", "Step", "Task", "WriteTask", "make_plan"]
