import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import lllms_llamacpp
import pytest
from click.testing import CliRunner, Result
from lllms_mock import MockEngine

import lllms_core
from lllms_core.cli import cli
from lllms_core.client import Client
from lllms_core.types import Finding

pytestmark = pytest.mark.slow

COMMANDS = (
    "serve", "run", "chat", "pull", "search", "ls", "show", "verify", "rm", "gc", "plugins", "check", "ps", "cancel",
    "sessions", "bench",
)
SCRIPT = '[[models.slow.options.script]]\nreplies = ["one two three four"]\ntokens = 4\n'


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch):
    """Ignore this machine's configuration, and restore the log afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("LLLMS_")]:
        monkeypatch.delenv(name)
    loggers = [logging.getLogger(), logging.getLogger("lllms")]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level


@pytest.fixture
def tiny_file() -> Path:
    return Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"


def lllms(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(arguments), input=stdin, prog_name="lllms")


def program(*arguments: str, path: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the real program, with another folder at the front of the import path."""
    environment = {**os.environ, **environ} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False,
    )


def install_plugin(folder: Path, code: str) -> None:
    """Install a distribution `lllms-extra` with a plugin `extra`, as an installer would."""
    (folder / "lllms_extra.py").write_text(code)
    about = folder / "lllms_extra-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lllms-extra\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lllms]\nextra = lllms_extra\n")


def test_help_names_every_command():
    """`lllms --help` shows the commands that this version promises."""
    result = lllms("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples(command):
    """The help of each command ends with examples."""
    result = lllms(command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    lllms {command}" in result.output


def test_version():
    """`--version` prints the version of the core."""
    assert lllms("--version").output == f"lllms, version {lllms_core.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["bench", "--help"]])
def test_no_engine_library_is_imported(arguments):
    """Help and the list of plugins import neither an engine's library, nor the web server, nor numpy."""
    code = (
        "import sys; from lllms_core.cli import cli\n"
        f"cli({arguments!r}, standalone_mode=False)\n"
        "heavy = {'llama_cpp', 'quart', 'hypercorn', 'numpy', 'gguf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = program("-c", code)
    assert done.returncode == 0, done.stderr


def test_python_m_is_the_same_program():
    """`python -m lllms_core` is `lllms`."""
    done = program("-m", "lllms_core", "--version")
    assert done.stdout == f"lllms, version {lllms_core.__version__}\n"


def test_plugins_as_json():
    """`plugins --json` lists each plugin with its details and what it provides."""
    listed = {one["name"]: one for one in json.loads(lllms("plugins", "--json").stdout)}
    assert listed["mock"] == {
        "name": "mock", "version": "0.1.0", "distribution": "lllms-mock", "provides": ["engine mock", "model mock"],
        "error": None, "disabled": False,
    }


def test_plugins_as_table():
    """`plugins` shows the same in readable form, including disabled plugins."""
    Path("lllms.toml").write_text('[plugins]\ndisable = ["llamacpp"]\n')
    output = lllms("plugins").stdout
    assert "engine mock" in output
    assert "disabled" in output


def test_broken_plugin_is_reported_and_stops_nothing(tmp_path):
    """A plugin that cannot be imported is listed with the reason; the others work."""
    install_plugin(tmp_path, "raise RuntimeError('out of luck')")
    done = program("-m", "lllms_core", "plugins", "--json", path=tmp_path)
    listed = {one["name"]: one for one in json.loads(done.stdout)}
    assert "out of luck" in listed["extra"]["error"]
    assert listed["mock"]["error"] is None
    assert program("-m", "lllms_core", "run", "mock", "hello", path=tmp_path).returncode == 0


def test_strict_makes_a_broken_plugin_an_error(tmp_path):
    """With LLLMS_STRICT a broken plugin ends the command, with a one-line error."""
    install_plugin(tmp_path, "raise RuntimeError('out of luck')")
    done = program("-m", "lllms_core", "plugins", path=tmp_path, LLLMS_STRICT="1")
    assert done.returncode == 1
    assert "out of luck" in done.stderr
    assert "Traceback" not in done.stderr


COMMAND = """
from lllms_core.hookspecs import hookimpl
import click
@hookimpl
def lllms_commands(cli):
    @cli.command()
    def squawk():
        click.echo("squawk!")
"""


def test_plugins_add_commands(tmp_path):
    """A command added by `lllms_commands` works like any other, and is in the help."""
    install_plugin(tmp_path, COMMAND)
    assert program("-m", "lllms_core", "squawk", path=tmp_path).stdout == "squawk!\n"
    assert "squawk" in program("-m", "lllms_core", "--help", path=tmp_path).stdout


def test_failing_command_hook_is_a_warning(tmp_path):
    """A plugin whose commands fail is named on stderr, and `--help` still works."""
    install_plugin(tmp_path, COMMAND.replace("@cli.command()", "1 / 0"))
    done = program("-m", "lllms_core", "--help", path=tmp_path)
    assert done.returncode == 0
    assert "plugin 'extra'" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_run_prints_the_answer():
    """`run` writes the answer, and nothing else, to stdout."""
    result = lllms("run", "mock", "My name is Bob.")
    assert result.exit_code == 0
    assert "Bob" in result.stdout
    assert result.stderr == ""


def test_run_reads_stdin_and_continues_text():
    """`-` reads the prompt from stdin; `--raw` continues a text."""
    assert "Bob" in lllms("run", "mock", "-", stdin="My name is Bob.").stdout
    assert "Bob" in lllms("run", "mock", "--raw", "My name is Bob.").stdout


def test_run_honours_sampling_options():
    """`--max-tokens` and `--stop` reach the model."""
    Path("lllms.toml").write_text('[models.slow]\nengine = "mock"\n' + SCRIPT)
    assert lllms("run", "slow", "go").stdout == "one two three four\n"
    assert lllms("run", "slow", "go", "--max-tokens", "2").stdout == "one two\n"
    assert lllms("run", "slow", "go", "--stop", " three").stdout == "one two\n"


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["run", "nope", "hi"], 1, "no model 'nope'"),
    (["run", "gone.gguf", "hi"], 1, "no file"),
    (["run", "hf:org/repo", "hi", "--offline"], 1, "offline mode is on"),
    (["run", "hf:org/repo/x.zip", "hi"], 1, "no engine for x.zip"),
    (["run", "mock"], 2, "Missing argument 'PROMPT'"),
    (["run", "mock", "hi", "--raw", "--system", "x"], 2, "--system"),
    (["run", "mock", "hi", "--temperature", "9"], 2, "9"),
    (["run", "mock", "hi", "--repeat-penalty", "1.5"], 1, "repeat_penalty"),
    (["nonsense"], 2, "No such command"),
    (["ps", "--url", "http://127.0.0.1:1"], 1, "no server answers"),
    (["ps", "--url", "ftp://x"], 1, "is not a server address"),
    (["run", "mock", "hi", "--url", "http://127.0.0.1:1"], 1, "no server answers"),
    (["serve", "--host", "0.0.0.0"], 1, "--insecure"),
    (["serve", "--config", "gone.toml"], 2, "gone.toml"),
    (["bench"], 2, "--base-url"),
    (["bench", "--raw", "--base-url", "http://127.0.0.1:1/v1"], 2, "--base-url"),
    (["bench", "--raw", "gone.gguf"], 1, "no file gone.gguf"),
    (["bench", "wire", "--clients", "1,x"], 2, "1,x"),
    (["bench", "--base-url", "http://127.0.0.1:1/v1"], 1, "no server answers"),
])
def test_errors_are_one_clear_line(arguments, code, says):
    """Mistakes end with exit code 1, or 2 for usage, and say what is wrong, without a traceback."""
    result = lllms(*arguments)
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_debug_shows_where_an_error_comes_from():
    """`--debug` adds the traceback."""
    assert "Traceback" in lllms("--debug", "run", "nope", "hi").stderr


def test_chat_keeps_the_conversation_until_it_is_cleared():
    """The model sees the earlier turns; after /clear it does not; /exit ends the chat."""
    Path("lllms.toml").write_text(
        '[models.count]\nengine = "mock"\n[[models.count.options.script]]\nreplies = ["first", "second", "third"]\n',
    )
    result = lllms("chat", "count", stdin="a\nb\n/clear\nc\n\n/nonsense\n/system Be brief.\nd\n/exit\ne\n")
    assert result.exit_code == 0
    assert result.stdout == "first\nsecond\nfirst\nfirst\n"
    assert "no command /nonsense" in result.stderr


def test_chat_survives_a_failed_turn():
    """An error in one turn is reported, and the conversation continues from before that turn."""
    Path("lllms.toml").write_text(
        '[models.moody]\nengine = "mock"\n[[models.moody.options.script]]\nwhen = "bad"\nfault = "refuse"\n'
        '[[models.moody.options.script]]\nreplies = ["first", "second"]\n',
    )
    result = lllms("chat", "moody", stdin="a\nbad\nb\n")
    assert result.stdout == "first\n\nsecond\n"
    assert "Error: " in result.stderr


def test_check_says_that_all_is_well():
    """Without any mistake `check` ends with 0, and names what it checked."""
    Path("lllms.toml").write_text('[models.bot]\nengine = "mock"\n')
    result = lllms("check")
    assert result.exit_code == 0
    assert "model bot: engine mock" in result.stdout
    assert result.stdout.endswith("everything is fine\n")


@pytest.mark.parametrize(("sessions", "problem"), [
    ('store = "attic"', "sessions.store: there is no store 'attic'; there are: none, disk, memory"),
    ('store = "disk"\noptions = { holder = "x" }', "sessions.options"),
])
def test_check_looks_at_the_store_of_sessions(sessions, problem):
    """An unknown store of sessions, or an unknown option of one, is found without opening a store."""
    Path("lllms.toml").write_text(f"[sessions]\n{sessions}\n")
    result = lllms("check")
    assert result.exit_code == 1
    assert problem in result.stderr


def test_ps_names_what_cannot_be_served(monkeypatch):
    """`ps` names the models that cannot be served, and why."""
    status = {
        "name": "lllms", "version": "1", "status": "ok", "cores": 2, "models": [], "instances": [], "downloads": [],
        "requests": {"running": 0, "concurrency": 8, "waiting": 0, "queue_size": 9},
        "problems": [{"model": "phi", "problem": "there is no file phi.gguf"}],
    }
    monkeypatch.setattr(Client, "get", lambda *_: status)
    assert lllms("ps").stdout.splitlines()[-1] == "model phi cannot be served: there is no file phi.gguf"


def test_check_tells_the_memory_of_models():
    """`check` prints the memory that an instance of each model needs."""
    Path("lllms.toml").write_text('[models.bot]\nengine = "mock"\noptions = { memory = 3_000_000_000 }\n')
    assert "model bot: an instance takes about 3.0 GB" in lllms("check").stdout


def test_check_names_a_model_that_does_not_fit_this_machine():
    """A model whose estimated memory exceeds what the server may use here is a fault, with both figures."""
    Path("lllms.toml").write_text('[models.big]\nengine = "mock"\noptions = { memory = 50_000_000_000_000 }\n')
    result = lllms("check")
    assert result.exit_code == 1
    assert "models.big: an instance takes about 50.0 TB, but the server may use " in result.stderr


def test_check_tells_warnings_apart_from_faults(monkeypatch):
    """An engine's warning is shown, but does not fail the check; an exception of an engine is a fault of its model."""
    Path("lllms.toml").write_text('[models.a]\nengine = "mock"\n')
    monkeypatch.setattr(MockEngine, "examine", lambda *_: [Finding("it is slow", fatal=False)])
    result = lllms("check")
    assert result.exit_code == 0
    assert "Warning: models.a: it is slow" in result.stderr
    assert "everything is fine" not in result.stdout
    monkeypatch.setattr(MockEngine, "examine", lambda *_: 1 / 0)
    result = lllms("check")
    assert result.exit_code == 1
    assert "models.a: engine 'mock' could not examine it: ZeroDivisionError" in result.stderr


def test_check_lists_all_problems(tmp_path):
    """`check` names everything that is wrong, and ends with 1."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but no more")
    Path("lllms.toml").write_text(
        f'[models.a]\nengine = "nope"\n[models.b]\nengine = "llamacpp"\nfile = "{broken}"\n'
        '[models.c]\nengine = "mock"\noptions = { slotz = 1 }\n[plugins]\ndisable = ["ghost"]\n',
    )
    result = lllms("check")
    assert result.exit_code == 1
    for text in ("models.a.engine", "models.b", "models.c.options.slotz", "plugin ghost"):
        assert text in result.stderr
    assert "everything is fine" not in result.stdout


def test_check_reports_a_configuration_that_cannot_be_read():
    """A fault in the configuration is a problem like any other, and the plugins are still checked."""
    Path("lllms.toml").write_text("[server]\nprot = 1\n")
    result = lllms("check")
    assert result.exit_code == 1
    assert "server.prot" in result.stderr
    assert "plugin mock" in result.stdout


def test_show_tells_about_a_model(tiny_file):
    """`show` prints the file's metadata, its template, and the memory for the requested slots and context."""
    output = lllms("show", str(tiny_file), "--slots", "1", "--context-length", "512").stdout
    for line in ("engine: llamacpp of plugin llamacpp", "architecture: llama", "  llama.block_count: 4"):
        assert f"\n{line}\n" in output
    assert "tokenizer.ggml.tokens: [928 items]" in output
    assert "\nchat template:\n  {%- if" in output
    assert "options: context_length = 512, slots = 1" in output
    one, many = (
        json.loads(lllms("show", "tiny-chat", "--json", "--slots", slots).stdout)["memory"] for slots in ("1", "4")
    )
    assert many["kv"] == 4 * one["kv"]
    assert one["total"] == one["weights"] + one["kv"] + one["compute"] + one["overhead"]


def test_show_says_what_an_engine_has_no_option_for():
    """Sizes that the engine's options do not allow are refused with the limits."""
    result = lllms("show", "tiny-chat", "--slots", "1000")
    assert result.exit_code == 1
    assert "256" in result.stderr


def test_show_lets_no_file_command_the_terminal(tmp_path, tiny_file):
    """Control characters in a file's metadata are shown as escapes."""
    file = tmp_path / "evil.gguf"
    file.write_bytes(tiny_file.read_bytes().replace(b"Tiny Chat", b"\x1b[2JEvil!"))
    output = lllms("show", str(file)).stdout
    assert "\x1b" not in output
    assert "name: \\x1b[2JEvil!" in output


def test_ls_lists_the_models(tiny_file):
    """`ls` describes each model, and says whether its file is here; missing files are named on stderr."""
    Path("lllms.toml").write_text(
        f'[models.tiny]\nengine = "llamacpp"\nfile = "{tiny_file}"\noptions = {{ context_length = 300 }}\n'
        '[models.gone]\nengine = "llamacpp"\nfile = "/nowhere/gone.gguf"\n[models.bot]\nengine = "mock"\n',
    )
    result = lllms("ls")
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert rows["tiny"] == ["llamacpp", "1.5", "MB", "Q8_0", "1.42M", "300", "yes", "-"]
    assert rows["gone"] == ["llamacpp", "-", "-", "-", "-", "no", "-"]
    assert rows["bot"] == ["mock", "-", "-", "-", "4096", "yes", "-"]
    assert "gone.gguf" in result.stderr
    listed = {one["name"]: one for one in json.loads(lllms("ls", "--json").stdout)}
    assert listed["tiny"]["on_disk"] is True
    assert listed["tiny"]["path"] == str(tiny_file)
    assert "no file" in listed["gone"]["problem"]


def test_check_adds_up_the_memory_of_kept_models():
    """Kept instances that exceed the memory limit together are one fault, which lists them."""
    Path("lllms.toml").write_text(
        '[server]\nmemory_limit = "5GB"\n[sessions]\nstore = "none"\n'
        '[models.a]\nengine = "mock"\nmin_instances = 2\nmax_instances = 2\noptions = { memory = 2_000_000_000 }\n'
        '[models.b]\nengine = "mock"\nmin_instances = 1\nmemory = "1500MB"\n[models.c]\nengine = "mock"\n',
    )
    result = lllms("check")
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert "server.memory_limit: the instances that models keep loaded (min_instances) need about 5.5 GB" in line
    assert "(a 2 x 2.0 GB, b 1 x 1.5 GB), but all instances together may use 4.9 GB" in line


def test_check_names_a_model_that_never_fits():
    """A model that exceeds the limit, alone or beside what is kept, is a fault; one that may take turns is none."""
    Path("lllms.toml").write_text(
        '[server]\nmemory_limit = "5GB"\n[sessions]\nstore = "none"\n'
        '[models.kept]\nengine = "mock"\nmin_instances = 1\nmemory = "2GB"\n'
        '[models.a]\nengine = "mock"\nmemory = "2GB"\n[models.b]\nengine = "mock"\nmemory = "2GB"\n'
        '[models.beside]\nengine = "mock"\nmemory = "3GB"\n[models.alone]\nengine = "mock"\nmemory = "6GB"\n',
    )
    result = lllms("check")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert "models.beside: an instance needs about 3.0 GB of memory, but lllms may use 5.0 GB" in first
    assert "2.0 GB for models that are kept loaded (min_instances)" in first
    assert "models.alone: an instance needs about 6.0 GB" in second
