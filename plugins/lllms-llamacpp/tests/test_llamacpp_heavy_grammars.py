"""Grammars that take long, or forever, fail only their own requests."""

import json
from concurrent.futures import wait
from signal import SIGKILL
from threading import Event
from time import perf_counter

import pytest
from attrs import evolve

from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Message

ENDLESS = Constraint("json_schema", json.dumps({"allOf": [{"pattern": f".*{i}.*"} for i in range(30)]}))
"""It would take years to decide whether any string matches."""
BACKWARDS = "root ::= r0\n" + "".join(f"r{i} ::= [a-z]+ r{i + 1}\n" for i in range(4000)) + 'r4000 ::= "x"\n'
HEAVY = {
    "endless": ENDLESS,
    "multiple": Constraint("json_schema", json.dumps({"type": "integer", "multipleOf": 9973 * 997})),
    "rules in the worst order": Constraint("gbnf", BACKWARDS, "grammar"),
    "empty lines": Constraint("lark", "\n" * 250_000 + 'start: "a"', "grammar"),
    "slashes": Constraint("lark", 'start: "a" // /' + "\\/" * 120_000, "grammar"),
}
"""Grammars that take at least 10 seconds to read or to compile."""
SMALL = Constraint("json_schema", json.dumps({"const": "small"}))


@pytest.fixture(scope="module")
def model(load):
    """A model that has already compiled a grammar."""
    talk = load(slots=4)
    talk.ask("hi", constraint=Constraint("regex", "a"))
    return talk


@pytest.fixture
def talk(model):
    """The model, idle before and after."""
    yield model
    assert model.model.idle


def heavy(name, constraint):
    return ChatRequest(name, "tiny", messages=(Message("user", "hi"),), constraint=constraint)


def watch(talk, until, seconds=60):
    """Step until a condition holds; return the errors by request, and the longest time of a step."""
    errors, longest, end = {}, 0.0, perf_counter() + seconds
    while not until():
        assert perf_counter() < end
        started = perf_counter()
        deltas = list(talk.model.step())
        longest = max(longest, perf_counter() - started)
        for delta in deltas:
            if delta.error is not None:
                errors[delta.request_id] = delta.error
            else:
                talk.answers[delta.request_id].take(delta)
    return errors, longest


@pytest.mark.parametrize("name", HEAVY)
def test_a_small_grammar_does_not_wait_for_a_heavy_one(talk, name):
    """A small grammar is ready in a few seconds, long before a heavy one is refused; no step takes half a second."""
    # A text that no earlier test has used, because refusals are remembered.
    constraint = evolve(HEAVY[name], text=HEAVY[name].text + " ")
    talk.model.open(heavy("heavy", constraint))
    started = perf_counter()
    small = talk.open("hi", constraint=evolve(SMALL, text=json.dumps({"const": name})))
    errors, longest = watch(talk, lambda: talk.answers[small].finish is not None)
    assert not errors  # the heavy one is still being tried
    assert perf_counter() - started < 8
    assert talk.answers[small].text == json.dumps(name)
    streaming = talk.open("tell me a story", max_tokens=300)
    _, longer = watch(talk, lambda: talk.answers[streaming].finish is not None)
    assert max(longest, longer) < 0.5
    [delta] = talk.model.cancel("heavy")
    assert delta.last


def test_a_heavy_grammar_is_refused_and_that_is_remembered(talk):
    """A grammar that takes too long fails only its request; a repetition is refused without another trial."""
    talk.model.open(heavy("first", ENDLESS))
    errors, _ = watch(talk, lambda: talk.model.idle)
    assert isinstance(errors["first"], InvalidRequest)
    assert "more than 3 seconds" in errors["first"].message
    future = talk.model.matcher(ENDLESS)
    assert future.done()
    assert isinstance(future.exception(), InvalidRequest)


def test_a_grammar_that_would_end_the_process_is_refused(talk):
    """A grammar whose compilation overflows the stack fails only its request."""
    count = 4000
    rules = "".join(f'r{i} ::= "a{i}" r{(i + 1) % count} | "c"\n' for i in range(count))
    talk.model.open(heavy("deep", Constraint("gbnf", "root ::= r0\n" + rules, "grammar")))
    errors, _ = watch(talk, lambda: talk.model.idle)
    assert isinstance(errors["deep"], InvalidRequest)
    assert errors["deep"].code == "invalid_grammar"
    assert talk.ask("hi", constraint=Constraint("regex", "b")).text == "b"


def holds(condition, seconds):
    """Whether a condition becomes true in time."""
    end = perf_counter() + seconds
    while perf_counter() < end:
        if condition():
            return True
        Event().wait(0.01)
    return False


def test_a_grammar_that_nobody_waits_for_is_given_up(talk):
    """A trial goes on while one request still wants its grammar, and is killed when the last one is cancelled."""
    constraint = evolve(ENDLESS, text=ENDLESS.text + "  ")
    trial = talk.model._constraints._thorough.trial
    for name in ("first", "second"):
        talk.model.open(heavy(name, constraint))
    [job] = talk.model._constraints._jobs.values()
    assert holds(lambda: job.trial is trial and trial._process is not None and trial._process.poll() is None, 30)
    process = trial._process
    talk.model.cancel("first")
    assert not job.abandoned
    assert process.poll() is None
    talk.model.cancel("second")
    assert process.wait(60) == -SIGKILL  # another signal would mean that its time was up
    assert not talk.model._constraints._jobs


def test_a_grammar_that_waits_for_its_turn_is_dropped(talk):
    """A grammar whose request is cancelled before its turn is never tried; each of the n answers has dropped it."""
    for at in range(3):
        request = heavy(str(at), evolve(ENDLESS, text=ENDLESS.text + "   " + " " * at))
        talk.model.open(evolve(request, n=3) if at else request)
    jobs = list(talk.model._constraints._jobs.values())
    assert [len(job.waiting) for job in jobs] == [1, 3, 3]
    for at in (1, 2, 0):
        talk.model.cancel(str(at))
    assert all(job.abandoned for job in jobs)
    assert not talk.model._constraints._jobs
    assert talk.ask("hi", constraint=Constraint("regex", "c")).text == "c"


def test_requests_share_the_work_on_a_grammar(talk):
    """Concurrent requests with the same grammar wait for one compilation, and each gets its own matcher."""
    constraint = Constraint("regex", "[qr]{3}")
    futures = [talk.model.matcher(constraint) for _ in range(5)]
    assert len(talk.model._constraints._jobs) == 1
    futures[0].cancel()
    wait(futures[1:], 10)
    assert len({id(future.result()) for future in futures[1:]}) == 4


@pytest.mark.parametrize("constraint", [
    Constraint("json_schema", '{"const": "a\u2581b"}'), Constraint("json_schema", '{"const": "a\\u2581b"}'),
    Constraint("lark", 'start: "\\"a\u2581b\\""'), Constraint("lark", 'start: /"a\\u2581b"/'),
    Constraint("gbnf", 'root ::= "\\"a\\u2581b\\""'), Constraint("regex", '"a\\u2581b"'),
    Constraint("json_schema", r'{"type": "string", "pattern": "^a\\u2581b$"}'),
    Constraint("lark", r'start: %json {"type": "string", "pattern": "^a\\u2581b$"}'),
    Constraint("lark", r'start: %json {"anyOf": [{"pattern": "^a[\\u2581]b$", "type": "string"}]}'),
])
def test_mark_of_a_space_is_one(talk, constraint):
    """If the vocabulary writes spaces as U+2581, this character in a grammar means a space."""
    assert talk.ask("hi", constraint=constraint).text == '"a b"'


def test_half_a_surrogate_pair_is_refused(talk):
    """An invalid text fails only its request, and is not reported as the engine's fault."""
    error = talk.model.matcher(Constraint("regex", "\ud800", "grammar")).exception(10)
    assert isinstance(error, InvalidRequest)
    assert "surrogates" in error.message


def test_closing_does_not_wait_for_a_heavy_grammar(load):
    """Closing the model ends the current trial, and the waiting request gets an error."""
    talk = load()
    future = talk.model.matcher(ENDLESS)
    [job] = talk.model._constraints._jobs.values()
    assert holds(lambda: job.trial is not None, 30)
    started = perf_counter()
    talk.model.close()
    assert perf_counter() - started < 3
    assert isinstance(future.exception(1), EngineFailed)
