"""The first steps of a new user: what is mistyped, left out, piped or narrow finds its way."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from programs_for_tests import Program, Terminal
from waits_for_tests import GUARD

from lllms_core.cli import cli

pytestmark = pytest.mark.slow

CONFIG = """
[models.echo]
engine = "mock"
isolation = "thread"
[[models.echo.options.script]]
when = "^one two$"
replies = ["heard ☃"]
[[models.echo.options.script]]
replies = ["something else"]
"""


@pytest.fixture
def lllms(tmp_path: Path) -> Program:
    (tmp_path / "lllms.toml").write_text(CONFIG)
    return Program(tmp_path)


@pytest.mark.parametrize("width", [40, 80])
def test_the_list_of_commands_is_not_cut_off(width: int) -> None:
    """However narrow the terminal is, `--help` describes each command in a whole sentence."""
    result = CliRunner().invoke(cli, ["--help"], prog_name="lllms", terminal_width=width)
    commands = result.output.partition("Commands:")[2].partition("Examples:")[0]
    assert "..." not in commands
    assert all(len(line) <= width for line in commands.splitlines())


def test_a_prompt_may_be_words_or_a_pipe(lllms: Program) -> None:
    """Words need no quotes, and what is piped in is the prompt if there is no other."""
    assert lllms.here("run", "echo", "one", "two", "--temperature", "0") == "heard ☃\n"
    process = lllms.start("run", "echo", stdin=subprocess.PIPE)
    assert process.communicate("one two", timeout=GUARD)[0] == "heard ☃\n"


def test_without_a_prompt_the_ways_are_named(lllms: Program) -> None:
    """On a terminal, `run` without a prompt says how to give one, and names `chat`."""
    shown = Terminal()
    with shown.program("run", "echo", folder=lllms.folder, environ=lllms.environ) as process:
        told = shown.until("lllms chat echo")
        assert "Missing argument 'PROMPT': give a text, or - to read it from stdin" in told
        assert process.wait(timeout=GUARD) == 2


def test_letters_that_the_output_lacks_are_escaped(lllms: Program) -> None:
    """An answer that stdout cannot encode is written with escapes, and is no error."""
    lllms.environ["PYTHONIOENCODING"] = "latin-1"
    assert lllms("run", "echo", "one two") == "heard \\u2603\n"


def test_a_server_that_is_not_there_is_named_with_the_command_that_starts_one(lllms: Program) -> None:
    """Commands for a running server say how to start one."""
    told = lllms.here("ps", "--url", "http://127.0.0.1:1", code=1)
    assert "no server answers at http://127.0.0.1:1: " in told
    assert "start one there with `lllms serve`, or name another address" in told


def test_a_reader_who_leaves_is_no_fault(lllms: Program) -> None:
    """In `lllms plugins | head -1` the command ends without a word when its reader does."""
    with lllms.start("plugins") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=GUARD) == 1
        assert process.stderr.read() == ""


def test_plugins_fit_a_narrow_terminal(lllms: Program) -> None:
    """On a narrow terminal no name of a plugin, or of what it provides, is cut off."""
    shown = Terminal()
    environ = {**lllms.environ, "COLUMNS": "40", "NO_COLOR": "1"}
    with shown.program("plugins", folder=lllms.folder, environ=environ, term="xterm") as process:
        told = shown.rest()
        assert process.wait(timeout=GUARD) == 0
    assert "provides engine llamacpp, model tiny-chat" in told
    assert "…" not in told


def test_the_log_before_an_error_comes_before_it() -> None:
    """An error is shown after the lines of the log that led to it."""
    code = (
        "import logging, sys\nfrom lllms_core.cli import cli\nfrom lllms_core.errors import ConfigError\n"
        "from lllms_core.log import configure_logging\n"
        "@cli.command()\ndef fail():\n    configure_logging('info', 'console')\n"
        "    for number in range(2000):\n        logging.getLogger('lllms.x').info('line')\n"
        "    raise ConfigError('it went wrong')\n"
        "cli(['fail'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.stderr.splitlines()[-1] == "Error: it went wrong"
    assert len(done.stderr.splitlines()) == 2001
