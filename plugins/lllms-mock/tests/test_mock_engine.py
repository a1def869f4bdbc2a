"""The mock engine, from options to the last delta."""

import pickle
import subprocess
import sys
from pathlib import Path
from time import monotonic

import attrs
import lllms_mock
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lllms_mock import Line, MockEngine, MockModel, Options
from lllms_mock.splitting import split_bytes, split_words

from lllms_core.errors import ContextOverflow, EngineFailed, InvalidRequest, ModelLoadFailed
from lllms_core.testing import collect
from lllms_core.types import ChatRequest, Delta, Message, ModelOffer, ModelSpec, Request, Sampling, TextRequest, Usage


def load(options: Options | None = None, progress: list[float] | None = None) -> MockModel:
    return MockEngine().load(ModelSpec("m", options or Options()), ([] if progress is None else progress).append)


def chat(*texts: str, id: str = "r", **fields: object) -> Request:  # noqa: A002
    """A conversation whose first message, and every second after it, is the user's."""
    messages = tuple(Message("assistant" if turn % 2 else "user", text) for turn, text in enumerate(texts))
    return attrs.evolve(ChatRequest(id, "m", messages=messages), **fields)  # type: ignore[arg-type]


def answer(model: MockModel, request: Request) -> str:
    return "".join(delta.text for delta in collect(model, request)[request.id])


def usage(deltas: list[Delta]) -> Usage | None:
    return deltas[-1].finish.usage if deltas[-1].finish else None


@given(st.text())
def test_tokens_join_to_the_text(text: str) -> None:
    """No character is lost or changed, whatever the token size."""
    assert "".join(split_words(text)) == text
    assert b"".join(split_bytes(text)).decode() == text


def test_tokens_are_words_with_the_space_before_them() -> None:
    """A word keeps one preceding space; punctuation and further white space are tokens of their own."""
    assert split_words("Hello, old  world!\n") == ["Hello", ",", " old", " ", " world", "!", "\n"]


def test_it_chats_and_continues() -> None:
    """Both kinds of request get an answer from the chatbot, with exact usage."""
    model = load()
    first = Sampling(temperature=0)
    deltas = collect(model, chat("Hello!", sampling=first))["r"]
    assert "".join(delta.text for delta in deltas) == "Hello. How are you feeling today?"
    assert usage(deltas) == Usage(prompt_tokens=2, completion_tokens=8)
    assert answer(model, TextRequest("r", "m", prompt="Hello!", sampling=first)) == "Hello. How are you feeling today?"


def test_a_seed_gives_the_same_answer_again() -> None:
    """One seed always gives the same answer, also in another instance; other seeds give others."""
    answers = [answer(load(), chat("Hello!", sampling=Sampling(seed=seed))) for seed in [*range(20), *range(20)]]
    assert answers[:20] == answers[20:]
    assert len(set(answers)) > 1


def test_conversations_that_run_at_once_keep_to_themselves() -> None:
    """Ten conversations, four at a time, each with its own secret: each gets its own back."""
    model = load()
    requests = [chat(f"my name is X{n}", "ok", "what is my name?", id=str(n)) for n in range(10)]
    got: dict[str, list[Delta]] = {}
    for start in range(0, 10, model.slots):
        got |= collect(model, *requests[start : start + model.slots])
    for n in range(10):
        assert f"X{n}" in "".join(delta.text for delta in got[str(n)]).replace(".", " ").replace(",", " ").split()


def test_replies_go_round_with_the_turns_of_the_conversation() -> None:
    """The first turn gets the first text, word for word, whatever requests came before."""
    model = load(Options(script=(Line(replies=("one {1}", "two")),)))
    assert answer(model, chat("a", "b", "c")) == "two"
    assert answer(model, chat("a")) == "one {1}"
    assert answer(model, chat("a", "b", "c", "d", "e")) == "one {1}"
    assert answer(model, TextRequest("r", "m", prompt="a")) == "one {1}"


def test_the_first_line_that_hears_the_user_answers() -> None:
    """`when` is searched in the last user message only; if no line matches, the chatbot answers."""
    model = load(Options(script=(Line(when="weath.r", replies=("Sunny.",)), Line(when="^mute$", replies=("",)))))
    assert answer(model, chat("How is the WEATHER?")) == "Sunny."
    assert answer(model, chat("mute")) == ""
    assert answer(model, chat("weather", "Sunny.", "Hello", sampling=Sampling(temperature=0))).startswith("Hello.")


def test_an_answer_can_have_any_length() -> None:
    """`tokens` repeats or cuts the answer to exactly that many tokens."""
    script = (Line(when="long", replies=("a b",), tokens=5), Line(when="cut", replies=("a b c",), tokens=2))
    model = load(Options(script=script))
    deltas = collect(model, chat("long"))["r"]
    assert ("".join(delta.text for delta in deltas), usage(deltas)) == ("a b a b a", Usage(1, 5))
    assert answer(model, chat("cut")) == "a b"


def test_rules_of_ones_own_replace_the_chatbots(tmp_path: Path) -> None:
    """`rules` names a file, and the bot described there answers."""
    path = tmp_path / "bot.toml"
    path.write_text('otherwise = ["You said: {text}"]', encoding="utf-8")
    assert answer(load(Options(rules=path)), chat("Grüße!")) == "You said: Grüße!"


def test_characters_and_stop_strings_may_lie_over_tokens() -> None:
    """With one token per byte the text is still whole, and ends before the stop string."""
    model = load(Options(tokenizer="bytes", script=(Line(replies=("año 🙂 END of it",)),)))
    deltas = collect(model, chat("ñ", stop=("🙂 END",)))["r"]
    assert "".join(delta.text for delta in deltas) == "año "
    assert usage(deltas) == Usage(prompt_tokens=2, completion_tokens=len("año 🙂 END".encode()))
    assert answer(model, chat("x", max_tokens=2)) == "a\ufffd"


def test_what_does_not_fit_is_refused() -> None:
    """A conversation that leaves no room for an answer raises ContextOverflow, as in real engines."""
    model = load(Options(context_length=8))
    with pytest.raises(ContextOverflow, match="holds 8"):
        model.open(chat("one two three", "four five", "six seven eight"))
    assert model.idle


def test_texts_that_are_too_long_to_embed_are_cut_only_where_that_is_wanted() -> None:
    """A text beyond the context is refused with the limit, or cut to it with `truncate`, as the usage shows."""
    with pytest.raises(ContextOverflow, match=r"5 tokens, but the mock reads 3.*options\.truncate"):
        load(Options(context_length=3)).embed(["one two three four five"])
    cut = load(Options(context_length=3, truncate=True)).embed(["one two three four five", "one two three"])
    assert cut.vectors[0] == cut.vectors[1]
    assert cut.tokens == 6


def test_the_pace_is_the_scripts_and_each_answers_own() -> None:
    """Time to first token and tokens per second are kept; concurrent answers take turns."""
    model = load(Options(first_token=0.03, tokens_per_second=200, script=(Line(replies=("a b c d",), tokens=11),)))
    started = monotonic()
    for n in range(4):
        model.open(chat("x", id=str(n)))
    arrivals: list[tuple[float, str]] = []
    while not model.idle:
        arrivals += [(monotonic() - started, delta.request_id) for delta in model.step() if delta.tokens]
    assert len(arrivals) == 44
    assert arrivals[0][0] >= 0.03
    assert arrivals[-1][0] >= 0.03 + 10 / 200
    assert {request_id for _, request_id in arrivals[:4]} == {"0", "1", "2", "3"}


def test_a_load_reports_progress_and_takes_its_time() -> None:
    """Progress rises to 1, and the load takes as long as the options say."""
    progress: list[float] = []
    started = monotonic()
    load(Options(load_seconds=0.02), progress)
    assert monotonic() - started >= 0.02
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_memory_and_slots_are_declared() -> None:
    """The model reports what the options declare, before and after the load."""
    options = Options(memory=123, slots=2, context_length=77)
    assert MockEngine().inspect(ModelSpec("m", options)) == {
        "memory": 123, "tasks": ", ".join(sorted(load(options).tasks)),
    }
    assert MockEngine().estimate(ModelSpec("m", options)).total == 123
    info = load(options).info
    assert (info.slots, info.context_length, info.details) == (2, 77, {"memory": 123})
    assert info.tasks == {"chat", "text", "embed", "tokenize", "detokenize"}


def test_inspect_finds_faults_of_the_rules(tmp_path: Path) -> None:
    """`lllms check` finds a broken rules file without loading the model."""
    with pytest.raises(ModelLoadFailed, match=r"none\.toml"):
        MockEngine().inspect(ModelSpec("m", Options(rules=tmp_path / "none.toml")))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"when": "("}, "'when' is not a regular expression"),
        ({"fault": "explode"}, "'fault' must be in"),
        ({"after": -1}, "'after' must be >= 0"),
        ({"tokens": -1}, "'tokens' must be >= 0"),
    ],
)
def test_a_line_with_a_fault_is_refused(fields: dict[str, object], fault: str) -> None:
    """An invalid value is an error that names its key."""
    with pytest.raises(ValueError, match=r"must be|not a regular") as caught:
        Line(**fields)  # type: ignore[arg-type]
    assert fault in str(caught.value)


def test_a_load_can_fail() -> None:
    """A load fails with a clear error, or with any exception that an engine may raise."""
    with pytest.raises(ModelLoadFailed, match="load_fault"):
        load(Options(load_fault="fail"))
    with pytest.raises(RuntimeError, match="breaks this model"):
        load(Options(load_fault="raise"))


def test_a_request_can_be_refused_and_open_can_break() -> None:
    """`refuse` refuses one request as the client's fault; `raise-open` breaks the model."""
    model = load(Options(script=(Line(when="no", fault="refuse"), Line(when="break", fault="raise-open"))))
    with pytest.raises(InvalidRequest, match="refuses"):
        model.open(chat("no"))
    assert model.idle
    with pytest.raises(RuntimeError, match="breaks this model"):
        model.open(chat("break"))


def test_a_request_can_fail_at_a_token_while_others_go_on() -> None:
    """`fail` ends its own request after the given number of tokens; its neighbour is unaffected."""
    script = (Line(when="bad", replies=("a b c",), fault="fail", after=2), Line(replies=("a b c",)))
    got = collect(load(Options(script=script)), chat("bad", id="bad"), chat("good", id="good"))
    assert "".join(delta.text for delta in got["bad"]) == "a b"
    assert isinstance(got["bad"][-1].error, EngineFailed)
    assert "".join(delta.text for delta in got["good"]) == "a b c"


def test_a_fault_after_the_end_strikes_at_the_end() -> None:
    """An answer shorter than `after` is written in full, and then fails."""
    deltas = collect(load(Options(script=(Line(replies=("a b",), fault="fail", after=9),))), chat("x"))["r"]
    assert "".join(delta.text for delta in deltas) == "a b"
    assert isinstance(deltas[-1].error, EngineFailed)


def test_a_step_can_break_the_model() -> None:
    """`raise-step` raises out of `step` after the given number of tokens."""
    model = load(Options(script=(Line(replies=("a b c",), fault="raise-step", after=2),)))
    model.open(chat("x"))
    assert [delta.text for _ in range(2) for delta in model.step()] == ["a", " b"]
    with pytest.raises(RuntimeError, match="breaks this model"):
        model.step()


def test_a_request_can_hang_until_it_is_cancelled() -> None:
    """`hang` writes the given number of tokens and then stalls, while others continue; a cancel ends it at once."""
    model = load(Options(script=(Line(when="wait", replies=("a b c",), fault="hang", after=1),)))
    model.open(chat("wait", id="wait"))
    assert [delta.text for delta in model.step()] == ["a"]
    model.open(chat("Hello", id="other"))
    ended: list[Delta] = []
    while not ended:
        ended = [delta for delta in model.step() if delta.last]
    assert [delta.request_id for delta in ended] == ["other"]
    assert list(model.step()) == []
    [last] = model.cancel("wait")
    assert last.finish is not None
    assert (last.finish.reason, last.finish.usage) == ("cancelled", Usage(1, 1))
    assert model.idle


DYING = """
import threading
from lllms_core.types import Message, ModelSpec, ChatRequest, TextRequest, Request
from lllms_mock import Line, MockEngine, Options

options = Options({options})
model = MockEngine().load(ModelSpec("m", options), lambda part: None)
print("loaded", flush=True)
model.open(ChatRequest("r", "m", messages=(Message("user", "x"),)))
while not model.idle:
    print(*(delta.text for delta in model.step()), flush=True)
"""


@pytest.mark.parametrize(
    ("options", "said", "status"),
    [
        ('load_fault="kill"', [], -9),
        ('load_fault="segfault"', [], -11),
        ('script=(Line(replies=("a b c",), fault="kill", after=2),)', ["loaded", "a", "b"], -9),
        ('script=(Line(replies=("a b c",), fault="segfault", after=2),)', ["loaded", "a", "b"], -11),
    ],
)
def test_a_process_can_die(options: str, said: list[str], status: int) -> None:
    """`kill` and `segfault` end the process with that signal, during the load or after the given number of tokens."""
    done = subprocess.run(
        [sys.executable, "-c", DYING.format(options=options)], capture_output=True, text=True, timeout=60, check=False,
    )
    assert (done.stdout.split(), done.returncode) == (said, status), done.stderr


THREADED = """
import threading
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ModelSpec
from lllms_mock import MockEngine, Options

def load():
    try:
        MockEngine().load(ModelSpec("m", Options(load_fault="kill")), lambda part: None)
    except ModelLoadFailed as error:
        print(error)

thread = threading.Thread(target=load)
thread.start()
thread.join()
"""


def test_a_model_in_a_thread_refuses_to_kill_the_server() -> None:
    """In the server's own process, options that end it fail the load with an error that says what to do."""
    done = subprocess.run([sys.executable, "-c", THREADED], capture_output=True, text=True, timeout=60, check=False)
    assert 'set isolation = "process"' in done.stdout, done.stderr
    assert done.returncode == 0


def test_the_engine_travels_to_a_worker() -> None:
    """Engine and options survive pickling on their way to a worker."""
    options = Options(rules=Path("bot.toml"), script=(Line(when="a", fault="kill"),))
    assert pickle.loads(pickle.dumps(options)) == options
    assert pickle.loads(pickle.dumps(MockEngine())).name == "mock"


def test_the_plugin_provides_the_engine_and_its_model() -> None:
    """Both hooks answer, and their answers fit together."""
    [engine] = lllms_mock.lllms_engines()
    [offer] = lllms_mock.lllms_models()
    assert (engine.name, engine.isolation, engine.needs_file) == ("mock", "thread", False)
    assert offer == ModelOffer("mock", engine=engine.name, description=offer.description)
