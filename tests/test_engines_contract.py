"""What an engine declares is compared with its methods and its models', and reported in sentences for its author."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import pytest
from broken_engines_for_tests import Bare, Speaker, engine_of
from test_worker_both import Listener

from lllms_core.engines import BatchingModel, Engine, Model, NoOptions, SerialModel
from lllms_core.engines.promises import check_engine, check_model
from lllms_core.errors import EngineFailed, ModelLoadFailed, PluginLoadFailed
from lllms_core.hookspecs import hookimpl
from lllms_core.plugins import Plugins
from lllms_core.types import Delta, ModelSpec, Preload, Request, TextRequest, TokenScore
from lllms_core.worker.start import start_worker
from lllms_core.worker.wire import Crashed, Load, Loaded, LoadFailed, Open

SPEC = ModelSpec("m", NoOptions())
PRELOADED = ModelSpec("m", NoOptions(), preload=Preload(prefix="once"))


def changed(model: Model, **values: object) -> Model:
    """The model with some attributes changed."""
    for name, value in values.items():
        setattr(model, name, value)
    return model


class Holder(Speaker):
    """Reports conversations, but cannot forget them."""

    def residents(self) -> list[Any]:
        return []


@pytest.mark.parametrize(("engine", "model", "says"), [
    (engine_of(), None, "`load` returned None; it must return a Model"),
    (engine_of(), Speaker, "`load` returned a value of type ABCMeta; it must return a Model"),
    (engine_of(), changed(Speaker(), slots=0), "`slots` of its model is 0; set an integer of at least 1"),
    (engine_of(), changed(Speaker(), context_length=2.5), "`context_length` of its model is 2.5"),
    (engine_of(), Bare(), "`context_length` of its model is missing"),
    (engine_of(), changed(Speaker(), tasks={"text", "sing"}), "`tasks` of its model names 'sing'; known are chat,"),
    (engine_of(), changed(Speaker(), tasks=["text"]), "`tasks` of its model is a value of type list; set a frozenset"),
    (engine_of(), changed(Speaker(), tasks={"tokenize"}), "the task 'tokenize'; its model must write `to_tokens`"),
    (engine_of(), changed(Speaker(), tasks={"embed"}), "must write `embed` (engines.EmbedsTexts)"),
    (engine_of(), changed(Speaker(), tasks={"rerank"}), "must write `open_rerank` (engines.Ranks)"),
    (engine_of(), changed(Speaker(), state_key="k"), "declares a 'state_key'; its model must write `found`"),
    (engine_of(), Holder(), "declares 'residents'; its model must write `forget` (engines.Remembers)"),
    (engine_of("echo", "logprobs"), Speaker(), "must write `score_prompt` (engines.ScoresPrompts)"),
    (engine_of("logprobs"), "batching", "declares 'logprobs'; its model must write `score` (engines.Scores)"),
    (engine_of("best_of"), "batching", "declares 'best_of'; its model must write `score` (engines.Scores)"),
    (engine_of("suffix"), "batching", "declares 'suffix'; its model must write `infill` (engines.Infills)"),
    (engine_of("input_extra"), "batching", "declares 'input_extra'; its model must write `infill` (engines.Infills)"),
    (engine_of(constraints=frozenset({"regex"})), "batching", "declares 'constraints'; its model must write `matcher`"),
    (engine_of(), "exporting", "declares a 'state_key'; its model must write `export_state` (engines.Exports)"),
])
def test_a_declaration_without_its_method_fails_the_load(engine: Engine, model: object, says: str) -> None:
    """If a model cannot keep its engine's promise, a load fails with the engine, the declaration and what to write."""
    if isinstance(model, str):
        made = Chooser()
        model = changed(made, state_key="k") if model == "exporting" else made
    with pytest.raises(ModelLoadFailed) as caught:
        check_model(engine, SPEC, model)
    assert caught.value.message.startswith("engine 'broken'")
    assert says in caught.value.message


def test_preloading_is_needed_only_by_a_model_with_a_preload() -> None:
    """An engine may declare `can_preload` for only some of its models; the others fail only with a preload."""
    engine = engine_of(can_preload=True)
    check_model(engine, SPEC, Speaker())
    with pytest.raises(ModelLoadFailed, match=r"declares 'can_preload'; its model must write `preload`"):
        check_model(engine, PRELOADED, Speaker())
    check_model(engine, PRELOADED, Chooser())


def test_installed_engines_keep_what_they_declare() -> None:
    """The engines of this repository pass the check at discovery."""
    for one in Plugins.discover().engines.values():
        check_engine(one.object)


class Plain:
    """Not an attrs class."""


@pytest.mark.parametrize(("values", "says"), [
    ({"isolation": "proces"}, "engine 'broken': isolation is 'proces'; set 'process' or 'thread'"),
    ({"Options": Plain}, "Options is <class .*Plain'>; set a class that is made with @attrs.frozen"),
    ({"Options": NoOptions()}, r"Options is NoOptions\(\); set a class"),
])
def test_faulty_engines_are_reported_at_discovery(values: dict[str, object], says: str) -> None:
    """An engine with invalid attributes is not in use, and its plugin's report says why."""

    class Plugin:
        @hookimpl
        def lllms_engines(self) -> Iterable[Engine]:
            return [engine_of(**values)]

    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"mine": Plugin()})
    [report] = [one for one in plugins.reports if one.name == "mine"]
    assert plugins.engines == {}
    assert report.error is not None
    with pytest.raises(PluginLoadFailed, match=says):
        check_engine(engine_of(**values))


class Chooser(BatchingModel):
    """Chooses what the test says."""

    chosen: ClassVar[object] = 97
    rows: ClassVar[Callable[[int], object]] = staticmethod(lambda count: list(range(count)))
    read: ClassVar[Callable[[str], Any]] = staticmethod(lambda text: list(text.encode()))

    def __init__(self) -> None:
        super().__init__(slots=2, context_length=100, kv_size=200)

    def tokenize(self, segments: Any) -> list[int]:
        return type(self).read(segments[0].text)  # type: ignore[no-any-return]

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return False

    def sampler(self, sampling: object, prompt: object) -> Any:
        return self

    def sample(self, row: int) -> Any:
        return type(self).chosen

    def decode(self, feeds: Any) -> Any:
        return type(self).rows(len(feeds))

    def trim(self, sequence: int, length: int) -> bool:
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        pass


class Stranger(Speaker):
    """Its deltas are for another request."""

    def step(self) -> Iterable[Delta]:
        return [Delta("somebody", "secret")]


class Forgetful(Speaker):
    """Forgets to return its deltas."""

    def step(self) -> Iterable[Delta]:
        list(super().step())
        return None  # type: ignore[return-value]


class Wordy(Speaker):
    """Returns texts."""

    def step(self) -> Iterable[Delta]:
        return ["secret"]  # type: ignore[list-item]


class Twice(Speaker):
    """Ends each request twice."""

    def step(self) -> Iterable[Delta]:
        ends = [delta for delta in super().step() if delta.last]
        return [*ends, *ends]


def chooser(**values: object) -> type[Chooser]:
    return type("Chooser", (Chooser,), values)


@pytest.mark.parametrize(("make", "says"), [
    (Stranger, "`step` returned a delta of no open request; its `request_id` must be the id of one"),
    (Forgetful, "`step` returned None; it must return an iterable of Delta"),
    (Wordy, "`step` returned a value of type str among its deltas; each must be a Delta"),
    (Twice, "`step` returned a delta of no open request"),
    (chooser(chosen=None), "`sample` of its sampler returned None; it must return a token, an integer"),
    (chooser(chosen="secret"), "`sample` of its sampler returned a value of type str; it must return a token"),
    (chooser(rows=staticmethod(lambda count: None)), "`decode` returned None; it must return a row for each"),
    (chooser(rows=staticmethod(lambda count: [])), "`decode` returned 0 rows; it must return a row for each"),
    (chooser(piece=lambda self, token: "secret"), "`piece` returned a value of type str; it must return the bytes"),
    (chooser(read=staticmethod(lambda text: ["secret"])), "`tokenize` returned no tokens; it must return a list"),
], ids=lambda value: getattr(value, "__name__", None))
async def test_a_broken_contract_ends_the_instance_with_a_sentence(make: Callable[[], Model], says: str) -> None:
    """An instance whose model returns something wrong ends, and says which method of which engine must return what."""
    listener = Listener()
    worker = await start_worker(Load(engine_of(make=make), SPEC), "thread", listener)
    assert isinstance(await listener.until(Loaded), Loaded)
    worker.send(Open(TextRequest("one", "m", prompt="a secret", max_tokens=3)))
    crashed = await listener.until(Crashed)
    assert isinstance(crashed, Crashed)
    assert crashed.reason.startswith("engine 'broken': ")
    assert says in crashed.reason
    assert "secret" not in crashed.reason
    assert await listener.reason()


async def test_a_failed_promise_ends_the_load() -> None:
    """A worker reports a model that breaks its engine's declaration as a failed load, without a traceback."""
    listener = Listener()
    await start_worker(Load(engine_of("logprobs", make=Chooser), SPEC), "thread", listener)
    failed = await listener.until(LoadFailed)
    assert failed == LoadFailed(
        "engine 'broken' declares 'logprobs'; its model must write `score` (engines.Scores)", "",
    )


@pytest.mark.parametrize(("pieces", "says"), [
    (["a"], "`complete` of model 'm' yielded a value of type str where scores were asked for"),
    ([TokenScore(b"a", 0.0), b"b"], "yielded a value of type bytes where scores were asked for"),
    ([None], "`complete` of model 'm' yielded None; it must yield str, bytes, TokenScore, Pause or Reused"),
])
def test_pieces_without_scores_fail_their_request(pieces: list[Any], says: str) -> None:
    """A serial model that yields a wrong type fails that request, and no other."""

    class Writer(SerialModel):
        slots = 2

        def complete(self, prompt: str, request: Request) -> Iterator[Any]:
            return iter(pieces if prompt == "bad" else ["fine"])

    model = Writer()
    model.open(TextRequest("bad", "m", prompt="bad", top_logprobs=0))
    model.open(TextRequest("good", "m", prompt="good"))
    deltas = []
    while not model.idle:
        deltas += model.step()
    [error] = [delta.error for delta in deltas if delta.error is not None]
    assert isinstance(error, EngineFailed)
    assert says in error.message
    assert "".join(delta.text for delta in deltas if delta.request_id == "good") == "fine"
