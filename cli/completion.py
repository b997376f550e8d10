"""`amn completion SHELL`: the script that makes a shell complete commands and flags."""

from __future__ import annotations

import click

from anamnesis.cli.checked import Checked

# Of click's script, and what does not end descriptions at their first comma.
_AT_COMMAS = ('string split ","', 'string split --max 1 ","')

PROGRAMS = ("amn", "anamnesis")  # one program, and one variable asks either for its completions


@click.command("completion", cls=Checked)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Example: eval "$(amn completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is not None:
        for name in PROGRAMS:
            script = kind(ctx.find_root().command, {}, name, "_AMN_COMPLETE").source()
            click.echo(script.replace(*_AT_COMMAS) if shell == "fish" else script)


__all__ = ["completion_command"]
