"""`amn remember`, `amn convert` and `amn run`: conversions, from flags or from a job file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from anamnesis.cli.checked import Checked
from anamnesis.cli.flags import (
    DTYPES,
    Amount,
    Choice,
    F,
    all_of,
    json_flag,
    key_value_flag,
    key_values_from,
    limit_flags,
    limits_from,
    loss_flag,
    outtype_flag,
    pattern_flags,
    resource_flags,
    scheduler_flag,
    scheduler_of_job_flag,
    size_flag,
    types_from,
    unit_flag,
)
from anamnesis.errors import UsageError

if TYPE_CHECKING:
    from anamnesis.limits import Limits
    from anamnesis.pipeline.config import Job

FORMATS = ("safetensors", "arrow", "parquet", "hf", "gguf")

_dry_run = click.option("--dry-run", is_flag=True, help="Explain the plan and write nothing.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace an output of this program.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors and nothing else.")
_overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting; may be given again.",
    show_default="what JOB says",
)
_keep_going = click.option(
    "--keep-going", is_flag=True, help="Convert what can be had of a model with broken shards."
)

# The options that `remember` and `convert` share.
_conversion = all_of(
    [
        click.option(
            "-o",
            "--out",
            required=True,
            type=click.Path(),
            help="A file (by its suffix) or a folder.",
        ),
        click.option(
            "--dtype",
            type=Choice(DTYPES),
            help="Output dtype.",
            show_default="bf16 for recovered tensors, others keep theirs",
        ),
        click.option(
            "--rounding",
            type=Choice(["exact", "reference"]),
            default="exact",
            help="exact rounds once; reference replays the library's own order.",
        ),
        resource_flags,
        size_flag(
            "--max-shard-size",
            "--split-max-size",
            help="Most bytes of data in one file, e.g. 5GB.",
            show_default="5GB in a folder; a GGUF is one file",
        ),
        click.option(
            "--compression",
            type=Choice(["none", "lz4", "zstd"]),
            help="Of an arrow or parquet output.",
            show_default="none in arrow, zstd in parquet",
        ),
        click.option(
            "--names",
            type=Choice(["stored", "hf", "mmproj"]),
            help="Names of the tensors, from or to GGUF; mmproj is a vision tower of its own.",
            show_default="hf with --to hf and gguf, else stored",
        ),
        key_value_flag,
        pattern_flags,
        click.option(
            "--bf16",
            type=Choice(["extension", "lance", "uint16", "float32"]),
            help="The type of BF16 in an arrow or parquet output: lance.bfloat16 (by either name), "
            "the bits, or float32 (parquet only).",
            show_default="extension in arrow, float32 in parquet",
        ),
        _overwrite,
        click.option(
            "--manifest",
            type=Choice(["beside", "inside"]),
            default="beside",
            help="Where verify's record lies; with inside, a folder can be moved.",
        ),
        click.option(
            "--disk",
            metavar="SIZE",
            help="Most bytes on local disks besides the output, e.g. 20GB.",
            show_default="no limit",
        ),
        click.option(
            "--staging",
            metavar="FOLDER",
            help="A folder where files are made that are then sent to a bucket.",
            show_default="none: they are sent as they are decoded",
        ),
        scheduler_flag,
        _keep_going,
        _dry_run,
        json_flag,
        _quiet,
        unit_flag,
        limit_flags,
    ]
)


@click.command("remember", cls=Checked)
@click.argument("path", type=click.Path())
@click.option(
    "--to",
    type=Choice(FORMATS),
    help="Output format.",
    show_default="by the suffix of --out, else safetensors",
)
@_conversion
def remember_command(path: str, to: str | None, **settings: Any) -> None:
    """Recover the precision of PATH (alias: dequantize).

    Run again, it goes on where it was stopped.

    \b
    Example: amn remember models/llama-fp8 -o out/llama-bf16
    """
    _convert(path, to, settings)


@click.command("convert", cls=Checked)
@click.argument("path", type=click.Path())
@click.option(
    "--to",
    type=Choice(FORMATS),
    help="Output format; a folder needs it.",
    show_default="by the suffix of --out",
)
@click.option(
    "--encode",
    metavar="NAME[:KEY=VALUE,…]",
    help="Encode matrices as fp8-block, nvfp4, bnb-nf4, mlx-affine:bits=4, …",
    show_default="nothing is encoded",
)
@click.option(
    "--allow-requantize",
    is_flag=True,
    help="Encode recovered values where codes cannot be moved as they are.",
)
@click.option(
    "--imatrix",
    metavar="FILE",
    type=click.Path(),
    help="To GGUF: weigh errors with llama.cpp's importance matrix.",
    show_default="none",
)
@click.option("--skip-loss", is_flag=True, help="Leave out the report of what encoding lost.")
@loss_flag
@outtype_flag
@click.option(
    "--mmproj",
    is_flag=True,
    help="To GGUF: the vision tower of a model folder, in a file of its own (--names mmproj).",
)
@_conversion
def convert_command(path: str, to: str | None, outtype: str | None, **settings: Any) -> None:
    """Convert PATH to another container or encoding.

    Run again, it goes on where it was stopped.

    \b
    Example: amn convert model.gguf --to arrow -o model.arrow
    """
    if to is None:
        from anamnesis.writers import named_format

        to = named_format(settings["out"])
    dtype, encode = types_from(outtype, to, settings["dtype"], settings["encode"])
    settings["dtype"] = _sixteen_bits(path, settings) if dtype == "auto" else dtype
    settings["encode"] = encode
    _convert(path, to, settings)


def _sixteen_bits(path: str, settings: dict[str, Any]) -> str:
    """The dtype of the first matrix that is stored in F16 or BF16; F16 where none is."""
    from anamnesis.names.open import open_named
    from anamnesis.readers.schemes.base import Options

    options = Options(settings["assume_unit_scale"])
    model = open_named(
        path, options, limits_from(dict(settings)), keep_going=settings["keep_going"]
    )
    dtypes = [stored.dtype for stored in model.stored.values() if len(stored.shape) > 1]
    return next((dtype.lower() for dtype in dtypes if dtype in ("F16", "BF16")), "f16")


def _convert(path: str, to: str | None, settings: dict[str, Any]) -> None:
    from anamnesis.pipeline.keys import job_for

    out, threads = (settings.pop(name) for name in ("out", "threads"))
    if settings.pop("mmproj", False):
        if settings["names"] not in (None, "mmproj"):
            raise UsageError(f"--mmproj: leave out --names {settings['names']} beside it")
        settings["names"] = "mmproj"
    how = {name: settings.pop(name) for name in ("quiet", "as_json", "dry_run")}
    how["loss"] = settings.pop("loss", None)
    threads = int(threads) if threads.isdecimal() else threads
    settings["include"] = settings["include"] or ("*",)
    settings["key_values"] = key_values_from(settings.pop("gguf_kv"))
    allowed = {name: settings[name] for name in ("follow_links", "leave_out_unknown")}
    limits = limits_from(settings)
    job = job_for(path, out, to=to, threads=threads, **allowed, **settings)
    _work(job, limits, **how)


def _work(
    job: Job,
    limits: Limits | None,
    quiet: bool,
    as_json: bool,
    dry_run: bool,
    loss: str | None = None,
) -> None:
    """Run a job, going on where an earlier run was stopped; or say what it would do."""
    from anamnesis.cli.outcomes import finish, show_plans
    from anamnesis.pipeline.jobs import rehearse_job, run_job
    from anamnesis.pipeline.progress import make_progress

    if loss is not None and job.output.encode is None:
        raise UsageError("--loss: is for runs that encode (--encode, output.encode)")
    if loss is not None and job.output.skip_loss:
        raise UsageError("--loss: --skip-loss (output.skip_loss) leaves it out; take one of them")
    if loss is not None and dry_run:
        raise UsageError("--loss: nothing is encoded under --dry-run; leave one of them out")
    if dry_run:
        from anamnesis.pipeline.remarks import remarks_on_job

        planned = rehearse_job(job, limits)
        show_plans(planned, remarks_on_job(job, planned), quiet=quiet, as_json=as_json)
        return
    if loss is not None:
        from anamnesis.analytics.loss import check_loss, write_loss

        check_loss(Path(loss), job.output.overwrite)
    progress = make_progress("quiet" if quiet else "auto")
    summary = run_job(job, limits=limits, progress=progress, resume=True)
    if loss is not None:
        write_loss(summary.outcomes, Path(loss), overwrite=job.output.overwrite)
    finish(summary, quiet=quiet, as_json=as_json)


@click.command("run", cls=Checked)
@click.argument("job", type=click.Path())
@loss_flag
@_overrides
@_overwrite
@scheduler_of_job_flag
@_keep_going
@_dry_run
@json_flag
@_quiet
def run_command(
    job: str,
    overrides: Sequence[str],
    scheduler: str | None,
    keep_going: bool,
    overwrite: bool,
    **how: Any,
) -> None:
    """Run the batch job in the YAML file JOB.

    Run again, it goes on where it was stopped.

    \b
    Example: amn run job.yaml --set output.dtype=f32 --dry-run
    """
    if scheduler:
        overrides = [*overrides, "run.executor=distributed", f"run.scheduler={scheduler}"]
    if overwrite:
        overrides = [*overrides, "output.overwrite=true"]
    if keep_going:
        overrides = [*overrides, "run.keep_going=true"]
    _work(_loaded(job, overrides), None, **how)


def _loaded(path: str, overrides: Sequence[str]) -> Job:
    """The job in a file; UsageError for a folder, which is a model."""
    from anamnesis.pipeline.config import load_job

    if os.path.isdir(path):
        raise UsageError(
            f"{path}: is a folder, and no job file; a model is recovered by "
            f"`amn remember {path} -o OUT`"
        )
    return load_job(path, overrides)


def _price(name: str, verb: str) -> Callable[[F], F]:
    return click.option(
        f"--price-{name}",
        type=Amount(min=0),
        show_default="no cost",
        help=f"Price of 1,000 requests to {verb}.",
    )


_LINE = ("bandwidth", "latency", "price_get", "price_put")  # what requests take, and cost


@click.command("plan", cls=Checked)
@click.argument("job", type=click.Path())
@_overrides
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Workers of one thread, each with a line of its own.",
    show_default="this process and its threads",
)
@size_flag("--bandwidth", help="Bytes a second of a line, each way.", show_default="125MB")
@click.option(
    "--latency",
    type=Amount(min=0),
    default=50.0,
    show_default=True,
    metavar="MS",
    help="Milliseconds until an answer begins.",
)
@_price("get", "read")
@_price("put", "write")
@click.option(
    "--price-source", default="", show_default="none", help="Whose prices they are, and of when."
)
@json_flag
def plan_command(
    job: str,
    overrides: Sequence[str],
    as_json: bool,
    workers: int | None,
    bandwidth: int | None,
    latency: float,
    **prices: Any,
) -> None:
    """Say what the batch job in JOB would take, and how long.

    Bytes, requests, seconds and memory, as run --dry-run, for a stated line and number of workers.

    \b
    Example: amn plan job.yaml --workers 8 --bandwidth 1GB
    """
    from anamnesis.cli.outcomes import show_plans
    from anamnesis.pipeline.estimate import Assumed, notes_on_line
    from anamnesis.pipeline.jobs import rehearse_job
    from anamnesis.pipeline.plan import Plan
    from anamnesis.pipeline.remarks import remarks_on_job

    found = _loaded(job, overrides)
    assumed = Assumed(workers or 0, float(bandwidth or 125e6), latency / 1e3, **prices)
    planned = rehearse_job(found, None)
    notes = remarks_on_job(found, planned)
    source = click.get_current_context().get_parameter_source
    given = [name for name in _LINE if source(name) is ParameterSource.COMMANDLINE]
    notes += notes_on_line(given, [plan for _, plan in planned if isinstance(plan, Plan)])
    show_plans(planned, notes, quiet=False, as_json=as_json, assumed=assumed)


__all__ = ["FORMATS", "convert_command", "plan_command", "remember_command", "run_command"]
