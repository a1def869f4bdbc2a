"""Loads and steps a model in the test's own process, checked against the contract as in a worker."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from lllms_core.engines import Engine, Model
from lllms_core.engines.base import ContractBroken, Opens
from lllms_core.engines.promises import check_engine, check_model
from lllms_core.types import Delta, ModelSpec
from lllms_core.values.structure import structure


def load_model(
    engine: Engine, options: Mapping[str, object] | None = None, *, file: Path | None = None, name: str = "test",
) -> Model:
    """Load a model as a worker would; `options` are those of its table in the configuration.

    Raises `PluginLoadFailed` or `ModelLoadFailed` if the engine or the model does not match the engine's declarations,
    and `StructureError` for unknown options.
    """
    check_engine(engine)
    spec = ModelSpec(name, structure(options or {}, engine.Options), file)
    model = engine.load(spec, lambda _share: None)
    check_model(engine, spec, model)
    return model


def collect(model: Model, *requests: Opens) -> dict[str, list[Delta]]:
    """Open requests, step until the model is idle, and return the deltas of each request, by its id.

    Raises the `RequestError` with which the model refuses a request, and `ContractBroken` for a delta of a request that
    is not open. A request that fails later ends with a delta that has an `error`.
    """
    deltas: dict[str, list[Delta]] = {request.id: [] for request in requests}
    for request in requests:
        model.prepare(request)()
    while not model.idle:
        for delta in model.step():
            if delta.request_id not in deltas or any(one.last for one in deltas[delta.request_id]):
                raise ContractBroken(f"`step` returned a delta for '{delta.request_id}', which is not open")
            deltas[delta.request_id].append(delta)
    return deltas


def text_of(deltas: Iterable[Delta], index: int = 0) -> str:
    """Return the text of one answer."""
    return "".join(delta.text for delta in deltas if delta.index == index)
