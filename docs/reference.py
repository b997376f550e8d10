"""Pages that are made of the code: the command line, the job file and the Python interface.

    python docs/reference.py FOLDER    # write cli.md, job-file.md and python-api.md there

`make docs` does so for the site. Nothing of it is kept: flags, keys and docstrings are the source.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import anamnesis
from anamnesis import errors
from anamnesis.cli.main import cli
from anamnesis.pipeline.config import schema

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): ")
# What functions give that has methods of its own, by module.
_RESULTS = {
    "anamnesis.model.lazy": ("OpenModel", "LazyTensor"),
    "anamnesis.pipeline.outcome": ("Outcome",),
    "anamnesis.pipeline.report": ("Report",),
    "anamnesis.analytics.stats.run": ("Stats",),
    "anamnesis.analytics.diff.report": ("Diff",),
}


def write(folder: Path) -> None:
    """Write the pages into a folder, those that changed."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"cli.md": command_line(), "job-file.md": job_file(), "python-api.md": python_api()}
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def command_line() -> str:
    """Every command with its arguments, flags, choices and defaults, from click's own tree."""
    parts = ["# Command line", "`amn` and `anamnesis` are the same program."]
    with click.Context(cli, info_name="amn", **cli.context_settings) as context:
        parts += [_help(cli), _options(cli, context)]
        for name in sorted(cli.list_commands(context)):
            command = cli.get_command(context, name)
            if command is None or command.hidden:
                continue
            with click.Context(command, info_name=name, parent=context) as inner:
                usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
                parts += [f"## amn {name}", f"```text\n{usage}\n```", _help(command)]
                parts.append(_options(command, inner))
    return "\n\n".join(filter(None, parts)) + "\n"


def _help(command: click.Command) -> str:
    """A help text: paragraphs are filled again, but for those marked with `\\b`."""
    parts = []
    for text in (command.help or "", command.epilog or ""):
        for part in inspect.cleandoc(text).split("\n\n"):
            kept = part.lstrip("\b\n")
            if kept.startswith("Example: "):
                parts.append(f"```text\n$ {kept.removeprefix('Example: ')}\n```")
            else:
                parts.append(part if kept == part else f"```text\n{kept}\n```")
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> str:
    rows = []
    for option in command.get_params(context):
        if isinstance(option, click.Option) and not option.hidden:
            shown = option.get_help_record(context)
            if shown is not None:
                names, text = shown
                rows.append((f"`{names}`", text.replace("  [", " [")))
    return _table(("option", "what it does"), rows)


def job_file() -> str:
    """Every key of the job file with what it may be and its default, from the JSON Schema."""
    whole = schema()
    parts = ["# Job file", str(whole["description"])]
    parts.append("`amn schema` prints this as JSON Schema, which editors check a file against.")
    top: list[tuple[str, Any]] = []
    sections: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in whole["properties"].items():
        name = str(value.get("$ref", "")).rpartition("/")[2]
        if name:
            sections.append((key, whole["$defs"][name]))
        else:
            top.append((key, value))
    parts.append(_keys(top, whole))
    for key, section in sections:
        parts += [f"## {key}", str(section.get("description", ""))]
        parts.append(_keys(section["properties"].items(), section))
    return "\n\n".join(filter(None, parts)) + "\n"


def _keys(items: Any, section: Mapping[str, Any]) -> str:
    needed = section.get("required", ())
    rows = []
    for key, value in items:
        default = "required" if key in needed else f"default: {_literal(value.get('default'))}"
        text = str(value.get("description", ""))
        rows.append((f"`{key}`", f"{text} [{_allowed(value)}; {default}]".strip()))
    return _table(("key", "what it is"), rows)


def _allowed(value: Mapping[str, Any]) -> str:
    """What a schema allows, in words."""
    if "enum" in value:
        return ", ".join(_literal(item) for item in value["enum"])
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_allowed(item) for item in value["anyOf"]))
    if "$ref" in value:
        return "a rule" if "Rule" in value["$ref"] else str(value["$ref"]).rpartition("/")[2]
    kind = str(value.get("type", "any value"))
    if kind == "array":
        return f"a list of {_allowed(value.get('items', {}))}"
    words = {"string": "text", "object": "keys and values", "integer": "a whole number"}
    return words.get(kind, {"boolean": "true, false", "number": "a number"}.get(kind, kind))


def _literal(value: object) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, str):
        return f"`{value}`"
    return f"`{json.dumps(value)}`"


def python_api() -> str:
    """The public functions and what they give, from signatures and docstrings."""
    parts = [
        "# Python interface",
        "What `import anamnesis` gives; the [tour](../python.md) shows it.",
    ]
    for name in sorted(anamnesis.__all__, key=str.lower):
        value = getattr(anamnesis, name)
        if callable(value):
            parts += _documented(f"anamnesis.{name}", value)
    for module, names in _RESULTS.items():
        for name in names:
            parts += _documented(name, getattr(import_module(module), name))
    parts += ["## Errors", _described(inspect.getdoc(errors) or "")]
    rows = [
        (f"`{name}`", str(value.exit_code), (inspect.getdoc(value) or "").partition("\n\n")[0])
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AnamnesisError)
    ]
    parts.append(_table(("class", "exit code", "when"), rows))
    return "\n\n".join(filter(None, parts)) + "\n"


def _documented(title: str, value: Any) -> Iterator[str]:
    yield f"## {title}"
    if not isinstance(value, type):
        yield _signature(title, value)
    yield _described(inspect.getdoc(value) or "")
    if isinstance(value, type):
        for name, member in _members(value):
            yield f"### {title}.{name}"
            if inspect.isfunction(member):
                yield _signature(name, member)
            yield _described(inspect.getdoc(member) or "")


def _members(owner: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that have a docstring, those of this package's bases too."""
    bases = [base for base in owner.__mro__ if base.__module__.startswith("anamnesis.")]
    names = dict.fromkeys(name for base in bases for name in vars(base))
    for name in names:
        member = inspect.getattr_static(owner, name)
        shown = inspect.isfunction(member) or isinstance(member, property)
        if shown and not name.startswith("_") and member.__doc__:
            yield name, member


def _signature(title: str, function: Any) -> str:
    """One line, or one for each parameter where that is too long."""
    signature = inspect.signature(function)
    shown = []
    named = False
    for name, parameter in signature.parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not named:
            shown.append("*")
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        kind = _annotation(parameter.annotation)
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        shown.append(f"{stars.get(parameter.kind, '')}{name}{f': {kind}' if kind else ''}{default}")
    gives = _annotation(signature.return_annotation)
    end = f" -> {gives}" if gives else ""
    line = f"{title}({', '.join(shown)}){end}"
    if len(line) > 88:
        line = f"{title}(\n" + "".join(f"    {part},\n" for part in shown) + f"){end}"
    return f"```text\n{line}\n```"


def _annotation(value: Any) -> str:
    """A type as its file writes it; nothing where it writes none."""
    if value is inspect.Signature.empty:
        return ""
    return value.strip("'\"") if isinstance(value, str) else getattr(value, "__name__", str(value))


def _described(text: str) -> str:
    """A docstring as Markdown: lines `name: what it is` become a list."""
    parts = []
    for part in text.split("\n\n"):
        lines = part.splitlines()
        if lines and _ENTRY.match(lines[0]):
            entries: list[str] = []
            for line in lines:
                found = _ENTRY.match(line)
                if found:
                    names = ", ".join(f"`{name}`" for name in found[1].split(", "))
                    entries.append(f"- {names}: {line[found.end() :]}")
                else:
                    entries.append(f"  {line.strip()}")
            part = "\n".join(entries)
        parts.append(part)
    return "\n\n".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
