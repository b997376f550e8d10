"""The command line: `amn`, also installed as `anamnesis`.

Errors are one line on stderr, `error: KIND: message`, with the exit codes of
`anamnesis.errors`; `--debug` shows the traceback. Everything heavy is imported by the command
that needs it, so that `--help` stays quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from anamnesis import stopping
from anamnesis.cli.checked import Checked
from anamnesis.cli.completion import completion_command
from anamnesis.cli.conversion_commands import (
    convert_command,
    plan_command,
    remember_command,
    run_command,
)
from anamnesis.cli.diff_command import diff_command
from anamnesis.cli.failure import INTERNAL, REPORT, check_address_space, exit_code, line, plain
from anamnesis.cli.flags import (
    json_flag,
    limit_flags,
    limits_from,
    memory_flag,
    names_flag,
    unit_flag,
)
from anamnesis.cli.habits import no_such_command
from anamnesis.cli.stats_command import stats_command
from anamnesis.cli.streams import open_missing, print_json, remark
from anamnesis.version import __version__

_RESUMED = ("convert", "dequantize", "remember", "run")
_ALIASES = {"info": "inspect", "dequantize": "remember"}


class _Group(click.Group):
    """Commands with aliases, listed once."""

    command_class = Checked

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(name, name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = str(args[0])
        absent = not name.startswith("-") and self.get_command(ctx, name) is None
        if absent and not ctx.resilient_parsing:
            raise no_such_command(name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


_EPILOG = """\b
Exit codes:
  0    done
  1    the file system said no
  2    usage
  3    FormatError
  4    UnsupportedError
  5    LimitError
  6    SecurityError
  7    IntegrityError
  8    diff: not as close as asked
  70   internal: a bug
  130  stopped by a signal
"""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=_EPILOG,
)
@click.version_option(__version__, "-V", "--version", prog_name="amn")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Quantised weights in, full precision out; and quantised again, as the libraries do it.

    \b
    Look into a model, recover it, quantise it:
      amn inspect model.gguf
      amn remember model.gguf -o model.safetensors
      amn convert FOLDER -o model.gguf --encode Q4_K_M
    """


@cli.command("inspect")
@click.argument("path", type=click.Path())
@json_flag
@click.option(
    "--globals", "only_globals", is_flag=True, help="List what the pickles of PATH would import."
)
@names_flag
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
@names_flag
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
@click.option(
    "--imatrix",
    metavar="FILE",
    type=click.Path(),
    help="The importance matrix that OUT was encoded with.",
    show_default="none",
)
@memory_flag
@json_flag
def verify_command(
    out: str,
    against: str | None,
    sample: float,
    imatrix: str | None,
    memory: str | None,
    as_json: bool,
) -> None:
    """Compare OUT with the checksums taken when it was written.

    \b
    Example: amn verify out --against llama-fp8 --sample 0.01
    """
    from anamnesis.model.api import verify

    counts = verify(out, against=against, sample=sample, imatrix=imatrix, memory=memory)
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


for _command in (remember_command, convert_command, run_command, plan_command):
    cli.add_command(_command)
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
