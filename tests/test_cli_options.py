"""The options of engines, and names, on the command line."""

import logging
import os
from pathlib import Path

import httpx
import lllms_llamacpp
import pytest
from click.testing import CliRunner, Result
from programs_for_tests import address, serving

from lllms_core.cli import cli

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
YES = 'script=[{replies = ["yes"]}]'


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch):
    """Ignore this machine's configuration, and restore the log afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("LLLMS_")]:
        monkeypatch.delenv(name)
    loggers = [logging.getLogger(name) for name in ("", "lllms", "lllms.requests")]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level


def lllms(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin, prog_name="lllms")


def test_any_option_of_the_engine_can_be_given():
    """`-o` sets options by the types of the engine: a list of tables, a word, a number."""
    result = lllms("run", "mock", "hi", "-o", YES, "-o", "tokenizer=bytes", "-o", "first-token=0", "--max-tokens", "2")
    assert result.stdout == "ye\n", result.stderr


def test_options_go_beside_those_of_the_configuration():
    """What is given replaces that key only."""
    Path("lllms.toml").write_text(f'[models.bot]\nengine = "mock"\n[models.bot.options]\nslots = 1\n{YES}\n')
    assert lllms("run", "bot", "hi", "-o", "context_length=8").stdout == "yes\n"
    assert "context" in lllms("run", "bot", "a b c d e f g h i j", "--context", "8").stderr


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["--gpu-layers", "3"], 1, "--gpu-layers: model 'mock' runs on the engine 'mock', which has no option 'gpu_laye"),
    (["-o", "slotz=3"], 1, "runs on the engine 'mock', which has no option 'slotz' (did you mean 'slots'?)"),
    (["-o", "slots"], 2, "'slots' is not KEY=VALUE, like -o threads=4"),
    (["-o", "=4"], 2, "'=4' is not KEY=VALUE"),
    (["-o", "slots=4", "--slots", "3"], 2, "'slots' is given twice"),
    (["--context", "many"], 1, "models.mock.options.context_length: expected an integer, got 'many'"),
    (["--slots", "2", "--url", "http://127.0.0.1:1"], 2, "--slots is for a model loaded here; with --url"),
    (["-o", "slots=2", "--url", "http://127.0.0.1:1"], 2, "-o is for a model loaded here; with --url"),
])
def test_wrong_options_name_the_way_out(arguments, code, says):
    """An option that the engine lacks names engine and model, and the nearest that there is; so do all other faults."""
    result = lllms("run", "mock", "hi", *arguments)
    assert result.exit_code == code
    assert says in result.stderr.replace("\n", " ")
    assert result.stdout == ""


def test_chat_takes_the_same_options():
    """In a chat the options count, too."""
    assert lllms("chat", "mock", "-o", YES, stdin="a\n").stdout == "yes\n"


def test_a_file_gets_a_name(tmp_path):
    """NAME=FILE gives a model file, or a configured model, another name; options apply to all that is served."""
    (tmp_path / "lllms.toml").write_text('[models.bot]\nengine = "mock"\naliases = ["b"]\n')
    with serving(tmp_path, "--model", f"mine={TINY}", "--model", "b2=bot", "--context", "512") as (_, printed):
        assert [line for line in printed if line.startswith("model ")] == [
            "model mine: engine llamacpp of plugin llamacpp", "model b2, b: engine mock of plugin mock",
        ]
        models = httpx.get(f"{address(printed)}/v1/models").json()["data"]
    assert {one["id"]: one["context_length"] for one in models if one["id"] != "b"} == {"mine": 512, "b2": 512}


def test_two_models_of_one_name_need_another():
    """If two files have the same name, the error says how to give one another."""
    Path("x").mkdir()
    for name in ("a.gguf", "x/a.gguf"):
        Path(name).write_bytes(TINY.read_bytes())
    result = lllms("serve", "--model", "./a.gguf", "--model", "x/a.gguf")
    assert result.exit_code == 1
    assert "two models are called 'a'; give one another name: OTHER=x/a.gguf" in result.stderr


def test_a_path_on_the_command_line_starts_here(tmp_path, monkeypatch):
    """A relative path in `-o` starts in the working directory, not in the folder of the configuration."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "lllms.toml").write_text('[models.bot]\nengine = "mock"\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rules = Path("rules.toml")
    result = lllms("run", "bot", "hi", "--config", "../conf/lllms.toml", "-o", f"rules={rules}")
    assert str(rules.absolute()) in result.stderr
