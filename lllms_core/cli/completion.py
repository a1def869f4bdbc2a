"""`lllms completion`: the script by which a shell completes commands, options and models."""

import click
from click.shell_completion import CompletionItem, get_completion_class

from lllms_core.cli.setup import examples
from lllms_core.errors import LllmsError

VARIABLE = "_LLLMS_COMPLETE"
"""The variable by which the script asks `lllms` what could follow."""


@click.command(epilog=examples(
    'eval "$(lllms completion bash)"                                  in ~/.bashrc',
    'eval "$(lllms completion zsh)"                                   in ~/.zshrc, after compinit',
    "lllms completion fish > ~/.config/fish/completions/lllms.fish    once",
))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes commands, options and the names of models.

    It has to run whenever the shell starts; the examples say where it goes. The names are those of the configuration,
    or of the plugins' own models; nothing is loaded for them.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # click has these three
    click.echo(kind(click.get_current_context().find_root().command, {}, "lllms", VARIABLE).source())


def complete_models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the models whose names begin so; else the files that do."""
    del parameter
    try:
        names = [name for name in _names(context) if name.startswith(incomplete)]
    except LllmsError:  # of the configuration, which the command itself will tell
        names = []
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def _names(context: click.Context) -> list[str]:
    from lllms_core.config import load_config

    config = load_config(context.params.get("config_file"))
    if config.models:
        names = [name for key, model in config.models.items() for name in (key, *model.aliases)]
        return sorted(name for name in names if "*" not in name)
    from lllms_core.plugins import Plugins

    return sorted(Plugins.discover(disable=config.disabled_plugins).offers)
