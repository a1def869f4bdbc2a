"""The pages of the documentation that are made from the code are complete; its promises are those of the metadata."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import click
import pytest
from docs_for_tests import DOCS, ROOT, sources
from packaging.specifiers import SpecifierSet

import lllms_core
from lllms_core import parse_config
from lllms_core.apis.explanations import TABLE
from lllms_core.cli import cli
from lllms_core.config import ModelConfig, PlacementConfig, PluginsConfig, ServerConfig, SessionsConfig

VARIABLE = re.compile(r'"((?:LLLMS|HF|OTEL|OLLAMA|LLAMA|XDG|OPENAI|HUGGINGFACE)_[A-Z_]*[A-Z])"')


@pytest.fixture(scope="module")
def made() -> Iterator[Mapping[str, str]]:
    """The pages, by their paths."""
    sys.path.insert(0, str(DOCS))
    try:
        from reference_pages import every_page

        yield every_page(ROOT)
    finally:
        sys.path.remove(str(DOCS))


@pytest.mark.parametrize("cls", [ServerConfig, ModelConfig, SessionsConfig, PlacementConfig, PluginsConfig])
def test_every_key_is_documented(made: Mapping[str, str], cls: type) -> None:
    """Each key of the configuration has a section with its type and a text."""
    anchor = {ModelConfig: "model"}.get(cls, cls.__name__.removesuffix("Config").lower())
    page = made["reference/configuration.md"]
    for attribute in attrs.fields(cls):
        _, found, section = page.partition(f"\n({anchor}-{attribute.name.replace('_', '-')})=\n")
        assert found, attribute.name
        heading, *rest = section.partition("\n(")[0].strip().split("\n\n")
        assert heading == f"### `{attribute.name}`"
        assert len(rest[-1]) > 15
        assert not rest[-1].endswith("{.facts}"), f"{cls.__name__}.{attribute.name} has no docstring"


def test_every_command_is_documented(made: Mapping[str, str]) -> None:
    """Each command, those of groups included, has its help on the page."""
    page = made["reference/commands.md"]

    def check(group: click.Group, words: str) -> None:
        for name, command in group.commands.items():
            assert f"# `{words} {name}`\n" in page
            assert f"Usage: {words} {name} " in page
            if isinstance(command, click.Group):
                check(command, f"{words} {name}")

    check(cli, "lllms")


def test_every_module_for_plugins_is_documented(made: Mapping[str, str]) -> None:
    """Each public name of the modules that plugins may import has a section, with a docstring unless it is a value."""
    for module in (*lllms_core.FOR_PLUGINS, "client"):
        page = made[f"reference/python/{module}.md"]
        names = getattr(__import__(f"lllms_core.{module}", fromlist=["*"]), "__all__", ())
        for name in names:
            _, found, section = page.partition(f"## `{name}`\n")
            assert found, f"{module}.{name}"
            code, _, text = section.partition("\n```\n")
            if not re.search(rf"^{name}[:\s]", code.partition("```python\n")[2]):
                assert len(text.partition("\n## ")[0].strip()) > 10, f"{module}.{name} has no docstring"


def test_what_plugins_import_is_documented(made: Mapping[str, str]) -> None:
    """Each name that our own plugins and examples import from these modules is on a page."""
    for path in [*ROOT.glob("plugins/*/lllms_*/**/*.py"), *ROOT.glob("examples/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            package = module.removeprefix("lllms_core.").partition(".")[0] if module.startswith("lllms_core.") else ""
            if isinstance(node, ast.ImportFrom) and package in lllms_core.FOR_PLUGINS:
                page = made[f"reference/python/{package}.md"]
                missing = [one.name for one in node.names if not re.search(rf"^##+ `{one.name}`$", page, re.MULTILINE)]
                assert not missing, f"{module}, which {path.name} imports"


def test_examples_in_docstrings_keep_their_form(made: Mapping[str, str]) -> None:
    """The example of a hook is one block, with its indentation."""
    assert "```python\nclass Parrot(SerialModel):\n    context_length = 4096\n" in made["reference/python/hookspecs.md"]


def test_every_code_of_an_error_is_documented(made: Mapping[str, str]) -> None:
    """Each code that a client can see is in the tables of errors."""
    page = made["reference/errors.md"]
    codes = {code for _, _, code in TABLE.values()} | set(_codes())
    assert len(codes) > 30
    assert {code for code in codes if f"| `{code}` |" not in page} == {"mock_refused"}  # of the scripts of tests
    source = "".join(path.read_text(encoding="utf-8") for path in sources())
    listed = re.findall(r"^\| (?:\d+ \| )?`(\w+)`", page, re.MULTILINE)
    assert {code for code in listed if f'"{code}"' not in source} == set()


def test_every_variable_is_documented(made: Mapping[str, str]) -> None:
    """Each variable that the code reads by its name is on the page."""
    page = made["reference/environment.md"]
    read = set()
    for path in sources():
        read |= {*VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert len(read) > 8
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_links_to_files_of_the_repository_become_pages(made: Mapping[str, str]) -> None:
    """A README's link to a file leads to its page, and a link to a file that does not exist is an error."""
    from reference_pages import repository

    assert "](examples/dialect-py.md)" in made["contributing.md"]
    with pytest.raises(repository.BrokenLink, match=r"plugins/x/README\.md links to plugins/x/nowhere\.py"):
        repository.relinked("[it](nowhere.py)", "plugins/x/README.md", "plugins/x.md", ROOT, {})
    assert repository.relinked("```\n[it](nowhere.py)\n```", "README.md", "index.md", ROOT, {}).startswith("```")


def test_what_pages_fetch_from_others_is_found(made: Mapping[str, str], tmp_path: Path) -> None:
    """Scripts, styles, images and fonts of other servers are found; links, and files of the site, are no fault."""
    from reference_pages.fetching import fetched_elsewhere

    (tmp_path / "fine.html").write_text(
        '<a href="https://a.example/">a</a><script src="_static/x.js"></script><link href="x.css" rel="stylesheet">',
    )
    (tmp_path / "x.css").write_text("body { background: url(x.png) }")
    assert fetched_elsewhere(tmp_path) == set()
    (tmp_path / "bad.html").write_text('<script async src="https://b.example/x.js"></script><img src="//c.example/y">')
    (tmp_path / "bad.css").write_text("@font-face { src: url('https://d.example/f.woff2') }")
    assert fetched_elsewhere(tmp_path) == {"https://b.example/x.js", "//c.example/y", "https://d.example/f.woff2"}


def test_the_promises_are_those_of_the_metadata() -> None:
    """The versions that the promises name are those of pyproject.toml, and an old name still works."""
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"Python {project['requires-python'].removeprefix('>=')} and later" in text
    [wanted] = re.findall(r"`(lllms-core>[^`]+)`", text)
    assert f'dependencies = ["{wanted}"]' in (DOCS / "guides" / "engine-plugin.md").read_text(encoding="utf-8")
    assert project["version"] in SpecifierSet(wanted.removeprefix("lllms-core"))
    plugins = [tomllib.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("plugins/*/pyproject.toml")]
    needed = {one for plugin in plugins for one in plugin["project"]["dependencies"]}
    ranges = {one for one in re.findall(r"`([a-z0-9-]+>=[^`]+)`", text) if not one.startswith("lllms-core")}
    assert len(ranges) == 3
    assert ranges <= needed
    assert parse_config({"server": {"host": "0.0.0.0", "allow_remote": True}}).server.host == "0.0.0.0"


def _codes() -> Iterator[str]:
    """Yield the codes that refusals are made with."""
    makers = {"InvalidRequest": 3, "UnsupportedParameter": 3, "ContextOverflow": 3, "wrong_value": 5}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            given = [one.value for one in node.keywords if one.arg == "code"]
            if name in makers and len(node.args) >= makers[name]:
                given.append(node.args[makers[name] - 1])
            for one in given:
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and re.fullmatch("[a-z_]+", one.value):
                    yield one.value
