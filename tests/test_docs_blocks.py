"""What the documentation quotes exists: commands, keys, variables, routes, metrics, messages, codes."""

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from docs_for_tests import DOCS, Block, blocks, pages, sources, spans

from lllms_core import Host, hookspecs, parse_config
from lllms_core.apis.explanations import TABLE
from lllms_core.apis.foreign_paths import find_way_out
from lllms_core.apis.specification import document
from lllms_core.cli import cli
from lllms_core.config import ModelConfig, PlacementConfig, PluginsConfig, ServerConfig, SessionsConfig
from lllms_core.curated import curated_models
from lllms_core.errors import LllmsError
from lllms_core.parameters import DEFAULTS
from lllms_core.plugins import Plugins
from lllms_core.values.structure import structure

OTHERS = {"pip", "python3", "lllms/bin/pip", ".", "export", "claude", "aider", "curl", "llama-server", "python"}
"""The programs of the documentation besides `lllms`."""
KEY = re.compile(r"\b(server|sessions|plugins|options|defaults)\.([a-z][a-z_]+)\b(?!\.)")
CATALOGUED = re.compile(r"\b[a-z][a-z0-9.]*:\d[\d.]*[bm]\b")
PLACEHOLDER = re.compile(r"^[A-Z]+$")
LEAST = 15
"""The letters that a string of the code needs to be recognised as a message."""


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the commands of a block of the shell, in words, without variables before them."""
    begun = ""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        begun += f"{line}\n"
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:
            continue  # within quotes
        begun = ""
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            redirected = next((at for at, word in enumerate(words) if word in {">", "<", "|"}), None)
            yield words[:redirected]


def parse(words: list[str]) -> None:
    """Parse the words after `lllms` as the command line does, without running the command."""
    context = click.Context(cli, info_name="lllms")
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    if words and words[0] in {"--help", "-h", "--version", "--debug"}:
        return
    command.make_context("lllms", list(words))


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_exist(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command in a block is one that `lllms` takes with these flags, or one of a few other programs."""
    (tmp_path / "lllms.toml").touch()
    monkeypatch.chdir(tmp_path)
    for words in commands(block):
        if words[0] == "lllms":
            parse(words[1:])
        else:
            assert words[0] in OTHERS, words


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_in_sentences_exist(page: Path) -> None:
    """So is every command that a sentence or a table names; words in capitals stand for anything."""
    named = [shlex.split(text) for text in spans(page) if re.match(r"lllms [a-z-]", text)]
    for words in named:
        values = ["1" if PLACEHOLDER.fullmatch(word) else word for word in words[1:]]
        if "COMMAND" in words:
            continue
        command = cli.get_command(click.Context(cli), values[0])
        if command is not None and len(values) == 1:
            continue  # the name of a command, without its arguments
        parse(values)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_configurations_are_accepted(block: Block) -> None:
    """Every configuration is one, with options that the engine takes; the files of other programs are TOML."""
    tables = tomllib.loads(block.text)
    if block.caption:
        return
    config = parse_config(tables)
    engines = plugins().engines
    for model in config.models.values():
        structure(model.options, engines[model.engine].object.Options, ("options",))


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_valid(block: Block) -> None:
    """Every block of JSON is valid."""
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_programs_compile(block: Block) -> None:
    """Every program compiles, and what it imports from lllms_core exists."""
    compile(block.text, str(block), "exec")
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lllms_core"):
            for name in node.names:
                module = __import__(str(node.module), fromlist=[name.name])
                assert hasattr(module, name.name), f"{node.module}.{name.name}"


@cache
def plugins() -> Plugins:
    """The installed plugins."""
    return Plugins.discover()


@cache
def keys() -> Mapping[str, set[str]]:
    """The keys of the tables of a configuration."""
    tables = {
        "server": ServerConfig, "models": ModelConfig, "sessions": SessionsConfig, "placement": PlacementConfig,
        "plugins": PluginsConfig,
    }
    found = {name: {one.name for one in attrs.fields(cls)} for name, cls in tables.items()}
    engines = plugins().engines.values()
    found["options"] = {one.name for engine in engines for one in attrs.fields(engine.object.Options)}
    return {**found, "defaults": set(DEFAULTS)}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_keys_and_variables_exist(page: Path) -> None:
    """Each key like `server.port` or `options.slots`, and each variable LLLMS_..., is one."""
    text = page.read_text(encoding="utf-8")
    for table, key in KEY.findall(" ".join(spans(page))):
        assert key in keys()[table], f"{table}.{key}"
    variables = {f"LLLMS_{key.upper()}" for key in keys()["server"]}
    variables |= {"LLLMS_API_KEY", "LLLMS_PLUGINS", "LLLMS_STRICT"}
    assert set(re.findall(r"\bLLLMS_[A-Z_]*[A-Z]", text)) <= variables


@cache
def described() -> tuple[set[tuple[str, str]], str]:
    """The routes of a server with all plugins, without names of parts of paths; and its metrics."""
    host = Host(parse_config({}))
    told: Any = document([one.object.describe(host) for one in host.plugins.apis.values()], "0")["paths"]
    routes = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, methods in told.items() for method in methods}
    return routes | {("GET", "/"), ("GET", "/openapi.json")}, host.measurements()[0].decode()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_routes_and_metrics_exist(page: Path) -> None:
    """Each route like `GET /v1/models` is one, and each metric is measured."""
    routes, metrics = described()
    for text in spans(page):
        match = re.fullmatch(r"(GET|POST|DELETE) (/[^\s?]*)(\?\S*)?", text)
        if match:
            path = re.sub(r"\{\w+\}", "{}", match[2])
            assert (match[1], path) in routes, text
        if re.fullmatch(r"lllms_[a-z_]+", text):
            assert text == "lllms_core" or hasattr(hookspecs, text) or f"# TYPE {text} " in metrics, text


def strings() -> Iterator[list[str | None]]:
    """Yield each string of the code that is long enough to be a message; None stands for a value in it."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [one.value if isinstance(one, ast.Constant) else None for one in parts]
            known = [one if isinstance(one, str) else None for one in texts]
            if sum(len(re.findall("[a-z]", one)) for one in known if one) >= LEAST:
                yield known


def is_said(line: str, said: list[list[str | None]]) -> bool:
    """Whether one of these strings can be this line."""
    for parts in said:
        if all(part in line for part in parts if part is not None) and re.fullmatch(
            "".join(".*" if part is None else re.escape(part) for part in parts), line,
        ):
            return True
    return False


def produced() -> Iterator[str]:
    """Yield messages that are put together of short parts."""
    for tables in ({"server": {"port": 99999}}, {"server": {"host": "0.0.0.0"}}):
        yield from refusal(lambda tables=tables: parse_config(tables)).splitlines()
    options = {"engine": "llamacpp", "file": __file__, "options": {"contxt_length": 1}}
    yield from refusal(lambda: Host(parse_config({"models": {"phi3": options}}))).splitlines()
    base = "http://127.0.0.1:3000"
    yield f"there is nothing at /v1/v1/chat/completions: {find_way_out('/v1/v1/chat/completions', base)}"
    yield f"there is nothing at /v1/messages: {find_way_out('/v1/messages', base)}"
    host = Host(parse_config({}))
    yield refusal(lambda: host.model("tiny-chta"))
    yield refusal(lambda: host.check("chat", "tiny-chat", {"audio": {"voice": "x"}}))
    yield refusal(lambda: host.check("chat", "tiny-chat", {"temprature": 1}))


def refusal(call: Any) -> str:
    """Return the message of the error that a call raises."""
    with pytest.raises(LllmsError) as caught:
        call()
    return caught.value.message


def test_messages_exist() -> None:
    """Each message that the documentation quotes is a string of the code, with values in it, or is produced here."""
    quoted = [(block, line) for block in blocks("text") if block.messages for line in block.text.splitlines()]
    others, said = set(produced()), list(strings())
    unknown = [f"{block}: {line}" for block, line in quoted if line not in others and not is_said(line, said)]
    assert len(quoted) > 15
    assert not unknown, "\n".join(unknown)


def test_models_of_the_catalogue_exist() -> None:
    """Each model that the documentation names as Ollama would, like `qwen3:0.6b`, is in the catalogue."""
    named = {name for page in pages() for name in CATALOGUED.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert named <= {one.name for one in curated_models()}


def test_codes_exist() -> None:
    """Each code of an error in the troubleshooting's headings, and in its sentences, is one."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    codes = {code for _, _, code in TABLE.values()} | {"unknown_parameter", "unsupported_parameter"}
    headings = re.findall(r"^## ([a-z]+_[a-z_]+)$", text, re.MULTILINE)
    assert len(headings) >= 4
    assert set(headings) <= codes
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))
    known = codes.union(*keys().values()) | {"finish_reason", "tool_choice", "max_tokens"}
    assert named <= known
