"""The reuse of evaluated prefixes, planned with a vocabulary of words, without gpt4all."""

import re
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from lllms_gpt4all.prompt import continue_from, make_prompt

from lllms_core.chat import Segment


class Words:
    """Each special token, word with its preceding space, or other character is a token; specials add a space."""

    specials = ("<s>", "<user>", "<end>")

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._texts: list[str] = []
        for text in self.specials:
            self._number(text)

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return self._numbers[text]

    def tokenize(
        self, text: str, *, parse_special: bool, after: Sequence[int], most: int | None = None,
    ) -> list[int]:
        tokens = [] if after else [self._number("<s>")]
        pieces = re.split(f"({'|'.join(self.specials)})", text) if parse_special else [text]
        space = not after or self.is_special(after[-1])
        for at, piece in enumerate(pieces):
            if at % 2:
                tokens.append(self._number(piece))
                space = True
            elif piece:
                tokens += [self._number(word) for word in re.findall(r" ?\w+|\s|.", " " * space + piece)]
                space = False
        return tokens

    def text(self, token: int) -> bytes:
        return self._texts[token].encode()

    def is_special(self, token: int) -> bool:
        return token < len(self.specials)


def prompt(words: Words, *texts: str, parse_special: bool = True):
    return make_prompt([Segment(text, parse_special) for text in texts], words)


def test_nothing_is_kept_of_a_strange_context():
    """Without a common prefix, everything is evaluated."""
    words = Words()
    asked = prompt(words, "<user>hello you<end>")
    assert continue_from([7, 8, 9], asked, words) == (0, list(asked.segments))
    assert continue_from([], asked, words) == (0, list(asked.segments))


def test_a_next_turn_is_evaluated_alone():
    """Everything that the context holds of the conversation is kept, up to the new turn."""
    words = Words()
    first = [*prompt(words, "<user>hello you<end>").tokens, *words.tokenize("fine", parse_special=False, after=[2])]
    asked = prompt(words, "<user>hello you<end>fine<end><user>more")
    keep, rest = continue_from(first, asked, words)
    assert rest == [Segment("<end><user>more", parse_special=True)]
    assert asked.tokens[:keep] == tuple(first)


def test_the_same_prompt_leaves_a_token_to_evaluate():
    """A fully evaluated prompt evaluates its last tokens again, for the logits after them."""
    words = Words()
    asked = prompt(words, "<user>hello you and me<end>")
    keep, rest = continue_from(asked.tokens, asked, words)
    assert keep == len(asked.tokens) - 1
    assert rest == [Segment("<end>", parse_special=True)]


def test_a_text_is_cut_before_a_space():
    """A prompt without special tokens is also resumed, at the beginning of a word."""
    words = Words()
    keep, rest = continue_from(prompt(words, "one two three").tokens, prompt(words, "one two three four"), words)
    assert (keep, rest) == (4, [Segment(" four", parse_special=True)])


@given(st.data())
def test_what_is_kept_and_what_is_left_are_the_prompt(data: st.DataObject):
    """For any evaluated tokens, the kept ones are the prompt's first, and the rest is exactly its remaining ones."""
    words = Words()
    texts = st.lists(st.sampled_from(["<user>", "<end>", "<s>", " a", "b", "  ", "\n", "é", "<", "c d"]), max_size=8)
    segments = st.lists(st.tuples(texts.map("".join), st.booleans()), min_size=1, max_size=3)
    old, new = (make_prompt([Segment(*one) for one in data.draw(segments)], words) for _ in range(2))
    asked = make_prompt([*old.segments[: data.draw(st.integers(0, 3))], *new.segments], words)
    cached = [*old.tokens, *data.draw(st.lists(st.integers(0, 3), max_size=3))]
    keep, rest = continue_from(cached, asked, words)
    tokens = list(asked.tokens[:keep])
    assert tokens == cached[:keep]
    assert keep < len(asked.tokens)
    for segment in rest:
        tokens += words.tokenize(segment.text, parse_special=segment.parse_special, after=tokens)
    assert tokens == list(asked.tokens)
