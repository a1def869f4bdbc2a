import json
import re

import jsonschema
import psutil
import pytest
from lllms_llamacpp.trial import TooExpensive, Trial

from lllms_core.errors import InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Message, Sampling

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
VALIDATOR = jsonschema.Draft202012Validator(PERSON)
SCHEMA = Constraint("json_schema", json.dumps(PERSON))
ENDLESS = Constraint("json_schema", json.dumps({"allOf": [{"pattern": f".*{i}.*"} for i in range(30)]}))
"""It would take years to decide whether any string matches."""


def refusal(talk, constraint) -> InvalidRequest:
    """The error that ends a request with this constraint."""
    talk.model.open(ChatRequest("refused", "tiny", messages=(Message("user", "hi"),), constraint=constraint))
    deltas = []
    while not talk.model.idle:
        deltas += [delta for delta in talk.model.step() if delta.request_id == "refused"]
    assert isinstance(deltas[-1].error, InvalidRequest)
    return deltas[-1].error


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=0), Sampling(seed=1), Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=2),
    Sampling(temperature=1.5, repeat_penalty=1.3, frequency_penalty=2, presence_penalty=2, seed=3),
], ids=["greedy", "default", "wild", "penalties"])
def test_answer_is_valid_or_cut(tiny, sampling):
    """With any sampling, an answer that stops is valid for the schema; otherwise it is cut, and reported as cut."""
    for seed in range(5):
        answer = tiny.ask("tell me a story", constraint=SCHEMA, sampling=sampling, max_tokens=60 + seed)
        if answer.reason == "stop":
            VALIDATOR.validate(json.loads(answer.text))
        else:
            assert (answer.reason, answer.tokens) == ("length", 60 + seed)
    short = tiny.ask("tell me a story", constraint=SCHEMA, sampling=sampling, max_tokens=3)
    assert (short.reason, short.tokens) == ("length", 3)


def test_answer_that_is_whole_stops(tiny):
    """An answer that cannot be extended ends at once, without an end token."""
    answer = tiny.ask("hi", constraint=Constraint("regex", "[ab]{4}"))
    assert re.fullmatch("[ab]{4}", answer.text)
    assert answer.reason == "stop"
    assert answer.usage.completion_tokens == answer.tokens
    exact = tiny.ask("hi", constraint=Constraint("regex", "[ab]{4}"), max_tokens=answer.tokens)
    assert (exact.text, exact.reason) == (answer.text, "stop")


@pytest.mark.parametrize(("constraint", "expected"), [
    (Constraint("gbnf", 'root ::= ("yes" | "no") "!"'), r"(yes|no)!"),
    (Constraint("lark", 'start: "<" NAME ">"\nNAME: /[a-z]{1,5}/'), r"<[a-z]{1,5}>"),
    (Constraint("regex", r"\d{3}-\d{2}"), r"\d{3}-\d{2}"),
    (Constraint("lark", 'start: "call " %json {"type": "object", "properties": {"a": {"const": 1}}, '
                        '"required": ["a"], "additionalProperties": false}'), r'call \{\s*"a"\s*:\s*1\s*\}'),
])
def test_other_grammars_are_kept(tiny, constraint, expected):
    """Answers follow llama.cpp's grammars, Lark grammars and regular expressions."""
    for seed in range(3):
        answer = tiny.ask("hi", constraint=constraint, sampling=Sampling(temperature=1.5, seed=seed))
        assert (answer.reason, bool(re.fullmatch(expected, answer.text))) == ("stop", True), answer.text


def test_json_object_is_an_object(tiny):
    """If only JSON is requested, any JSON object is an answer; a cut answer is the beginning of an object."""
    answer = tiny.ask("lets count to 10", constraint=Constraint("json_object"), sampling=Sampling(seed=5))
    if answer.reason == "stop":
        assert isinstance(json.loads(answer.text), dict)
    else:
        assert answer.text.lstrip().startswith("{")


def test_same_seed_gives_same_answer(tiny):
    """A seed determines a constrained answer like any other; another seed gives another answer."""
    texts = [tiny.ask("hi", constraint=SCHEMA, sampling=Sampling(temperature=1.5, seed=s)).text for s in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_others_in_the_batch_are_untouched(tiny):
    """Requests with other constraints or none give the same answers beside a constrained one as alone."""
    word = Constraint("regex", "[a-z]{6}")
    plain, other = tiny.ask("lets count to 10").text, tiny.ask("hi", constraint=word).text
    tiny.ask("warm up", constraint=SCHEMA)
    names = [tiny.open("lets count to 10"), tiny.open("tell me a story", constraint=SCHEMA),
             tiny.open("hi", constraint=word), tiny.open("lets count to 10")]
    tiny.finish()
    first, person, second, third = (tiny.answers[name] for name in names)
    assert (first.text, second.text, third.text) == (plain, other, plain)
    VALIDATOR.validate(json.loads(person.text))


def test_stop_string_ends_a_constrained_answer(tiny):
    """A stop string ends a constrained answer before it, like any other."""
    answer = tiny.ask("hi", constraint=Constraint("regex", "abcdefgh"), stop=("ef",))
    assert (answer.text, answer.reason) == ("abcd", "stop")


def test_prefill_comes_before_the_constraint(tiny):
    """A beginning of the answer supplied by the client is not subject to the constraint."""
    answer = tiny.ask("hi", "The answer: ", constraint=Constraint("regex", "yes|no"))
    assert answer.text in {"yes", "no"}


@pytest.mark.parametrize(("constraint", "word"), [
    (Constraint("json_schema", '{"properties": {"a": {"not": {}}}}', strict=True), "'not'"),
    (Constraint("json_schema", '{"oneOf": [{"type": "number"}, {"type": "integer"}]}', strict=True), "anyOf"),
    (Constraint("json_schema", '{"type": "string", "pattern": "(?=a)"}', strict=True), "lookahead"),
    (Constraint("json_schema", '{"$ref": "https://example.com/schema"}'), "example.com"),
    (Constraint("json_schema", '{"enum": []}'), "Unsatisfiable"),
    (Constraint("json_schema", '{"type": "string", "pattern": "^[\\\\x00]$"}'), "no text can match"),
    (Constraint("lark", "start: missing", "grammar"), "missing"),
    (Constraint("gbnf", "root ::= missing", "grammar"), "missing"),
    (Constraint("regex", "(a", "grammar"), "unclosed group"),
    (Constraint("regex", "((a{1000}){1000}){1000}", "grammar"), "too many"),
])
def test_constraint_that_cannot_be_kept_is_refused(tiny, constraint, word):
    """A constraint that cannot be enforced fails only its request, with the reason and the parameter's name."""
    error = refusal(tiny, constraint)
    assert word in error.message
    assert error.param == constraint.param
    assert tiny.ask("hi", max_tokens=1).tokens == 1


def test_time_to_compile_is_bounded(load):
    """A grammar that never finishes compiling is refused when its time is up; meanwhile other requests continue."""
    talk = load()
    talk.ask("hi", constraint=Constraint("regex", "a"))
    talk.model._constraints._thorough.trial.patience = 2.0
    running = talk.open("lets count to 10")
    talk.model.open(ChatRequest("endless", "tiny", messages=(Message("user", "hi"),), constraint=ENDLESS))
    quick = talk.open("lets count to 10", max_tokens=2)
    error = None
    while not talk.model.idle:
        for delta in talk.model.step():
            if delta.request_id == "endless":
                error = delta.error
                assert talk.answers[running].tokens > 2
                assert talk.answers[quick].finish is not None
            else:
                talk.answers[delta.request_id].take(delta)
    assert isinstance(error, InvalidRequest)
    assert "to compile" in error.message
    assert talk.ask("hi", constraint=Constraint("regex", "b")).text == "b"


def test_kernel_ends_an_endless_trial():
    """The process that tries grammars has limited CPU time for each, enforced by the kernel."""
    trial = Trial(seconds=0.5, patience=60)
    small = Constraint("lark", 'start: "a"')
    assert trial.run(small) == {"grammar": small.text, "fault": ""}
    with pytest.raises(TooExpensive) as raised:
        trial.run(ENDLESS)
    assert raised.value.slow
    assert trial.run(small)["fault"] == ""
    trial.close()
    trial.reap()


def test_closing_ends_the_trial(load):
    """A closed model leaves no process running."""
    before = set(psutil.Process().children())
    talk = load()
    talk.ask("hi", constraint=Constraint("regex", "a"))
    [child] = set(psutil.Process().children()) - before
    talk.model.close()
    assert not child.is_running()


def test_compiled_grammars_are_kept(tiny):
    """A grammar is compiled once for all requests that use it."""
    constraint = Constraint("regex", "[cd]{3}")
    tiny.ask("hi", constraint=constraint)
    assert tiny.model._constraints.matcher(constraint).done()


def test_constrained_request_can_be_cancelled(tiny):
    """A constrained request ends on a cancel, before and after its first token."""
    first = tiny.open("hi", constraint=Constraint("regex", "[xyz]{200}"))
    assert tiny.cancel(first).reason == "cancelled"
    second = tiny.open("hi", constraint=Constraint("regex", "[xyz]{200}"))
    while not tiny.answers[second].tokens:
        tiny.step()
    assert tiny.cancel(second).reason == "cancelled"
