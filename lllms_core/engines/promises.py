"""Check an engine against its declarations: at discovery, and once after each load; pure.

The faults are sentences for authors: they name the engine, its attribute or method, and the way out.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import get_args

from attrs import has

from lllms_core.engines import capabilities
from lllms_core.engines.base import Engine, Model
from lllms_core.engines.capabilities import writes
from lllms_core.engines.embedding import EmbeddingModel
from lllms_core.engines.serial import SerialModel
from lllms_core.engines.tokens import TokenModel
from lllms_core.errors import ModelLoadFailed, PluginLoadFailed
from lllms_core.queries import LABELS
from lllms_core.types import Isolation, ModelSpec, Task
from lllms_core.values.violations import kind_of

_TASKS: dict[Task, type] = {
    "embed": capabilities.Embeds,
    "rerank": capabilities.Ranks,
    "tokenize": capabilities.Tokenizes,
    "detokenize": capabilities.Detokenizes,
    "render": capabilities.Renders,
}


def check_engine(engine: Engine) -> None:
    """Raise `PluginLoadFailed` if an engine's class attributes are invalid."""
    kinds = get_args(Isolation)
    if engine.isolation not in kinds:
        allowed = " or ".join(f"'{kind}'" for kind in kinds)
        raise PluginLoadFailed(f"engine '{engine.name}': isolation is {engine.isolation!r}; set {allowed}")
    if not isinstance(engine.Options, type) or not has(engine.Options):
        raise PluginLoadFailed(
            f"engine '{engine.name}': Options is {engine.Options!r}; set a class that is made with @attrs.frozen",
        )


def check_model(engine: Engine, spec: ModelSpec, model: object) -> None:
    """Raise `ModelLoadFailed` if a loaded model is not what its engine declares."""
    if not isinstance(model, Model):
        raise ModelLoadFailed(
            f"engine '{engine.name}': `load` returned {kind_of(model)}; it must return a Model (engines.Model)",
        )
    for name in ("slots", "context_length"):
        value = getattr(model, name, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            shown = repr(value) if hasattr(model, name) else "missing"
            raise ModelLoadFailed(
                f"engine '{engine.name}': `{name}` of its model is {shown}; set an integer of at least 1",
            )
    if not isinstance(model.tasks, AbstractSet):
        kind = kind_of(model.tasks)
        raise ModelLoadFailed(f"engine '{engine.name}': `tasks` of its model is {kind}; set a frozenset")
    unknown = sorted(str(task) for task in model.tasks if task not in LABELS)
    if unknown:
        raise ModelLoadFailed(
            f"engine '{engine.name}': `tasks` of its model names '{unknown[0]}'; known are {', '.join(sorted(LABELS))}",
        )
    for declared, capability in _declared(engine, spec, model):
        for method in methods(capability):
            if not writes(type(model), method):
                raise ModelLoadFailed(
                    f"engine '{engine.name}' declares {declared}; its model must write `{method}` "
                    f"(engines.{capability.__name__})",
                )


def methods(capability: type) -> list[str]:
    """Return the methods of a capability."""
    return sorted(name for name in vars(capability) if getattr(vars(capability)[name], "__isabstractmethod__", False))


def _declared(engine: Engine, spec: ModelSpec, model: Model) -> Iterator[tuple[str, type]]:
    """Yield each declaration of an engine or a model, in words, with the capability that it needs."""
    for task in sorted(model.tasks & _TASKS.keys()):
        yield f"the task '{task}'", _TASKS[task]
    if engine.can_preload and spec.preload is not None:
        yield "'can_preload'", capabilities.Preloads
    if model.state_key is not None:
        yield "a 'state_key'", capabilities.Resumes
    if type(model).residents is not Model.residents:
        yield "'residents'", capabilities.Remembers
    match model:
        case SerialModel():
            yield from _serial(engine, model)
        case EmbeddingModel() if "rerank" in model.tasks:
            yield "the task 'rerank'", capabilities.Pairs
        case TokenModel():
            yield from _batching(engine, model)


def _serial(engine: Engine, model: SerialModel) -> Iterator[tuple[str, type]]:
    if "embed" in model.tasks:
        yield "the task 'embed'", capabilities.EmbedsTexts
    if {"echo", "logprobs"} <= engine.parameters:
        yield "'echo' and 'logprobs'", capabilities.ScoresPrompts


def _batching(engine: Engine, model: TokenModel) -> Iterator[tuple[str, type]]:
    for name in sorted(engine.parameters & {"logprobs", "best_of"}):
        yield f"'{name}'", capabilities.Scores
    for name in ("suffix", "input_extra"):
        if name in engine.parameters:
            yield f"'{name}'", capabilities.Infills
    if engine.constraints:
        yield "'constraints'", capabilities.Constrains
    if model.state_key is not None:
        yield "a 'state_key'", capabilities.Exports
