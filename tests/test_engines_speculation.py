from batching_for_tests import (
    ACTIONS,
    Driver,
    FakeModel,
    PickedSampler,
    answer,
    ask,
    finish,
    following,
    reference,
    text,
    usage,
)
from drafts_for_tests import Oracle, free_drafts
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.engines import Feed, Speculation
from lllms_core.engines.batching.joining import joined
from lllms_core.engines.batching.opening import open_runs
from lllms_core.errors import EngineFailed
from lllms_core.types import CallPiece, Delta, TokenScore

PROMPT = "what is my name"


def alike(tokens):
    """A model that repeats what it read, so that prompt lookup is mostly right."""
    return tokens[-8] if len(tokens) % 11 else tokens[-5]


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.integers(1, 3), st.integers(0, 3), st.integers(64, 140), st.integers(4, 40), st.integers(0, 6))
def test_drafts_change_no_answer(actions, slots, spare, kv_size, batch_size, wrong_after):
    """Whatever happens in any order, answers with right and wrong drafts are those without, and so is the cache."""
    model = FakeModel(
        slots=slots, sequences=slots + spare, kv_size=kv_size, batch_size=batch_size,
        speculation=free_drafts(Oracle(following, wrong_after), most=5),
    )
    driver = Driver(model)
    for action, first, second in actions:
        driver.play(action, first, second)
    for name, deltas in finish(model).items():
        driver.answers.setdefault(name, []).extend(deltas)
    driver.check()
    assert model._cache.table.held == len(model.cells)
    assert all(model.line(i) == model._cache.table.tokens(i) for i in range(slots + spare))


def test_right_drafts_save_steps_and_are_counted():
    """With right drafts an answer takes fewer steps, and its usage says how many tokens were drafted."""
    model = FakeModel(speculation=free_drafts(Oracle(following, wrong_after=99), most=5))
    deltas = answer(model, ask("r", PROMPT, 20))
    expected = reference(PROMPT, 20)
    assert text(deltas) == expected
    assert len(expected) > 12, "a good example"
    assert len(model.decodes) <= 2 + len(expected) // 5
    counted = usage(deltas)
    assert counted.completion_tokens == len(expected)
    assert counted.accepted_tokens >= len(expected) - len(model.decodes)
    assert counted.rejected_tokens <= 5  # the last draft goes beyond the end of the answer


def test_wrong_drafts_are_counted():
    """Tokens that the model did not confirm are rejected, and no completion tokens."""
    model = FakeModel(speculation=free_drafts(Oracle(following, wrong_after=0), most=3))
    counted = usage(answer(model, ask("r", PROMPT, 12)))
    assert counted.accepted_tokens == 0
    assert counted.rejected_tokens > 10
    assert counted.completion_tokens == len(reference(PROMPT, 12))


def test_no_draft_passes_the_limit():
    """An answer of a few tokens is drafted no further than it may go, and ends with exactly those."""
    for most in range(1, 8):
        model = FakeModel(speculation=free_drafts(Oracle(following, wrong_after=99), most=9))
        deltas = answer(model, ask("r", PROMPT, most))
        assert text(deltas) == reference(PROMPT, most)
        fed = [feed for decode in model.decodes for feed in decode]
        assert max(feed.position + len(feed.tokens) for feed in fed) < len(PROMPT) + most + (most == 1)


def test_a_stop_string_inside_a_draft_ends_the_answer():
    """What was drafted after a stop string is not part of the answer, nor of the cache."""
    expected = reference(PROMPT, 20)
    stop = expected[6:8]
    cut = expected[: expected.index(stop)]
    model = FakeModel(speculation=free_drafts(Oracle(following, wrong_after=99), most=9))
    deltas = answer(model, ask("r", PROMPT, 20, stop=(stop,)))
    assert text(deltas) == cut
    assert deltas[-1].finish.stop == stop
    assert all(model.line(i) == model._cache.table.tokens(i) for i in range(2))


def test_neighbours_are_drafted_in_the_same_step():
    """Drafts of several answers share a decode, which holds at most a batch, and no more rows than there are."""
    model = FakeModel(
        slots=2, kv_size=200, batch_size=12, logit_rows=9,
        speculation=free_drafts(Oracle(following, wrong_after=99), most=9),
    )
    prompts = {"a": "what is my name", "b": "hello there ab"}
    for name, prompt in prompts.items():
        model.open(ask(name, prompt, 16))
    answers = finish(model)
    assert {name: text(deltas) for name, deltas in answers.items()} == {
        name: reference(prompt, 16) for name, prompt in prompts.items()
    }
    generating = [decode for decode in model.decodes if all(feed.logits and feed.position > 13 for feed in decode)]
    sizes = [sum(len(feed.tokens) for feed in decode) for decode in generating]
    assert max(sizes) == 9


def test_recurrent_models_have_no_drafts():
    """Wrong drafts could not be taken back, so nothing is drafted."""
    oracle = Oracle(following, wrong_after=99)
    model = FakeModel(can_trim=False, speculation=free_drafts(oracle))
    assert text(answer(model, ask("r", PROMPT))) == reference(PROMPT, 8)
    assert oracle.asked == 0


def test_repetitions_are_found_without_a_draft_model(monkeypatch):
    """An answer that repeats its prompt is drafted from it."""
    monkeypatch.setattr("batching_for_tests.following", alike)
    model = FakeModel(context_length=200, kv_size=400, speculation=free_drafts(most=9))
    deltas = answer(model, ask("r", "abcdefghabcdefgh", 100))
    plain = FakeModel(context_length=200, kv_size=400)
    assert text(deltas) == text(answer(plain, ask("r", "abcdefghabcdefgh", 100)))
    assert usage(deltas).accepted_tokens > 30
    assert len(model.decodes) < 70


def test_drafts_wait_until_the_usual_step_is_known():
    """A new model drafts nothing before it has measured a step without drafts: their costs are compared with it."""
    oracle = Oracle(following, wrong_after=99)
    model = FakeModel(speculation=Speculation(oracle, 3))
    model.open(ask("r", PROMPT, 8))
    model.step()  # the prompt
    model.step()
    assert oracle.asked == 0
    assert [len(feed.tokens) for feed in model.decodes[-1]] == [1]


def test_what_a_draft_model_has_not_read_is_not_drafted():
    """A draft model that returns nothing delays nothing: the step goes on without drafts."""

    class Reading(Oracle):
        def draft(self, wishes):
            return [[] for _ in wishes]

    model = FakeModel(speculation=free_drafts(Reading(following, 0)))
    deltas = answer(model, ask("r", PROMPT))
    assert text(deltas) == reference(PROMPT, 8)
    assert usage(deltas).rejected_tokens == 0


def test_a_failed_answer_leaves_no_drafts_of_the_others():
    """If one answer of a request fails, the drafts of its other answers leave the cache with them."""

    class Failing(FakeModel):
        def sampler(self, sampling, prompt):
            chosen = super().sampler(sampling, prompt)
            if len(self.samplers) == 1:
                chosen = FailingSampler(self)
            return chosen

    class FailingSampler(PickedSampler):
        def sample(self, row):
            if len(self.model.decodes) > 3:
                raise EngineFailed("no more")
            return super().sample(row)

    model = Failing(speculation=free_drafts(Oracle(following, wrong_after=1), most=4))
    deltas = answer(model, ask("r", PROMPT, 20, n=2))
    assert isinstance(deltas[-1].error, EngineFailed)
    assert any(len(feed.tokens) > 1 for feed in model.decodes[-1][1:])
    assert all(model.line(i) == model._cache.table.tokens(i) for i in range(2))


def test_a_draft_ends_where_a_grammar_is_awaited():
    """Where an answer begins a call whose grammar is not made yet, the rest of a draft waits, to be evaluated again."""

    class Calls:
        """Awaits its grammar after the second token."""

        stalled = active = False
        error = None

        def sample(self, sampler, row, piece):
            return sampler.sample(row)

        def take(self, piece, *, thinking):
            self.stalled = len(run.tokens) == len(PROMPT) + 3

    model, request = FakeModel(), ask("r", PROMPT, 20)
    [run], _ = open_runs(model, None, request)
    run.admit(0, 0, model.sampler(request.sampling, run.tokens))
    run.calls = Calls()
    draft = [following([*map(ord, PROMPT), *map(ord, reference(PROMPT, at))]) for at in range(6)]
    run.tokens.append(draft[0])
    run.evaluated = len(PROMPT)
    model.decode([Feed(0, 0, run.tokens[:-1], logits=False)])
    feed = run.feed_draft(draft[1:])
    [row] = model.decode([feed])
    run.evaluated += 1
    run.take(model, feed, row)
    assert run.tokens == [*map(ord, PROMPT), *draft[:3]]
    assert run.pending == 1


def test_joined_pieces_keep_their_order():
    """Only pieces of plain text become one; thoughts and calls stay where they were."""
    first = Delta("r", "a", 1, scores=(TokenScore(b"a", -1.0),))
    second = Delta("r", "b", 1, scores=(TokenScore(b"b", -2.0),))
    thought = Delta("r", "", 1, reasoning="hm")
    call = Delta("r", "", 1, calls=(CallPiece(0, "c", "f"),))
    assert joined([first, second]) == [Delta("r", "ab", 2, scores=(*first.scores, *second.scores))]
    assert joined([first, thought, second]) == [first, thought, second]
    assert joined([first, second, call]) == [Delta("r", "ab", 2, scores=(*first.scores, *second.scores)), call]
