"""The job file and the one owner of every default.

`Job` is what a file, a command line or a caller wrote; `Job.resolve()` is what it means: a
frozen `Settings`, resolved once and passed by value. A leading `~/` is the home folder, `${VAR}` is
refused (`readers.paths`), and a relative path is relative to the current directory of the process
that runs the job (not to the job file).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from anamnesis.errors import UsageError
from anamnesis.limits import Limits
from anamnesis.pipeline.idle import Place, refuse_idle
from anamnesis.pipeline.permits import JobAllow, JobLimits
from anamnesis.pipeline.sections import Dtype, Numbers, Output, Run, Select, Text
from anamnesis.pipeline.validate import KeyPath, at, build, require_key, shown
from anamnesis.readers.paths import expand, output_path
from anamnesis.readers.patterns import patterns
from anamnesis.sizes import parse_size
from anamnesis.writers import WRITERS, format_of, usual_shard_size
from anamnesis.writers.base import PLAIN

Override: TypeAlias = str | tuple[str, Any]
_CHOICES = {"bf16": "bf16", "compression": "compressions"}  # of a row of WRITERS
_OTHER_NAMES = {"lance": "extension"}  # of the type lance.bfloat16


class Settings(Struct, frozen=True, kw_only=True):
    """A job with every default filled in and every size in bytes; small and picklable.

    `dtype` is that of recovered tensors; `passthrough` that of floats which were not quantised,
    `keep` for their own. `threads` is 1 for the serial executor.
    """

    inputs: tuple[str, ...]
    path: str
    format: str
    names: Literal["stored", "hf", "mmproj"]
    key_values: dict[str, Any]
    imatrix: str | None
    dtype: Dtype
    max_shard_bytes: int
    overwrite: bool
    manifest: Literal["beside", "inside"]
    compression: str
    bf16: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    rounding: Literal["exact", "reference"]
    passthrough: Literal["keep", "bf16", "f16", "f32"]
    assume_unit_scale: bool
    executor: Literal["serial", "threads", "distributed"]
    threads: int
    memory_bytes: int
    disk_bytes: int | None
    staging: str
    scheduler: str | None
    keep_going: bool
    limits: Limits


class Job(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch job: quantised weights in, full precision out."""

    inputs: Annotated[
        tuple[Text, ...],
        Meta(
            min_length=1,
            description="Each a file, a model folder, a glob, an ollama: name or an fsspec URL.",
            extra={"form": "a list of text, at least one item"},
        ),
    ]
    output: Output
    select: Select = Select()
    numbers: Numbers = Numbers()
    run: Run = Run()
    limits: JobLimits = JobLimits()
    allow: JobAllow = JobAllow()

    def resolve(self) -> Settings:
        """What the job means here; checks it again, as constructors alone check nothing.

        Raises `UsageError` for wrong values and for settings that contradict each other.
        """
        job = build(Job, _plain(self))
        output, numbers, run = job.output, job.numbers, job.run
        threads = run.worker_threads()
        path = output_path(output.path, "output.path")
        form = format_of(path, output.format)
        refuse_idle(output, Place.of(form, path))
        return Settings(
            inputs=tuple(expand(path, "inputs") for path in job.inputs),
            path=path,
            format=form,
            key_values=output.key_values,
            imatrix=None if output.imatrix is None else expand(output.imatrix, "output.imatrix"),
            names=output.names or ("hf" if form in ("hf", "gguf") else "stored"),
            dtype=output.dtype or "bf16",
            max_shard_bytes=parse_size(output.max_shard_size or usual_shard_size(form)),
            overwrite=output.overwrite,
            manifest=output.manifest,
            compression=_stored("compression", output.compression, form),
            bf16=_stored("bf16", output.bf16, form),
            include=tuple(patterns(job.select.include)),
            exclude=tuple(patterns(job.select.exclude)),
            rounding=numbers.rounding,
            passthrough=numbers.passthrough or output.dtype or "keep",
            assume_unit_scale=numbers.assume_unit_scale,
            executor=run.chosen_executor(),
            threads=threads,
            memory_bytes=parse_size(run.memory),
            disk_bytes=None if run.disk is None else parse_size(run.disk),
            staging="" if run.staging is None else expand(run.staging, "run.staging"),
            scheduler=run.scheduler,
            keep_going=run.keep_going,
            limits=job.limits.resolve(job.allow),
        )


def _stored(setting: str, value: str | None, form: str) -> str:
    """How a format keeps values: as asked for, or as usual.

    Raises UsageError for what the format does not have; it names those that do.
    """
    value = _OTHER_NAMES.get(value, value) if value else value
    choices = {name: getattr(row, _CHOICES[setting]) for name, row in WRITERS.items()}
    if value is None:
        return choices[form][0] if choices[form] else PLAIN.bf16
    if value not in choices[form]:
        formats = " and ".join(name for name, those in choices.items() if value in those)
        raise UsageError(f"output.{setting}: {value} is for output.format {formats}, found {form}")
    return value


def job_from(**sections: Any) -> Job:
    """A checked `Job` from Python values, with the job file's keys.

    Sections are mappings or the structs above; paths may be `os.PathLike`. For example
    `job_from(inputs=["m.gguf"], output={"path": "out"}, run={"threads": 4})`.
    """
    return build(Job, _plain(sections))


def load_job(path: str | os.PathLike[str], overrides: Sequence[Override] = ()) -> Job:
    """The job in a YAML file, with overrides: `output.dtype=f32`, or the key and the value.

    Values in text are YAML (`run.threads=4`, `inputs=[a, b]`); one for a section replaces the
    whole section. Raises `UsageError` with file, line, column and the key's path, `LimitError`
    for a file that is too big, `SecurityError` for `!!python` tags, and `OSError`.
    """
    from anamnesis.pipeline import yaml_strict

    path = expand(os.fsdecode(path))
    document = yaml_strict.read(path)
    data = {} if document.data is None else document.data
    return _overridden(data, {(): path, **document.marks}, overrides)


def any_job(
    job: Job | Mapping[str, Any] | str | os.PathLike[str], overrides: Sequence[Override] = ()
) -> Job:
    """The job in a file, in a mapping with the file's keys, or as it is, with overrides."""
    if isinstance(job, str | os.PathLike):
        return load_job(job, overrides)
    return _overridden(_plain(job), {}, overrides)


def _overridden(data: Any, marks: dict[KeyPath, str], overrides: Sequence[Override]) -> Job:
    from anamnesis.pipeline import yaml_strict

    for override in overrides:
        if isinstance(override, tuple):
            key, value = override[0], _plain(override[1])
        else:
            key, equals, text = override.partition("=")
            if not equals or not key:
                raise UsageError(
                    f"--set {shown(override)}: allowed: KEY=VALUE, as output.dtype=f32"
                )
            value = yaml_strict.parse(text, f"--set {key}").data
        _override(data, marks, tuple(key.split(".")), value)
    return build(Job, data, marks)


def _override(data: Any, marks: dict[KeyPath, str], path: tuple[str, ...], value: Any) -> None:
    require_key(Job, path, {(): "--set"})
    for depth, key in enumerate(path):
        if not isinstance(data, dict):
            raise UsageError(at(path[:depth], marks, f"found {shown(data)}; allowed: a mapping"))
        if depth < len(path) - 1:
            data = data.setdefault(key, {})
    data[path[-1]] = value
    for old in [old for old in marks if old[: len(path)] == path]:
        del marks[old]
    marks[path] = "--set"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the job file."""
    _, defs = msgspec.json.schema_components((Job,), ref_template="#/$defs/{name}")
    job: Mapping[str, Any] = defs.pop("Job")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **job, "$defs": defs}


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, builtin_types=(bytes, bytearray), enc_hook=_path_text)
    except (TypeError, RecursionError) as error:
        raise UsageError(f"the job: {error}") from None


def _path_text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    array = hasattr(value, "tobytes") and not isinstance(value, type)
    if hasattr(value, "itemsize") and not array:  # a dtype of numpy or torch: the error names it
        return str(getattr(value, "__name__", value)).removeprefix("torch.")
    raise TypeError(f"found {shown(value)} of type {type(value).__name__}; allowed: plain data")


__all__ = [
    "Job",
    "Numbers",
    "Output",
    "Override",
    "Run",
    "Select",
    "Settings",
    "any_job",
    "job_from",
    "load_job",
    "schema",
]
