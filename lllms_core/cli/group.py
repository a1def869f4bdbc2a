"""The group of all commands: adds those of plugins, and turns errors into one clear line."""

import logging
import traceback

import click
from click.shell_completion import CompletionItem

from lllms_core.errors import ConfigError, LllmsError

_LONGEST = 200
"""The most characters of a command's short help."""
OTHER_NAMES = {"models": "ls"}
"""Names that users try first, and the commands that they stand for: each thing has one command."""


class Commands(click.Group):
    """Holds the built-in commands, and asks the plugins for theirs when a name is not built in."""

    _asked = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List all commands, including those of plugins."""
        self._ask_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; plugins are asked only for names that are not built in."""
        cmd_name = OTHER_NAMES.get(cmd_name, cmd_name)
        found = super().get_command(ctx, cmd_name)
        if found is None:
            self._ask_plugins()
            found = super().get_command(ctx, cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with whole sentences, which are wrapped: click would cut them off at the right."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, one.get_short_help_str(_LONGEST)) for name, one in commands.items() if one and not one.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command; plugins are asked only if no built-in one begins so, as that takes time."""
        asked, self._asked = self._asked, self._asked or bool(incomplete)
        found = super().shell_complete(ctx, incomplete)
        self._asked = asked
        return found or super().shell_complete(ctx, incomplete)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error exits with code 1 and one clear line, with `--debug` also a traceback."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise _shown(error, str(error), ctx) from error
            raise
        except LllmsError as error:
            raise _shown(error, error.message, ctx) from error
        except Exception as error:
            text = f"unexpected {type(error).__name__}: {error} (lllms --debug ... shows where)"
            raise _shown(error, text, ctx) from error

    def _ask_plugins(self) -> None:
        if self._asked:
            return
        self._asked = True
        from lllms_core.config import load_config
        from lllms_core.plugins import Plugins

        try:
            disabled = load_config().disabled_plugins
        except ConfigError:
            disabled = ()  # `--help` works despite a broken configuration; the commands report it
        plugins = Plugins.discover(disable=disabled)
        known = {report.name for report in plugins.reports if report.error}
        plugins.add_commands(self)
        for report in plugins.reports:
            if report.error and report.name not in known:
                click.echo(f"Warning: plugin '{report.name}': {report.error}", err=True)


def _shown(error: Exception, text: str, ctx: click.Context) -> click.ClickException:
    for handler in logging.getLogger().handlers:
        handler.flush()  # what led to the error comes before it
    if ctx.params.get("debug"):
        text = "".join(traceback.format_exception(error)) + text
    return click.ClickException(text)
