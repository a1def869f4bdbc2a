"""The JSON schema of the configuration, for editors: what the server takes fits it, and typing errors do not."""

import json
import re
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest
from attrs import field, frozen
from jsonschema import Draft7Validator
from programs_for_tests import Program

from lllms_core.config import (
    Config,
    ModelConfig,
    PlacementConfig,
    PluginsConfig,
    ServerConfig,
    SessionsConfig,
    parse_config,
)
from lllms_core.config.editor_schema import describe_config
from lllms_core.plugins import Plugins
from lllms_core.values.attribute_docs import attribute_docs
from lllms_core.values.class_schema import ClassSchemas
from lllms_core.values.structure import Bytes, Range, structure
from lllms_core.values.violations import StructureError

ROOT = Path(__file__).parent.parent


@frozen
class Garage:
    """The options of a placement."""

    doors: int = 1


def schema(**placements: type) -> dict[str, Any]:
    plugins = Plugins.discover()
    return describe_config(
        {name: one.object.Options for name, one in plugins.engines.items()},
        {name: one.object.Options for name, one in plugins.session_stores.items()},
        {name: one.object.Options for name, one in plugins.placements.items()} | placements,
    )


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    Draft7Validator.check_schema(schema())
    return Draft7Validator(schema(garage=Garage))


def examples() -> list[tuple[str, str]]:
    """The TOML blocks of the READMEs that are configurations."""
    found = []
    for file in sorted([ROOT / "README.md", *(ROOT / "plugins").glob("*/README.md")]):
        for number, text in enumerate(re.findall(r"```toml\n(.*?)```", file.read_text(), re.DOTALL)):
            if re.search(r"^\[(server|models|sessions)", text, re.MULTILINE):
                found.append((f"{file.parent.name} {number}", text))
    return found


@pytest.mark.parametrize("text", [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_the_examples_of_the_readmes_fit(validator: Draft7Validator, text: str) -> None:
    """Each configuration that we show is valid by the schema."""
    assert [error.message for error in validator.iter_errors(tomllib.loads(text))] == []


def test_there_are_examples() -> None:
    """The README's large example is among them."""
    assert any("trusted_clients" in text for _, text in examples())


GOOD = {
    "server": {
        "port": 1, "memory_limit": "10GB", "gpu_memory_limit": 5, "queue_timeout": 3, "pull": True,
        "api_keys": ["a: b", {"key": "c", "name": "d", "models": ["x*"], "concurrency": 1}], "tls_key": "~/x",
    },
    "models": {
        "m": {
            "engine": "mock", "preload": {"messages": [{"role": "user", "content": "a"}]}, "isolation": "thread",
            "options": {"slots": 2, "script": [{"when": "a", "replies": ["b"]}]}, "defaults": {"temperature": 0.5},
        },
        "org/n": {"engine": "llamacpp", "file": "x", "options": {"context_length": "auto", "lora": [{"path": "p"}]}},
    },
    "sessions": {"store": "disk", "options": {"folder": "x"}, "max_size": "1GiB"},
    "placement": {"kind": "garage", "options": {"doors": 2}},
    "plugins": {"disable": ["x"]},
}


def test_a_configuration_that_the_server_takes_fits(validator: Draft7Validator) -> None:
    """Every kind of value that is used in one."""
    tls = {"server": {**GOOD["server"], "tls_certificate": "y"}}
    parse_config({**GOOD, **tls})
    assert [error.message for error in validator.iter_errors(GOOD)] == []


@pytest.mark.parametrize(("path", "value"), [
    ("server.prot", 1), ("server.port", "1"), ("server.port", 70_000), ("server.memory_limit", "much"),
    ("server.log_level", "loud"), ("server.api_keys", [{"name": "x"}]), ("models.m.engin", "mock"),
    ("models.m.options.slotz", 1), ("models.m.options.slots", "2"), ("models.m.defaults.temprature", 1),
    ("models.m.defaults.temperature", 3), ("models.m.engine", "nothing"), ("models.m.ttl", "5m"),
    ("models.m.preload.messages", [{"role": "user"}]), ("sessions.store", "attic"), ("sessions.options.folders", "x"),
    ("sesions", {}), ("plugins.disable", "x"), ("placement.kind", "attic"), ("placement.options.doors", "x"),
])
def test_what_the_server_refuses_does_not_fit(validator: Draft7Validator, path: str, value: object) -> None:
    """Unknown keys, wrong types, ranges and choices, at every depth, also in the options of plugins."""
    given: dict[str, Any] = json.loads(json.dumps(GOOD))
    table = given
    *parents, key = path.split(".")
    for parent in parents:
        table = table[parent]
    table[key] = value
    assert list(validator.iter_errors(given))


def test_every_key_is_described() -> None:
    """Each key of the tables and of our engines' options is in the schema; those with a docstring have it."""
    made = schema(garage=Garage)
    tables = {
        ServerConfig: made["definitions"]["ServerConfig"], PluginsConfig: made["definitions"]["PluginsConfig"],
        SessionsConfig: made["properties"]["sessions"], PlacementConfig: made["properties"]["placement"],
        ModelConfig: made["properties"]["models"]["additionalProperties"],
        **{
            one.object.Options: made["definitions"][f"{name} options"]
            for name, one in Plugins.discover().engines.items()
        },
    }
    for kind, table in tables.items():
        docs = attribute_docs(kind)
        assert table["properties"].keys() == {one.name for one in attrs.fields(kind)}
        assert {name: one.get("description") for name, one in table["properties"].items() if name in docs} == docs
        assert table["additionalProperties"] is False
    assert made["properties"].keys() == {"server", "models", "sessions", "placement", "plugins"} < {
        one.name for one in attrs.fields(Config)
    }


class Colour(Enum):
    RED = "red"


@frozen
class Leaf:
    """A leaf."""

    colour: Colour
    """Its colour, over
    two lines."""
    parent: "Leaf | None" = None


@frozen
class Tree(Leaf):
    leaves: tuple[Leaf, ...] = ()
    size: Annotated[int, Bytes()] | None = None
    height: Annotated[float, Range(0, 5)] = 1.0
    kind: Literal["oak", 3] = "oak"
    places: Mapping[str, Path] = field(factory=dict)
    free: object = None
    either: int | list[str] = 0


TREE = {"colour": "red", "leaves": [{"colour": "red"}], "size": "5 MB", "height": 2, "kind": 3, "free": [1]}


@pytest.mark.parametrize("changed", [
    {}, {"size": 5}, {"either": ["x"]}, {"places": {"a": "b"}}, {"parent": {"colour": "red"}}, {"colour": "blue"},
    {"size": "x"}, {"height": 6}, {"kind": "3"}, {"either": "x"}, {"places": {"a": 1}}, {"leaves": [{}]}, {"x": 1},
    {"height": True}, {"size": 0}, {"leaves": {}},
])
def test_a_schema_agrees_with_the_reader(changed: dict[str, object]) -> None:
    """What `structure` takes fits the schema of the class, and what it refuses does not: for each kind of type."""
    schemas = ClassSchemas()
    whole = {**schemas.of(Tree), "definitions": schemas.definitions}
    given = {**TREE, **changed}
    try:
        structure(given, Tree)
        taken = True
    except StructureError:
        taken = False
    assert Draft7Validator(whole).is_valid(given) is taken
    assert schemas.definitions["Tree"]["properties"]["colour"]["description"] == "Its colour, over two lines."  # type: ignore[index]


def test_the_command_prints_it(tmp_path: Path) -> None:
    """`lllms config schema` prints the schema as JSON."""
    assert json.loads(Program(tmp_path).here("config", "schema")) == schema()
