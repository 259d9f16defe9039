"""``pneumonia completion``."""

import click


@click.command(short_help="Print a script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script by which a shell completes commands, options and their choices.

    \b
    eval "$(pneumonia completion bash)"                     in ~/.bashrc; zsh: in ~/.zshrc
    pneumonia completion fish > ~/.config/fish/completions/pneumonia.fish
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None, shell
    click.echo(complete(ctx.find_root().command, {}, "pneumonia", "_PNEUMONIA_COMPLETE").source())
