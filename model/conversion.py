"""`remember` and `convert`: a conversion of one input, as a function."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from anamnesis.keywords import (
    Dtype,
    Executor,
    OutputNames,
    PathLike,
    Patterns,
    Rounding,
    Size,
    Threads,
    keywords,
)
from anamnesis.limits import Limits, LimitsLike

if TYPE_CHECKING:
    from anamnesis.pipeline.callback import ProgressLike
    from anamnesis.pipeline.outcome import Outcome

Bf16: TypeAlias = Literal["extension", "lance", "uint16", "float32"]
Format: TypeAlias = Literal["arrow", "gguf", "hf", "parquet", "safetensors"]
Encode: TypeAlias = str | Sequence[Mapping[str, str]]


@keywords
def remember(
    path: PathLike,
    out: PathLike,
    *,
    to: Format | None = None,
    dtype: Dtype | None = None,
    encode: Encode | None = None,
    allow_requantize: bool = False,
    imatrix: PathLike | None = None,
    skip_loss: bool = False,
    names: OutputNames | None = None,
    key_values: Mapping[str, Any] | None = None,
    max_shard_size: Size | None = None,
    compression: Literal["none", "lz4", "zstd"] | None = None,
    bf16: Bf16 | None = None,
    manifest: Literal["beside", "inside"] = "beside",
    overwrite: bool = False,
    include: Patterns = "*",
    exclude: Patterns = (),
    rounding: Rounding = "exact",
    passthrough: Literal["keep", "bf16", "f16", "f32"] | None = None,
    assume_unit_scale: bool = False,
    executor: Executor | None = None,
    scheduler: str | None = None,
    threads: Threads = "auto",
    memory: Size | None = None,
    disk: Size | None = None,
    staging: PathLike | None = None,
    keep_going: bool = False,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
    progress: ProgressLike = False,
) -> Outcome:
    """Recover the precision of `path` into `out`; called again, it goes on where it was stopped.

    path: a file, a model folder, a glob, an `ollama:` name or an fsspec URL.
    out: a file, by its suffix, or a folder.
    to: the output format; without it the suffix of `out` says it, and a folder gets safetensors.
    dtype: of the output; without it recovered tensors become BF16, and the others keep theirs.
    encode: a target such as `fp8-block` or `mlx-affine:bits=4`, or rules (docs/encoding.md).
    allow_requantize: encode quantised tensors from recovered values where codes cannot be moved.
    imatrix: an importance matrix of llama.cpp, with which the types of a GGUF weigh errors.
    skip_loss: leave out the report of what encoding lost, and `Outcome.loss` empty.
    names: under which names a GGUF's tensors are written, `stored` or `hf`; to GGUF also `mmproj`,
    the vision tower of a folder in a file of its own.
    key_values: of a GGUF output, to add or change.
    max_shard_size: most bytes of data in one file of a folder, `5GB` or a number.
    compression: of an arrow or parquet output: none, lz4 or zstd; parquet has zstd without it.
    bf16: the type of BF16 in such an output: the `extension` type lance.bfloat16 (usual in arrow),
    its bits as `uint16`, or, in parquet, `float32` (usual there).
    manifest: where the record for `verify` lies, beside the output or inside the folder.
    overwrite: replace an output of this program.
    include, exclude: shell patterns on tensors' names, one or several.
    rounding: `exact` rounds once, `reference` replays the library's own order.
    passthrough: what becomes of float tensors that were not quantised: `keep`, or a dtype.
    assume_unit_scale: take FP8 tensors without a scale as a plain cast.
    executor: `threads` unless a `scheduler`, the address of Dask's, is given.
    threads, memory: how many, and the budget of a process (`512MiB`).
    disk: most bytes on local disks besides the output; none is no limit.
    staging: a folder where the files of an output behind a URL are made before they are sent.
    keep_going: convert what can be had of a model with broken shards.
    follow_links, leave_out_unknown, limits: what a file may ask for, as `open_model` has them.
    progress: True for a report on standard error, or a function that gets two numbers, the bytes
    that are done and the bytes of all; what it raises ends the run.

    Raises the classes of `anamnesis.errors`, or OSError, and leaves no output behind then.
    """
    return _run(locals())


@keywords
def convert(
    path: PathLike,
    out: PathLike,
    *,
    to: Format | None = None,
    dtype: Dtype | None = None,
    encode: Encode | None = None,
    allow_requantize: bool = False,
    imatrix: PathLike | None = None,
    skip_loss: bool = False,
    names: OutputNames | None = None,
    key_values: Mapping[str, Any] | None = None,
    max_shard_size: Size | None = None,
    compression: Literal["none", "lz4", "zstd"] | None = None,
    bf16: Bf16 | None = None,
    manifest: Literal["beside", "inside"] = "beside",
    overwrite: bool = False,
    include: Patterns = "*",
    exclude: Patterns = (),
    rounding: Rounding = "exact",
    passthrough: Literal["keep", "bf16", "f16", "f32"] | None = None,
    assume_unit_scale: bool = False,
    executor: Executor | None = None,
    scheduler: str | None = None,
    threads: Threads = "auto",
    memory: Size | None = None,
    disk: Size | None = None,
    staging: PathLike | None = None,
    keep_going: bool = False,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
    progress: ProgressLike = False,
) -> Outcome:
    """Any input to any target: `remember` with all of its keywords, and a target that is named.

    to: the output format, which the suffix of `out` may say; a folder needs it.
    """
    given = locals()
    if to is None:
        from anamnesis.writers import named_format

        given["to"] = named_format(os.fsdecode(out))
    return _run(given)


def _run(given: dict[str, Any]) -> Outcome:
    """Run the conversion that a function's arguments, by name, ask for."""
    from anamnesis.pipeline.callback import reporter
    from anamnesis.pipeline.jobs import run_job
    from anamnesis.pipeline.keys import job_for

    limits, progress = given.pop("limits"), reporter(given.pop("progress"))
    limits = None if limits is None else Limits.of(limits)
    path, out = os.fsdecode(given.pop("path")), os.fsdecode(given.pop("out"))
    job = job_for(path, out, **given)
    return run_job(job, limits=limits, progress=progress, resume=True).outcomes[0]


__all__ = ["convert", "remember"]
