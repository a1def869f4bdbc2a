import pytest
from gpus_for_tests import watched

from lllms_core.types import Message

SECRETS = ["blimp", "zebra", "apple", "robot", "tulip", "ocean", "piano", "tiger", "lemon", "cloud"]


def converse(secret):
    """Tell a secret, and ask for it in the next turn; yields the requests to open."""
    told = yield ("The secret word is " + secret + ".",)
    asked = yield ("The secret word is " + secret + ".", told, "What is the secret word?")
    again = yield (
        "The secret word is " + secret + ".", told, "What is the secret word?", asked, "What is the secret word?",
    )
    return [told, asked, again]


def play(talk, secrets):
    """Run all conversations at once, each continuing after its answer; return the answers by secret."""
    talks = {secret: converse(secret) for secret in secrets}
    open_names = {talk.open(*next(conversation)): secret for secret, conversation in talks.items()}
    said = {}
    while open_names:
        talk.step()
        for name in [name for name in open_names if talk.answers[name].finish]:
            secret = open_names.pop(name)
            try:
                texts = talks[secret].send(talk.answers[name].text)
            except StopIteration as end:
                said[secret] = end.value
            else:
                open_names[talk.open(*texts)] = secret
    return said


@pytest.fixture(scope="module")
def alone(load):
    """A fresh model's answers in each conversation on its own."""
    return {secret: play(load(slots=1), [secret])[secret] for secret in SECRETS}


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_conversations_keep_their_secrets(load, alone, slots):
    """Ten concurrent conversations: each gets exactly the same answers as alone, and none learns another's secret."""
    talk = load(slots=slots)
    said = play(talk, SECRETS)
    for secret in SECRETS:
        _, asked, again = said[secret]
        assert not any(other in text for other in SECRETS if other != secret for text in said[secret])
        assert secret in asked
        assert secret in again
    assert said == alone


def test_conversations_with_little_room(load, alone):
    """With a cache for barely more than one conversation the others wait, and all answers are the same."""
    talk = load(slots=4, context_length=256, kv_size=300)
    assert play(talk, SECRETS[:4]) == {secret: alone[secret] for secret in SECRETS[:4]}


def test_follow_up_reuses_the_conversation(tiny):
    """The second turn evaluates only its new tokens."""
    first = tiny.ask("My name is Xerxo.")
    second = tiny.ask("My name is Xerxo.", first.text, "What is my name?")
    known = first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.text == "Your name is Xerxo."
    assert second.cached >= known - 1


def test_regenerated_answer_reuses_the_prompt(tiny):
    """A repeated prompt evaluates one token and gives the same answer; the earlier answer can still be resumed."""
    first = tiny.ask("I live in Zanzibar.")
    again = tiny.ask("I live in Zanzibar.")
    assert again.text == first.text
    assert again.cached == again.usage.prompt_tokens - 1
    onwards = tiny.ask("I live in Zanzibar.", first.text, "Where do I live?")
    assert "Zanzibar" in onwards.text
    assert onwards.cached >= first.usage.prompt_tokens


def test_edited_turn_reuses_what_came_before(tiny):
    """An edited last turn reuses everything before the edit, and is answered as if it had been the original."""
    first = tiny.ask("My favorite color is teal.")
    tiny.ask("My favorite color is teal.", first.text, "What is my favorite color?")
    edited = tiny.ask("My favorite color is teal.", first.text, "lets count to 10")
    assert edited.text.endswith("9, 10.")
    assert edited.cached >= first.usage.prompt_tokens + first.usage.completion_tokens - 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_shared_system_prompt_is_reused(load, order):
    """The first request evaluates a system prompt; the others reuse it, in whatever order they come."""
    talk = load(slots=2)
    system = "You are Bob, a friendly assistant."
    rendered = talk.model.template.render([Message("system", system)], add_generation_prompt=False)
    shared = len(talk.model.tokenize(rendered))
    questions = ["Who are you?", "Hi!", "What is 3 plus 4?"]
    answers = [talk.ask(questions[i], system=system) for i in order]
    assert answers[0].cached < shared
    assert all(answer.cached >= shared for answer in answers[1:])
    assert answers[order.index(0)].text == "I am Bob."


def test_cancel_in_the_queue(load):
    """A request that waits for a slot can be cancelled without ever running."""
    talk = load(slots=1)
    running, waiting = talk.open("Count to 20."), talk.open("Hi!")
    talk.step()
    answer = talk.cancel(waiting)
    assert (answer.reason, answer.usage.completion_tokens) == ("cancelled", 0)
    talk.finish()
    assert talk.answers[running].text.endswith("20.")


def test_cancel_in_the_prompt(load):
    """A request can be cancelled between two chunks of its prompt; its evaluated prefix is reused."""
    talk = load(slots=2, batch_size=16)
    text = "dog " * 100
    name = talk.open(text, max_tokens=1)
    for _ in range(3):
        assert not talk.step()
    assert talk.cancel(name).reason == "cancelled"
    assert talk.model.idle
    assert talk.ask(text, max_tokens=1).cached == 48


def test_cancel_in_the_answer(load):
    """A cancelled answer ends at once; the other one continues unaffected."""
    talk = load(slots=2)
    other, name = talk.open("lets count to 10"), talk.open("Count to 100.")
    while talk.answers[name].tokens < 5:
        talk.step()
    answer = talk.cancel(name)
    assert (answer.reason, answer.tokens, answer.usage.completion_tokens) == ("cancelled", 5, 5)
    talk.finish()
    assert talk.answers[other].text.endswith("9, 10.")


def test_interrupt_gives_up_a_long_prompt(load):
    """While `interrupt` is set, a prompt's decode gives up at once; once it is cleared, the answer is as usual."""
    talk = load(slots=2)
    other = talk.open("lets count to 10")
    talk.step()
    long = talk.open("dog " * 120 + "What is 3 plus 4?", max_tokens=12)
    talk.model.interrupt.set()
    assert talk.step() == []
    assert talk.step() == []
    talk.model.interrupt.clear()
    talk.finish()
    assert talk.answers[other].text.endswith("9, 10.")
    fresh = load(slots=1).ask("dog " * 120 + "What is 3 plus 4?", max_tokens=12)
    assert talk.answers[long].text == fresh.text


@watched
def test_decodes_show_that_they_get_on(load):
    """Decodes of long prompts and of single tokens check `interrupt` many times while they compute, and are counted."""
    talk = load(slots=1)
    talk.open("dog " * 120 + "What is 3 plus 4?", max_tokens=12)
    for _ in range(2):
        talk.model.interrupt.clear()
        before = talk.model.interrupt.looks
        talk.step()
        assert talk.model.interrupt.looks > before + 50
    talk.finish()


def test_looks_are_never_used_up(load):
    """A program that never clears `interrupt` can decode forever: the budget of looks is refilled in between."""
    talk = load(slots=1)
    talk.open("dog " * 120 + "What is 3 plus 4?", max_tokens=4)
    while not talk.model.idle:
        talk.model.interrupt._asked[0] = talk.model.interrupt._told[0] = 3
        talk.step()
    assert talk.answers["request-0"].tokens == 4


def test_interrupt_does_not_touch_single_tokens(load):
    """A decode of a few tokens is not given up, since it ends before that would pay off."""
    talk = load(slots=1)
    name = talk.open("Hi!")
    talk.step()
    talk.model.interrupt.set()
    talk.step()
    talk.model.interrupt.clear()
    assert talk.answers[name].tokens == 2
    talk.finish()


def test_long_prompt_does_not_stall_answers(load):
    """While a long prompt is read, generating requests get a token in every step."""
    talk = load(slots=3, batch_size=64)
    names = [talk.open("Count to 100.", max_tokens=60), talk.open("Count to 100.", max_tokens=60)]
    while not all(talk.answers[name].tokens for name in names):
        talk.step()
    long = talk.open("dog " * 150, max_tokens=1)
    steps = 0
    while not talk.answers[long].finish:
        assert {delta.request_id for delta in talk.step()} >= set(names)
        steps += 1
    assert steps >= 3
    talk.finish()


def test_full_cache_makes_requests_wait(load):
    """A request is admitted only when its prompt and answer have room; running requests are not affected."""
    talk = load(slots=4, context_length=128, kv_size=256)
    names = [talk.open("Count to 100.", max_tokens=90) for _ in range(5)]
    most = 0
    while not talk.model.idle:
        talk.step()
        most = max(most, len(talk.model._running))
    assert most == 2
    assert len({talk.answers[name].text for name in names}) == 1
    assert all(talk.answers[name].tokens == 90 for name in names)


def test_kept_conversations_make_room(load):
    """Kept conversations are evicted when a request needs room, the least recently used first."""
    talk = load(slots=2, context_length=128, kv_size=256)
    for word in SECRETS:
        talk.ask("The secret word is " + word + ".", max_tokens=100)
    assert talk.ask("The secret word is cloud.", max_tokens=100).cached > 10
    assert talk.model._cache.table.held <= 256
