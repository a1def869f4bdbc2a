"""The chatbot: rules files, and conversations with the rules that ship with the plugin."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lllms_mock.engine import ELIZA
from lllms_mock.rules import Rules, choose
from lllms_mock.rules_file import read_rules

from lllms_core.errors import ModelLoadFailed
from lllms_core.types import Sampling

FIRST = Sampling(temperature=0)


def rules(folder: Path, text: str) -> Rules:
    path = folder / "bot.toml"
    path.write_text(text, encoding="utf-8")
    return read_rules(path)


def talk(bot: Rules, *heard: str) -> str:
    """The answer to the last of these messages."""
    return bot.reply(heard, set(), FIRST)


def test_the_first_rule_that_is_found_answers_with_its_captures(tmp_path: Path) -> None:
    """Patterns match anywhere, ignoring case; captures lose their closing punctuation."""
    bot = rules(tmp_path, """
        rules = [
          { pattern = "tea with (?P<what>[^.!?]+)", replies = ["{what}?"] },
          { pattern = "tea", replies = ["Tea."] },
          { pattern = "(.*) for (.*)", replies = ["{2} for {1}: {text} {not a place}"] },
        ]
    """)
    assert talk(bot, "I like TEA with milk. And you?") == "milk?"
    assert talk(bot, "tea!") == "Tea."
    assert talk(bot, "This for that!") == "that for This: This for that! {not a place}"
    assert talk(bot, "nothing") == "Please go on."


def test_places_with_a_tilde_swap_words(tmp_path: Path) -> None:
    """`{~1}` swaps whole words as in [swap], also those with a straight or curly apostrophe."""
    bot = rules(tmp_path, """
        rules = [{ pattern = "say (.*)", replies = ["{~1} / {1}"] }]
        swap = { my = "your", "I'm" = "you're", me = "you" }
    """)
    assert talk(bot, "say I’m me, my enemy.") == "you're you, your enemy / I'm me, my enemy"  # noqa: RUF001  # curly


def test_memory_is_worked_out_from_the_conversation(tmp_path: Path) -> None:
    """A remembered value can be used later in the same conversation and in no other; the latest value counts."""
    bot = rules(tmp_path, """
        otherwise = ["You like {drink}.", "What do you like?"]
        rules = [
          { pattern = "i like (.*)", remember = { drink = "{1}" }, replies = ["{drink}, noted"] },
          { pattern = "again", replies = ["Again {drink}?"] },
        ]
    """)
    assert talk(bot, "I like tea") == "tea, noted"
    assert talk(bot, "I like tea", "hm") == "You like tea."
    assert talk(bot, "I like tea", "I like milk", "again") == "Again milk?"
    assert talk(bot, "hm") == talk(bot, "again") == "What do you like?"


def test_a_rule_without_replies_only_remembers(tmp_path: Path) -> None:
    """A later rule answers, and can already use the remembered value."""
    bot = rules(tmp_path, """
        rules = [
          { pattern = "my (cat|dog)", remember = { pet = "{1}" } },
          { pattern = "sad", replies = ["Is it about your {pet}?", "Why?"] },
        ]
    """)
    assert talk(bot, "My cat makes me sad") == "Is it about your cat?"
    assert talk(bot, "I am sad") == "Why?"


def test_a_group_that_took_no_part_leaves_its_replies_out(tmp_path: Path) -> None:
    """An optional group that took no part has no value; one that matched "" has."""
    bot = rules(tmp_path, """
        rules = [{ pattern = "tea( with milk)?(x*)", replies = ["{1}!", "No milk{2}."] }]
    """)
    assert talk(bot, "tea with milk") == "with milk!"
    assert talk(bot, "tea") == "No milk."


def test_what_was_said_is_not_said_again_while_there_is_something_else(tmp_path: Path) -> None:
    """Replies already given in the conversation are skipped until all have been given."""
    bot = rules(tmp_path, 'otherwise = ["a", "b"]')
    assert bot.reply(["x"], set(), FIRST) == "a"
    assert bot.reply(["x"], {"a"}, FIRST) == "b"
    assert bot.reply(["x"], {"a", "b"}, FIRST) == "a"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rules = [", "Invalid value"),
        ("rulez = []", "the file: unknown key 'rulez' (there are: otherwise, rules, swap)"),
        ("rules = 1", "rules must be an array of tables, each [[rules]], not 1"),
        ("rules = [1]", "rule 1 must be a table, not 1"),
        ("[[rules]]", "rule 1: 'pattern' is missing"),
        ("[[rules]]\npattern = 1", "rule 1: 'pattern' must be a string, not 1"),
        ("[[rules]]\npattern = 'a'\nreply = 'b'", "rule 1: unknown key 'reply'"),
        ("[[rules]]\npattern = '('\nreplies = ['b']", "rule 1 (pattern '('): not a regular expression: missing )"),
        ("[[rules]]\npattern = 'a'", "rule 1 (pattern 'a'): needs 'replies', 'remember' or both"),
        ("[[rules]]\npattern = 'a'\nreplies = 'b'", "rule 1 (pattern 'a'): 'replies' must be an array, not 'b'"),
        ("[[rules]]\npattern = 'a'\nreplies = [1]", "'replies' must be an array of strings, not 1"),
        ("[[rules]]\npattern = 'a'\nremember = { x = 1 }", "'remember' must be a table of strings, not 1"),
        ("[[rules]]\npattern = '(a)'\nremember = { text = '{1}' }", "cannot remember 'text'"),
        ("[[rules]]\npattern = '(a)'\nreplies = ['{1}{2}']", "(pattern '(a)'): {2} is used, but the pattern has 1"),
        ("[[rules]]\npattern = 'a'\nreplies = ['{x}']", "{x} is used, but no rule remembers 'x'"),
        ("[[rules]]\npattern = '(a)'\nreplies = ['{~1}']", "{~1} swaps words, but the file has no [swap]"),
        ("otherwise = []", "otherwise: one reply must use no place but {text}"),
        ("swap = { a = 1 }", "swap must be a table of strings, not 1"),
    ],
)
def test_a_fault_names_the_file_and_the_rule(tmp_path: Path, text: str, fault: str) -> None:
    """Any fault of a rules file is reported when it is read, with its place."""
    with pytest.raises(ModelLoadFailed) as caught:
        rules(tmp_path, text)
    assert str(tmp_path / "bot.toml") in str(caught.value)
    assert fault in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A missing rules file fails the load without a crash."""
    with pytest.raises(ModelLoadFailed, match=r"none\.toml"):
        read_rules(tmp_path / "none.toml")


def test_sampling_chooses_among_equally_likely_replies() -> None:
    """Temperature 0 and top_k 1 choose the first, top_p the first share, a seed always the same; else any comes up."""
    replies = [str(n) for n in range(10)]

    def seen(**sampling: float) -> set[str]:
        return {choose(replies, Sampling(seed=seed, **{"top_p": 1.0, **sampling})) for seed in range(300)}  # type: ignore[arg-type]

    assert seen(temperature=0) == seen(top_k=1) == seen(top_p=0) == {"0"}
    assert seen() == seen(top_k=0) == seen(temperature=2) == set(replies)
    assert seen(top_k=3) == set(replies[:3])
    assert seen(top_p=0.5) == set(replies[:5])
    assert choose(replies, Sampling(seed=7)) == choose(replies, Sampling(seed=7))
    assert choose(replies, Sampling()) in replies


@pytest.mark.parametrize(
    ("heard", "answer"),
    [
        (["Hello!"], "Hello. How are you feeling today?"),
        (["I need a break from you."], "What would it mean to you to get a break from me?"),
        (["You are just like my father"], "What makes you think that I am just like your father?"),
        (["My boss never listens", "hm"], "Earlier you mentioned your boss. Does this have to do with it?"),
        (["My name is Ada.", "What's my name?"], "You told me that you are called Ada."),
        (["What's my name?"], "You have not told me yet. What shall I call you?"),
        (["i'm so tired"], "I am sorry to hear that you are tired. When did it begin?"),
        (["¿Qué?"], "Please go on."),
        ([""], "Please go on."),
    ],
)
def test_the_chatbot_listens(heard: list[str], answer: str) -> None:
    """The shipped rules turn the user's words around, and return to earlier topics."""
    assert talk(read_rules(ELIZA), *heard) == answer


WORDS = ["i", "I'm", "my", "you", "are", "need", "feel", "think", "mother", "because", "why", "?", ".", "\n", "{1}"]
TEXTS = st.text(st.characters(exclude_characters="{")) | st.lists(st.sampled_from(WORDS)).map(" ".join)


@given(st.lists(TEXTS, min_size=1, max_size=5), st.integers())
def test_the_chatbot_always_has_an_answer(heard: list[str], seed: int) -> None:
    """Any input gets an answer, the same for the same seed, with every placeholder filled."""
    bot = read_rules(ELIZA)
    answer = bot.reply(heard, set(), Sampling(seed=seed))
    assert answer == bot.reply(heard, set(), Sampling(seed=seed))
    assert answer
    assert "{~" not in answer
