"""The JSON schema of a configuration file, for editors that complete and check TOML; pure."""

from collections.abc import Mapping

from lllms_core.config.settings import ModelConfig, PlacementConfig, PluginsConfig, ServerConfig, SessionsConfig
from lllms_core.parameters import DEFAULTS
from lllms_core.values.class_schema import ClassSchemas, Schema

DRAFT = "http://json-schema.org/draft-07/schema#"


def describe_config(
    engines: Mapping[str, type], stores: Mapping[str, type], placements: Mapping[str, type],
) -> Schema:
    """Return the schema; the others are the `Options` of what plugins provide, by their names.

    It knows keys, types and ranges; `lllms check` knows more.
    """
    classes = ClassSchemas()
    model = _with_options(classes, ModelConfig, "engine", engines)
    sessions = _with_options(classes, SessionsConfig, "store", stores)
    sessions["properties"]["store"] |= {"enum": ["none", *sorted(stores)]}  # type: ignore[index]
    placement = _with_options(classes, PlacementConfig, "kind", placements)
    placement["properties"]["kind"] |= {"enum": ["local", *sorted(placements)]}  # type: ignore[index]
    properties = model["properties"]
    assert isinstance(properties, dict)  # noqa: S101  # what `_with_options` returns
    if engines:
        properties["engine"] |= {"enum": sorted(engines)}
    properties["defaults"] |= {
        "properties": {name: dict(one.kind.schema) for name, one in DEFAULTS.items()}, "additionalProperties": False,
    }
    return {
        "$schema": DRAFT,
        "title": "lllms.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "server": classes.refer(ServerConfig),
            "models": {
                "type": "object", "description": "The models, by their names.", "additionalProperties": model,
            },
            "sessions": sessions,
            "placement": placement,
            "plugins": classes.refer(PluginsConfig),
        },
        "definitions": classes.definitions,
    }


def _with_options(classes: ClassSchemas, table: type, key: str, options: Mapping[str, type]) -> dict[str, object]:
    """Return the schema of a table whose `options` are those of what its `key` names."""
    classes.refer(table)
    schema = classes.definitions.pop(table.__qualname__)
    choices = [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"properties": {"options": classes.refer(kind, f"{name} options")}},
        }
        for name, kind in sorted(options.items())
    ]
    return {**schema, "allOf": choices} if choices else schema
