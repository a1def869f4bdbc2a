"""The command line. Commands import their needs when they run, so that `lllms --help` is quick."""

import io
import sys

import click

from lllms_core.cli.bench import bench
from lllms_core.cli.cancel import cancel
from lllms_core.cli.chat import chat
from lllms_core.cli.check import check
from lllms_core.cli.completion import completion
from lllms_core.cli.config import config
from lllms_core.cli.gc import gc
from lllms_core.cli.group import Commands
from lllms_core.cli.key import key
from lllms_core.cli.load import load
from lllms_core.cli.ls import ls
from lllms_core.cli.plugins import plugins
from lllms_core.cli.ps import ps
from lllms_core.cli.pull import pull
from lllms_core.cli.reload import reload
from lllms_core.cli.rm import rm
from lllms_core.cli.run import run
from lllms_core.cli.search import search
from lllms_core.cli.serve import serve
from lllms_core.cli.sessions import sessions
from lllms_core.cli.setup import examples
from lllms_core.cli.show import show
from lllms_core.cli.unload import unload
from lllms_core.cli.verify import verify
from lllms_core.cli.why import why


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "lllms serve                               offer the plugins' own models at http://127.0.0.1:3000",
        "lllms serve --model ./phi3.gguf           offer a model file",
        "lllms search llama3.2                     find a model, and how to get it",
        'lllms run tiny-chat "Count to 5."         one answer, without a server',
        "lllms chat tiny-chat                      a conversation in the terminal",
    ),
)
@click.version_option(package_name="lllms-core", prog_name="lllms")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def cli(debug: bool) -> None:
    """Local language models behind the OpenAI API."""
    del debug  # read from the context where errors are shown


for command in (
    bench, cancel, chat, check, completion, config, gc, key, load, ls, plugins, ps, pull, reload, rm, run, search,
    serve, sessions, show, unload, verify, why,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line: the entry point of `lllms`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an answer may have letters that the terminal lacks
    cli(prog_name="lllms")


__all__ = ["cli", "main"]
