"""The way out of a wrong command line: names of other programs, and the example of a command."""

from __future__ import annotations

import os
from typing import Final

import click

from anamnesis.words import did_you_mean, meant, nearest

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
    "--outfile": ("--out",),
    "--outtype": ("--dtype",),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--output-path": ("--out",),
    "--quant": ("--encode",),
    "--quantization": ("--encode",),
    "--quantize": ("--encode",),
    "--save-dir": ("--out",),
    "--save-path": ("--out",),
    "--tensor": ("--include",),
    "--tensors": ("--include",),
    "--torch-dtype": ("--dtype",),
    "--type": ("--dtype", "--to"),
    "--verbose": (),
    "--workers": ("--threads",),
}
COMMANDS: Final = {
    "check": "verify",
    "compare": "diff",
    "decode": "remember",
    "dequant": "remember",
    "dequantise": "remember",
    "describe": "stats",
    "dump": "parse",
    "encode": "convert",
    "export": "convert",
    "head": "inspect",
    "list": "parse",
    "ls": "parse",
    "quantise": "convert",
    "quantize": "convert",
    "recover": "remember",
    "show": "inspect",
    "validate": "verify",
}
_PATHS: Final = frozenset("-i -m --input --input-dir --input-path --model --model-path".split())
_ALIKE = 0.7
_SEVERAL = "The parts of one model are a pattern in quotes, and several models a job file. "


def hinted(error: click.UsageError, command: click.Command) -> click.UsageError:
    """The same error, with the nearest flag, or with the command's example where one is missing."""
    if isinstance(error, click.NoSuchOption):
        given = error.option_name.replace("_", "-")
        known = [name for parameter in command.params for name in parameter.opts]
        near = [given] if given in known else likely_flags(given, known)
        whose = "" if given in known or given in FLAGS else _whose(given, error.ctx)
        hint = whose or question(near) or _without_flag(given, command)
        return click.UsageError(f"No such option {error.option_name!r}.{hint}")
    message = error.format_message().removesuffix(".")
    missing = isinstance(error, click.MissingParameter)
    if missing or message.startswith("Got unexpected extra"):
        one = any(parameter.name == "path" for parameter in command.params)
        several = _SEVERAL if one and not missing else ""
        return click.UsageError(f"{message}. {several}Example: {_example(command)}")
    return error


def likely_flags(given: str, known: list[str]) -> list[str]:
    """Flags of a command that `given` may stand for: by habit, as a part of a name, by spelling."""
    if given in FLAGS:
        return [name for name in FLAGS[given] if name in known][:1]
    bare = given.lstrip("-")
    parts = [name for name in known if len(bare) > 2 and bare in name.lstrip("-")]
    return parts or nearest(given, known, _ALIKE)


def _without_flag(given: str, command: click.Command) -> str:
    """A sentence for flags that name an input, which has none here."""
    example = _example(command)
    return f" The input has no flag. Example: {example}" if given in _PATHS and example else ""


def _example(command: click.Command) -> str:
    return (command.help or "").rpartition("Example: ")[2].partition("\n")[0].strip()


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


def other_flag(value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
    """A sentence for a word that another flag takes: `--to bf16`, `--to Q4_K_M`."""
    if param is None or ctx is None:
        return ""
    for option in ctx.command.params:
        choices = getattr(option.type, "choices", ())
        words = meant(value, list(map(str, choices))) if option is not param else []
        if option.name in ("dtype", "to") and words:
            return f" {option.opts[-1]} takes {words[0]!r}."
    names = [str(option.name) for option in ctx.command.params]
    if "encode" not in names:
        return ""
    from anamnesis.kernels.encoders import ENCODERS
    from anamnesis.pipeline.mixtures import MIXTURES

    name = value.lower()
    words = [name] if name in ENCODERS else meant(value, [*MIXTURES, *ENCODERS])
    to = "--to gguf " if words and (words[0] in MIXTURES or words[0].startswith("gguf-")) else ""
    return f" It may be {to}--encode {words[0]}." if words else ""


def no_such_command(given: str, known: list[str]) -> click.UsageError:
    """The error for a command that is not there, which may be a path without one."""
    if os.path.exists(given) or "://" in given:
        return click.UsageError(
            f"No such command {given!r}. A command comes before it. Example: amn inspect {given}"
        )
    likely = question(likely_commands(given, known)) or f" Commands are {', '.join(known)}."
    return click.UsageError(f"No such command {given!r}.{likely}")


__all__ = ["COMMANDS", "FLAGS", "hinted", "likely_commands", "likely_flags", "no_such_command"]
