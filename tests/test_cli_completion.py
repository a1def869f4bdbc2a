"""Completion: what a shell gets for a command line that is not complete yet."""

import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner
from programs_for_tests import environment
from waits_for_tests import GUARD

from lllms_core.cli import cli
from lllms_core.cli.completion import VARIABLE

pytestmark = pytest.mark.slow

CONFIG = """
[models.phi3]
engine = "mock"
aliases = ["phi", "gpt-*"]
[models.pony]
engine = "mock"
"""
BASH = """
set -eu
eval "$(lllms completion bash)"
compopt() { echo "compopt $2"; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_lllms_completion lllms
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def world(tmp_path: Path) -> dict[str, str]:
    """An environment in which `lllms` is this one."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "lllms"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lllms_core "$@"\n')
    program.chmod(0o755)
    return {**environment(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}"}


def completed(world: dict[str, str], *words: str) -> list[str]:
    """Return what bash offers for the last word."""
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", "lllms", *words], env=world, cwd=world["XDG_CONFIG_HOME"], capture_output=True,
        text=True, timeout=GUARD, check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_and_options(world: dict[str, str]) -> None:
    """The script that `completion bash` prints works in a real bash."""
    result = CliRunner(env={"COMP_WORDS": "lllms comp", "COMP_CWORD": "1", VARIABLE: "bash_complete"}).invoke(
        cli, prog_name="lllms",
    )
    assert result.stdout == "plain,completion\n"
    assert completed(world, "serve", "--gpu") == ["--gpu-layers"]


def test_bash_completes_the_models_of_the_configuration(world: dict[str, str]) -> None:
    """Names and aliases are offered, but no patterns; for what is no name of a model, files are."""
    Path(world["XDG_CONFIG_HOME"], "lllms.toml").write_text(CONFIG)
    assert completed(world, "run", "p") == ["phi", "phi3", "pony"]
    assert completed(world, "serve", "--model", "x") == ["compopt", "default"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(shell: str) -> None:
    """Each script calls the program, by the variable that it answers to."""
    script = CliRunner().invoke(cli, ["completion", shell], prog_name="lllms").stdout
    assert f"_LLLMS_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(("shell", "words", "offered"), [
    ("zsh", {"COMP_WORDS": "lllms run p", "COMP_CWORD": "2"}, ["phi", "phi3", "pony"]),
    ("fish", {"COMP_WORDS": "lllms run", "COMP_CWORD": "p"}, ["phi", "phi3", "pony"]),
])
def test_other_shells_are_answered(
    world: dict[str, str], tmp_path: Path, shell: str, words: dict[str, str], offered: list[str],
) -> None:
    """The questions that the scripts of zsh and fish ask get the names of the models."""
    (tmp_path / "lllms.toml").write_text(CONFIG)
    with chdir(tmp_path):
        result = CliRunner(env={**world, **words, VARIABLE: f"{shell}_complete"}).invoke(cli, prog_name="lllms")
    told = [one for one in result.stdout.replace(",", "\n").split() if one not in {"plain", "_"}]
    assert told == offered


def test_a_broken_configuration_is_no_noise(world: dict[str, str], tmp_path: Path) -> None:
    """While a line is being typed nothing is complained of; no engine is imported for names that are configured."""
    (tmp_path / "lllms.toml").write_text("[server]\nprot = 1\n")
    assert completed(world, "run", "p") == ["compopt", "default"]
    (tmp_path / "lllms.toml").write_text(CONFIG)
    code = (
        "import sys\nfrom lllms_core.cli import cli\n"
        "try:\n    cli(prog_name='lllms')\nexcept SystemExit:\n    pass\n"
        "assert not {'lllms_llamacpp', 'lllms_core.engines', 'jinja2'} & set(sys.modules)\n"
    )
    words = {"COMP_WORDS": "lllms run p", "COMP_CWORD": "2", "_LLLMS_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**world, **words}, cwd=tmp_path, capture_output=True, text=True,
        timeout=GUARD, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pony" in done.stdout
