"""The page of all commands, from the command line itself."""

from collections.abc import Iterator, Sequence

import click

HEAD = """\
# Commands

What `lllms COMMAND --help` prints, for each command; `python -m lllms_core COMMAND` is the same. `-h` is short for
`--help`. Commands exit with 0 if all went well, 1 after an error (one line on standard error; `lllms --debug COMMAND`
shows where it comes from), 2 for a wrong command line. Plugins may add commands of their own.
"""
WIDTH = 100


def page(cli: click.Group) -> str:
    """Return the page in Markdown."""
    return "\n".join([HEAD, *_sections(cli, ("lllms",))])


def walk(cli: click.Group, path: Sequence[str] = ("lllms",)) -> Iterator[tuple[Sequence[str], click.Command]]:
    """Yield each command with its words, groups before their members."""
    context = click.Context(cli, info_name=path[-1])
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None  # noqa: S101  # it was listed
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))


def _sections(cli: click.Group, path: Sequence[str]) -> Iterator[str]:
    for words, command in walk(cli, path):
        level = "#" * len(words)
        heading = f"(command-{'-'.join(words[1:])})=\n{level} `{' '.join(words)}`"
        yield f"{heading}\n\n```text\n{_help(words, command)}\n```\n"


def _help(words: Sequence[str], command: click.Command) -> str:
    context: click.Context | None = None
    for word in words[:-1]:
        context = click.Context(click.Group(word), info_name=word, parent=context)
    own = click.Context(
        command, info_name=words[-1], parent=context, max_content_width=WIDTH, terminal_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    return command.get_help(own)
