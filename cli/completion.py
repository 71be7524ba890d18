"""`davit completion`: what a shell sources to complete this command line."""

from __future__ import annotations

import click

from cli.common.exits import CommandFailed

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      source <(davit completion bash)
      davit completion bash > /etc/bash_completion.d/davit
      davit completion zsh > "${fpath[1]}/_davit"
      davit completion fish > ~/.config/fish/completions/davit.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise CommandFailed(f"there is no completion for {shell}")
    click.echo(found(context.find_root().command, {}, "davit", "_DAVIT_COMPLETE").source())
