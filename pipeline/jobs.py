"""A job: every input to its own output, with one failed input not stopping the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from anamnesis.limits import Limits
from anamnesis.names.open import open_named
from anamnesis.pipeline.companions import check_companions
from anamnesis.pipeline.config import Job, Settings
from anamnesis.pipeline.encode_setting import parse_encode
from anamnesis.pipeline.executors import SchedulerError, options_for
from anamnesis.pipeline.fit import BASE_BYTES
from anamnesis.pipeline.incomplete import incomplete_error, incomplete_path
from anamnesis.pipeline.inputs import Inputs, copy_rest, inputs_of, refuse_indexes
from anamnesis.pipeline.outcome import Outcome
from anamnesis.pipeline.output_needs import described, prepared
from anamnesis.pipeline.place import is_model_folder, refuse_input_folders, refuse_no_folder
from anamnesis.pipeline.plan import Plan, Spec, make_plan
from anamnesis.pipeline.progress import Progress, make_progress
from anamnesis.pipeline.remarks import collapsed, remarks_on, remarks_on_loss, remarks_on_settings
from anamnesis.pipeline.run import check_place, run_plan
from anamnesis.readers.imatrix import Imatrix, open_imatrix
from anamnesis.readers.model import Model
from anamnesis.readers.patterns import matching, require_matches
from anamnesis.readers.schemes.base import Options
from anamnesis.writers import WRITERS
from anamnesis.writers.base import Storage
from anamnesis.writers.stores import StorePath, located


@dataclass(frozen=True, slots=True)
class Summary:
    """What a job of so many inputs made, what failed: `(input, error)`, and remarks."""

    outcomes: tuple[Outcome, ...]
    failures: tuple[tuple[str, BaseException], ...] = ()
    notes: tuple[str, ...] = ()
    inputs: int = 1


_WHOLE = ("gguf", "hf")  # formats that are loaded as a whole model


def plan_job(job: Job, limits: Limits | None = None) -> list[tuple[str, Plan | BaseException]]:
    """Read every input's headers and plan it; an input that cannot be planned has its error."""
    settings = job.resolve()
    limits = _limits(settings, limits)
    return _plan_all(job, settings, inputs_of(settings, limits), limits)


def rehearse_job(job: Job, limits: Limits | None = None) -> list[tuple[str, Plan | BaseException]]:
    """As `plan_job`, with an error also for an input whose output's place is not free.

    A job of one input raises it, as `run_job` does.
    """
    planned = plan_job(job, limits)
    for number, (source, plan) in enumerate(planned):
        if isinstance(plan, BaseException):
            continue
        try:
            check_place(plan, job.output.overwrite)
        except Exception as error:
            if len(planned) == 1:
                raise
            planned[number] = source, error
    return planned


def _limits(settings: Settings, limits: Limits | None) -> Limits:
    """The caller's limits, or the job's; what either allows is allowed."""
    limits = limits or settings.limits
    return replace(limits, allow=limits.allow | settings.limits.allow)


def _plan_all(
    job: Job, settings: Settings, inputs: Inputs, limits: Limits
) -> list[tuple[str, Plan | BaseException]]:
    planned: list[tuple[str, Plan | BaseException]] = []
    sources = [source for source, _ in inputs.models]
    patterns = _Patterns((*settings.include, *settings.exclude))
    folders = [pipeline.source for pipeline in inputs.pipelines]
    for out in (*(out for _, out in inputs.models), *(p.out for p in inputs.pipelines)):
        is_file = Path(out).suffix == WRITERS[settings.format].suffix
        refuse_no_folder(out, is_file=is_file)
        if not is_file:
            refuse_input_folders(out, [*sources, *folders])
    imatrix = open_imatrix(settings.imatrix, limits) if settings.imatrix else None
    for source, out in inputs.models:
        try:
            model = _load(settings, source, limits)
            whole = model
            model = patterns.select(whole, settings, alone=len(sources) == 1)
            model = _noted(model, len(whole.tensors), settings)
            planned.append((source, _plan_one(job, settings, model, out, limits, imatrix)))
        except Exception as error:
            if len(sources) == 1:
                raise
            planned.append((source, error))
    if not any(isinstance(plan, BaseException) for _, plan in planned):
        patterns.require(", ".join(sources))
    return planned


def _noted(model: Model, of: int, settings: Settings) -> Model:
    """The chosen tensors, with a note when what loads the output asks for all `of` them."""
    count = len(model.tensors)
    if settings.format not in _WHOLE or count == of:
        return model
    note = (
        f"{model.path}: {count:,} of {of:,} tensors chosen by patterns; the output is a part of a "
        "model, which loaders may refuse or fill up with random numbers"
    )
    return replace(model, notes=(*model.notes, note))


class _Patterns:
    """The patterns of a job, each of which must fit a tensor of one of its inputs."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._matched: set[str] = set()
        self._names: list[str] = []
        self._whole = True

    def select(self, model: Model, settings: Settings, *, alone: bool) -> Model:
        """The chosen tensors of an input; UsageError when there are none."""
        names = [*(tensor.name for tensor in model.tensors), *model.unread]
        self._matched |= matching(names, self._patterns)
        self._names += names[:1]
        self._whole &= not model.broken  # what they fit may be in a shard that is missing
        every = alone and self._whole
        return model.select(settings.include, settings.exclude, every=every)

    def require(self, where: str) -> None:
        """UsageError for a pattern that fits nothing in any input."""
        if self._whole:
            require_matches(self._names, self._patterns, where, self._matched)


def run_job(
    job: Job,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> Summary:
    """Plan and run a job. A job of one input raises its error; others report failures.

    With `resume`, what an earlier run of the same job finished is verified and kept.
    """
    settings = job.resolve()
    outcomes: list[Outcome] = []
    failures: list[tuple[str, BaseException]] = []
    notes: list[str] = []
    progress = progress or make_progress("quiet")
    gone: SchedulerError | None = None
    limits = _limits(settings, limits)
    inputs = inputs_of(settings, limits)
    planned = _plan_all(job, settings, inputs, limits)
    if not settings.overwrite:
        refuse_indexes(inputs)
    notes += remarks_on_settings(job, settings, planned)
    for number, (source, plan) in enumerate(planned, 1):
        if isinstance(plan, BaseException):
            failures.append((source, plan))
            continue
        remarks = remarks_on(source, plan, settings)
        notes += remarks
        if gone is not None:
            failures.append((source, gone))
            continue
        options = options_for(plan.threads, settings.memory_bytes, settings.scheduler)
        if len(planned) > 1:
            progress.note(f"input {number} of {len(planned)}: {source}")
        for text in collapsed(f"left out: {text}" for text in plan.model.broken):
            progress.note(text)
        try:
            outcome = run_plan(
                plan,
                settings.executor,
                options,
                progress,
                overwrite=settings.overwrite,
                resume=resume,
            )
            lost = remarks_on_loss(outcome.loss)
            notes += lost
            about = notes if len(planned) == 1 else [*remarks, *lost]
            outcomes.append(replace(outcome, notes=tuple(about)))
            if plan.model.broken:
                raise incomplete_error(plan)
        except Exception as error:
            if len(planned) == 1:
                raise
            failures.append((source, error))
            gone = error if isinstance(error, SchedulerError) else None
    for pipeline in inputs.pipelines if not failures else ():
        copy_rest(pipeline, notes.append, limits)
    return Summary(tuple(outcomes), tuple(failures), tuple(notes), len(planned))


def _load(settings: Settings, source: str, limits: Limits) -> Model:
    # What goes into a GGUF is taken under the names that it has.
    names: Literal["stored", "hf"] = "hf" if settings.names == "hf" else "stored"
    if settings.format == "gguf":
        names = "stored"
    options = Options(settings.assume_unit_scale, settings.rounding, names)
    limits = _with_room(settings, limits).choosing(settings.include, settings.exclude)
    return open_named(source, options, limits, keep_going=settings.keep_going)


def _with_room(settings: Settings, limits: Limits) -> Limits:
    """The limits, with the memory that is there for what is not payload."""
    room = settings.memory_bytes - BASE_BYTES  # without any, the plan says what is missing
    return replace(limits, record_bytes=room if room > 0 else None)


def _plan_one(
    job: Job,
    settings: Settings,
    model: Model,
    out: str,
    limits: Limits,
    imatrix: Imatrix | None,
) -> Plan:
    spec = Spec(
        path=incomplete_path(out) if model.broken else out,
        format=settings.format,
        dtype=job.output.dtype,
        passthrough=job.numbers.passthrough,
        max_shard_bytes=settings.max_shard_bytes,
        storage=Storage(settings.compression, settings.bf16),
        encode=parse_encode(
            job.output.encode,
            "output.encode",
            settings.format,
            requantize=job.output.allow_requantize,
            skip_loss=job.output.skip_loss,
            imatrix=imatrix,
        ),
        manifest=settings.manifest,
        staging=settings.staging if isinstance(located(out), StorePath) else "",
    )
    limits = replace(limits, disk_bytes=settings.disk_bytes)
    model, spec = prepared(model, spec, settings, limits)
    plan = make_plan(
        model,
        spec,
        memory_bytes=settings.memory_bytes,
        threads=settings.threads,
        limits=limits,
    )
    if is_model_folder(plan):
        room = _with_room(settings, limits)
        check_companions(model.folder, plan.out_bytes, room, model.allow)
    return described(plan, settings, limits)
