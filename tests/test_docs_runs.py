"""The programs of the documentation run, and print what it says."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import pytest
from docs_for_tests import DOCS, Block, blocks
from waits_for_tests import GUARD

from lllms_core.plugins import Plugins
from lllms_core.testing import running_server

pytestmark = pytest.mark.slow

SHOWN = "http://127.0.0.1:3000"
"""The server's address in the documentation."""
PRINTING = [block for block in blocks("python") if block.output is not None]
CURLS = [block for block in blocks("sh") if re.search(r"^curl \S*/v1/", block.text, re.MULTILINE)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with the models that the plugins offer."""
    with running_server(log_level="warning") as address:
        yield address


@pytest.mark.parametrize("block", PRINTING, ids=str)
def test_programs_print_what_is_shown(block: Block, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A program with its output below it prints that; its server is a real one with the plugins' models."""
    exec(compile(block.text.replace(SHOWN, url), str(block), "exec"), {"__name__": "__main__"})
    assert block.output is not None
    assert capsys.readouterr().out.strip() == block.output.strip()


@pytest.mark.parametrize("block", CURLS, ids=str)
def test_requests_are_answered(block: Block, url: str) -> None:
    """What a curl of the documentation sends is answered."""
    words = shlex.split(block.text.replace("\\\n", " "))
    [body] = [value for flag, value in itertools.pairwise(words) if flag == "-d"]
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(words[1].replace(SHOWN, url), content=body, headers=headers, timeout=GUARD)
    assert answer.status_code == 200, answer.text


def test_there_are_programs_and_requests() -> None:
    """The tests above have something to test."""
    assert len(PRINTING) >= 7
    assert len(CURLS) >= 2


def test_the_engine_of_twenty_lines_works(tmp_path: Path) -> None:
    """The guide's engine, installed as its project says, answers `lllms run`, and passes the guide's test."""
    own = [block for block in blocks("python", "toml") if block.page == "guides/engine-plugin.md"]
    [engine] = [block.text for block in own if "class ParrotEngine" in block.text]
    [test] = [block.text for block in own if "def test_" in block.text]
    [project] = [block.text for block in own if block.caption == "pyproject.toml"]
    (tmp_path / "lllms_parrot.py").write_text(engine)
    (tmp_path / "test_parrot.py").write_text(test)
    [points] = re.findall(r"\[project\.entry-points\.lllms\]\n(.*)\n", project)
    installed = tmp_path / "lllms_parrot-0.1.0.dist-info"  # as pip writes it, without its build
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: lllms-parrot\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(f"[lllms]\n{points.replace(chr(34), '')}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, timeout=GUARD, cwd=tmp_path,
            env=environment, check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert run("lllms_core", "run", "parrot", "Pieces of eight!").strip() == "Pieces of eight!"
    assert "1 passed" in run("pytest", "-q")


def test_the_plugins_of_the_guide_are_complete() -> None:
    """Each plugin of the guide to the other hooks provides something, without a fault."""
    programs = [block for block in blocks("python") if block.page == "guides/other-plugins.md"]
    for block in programs:
        names: dict[str, object] = {}
        exec(compile(block.text, str(block), "exec"), names)
        hooks = {name: staticmethod(one) for name, one in names.items() if name.startswith("lllms_") and callable(one)}
        found = Plugins.discover(extra={"guide": type("Plugin", (), hooks)()})
        found.add_commands(click.Group("lllms"))
        [report] = [one for one in found.reports if one.name == "guide"]
        assert report.error is None
        assert report.provides, str(block)
    assert len(programs) == 4
    assert (DOCS / "guides" / "other-plugins.md").is_file()
