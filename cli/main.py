"""The command line: `amn`, also installed as `anamnesis`.

Errors are one line on stderr, `error: KIND: message`, with the exit codes of
`anamnesis.errors`; `--debug` shows the traceback. Everything heavy is imported by the command
that needs it, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anamnesis import stopping
from anamnesis.cli.checked import Checked
from anamnesis.cli.completion import completion_command
from anamnesis.cli.diff_command import diff_command
from anamnesis.cli.failure import (
    INTERNAL,
    REPORT,
    check_address_space,
    exit_code,
    line,
    plain,
)
from anamnesis.cli.flags import (
    DTYPES,
    Choice,
    all_of,
    dtype_from,
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
    size_flag,
    unit_flag,
)
from anamnesis.cli.stats_command import stats_command
from anamnesis.cli.streams import open_missing, print_json, remark
from anamnesis.errors import UsageError
from anamnesis.version import __version__

if TYPE_CHECKING:
    from anamnesis.limits import Limits
    from anamnesis.pipeline.config import Job

FORMATS = ("safetensors", "arrow", "parquet", "hf", "gguf")
_RESUMED = ("convert", "dequantize", "remember", "run")
_ALIASES = {"info": "inspect", "dequantize": "remember"}


class _Group(click.Group):
    """Commands with aliases, listed once."""

    command_class = Checked

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(name, name))


_EPILOG = """\b
Exit codes:
  0    done                      5  LimitError
  1    the file system said no   6  SecurityError
  2    usage                     7  IntegrityError
  3    FormatError               8  diff: not as close as asked
  4    UnsupportedError         70  internal: a bug
  130  stopped by a signal
"""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="amn")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Quantised weights in, full precision out."""


_dry_run = click.option("--dry-run", is_flag=True, help="Explain the plan and write nothing.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors and nothing else.")
_keep_going = click.option(
    "--keep-going", is_flag=True, help="Convert what can be had of a model with broken shards."
)


@cli.command("inspect")
@click.argument("path", type=click.Path())
@json_flag
@click.option(
    "--globals", "only_globals", is_flag=True, help="List what the pickles of PATH would import."
)
@unit_flag
@limit_flags
def inspect_command(path: str, as_json: bool, only_globals: bool, **settings: Any) -> None:
    """Say what PATH holds, from its headers alone (alias: info).

    \b
    Example: amn inspect models/llama-fp8 --json
    """
    if not only_globals:
        _inspect(path, as_json, settings, entries=False)
        return
    from anamnesis.pipeline.globals_report import as_text, report_globals

    found = report_globals(path, limits_from(settings))
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(as_text(found))


@cli.command("parse")
@click.argument("path", type=click.Path())
@json_flag
@unit_flag
@limit_flags
def parse_command(path: str, as_json: bool, **settings: Any) -> None:
    """Like inspect, with one entry a tensor.

    \b
    Example: amn parse model.gguf
    """
    _inspect(path, as_json, settings, entries=True)


def _inspect(path: str, as_json: bool, settings: dict[str, Any], *, entries: bool) -> None:
    from anamnesis.model.api import inspect

    found = inspect(path, limits=limits_from(settings), **settings)
    remark(found.notes)
    if as_json:
        print_json(found.to_dict(entries=entries))
    else:
        from anamnesis.cli.tables import print_report

        print_report(found, entries=entries)


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
            type=Choice(["stored", "hf"]),
            help="Names of the tensors, from or to GGUF.",
            show_default="hf with --to hf and gguf, else stored",
        ),
        key_value_flag,
        pattern_flags,
        click.option(
            "--bf16",
            type=Choice(["extension", "uint16", "float32"]),
            help="The type of BF16 in an arrow or parquet output: lance.bfloat16, the bits, or "
            "float32 (parquet only).",
            show_default="extension in arrow, float32 in parquet",
        ),
        click.option("--overwrite", is_flag=True, help="Replace an output of this program."),
        click.option(
            "--manifest",
            type=Choice(["beside", "inside"]),
            default="beside",
            help="Where verify's record lies; with inside, a folder can be moved.",
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


@cli.command("remember")
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


@cli.command("convert")
@click.argument("path", type=click.Path())
@click.option("--to", type=Choice(FORMATS), required=True, help="Output format.")
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
@loss_flag
@outtype_flag
@_conversion
def convert_command(path: str, to: str, outtype: str | None, **settings: Any) -> None:
    """Convert PATH to another container or encoding.

    Run again, it goes on where it was stopped.

    \b
    Example: amn convert model.gguf --to arrow -o weights.arrow
    """
    settings["dtype"] = dtype_from(outtype, to, settings["dtype"])
    _convert(path, to, settings)


def _convert(path: str, to: str | None, settings: dict[str, Any]) -> None:
    from anamnesis.pipeline.keys import job_for

    out, threads = (settings.pop(name) for name in ("out", "threads"))
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

    if loss is not None and (dry_run or job.output.encode is None):
        raise UsageError(
            "--loss: is for runs that encode (--encode, output.encode), and not for --dry-run"
        )
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


@cli.command("run")
@click.argument("job", type=click.Path(dir_okay=False))
@loss_flag
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting; may be given again.",
    show_default="what JOB says",
)
@scheduler_flag
@_keep_going
@_dry_run
@json_flag
@_quiet
def run_command(
    job: str,
    overrides: Sequence[str],
    scheduler: str | None,
    keep_going: bool,
    **how: Any,
) -> None:
    """Run the batch job in the YAML file JOB.

    Run again, it goes on where it was stopped.

    \b
    Example: amn run job.yaml --set output.dtype=f32 --dry-run
    """
    from anamnesis.pipeline.config import load_job

    if scheduler:
        overrides = [*overrides, "run.executor=distributed", f"run.scheduler={scheduler}"]
    if keep_going:
        overrides = [*overrides, "run.keep_going=true"]
    _work(load_job(job, overrides), None, **how)


@cli.command("verify")
@click.argument("out", type=click.Path())
@click.option(
    "--against",
    metavar="INPUT",
    type=click.Path(),
    help="Also decode INPUT again and compare.",
    show_default="checksums alone",
)
@click.option(
    "--sample",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the pieces to decode again.",
)
@json_flag
def verify_command(out: str, against: str | None, sample: float, as_json: bool) -> None:
    """Compare OUT with the checksums taken when it was written.

    \b
    Example: amn verify out/llama-bf16 --against models/llama-fp8 --sample 0.01
    """
    from anamnesis.model.api import verify

    counts = verify(out, against=against, sample=sample)
    if as_json:
        print_json({"path": out, **counts})
        return
    click.echo(
        f"{plain(out)}: {counts['files']} file(s), {counts['tensors']} tensors, "
        f"{counts['bytes']:,} bytes: as written"
    )
    if against is not None:
        click.echo(
            f"{plain(against)}: {counts['pieces_decoded']} of {counts['pieces']} pieces decoded "
            "again: the same"
        )


@cli.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of the job file.

    \b
    Example: amn schema > job.schema.json
    """
    from anamnesis.pipeline.config import schema

    print_json(schema())


cli.add_command(completion_command)
cli.add_command(stats_command)
cli.add_command(diff_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    # `--debug` may stand anywhere; a stopped job cleans up, whoever stops it.
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] == "help":  # as people try first
        arguments = [*arguments[1:2], "--help"]
    open_missing()
    try:
        check_address_space()
        stopping.listen()
        code = cli.main(arguments, prog_name="amn", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except (KeyboardInterrupt, click.Abort):
        again = "; the same command again goes on where this one stopped"
        writes = any(name in _RESUMED for name in arguments[:1])
        click.echo(stopping.MESSAGE + again * writes, err=True)
        sys.exit(stopping.EXIT_CODE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        code = exit_code(error)
        click.echo(f"error: {line(error)}", err=True)
        if code == INTERNAL:
            click.echo(REPORT, err=True)
        sys.exit(code)
