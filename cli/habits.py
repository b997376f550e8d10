"""The way out of a wrong command line: names of other programs, and the example of a command."""

from __future__ import annotations

from typing import Final

import click

from anamnesis.words import did_you_mean, nearest

# A name that people bring along from another program: what it may be here, of which a command
# is told those that it has.
FLAGS: Final = {
    "-f": ("--overwrite",),
    "-j": ("--threads",),
    "-n": ("--dry-run", "--top"),
    "-t": ("--threads", "--to"),
    "-v": (),
    "--columns": ("--include",),
    "--filter": ("--include",),
    "--force": ("--overwrite",),
    "--format": ("--to", "--out"),
    "--jobs": ("--threads",),
    "--min-sqnr": ("--fail-under",),
    "--out-dtype": ("--dtype",),
    "--output": ("--out",),
    "--quantize": ("--encode",),
    "--tensor": ("--include",),
    "--tensors": ("--include",),
    "--torch-dtype": ("--dtype",),
    "--type": ("--dtype", "--to"),
    "--verbose": (),
    "--workers": ("--threads",),
}
COMMANDS: Final = {
    "dump": "parse",
    "export": "convert",
    "head": "inspect",
    "list": "parse",
    "ls": "parse",
    "quantise": "convert",
    "quantize": "convert",
    "recover": "remember",
    "show": "inspect",
}
_ALIKE = 0.7
_SEVERAL = "The parts of one model are a pattern in quotes, and several models a job file. "


def hinted(error: click.UsageError, command: click.Command) -> click.UsageError:
    """The same error, with the nearest flag, or with the command's example where one is missing."""
    if isinstance(error, click.NoSuchOption):
        known = [name for parameter in command.params for name in parameter.opts]
        near = likely_flags(error.option_name, known)
        hint = question(near) or _whose(error.option_name, error.ctx)
        return click.UsageError(f"No such option {error.option_name!r}.{hint}")
    message = error.format_message().removesuffix(".")
    missing = isinstance(error, click.MissingParameter)
    if missing or message.startswith("Got unexpected extra"):
        example = (command.help or "").rpartition("Example: ")[2].partition("\n")[0]
        one = any(parameter.name == "path" for parameter in command.params)
        several = _SEVERAL if one and not missing else ""
        return click.UsageError(f"{message}. {several}Example: {example.strip()}")
    return error


def likely_flags(given: str, known: list[str]) -> list[str]:
    """Flags of a command that `given` may stand for: by habit, as a part of a name, by spelling."""
    if given in FLAGS:
        return [name for name in FLAGS[given] if name in known][:1]
    bare = given.lstrip("-")
    parts = [name for name in known if len(bare) > 2 and bare in name.lstrip("-")]
    return parts or nearest(given, known, _ALIKE)


def _whose(flag: str, ctx: click.Context | None) -> str:
    """The other commands that have a flag, as a sentence."""
    group = ctx.parent.command if ctx is not None and ctx.parent is not None else None
    commands = group.commands.values() if isinstance(group, click.Group) else ()
    names = [str(c.name) for c in commands if any(flag in p.opts for p in c.params)]
    return f" It is a flag of {', '.join(names)}." if names else ""


def likely_commands(given: str, known: list[str]) -> list[str]:
    """Commands that `given` may stand for."""
    if given in COMMANDS:
        return [COMMANDS[given]]
    return nearest(given, known, _ALIKE)


def question(near: list[str]) -> str:
    """What is asked behind click's own sentence."""
    return did_you_mean(near).replace("did", " Did", 1)


def no_such_command(given: str, known: list[str]) -> click.UsageError:
    """The error for a command that is not there."""
    likely = question(likely_commands(given, known)) or f" Commands are {', '.join(known)}."
    return click.UsageError(f"No such command {given!r}.{likely}")


__all__ = ["COMMANDS", "FLAGS", "hinted", "likely_commands", "likely_flags", "no_such_command"]
