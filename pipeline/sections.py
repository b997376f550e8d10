"""The sections of the job file, with their defaults; `config` has the job that they make."""

from __future__ import annotations

import math
import os
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from anamnesis.errors import UsageError
from anamnesis.pipeline.encode_setting import EncodeRule
from anamnesis.pipeline.sizes import Size

MAX_THREADS = 1024
Text = Annotated[
    str, Meta(min_length=1, pattern=r"^[^\x00]+$", extra={"form": "text, at least one character"})
]
Patterns = Annotated[str | tuple[Text, ...], Meta(extra={"form": "a pattern, or a list of them"})]
Dtype = Literal["bf16", "f16", "f32"]
Bf16 = Literal["extension", "lance", "uint16", "float32"]
Executor = Literal["serial", "threads", "distributed"]
_SCHEDULER_SCHEMES = ("tcp", "tls", "ucx", "ws", "wss", "inproc")


class Output(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to write, and where."""

    path: Annotated[Text, Meta(description="A file, or a folder for many shards.")]
    format: Annotated[
        Literal["safetensors", "arrow", "parquet", "hf", "gguf"] | None,
        Meta(
            description="The container to write; hf is a model folder that transformers loads. "
            "null: what the suffix of path says, else safetensors; a suffix that says another one "
            "is an error."
        ),
    ] = None
    names: Annotated[
        Literal["stored", "hf", "mmproj"] | None,
        Meta(
            description="Under which names a GGUF's tensors are written: stored, as they are in "
            "the file, or hf, as Hugging Face has them. For format gguf, mmproj is the vision "
            "tower of a model folder. null: hf for formats hf and gguf, else stored."
        ),
    ] = None
    key_values: Annotated[
        dict[str, Any],
        Meta(
            description="Key/values of a GGUF to add or change; one that is there keeps its type, "
            "a new one has that which llama.cpp reads, and KEY:TYPE says another, such as uint16."
        ),
    ] = {}
    dtype: Annotated[
        Dtype | None,
        Meta(
            description="Number format of the output. null: bf16 for recovered tensors, and the "
            "others keep theirs."
        ),
    ] = None
    encode: Annotated[
        # msgspec mixes up a pattern with what stands beside it in a union.
        str | tuple[EncodeRule, ...] | None,
        Meta(
            description="What matrices are encoded as: a target such as nvfp4 or "
            "mlx-affine:bits=4,group=64 under the usual policy, or rules, of which the first that "
            "fits a tensor's name counts. null: nothing is encoded."
        ),
    ] = None
    allow_requantize: Annotated[
        bool,
        Meta(
            description="Encode quantised tensors from their recovered values where codes and "
            "scales cannot be moved as they are."
        ),
    ] = False
    imatrix: Annotated[
        Text | None,
        Meta(
            description="An importance matrix of llama.cpp, by which the types of a GGUF weigh "
            "errors; those of IQ1 to IQ3 need one."
        ),
    ] = None
    skip_loss: Annotated[
        bool, Meta(description="Leave out the report of what encoding lost, which takes time.")
    ] = False
    max_shard_size: Annotated[
        Size | None,
        Meta(
            description="Most bytes of tensor data in one file; 5GB or 512MiB. null: 5GB in a "
            "folder; a GGUF is one file."
        ),
    ] = None
    overwrite: Annotated[bool, Meta(description="Replace an output that exists.")] = False
    manifest: Annotated[
        Literal["beside", "inside"],
        Meta(
            description="Where the record lies that verify needs: beside the output, or inside the "
            "folder, which can then be moved."
        ),
    ] = "beside"
    compression: Annotated[
        Literal["none", "lz4", "zstd"] | None,
        Meta(
            description="How an arrow or parquet output is compressed. null: parquet with zstd, "
            "arrow not at all; other formats have none."
        ),
    ] = None
    bf16: Annotated[
        Bf16 | None,
        Meta(
            description="The type of BF16 in an arrow or parquet output: extension (or lance), the "
            "type lance.bfloat16, 2 bytes to readers that do not know it; the bits as uint16; or, "
            "in parquet, float32. null: extension in arrow, float32 in parquet."
        ),
    ] = None


class Select(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tensors, by shell patterns on their names."""

    include: Annotated[
        Patterns, Meta(description="Take tensors that match this, or any of these.")
    ] = ("*",)
    exclude: Annotated[
        Patterns, Meta(description="Then leave out those that match this, or any of these.")
    ] = ()


class Numbers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How numbers are recovered."""

    rounding: Annotated[
        Literal["exact", "reference"],
        Meta(
            description="exact: float32 arithmetic and one rounding. reference: the canonical "
            "library's own order of number formats."
        ),
    ] = "exact"
    passthrough: Annotated[
        Literal["keep", "bf16", "f16", "f32"] | None,
        Meta(
            description="What becomes of float tensors that were not quantised. null: "
            "output.dtype where that is given, else keep."
        ),
    ] = None
    assume_unit_scale: Annotated[
        bool, Meta(description="Take a scale that is missing as 1 instead of refusing the tensor.")
    ] = False


class Run(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how wide the job runs; the output does not depend on it."""

    executor: Annotated[
        Executor | None,
        Meta(description="Who runs the tasks. null: distributed with a scheduler, else threads."),
    ] = None
    threads: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=MAX_THREADS)],
        Meta(
            description="Worker threads. auto: the processors that this process may use.",
            extra={"form": f"auto | a whole number from 1 to {MAX_THREADS}"},
        ),
    ] = "auto"
    memory: Annotated[
        Size,
        Meta(
            description="Most bytes a process holds; a little more when it compiles a kernel for "
            "the first time on a machine (docs/memory.md)."
        ),
    ] = "512MiB"
    disk: Annotated[
        Size | None,
        Meta(
            description="Most bytes on local disks besides the output: spools, caches that a URL "
            "names, a new folder beside one that is replaced, and files in run.staging "
            "(docs/memory.md). null: no limit."
        ),
    ] = None
    staging: Annotated[
        Text | None,
        Meta(
            description="A folder on this machine where the files of an output behind a URL are "
            "made before they are sent, each whole; not with executor distributed. null: none, "
            "what is decoded is sent at once."
        ),
    ] = None
    scheduler: Annotated[
        Text | None,
        Meta(
            description="Address of a Dask scheduler, such as tcp://host:8786, for executor "
            "distributed. null: a cluster on this machine."
        ),
    ] = None
    keep_going: Annotated[
        bool,
        Meta(
            description="Convert what can be had of a model of which shards cannot be read, into "
            "a folder beside the output; the job fails all the same."
        ),
    ] = False

    def chosen_executor(self) -> Executor:
        """Who runs the tasks; UsageError for a scheduler that another executor is named beside."""
        if self.scheduler is None:
            return self.executor or "threads"
        if self.executor not in (None, "distributed"):
            raise UsageError(
                f"run.scheduler: is for run.executor distributed, found {self.executor}; leave one "
                "of them out"
            )
        return "distributed"

    def worker_threads(self) -> int:
        """How many threads that is here; UsageError for settings that contradict each other."""
        executor = self.chosen_executor()
        scheme, there, _ = (self.scheduler or "").partition("://")
        if there and scheme not in _SCHEDULER_SCHEMES:
            raise UsageError(
                f"run.scheduler: {self.scheduler}: found {scheme}://; a scheduler's address begins "
                f"with one of {', '.join(f'{s}://' for s in _SCHEDULER_SCHEMES)} (its dashboard "
                "is another)"
            )
        if self.staging is not None and executor == "distributed":
            raise UsageError(
                "run.staging: is a folder of this machine, which workers of a cluster do not have; "
                "found run.executor distributed"
            )
        if executor == "serial" and self.threads not in ("auto", 1):
            raise UsageError(f"run.threads: the serial executor uses 1, found {self.threads}")
        if executor == "serial":
            return 1
        return available_cpus() if self.threads == "auto" else self.threads


def available_cpus() -> int:
    """Processors this process may use: its affinity, tightened by a cgroup (version 2) quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = min(count or 1, MAX_THREADS)
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = map(int, file.read().split())
    except (OSError, ValueError):  # no cgroup, or a quota of "max"
        return count
    return max(1, min(count, math.ceil(quota / period)))


__all__ = [
    "MAX_THREADS",
    "Dtype",
    "Numbers",
    "Output",
    "Patterns",
    "Run",
    "Select",
    "Text",
    "available_cpus",
]
