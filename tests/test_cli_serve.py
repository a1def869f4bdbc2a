import json
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress

import pytest
from click.testing import CliRunner
from programs_for_tests import Terminal, address, environment, serving

from lllms_core.cli import cli

pytestmark = pytest.mark.slow

CONFIG = """
[models.bot]
engine = "mock"
aliases = ["eliza"]
[[models.bot.options.script]]
replies = ["one two three", "four"]
[models.other]
engine = "mock"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with two models, and its output."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "lllms.toml").write_text(CONFIG)
    with serving(folder) as (_, printed):
        yield printed


@pytest.fixture
def url(server):
    return address(server)


def lllms(*arguments: str, stdin: str | None = None):
    return CliRunner().invoke(cli, list(arguments), input=stdin, prog_name="lllms")


def test_serve_tells_what_it_offers(server):
    """Each model is listed with its engine and its plugin."""
    assert "model bot, eliza: engine mock of plugin mock" in server
    assert any(re.fullmatch(r"listening on http://127\.0\.0\.1:\d+", line) for line in server)


def test_the_curl_line_works(server):
    """The command that `serve` suggests is a whole shell line, and gets an answer."""
    words = shlex.split(server[-1].removeprefix("try: "))
    command, place, header, content_type, data, body = words
    assert (command, header, data) == ("curl", "-H", "-d")
    name, value = content_type.split(": ")
    with urllib.request.urlopen(urllib.request.Request(place, body.encode(), {name: value})) as response:
        answer = json.load(response)
    assert answer["choices"][0]["message"]["content"] == "one two three"


def test_ps_shows_a_running_server(url):
    """`ps` shows the models, the instances and the queue of a server."""
    lllms("run", "bot", "hi", "--url", url)
    output = lllms("ps", "--url", url).stdout
    assert "model bot: engine mock, 1 of 1 instances" in output
    assert "instance bot:" in output
    assert "0 of 512 waiting" in output
    assert json.loads(lllms("ps", "--url", url, "--json").stdout)["name"] == "lllms"


def test_run_and_chat_talk_to_a_running_server(url):
    """With `--url` the answers come from the server, with or without /v1 in its address."""
    assert lllms("run", "eliza", "hi", "--url", url).stdout == "one two three\n"
    assert lllms("run", "bot", "hi", "--raw", "--max-tokens", "2", "--url", f"{url}/v1").stdout == "one two\n"
    assert lllms("chat", "bot", "--url", url, stdin="a\nb\n").stdout == "one two three\nfour\n"


def test_errors_of_the_server_are_told(url):
    """A refusal by the server is an error of the command, in the server's words."""
    result = lllms("run", "nope", "hi", "--url", url)
    assert result.exit_code == 1
    assert "answers 404" in result.stderr
    assert "nope" in result.stderr


def test_a_taken_port_is_a_clear_error(server, url, tmp_path):
    """A second server on the same port says so, and ends with 1."""
    port = url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "lllms_core", "serve", "--port", port, "--model", "mock"],
        capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path), timeout=60, check=False,
    )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_model_narrows_what_is_offered(tmp_path):
    """`--model` offers exactly the models that it names; SIGTERM ends the server with 0."""
    (tmp_path / "lllms.toml").write_text(CONFIG)
    with serving(tmp_path, "--model", "eliza") as (process, printed):
        offered = [line for line in printed if line.startswith("model ")]
        assert offered == ["model bot, eliza: engine mock of plugin mock"]
    assert process.returncode == 0


def test_a_terminal_is_told_the_same(tmp_path):
    """On a terminal, too, `serve` shows the model, the address and the curl line; Ctrl-C ends it with 0."""
    terminal = Terminal()
    with terminal.program("serve", "--port", "0", "--model", "mock", folder=tmp_path) as process:
        shown = terminal.until("curl http://127.0.0.1:")
        assert "mock" in shown
        assert "listening on" in shown
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_ctrl_c_in_a_chat(tmp_path):
    """Ctrl-C ends an answer and keeps the conversation; twice at the prompt it ends the chat."""
    (tmp_path / "lllms.toml").write_text(
        '[models.long]\nengine = "mock"\n[[models.long.options.script]]\nwhen = "go"\nreplies = ["token"]\n'
        'tokens = 3\nfault = "hang"\nafter = 3\n[[models.long.options.script]]\nreplies = ["first", "second"]\n',
    )
    terminal = Terminal()
    with terminal.program("chat", "long", folder=tmp_path) as process:
        terminal.until("> ")
        terminal.type("go\n")
        terminal.until("token token token")
        press_ctrl_c(process, lambda: terminal.shows("(cancelled)"))
        terminal.until("> ")
        terminal.type("hi\n")
        terminal.until("second")
        terminal.until("> ")
        press_ctrl_c(process, lambda: terminal.shows("(Ctrl-C again"))
        terminal.until("> ")
        press_ctrl_c(process, lambda: process.poll() is not None)
        assert process.wait(timeout=60) == 0


def press_ctrl_c(process: subprocess.Popen[bytes], seen: Callable[[], bool]) -> None:
    """Press Ctrl-C until it is noticed: one just before Python waits for input is only noticed with the next."""
    for _ in range(30):
        process.send_signal(signal.SIGINT)
        for _ in range(10):
            if seen():
                return
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
    raise AssertionError("Ctrl-C was never seen")
