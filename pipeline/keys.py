"""The settings of a conversion by their three names: keyword, key of the job file, flag.

`remember(max_shard_size="2GB")`, `output: {max_shard_size: 2GB}` and `--max-shard-size 2GB` are one
setting. The defaults are the job file's (`config`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anamnesis.pipeline.config import Job, job_from
from anamnesis.readers.patterns import patterns

KEYS = {
    "to": "output.format",
    "dtype": "output.dtype",
    "encode": "output.encode",
    "allow_requantize": "output.allow_requantize",
    "imatrix": "output.imatrix",
    "skip_loss": "output.skip_loss",
    "names": "output.names",
    "key_values": "output.key_values",
    "max_shard_size": "output.max_shard_size",
    "compression": "output.compression",
    "bf16": "output.bf16",
    "manifest": "output.manifest",
    "overwrite": "output.overwrite",
    "include": "select.include",
    "exclude": "select.exclude",
    "rounding": "numbers.rounding",
    "passthrough": "numbers.passthrough",
    "assume_unit_scale": "numbers.assume_unit_scale",
    "executor": "run.executor",
    "scheduler": "run.scheduler",
    "threads": "run.threads",
    "memory": "run.memory",
    "disk": "run.disk",
    "staging": "run.staging",
    "keep_going": "run.keep_going",
    "follow_links": "allow.follow_links",
    "leave_out_unknown": "allow.leave_out_unknown",
}
_FLAGS = {"key_values": "--gguf-kv"}  # the others are as the keyword is


def flag(keyword: str) -> str:
    """The flag of a keyword."""
    return _FLAGS.get(keyword, f"--{keyword.replace('_', '-')}")


def job_for(path: str, out: str, **settings: Any) -> Job:
    """The job of one input, from keywords of `KEYS`; None is the default.

    Raises UsageError, with the job file's key.
    """
    sections: dict[str, dict[str, Any]] = {"output": {"path": out}}
    for name, value in settings.items():
        section, _, key = KEYS[name].partition(".")
        if value is not None:
            sections.setdefault(section, {})[key] = _plain(name, value)
    return job_from(inputs=[path], **sections)


def _plain(name: str, value: Any) -> Any:
    if name in ("include", "exclude"):
        return patterns(value, name)
    return dict(value) if isinstance(value, Mapping) else value


__all__ = ["KEYS", "flag", "job_for"]
