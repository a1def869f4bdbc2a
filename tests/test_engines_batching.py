import pytest
from batching_for_tests import ACTIONS, Driver, FakeModel, answer, ask, finish, reference, text, usage
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.chat import Segment
from lllms_core.errors import ContextOverflow, InvalidRequest
from lllms_core.types import ChatRequest, Message, Sampling


@settings(max_examples=300, deadline=None)
@given(
    ACTIONS, st.integers(1, 3), st.integers(0, 3), st.integers(64, 140), st.integers(4, 40), st.booleans(),
)
def test_any_interleaving_answers_as_if_alone(actions, slots, spare, kv_size, batch_size, can_trim):
    """Whatever is opened, cancelled and interrupted, in any order: each answer is the same as alone."""
    model = FakeModel(
        slots=slots, sequences=slots + spare, kv_size=kv_size, batch_size=batch_size, can_trim=can_trim,
    )
    driver = Driver(model)
    for action, first, second in actions:
        driver.play(action, first, second)
    for name, deltas in finish(model).items():
        driver.answers.setdefault(name, []).extend(deltas)
    driver.check()
    assert all(sampler.closed for sampler in model.samplers)
    assert model._cache.table.held == len(model.cells)
    assert all(model.line(i) == model._cache.table.tokens(i) for i in range(slots + spare))


def test_one_answer_is_the_models():
    """A prompt is answered token by token; the last delta gives the reason for the end, and the usage."""
    model = FakeModel()
    prompt = "tell me"
    deltas = answer(model, ask("r", prompt, 5))
    assert text(deltas) == reference(prompt, 5)
    assert usage(deltas).prompt_tokens == len(prompt)
    assert usage(deltas).completion_tokens == len(text(deltas))
    assert usage(deltas).cached_tokens == 0


@pytest.mark.parametrize("can_trim", [True, False])
def test_follow_up_evaluates_only_what_is_new(can_trim):
    """The next turn of a conversation reuses the prompt and answer of the last one, even if nothing can be trimmed."""
    model = FakeModel(can_trim=can_trim)
    first = answer(model, ask("1", "hello", 5))
    # The last token of an answer cut off by its length was never evaluated.
    known = "hello" + text(first)
    second = answer(model, ask("2", known + "more", 5))
    assert usage(second).cached_tokens in (len(known) - 1, len(known))


def test_regenerated_answer_reuses_the_whole_prompt():
    """A repeated prompt evaluates only one token, and keeps the earlier answer for a client that continues it."""
    model = FakeModel(sequences=4)
    first = answer(model, ask("1", "hello there", 5))
    again = answer(model, ask("2", "hello there", 5))
    assert text(again) == text(first)
    assert usage(again).cached_tokens == len("hello there") - 1
    onwards = answer(model, ask("3", "hello there" + text(first) + "!", 3))
    assert usage(onwards).cached_tokens >= len("hello there" + text(first)) - 1


def test_edited_turn_reuses_what_is_equal():
    """A changed last turn reuses everything before the change."""
    model = FakeModel(sequences=4)
    answer(model, ask("1", "system: be kind. user: hello", 5))
    edited = answer(model, ask("2", "system: be kind. user: bye", 5))
    assert usage(edited).cached_tokens == len("system: be kind. user: ")


def test_shared_beginning_is_reused_from_a_running_request():
    """A prefix can be shared with a request that is still running, whichever came first."""
    model = FakeModel(slots=3, sequences=3, kv_size=200)
    model.open(ask("1", "system: be kind. user: one", 20))
    first = {d.request_id: d for d in model.step()}
    assert "1" in first
    model.open(ask("2", "system: be kind. user: two", 5))
    model.open(ask("3", "system: be rude.", 5))
    answers = finish(model)
    assert usage(answers["2"]).cached_tokens == len("system: be kind. user: ")
    assert usage(answers["3"]).cached_tokens == len("system: be ")
    assert text(answers["2"]) == reference("system: be kind. user: two", 5)


def test_without_trimming_a_different_prompt_starts_afresh():
    """A model whose sequences cannot be cut evaluates an edited prompt from the beginning."""
    model = FakeModel(can_trim=False)
    answer(model, ask("1", "hello there", 5))
    edited = answer(model, ask("2", "hello you", 5))
    assert usage(edited).cached_tokens == 0
    assert text(edited) == reference("hello you", 5)


def test_full_cache_makes_requests_wait():
    """A request is admitted only when its whole prompt and answer have room; until then it waits."""
    model = FakeModel(slots=3, context_length=60, kv_size=60)
    for name in "123":
        model.open(ask(name, f"{name}: a longish prompt", 20))
    said = dict.fromkeys("123", "")
    while not model.idle:
        for delta in model.step():
            said[delta.request_id] += delta.text
        assert len(model._running) <= 1
    assert said == {name: reference(f"{name}: a longish prompt", 20) for name in "123"}


def test_without_max_tokens_an_answer_may_fill_the_context():
    """Without `max_tokens` an answer may take all that fits; it ends with `length` when the context is full."""
    model = FakeModel(context_length=12, kv_size=24)
    prompt = next(p for n in range(99) if len(reference(p := f"p{n}", 99)) > 20)
    deltas = answer(model, ask("r", prompt, None))
    assert text(deltas) == reference(prompt, 12 - len(prompt))
    assert deltas[-1].finish.reason == "length"


@pytest.mark.parametrize("most", [11, 2**31 - 1])
def test_max_tokens_beyond_the_context_are_those_that_fit(most):
    """`max_tokens` is an upper bound: more than fit mean the same as none, also when the request is placed."""
    model = FakeModel(context_length=12, kv_size=24)
    prompt = next(p for n in range(99) if len(reference(p := f"p{n}", 99)) > 20)
    deltas = answer(model, ask("r", prompt, most))
    assert text(deltas) == reference(prompt, min(most, 12 - len(prompt)))
    assert deltas[-1].finish.reason == "length"


@pytest.mark.parametrize(("prompt", "most"), [("x" * 65, None), ("x" * 64, None), ("x" * 64, 5), ("x" * 65, 0)])
def test_too_long_request_is_refused(prompt, most):
    """A request that does not fit the context is refused at once, with the counts and the limit; it is never cut."""
    model = FakeModel(context_length=64)
    with pytest.raises(ContextOverflow, match="64") as caught:
        model.open(ask("r", prompt, most))
    assert caught.value.code == "context_length_exceeded"
    assert model.idle


def test_request_that_fills_the_context_exactly_fits():
    """A prompt and its answer may fill the context to the last token."""
    model = FakeModel(context_length=64)
    assert text(answer(model, ask("r", "x" * 60, 4))) == reference("x" * 60, 4)


def test_context_is_no_larger_than_the_cache():
    """A request that could never fit the KV cache is refused rather than left waiting."""
    model = FakeModel(context_length=64, kv_size=32)
    assert model.context_length == 32
    with pytest.raises(ContextOverflow):
        model.open(ask("r", "x" * 40))


def test_empty_prompt_is_refused():
    """Without any token there is nothing to continue."""
    with pytest.raises(InvalidRequest, match="empty"):
        FakeModel().open(ask("r", ""))


def test_chat_needs_a_template():
    """A model without a chat template serves text only, and says so."""
    model = FakeModel()
    assert model.tasks == {"text"}
    with pytest.raises(InvalidRequest, match="chat_template"):
        model.open(ChatRequest("r", "fake", messages=(Message("user", "hi"),)))


def test_no_answer_for_zero_tokens():
    """`max_tokens` 0 evaluates the prompt and generates nothing."""
    deltas = answer(FakeModel(), ask("r", "hello", 0))
    assert (text(deltas), deltas[-1].finish.reason) == ("", "length")
    assert usage(deltas).completion_tokens == 0


def test_stop_string_ends_the_answer_before_it():
    """A stop string that spans several tokens ends the answer, and no part of it is shown."""
    prompt, whole = next((p, a) for n in range(99) if len(a := reference(p := f"p{n}", 20)) > 9)
    deltas = answer(FakeModel(), ask("r", prompt, 20, stop=(whole[3:6],)))
    assert text(deltas) == whole[: whole.index(whole[3:6])]
    assert deltas[-1].finish.reason == "stop"


def test_cancel_frees_the_slot_at_once():
    """A cancelled request ends at once, whether it is waiting, in its prompt, or in its answer."""
    model = FakeModel(slots=1, batch_size=4)
    for name in "123":
        model.open(ask(name, f"{name}: a prompt of several chunks", 9))
    assert model.step() == []
    [waiting] = model.cancel("2")
    assert (waiting.finish.reason, usage([waiting]).prompt_tokens) == ("cancelled", 29)
    [reading] = model.cancel("1")
    assert reading.finish.reason == "cancelled"
    while not (deltas := list(model.step())):
        pass
    assert deltas[0].request_id == "3"
    [answering] = model.cancel("3")
    assert answering.finish.usage.completion_tokens == 1
    assert model.idle
    assert model.cancel("3") == []


def test_cancelled_work_is_reused():
    """The tokens that a cancelled request had evaluated serve the next one."""
    model = FakeModel(slots=1, batch_size=10)
    model.open(ask("1", "a prompt of several chunks", 9))
    model.step()
    model.cancel("1")
    assert usage(answer(model, ask("2", "a prompt of several chunks", 9))).cached_tokens == 10


def test_interrupted_prompt_is_continued():
    """A decode that was aborted for a cancel leaves no trace: the next step evaluates the same tokens again."""
    model = FakeModel()
    model.open(ask("r", "hello there", 5))
    model.interrupt.set()
    model.evaluated_before_interrupt = 4
    assert model.step() == []
    model.interrupt.clear()
    assert text(finish(model)["r"]) == reference("hello there", 5)


def test_long_prompt_does_not_stall_others():
    """While others generate, every step gives each of them a token, and prompts only the rest."""
    model = FakeModel(slots=3, context_length=4000, kv_size=12000, batch_size=32)
    names = [p for n in range(99) if len(reference(p := f"p{n}", 40)) == 40][:2]
    for name in names:
        model.open(ask(name, name, 40))
    model.step()
    model.open(ask("long", "x" * 600, 1))
    for _ in range(10):
        deltas = list(model.step())
        assert {delta.request_id for delta in deltas} == set(names)
        feeds = model.decodes[-1]
        assert sum(len(feed.tokens) for feed in feeds) <= 32
        assert [len(feed.tokens) for feed in feeds[:2]] == [1, 1]
        assert len(feeds) == 3


def test_requests_enter_in_their_order():
    """First come, first served, even if a later request is smaller."""
    model = FakeModel(slots=1)
    for name in "1234":
        model.open(ask(name, "x" * (40 - 10 * int(name) + 5), 3))
    order = []
    while not model.idle:
        order += [delta.request_id for delta in model.step() if delta.last]
    assert order == list("1234")


def test_close_frees_the_samplers():
    """Closing a model with open requests frees what they hold."""
    model = FakeModel()
    model.open(ask("1", "hello", 5))
    model.step()
    model.close()
    assert all(sampler.closed for sampler in model.samplers)
    assert model.idle


def test_prompt_segments_reach_the_tokenizer():
    """A text prompt is one segment in which control tokens are parsed."""
    seen = []

    class Watching(FakeModel):
        def tokenize(self, segments):
            seen.extend(segments)
            return super().tokenize(segments)

    Watching().open(ask("r", "hello", sampling=Sampling(temperature=0)))
    assert seen == [Segment("hello", parse_special=True)]
