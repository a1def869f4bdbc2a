"""The options of engines on the command line: `--context`, `--slots`, `--gpu-layers`, and `-o` for any of them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, get_type_hints

import attrs
import click

from lllms_core.errors import ConfigError
from lllms_core.values.violations import did_you_mean

if TYPE_CHECKING:
    from lllms_core.config import Config, ModelConfig
    from lllms_core.engines import Engine
    from lllms_core.plugins import Plugins
    from lllms_core.values.violations import Keys

GIVEN = "lllms.model_options"
"""The key in a command's context for the options given, by their keys: each its flag and its text."""

GivenOptions = Mapping[str, tuple[str, str]]
"""The options given on the command line, by key: the flag, and the text of the value."""

_FLAGS = (
    ("--context", "context_length", "TOKENS", "Tokens that one request may hold, prompt and answer together."),
    ("--slots", "slots", "N", "Requests that run at once in one instance."),
    ("--gpu-layers", "gpu_layers", "N", "Layers on the GPU: all, 0 for none, or auto."),
)


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options, for `with_given`."""
    function = click.option(
        "-o", "--option", multiple=True, metavar="KEY=VALUE", expose_value=False, callback=_remember_each,
        help="Any option of the model's engine, as in [models.NAME.options]: -o kv_type_k=q8_0. May be repeated.",
    )(function)
    for flag, key, metavar, text in reversed(_FLAGS):
        function = click.option(flag, metavar=metavar, expose_value=False, callback=_remember(key), help=text)(function)
    return function


def given_options() -> GivenOptions:
    """Return the options that the current command was given."""
    found: GivenOptions = click.get_current_context().meta.get(GIVEN, {})
    return found


def with_given(config: "Config", plugins: "Plugins", given: GivenOptions) -> "Config":
    """Return the configuration with the given options in all its models; without models, in those of the plugins.

    Raises `ConfigError` for an engine that has no such option.
    """
    from lllms_core.catalog import offered_model

    if not given:
        return config
    models = config.models or {name: offered_model(one.object) for name, one in plugins.offers.items()}
    flags: dict[Keys, str] = {
        ("models", name, "options", key): flag for name in models for key, (flag, _) in given.items()
    }
    return attrs.evolve(
        config, models={name: _with(name, model, plugins, given) for name, model in models.items()},
        origins={**config.origins, **flags},
    )


def _with(
    name: str, model: "ModelConfig", plugins: "Plugins", given: GivenOptions,
) -> "ModelConfig":
    if model.engine not in plugins.engines:
        return model  # the catalog says so
    engine = plugins.engines[model.engine].object
    values = {key: _value(name, engine, key, flag, text) for key, (flag, text) in given.items()}
    return attrs.evolve(model, options={**model.options, **values})


def _value(name: str, engine: "Engine", key: str, flag: str, text: str) -> object:
    from lllms_core.values.from_text import from_here, value_from_text

    known = [attribute.name for attribute in attrs.fields(engine.Options) if attribute.init]
    if key not in known:
        raise ConfigError(
            f"{flag}: model '{name}' runs on the engine '{engine.name}', which has no option "
            f"'{key}'{did_you_mean(key, known)}; leave it out, or name only models that have it",
        )
    kind = get_type_hints(engine.Options, include_extras=True)[key]
    return from_here(value_from_text(text, kind), kind)


def _remember(key: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            text = "-1" if (key, value) == ("gpu_layers", "all") else value
            _note(context, parameter, key, parameter.opts[0], text)

    return remember


def _remember_each(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> None:
    for one in values:
        key, equals, text = one.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise click.BadParameter(f"{one!r} is not KEY=VALUE, like -o threads=4", context, parameter)
        _note(context, parameter, key, "-o", text.strip())


def _note(context: click.Context, parameter: click.Parameter, key: str, flag: str, text: str) -> None:
    given = context.meta.setdefault(GIVEN, {})
    if key in given:
        raise click.BadParameter(f"'{key}' is given twice", context, parameter)
    given[key] = flag, text
