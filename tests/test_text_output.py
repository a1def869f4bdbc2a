from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.text import OutputText, StopMatcher

# Few letters, so that stop strings overlap, repeat and contain each other; some take several bytes.
LETTERS = "abé😀"
texts = st.text(alphabet=LETTERS, max_size=40)
stop_lists = st.lists(st.text(alphabet=LETTERS, min_size=1, max_size=5), max_size=4)


def up_to_first_stop(text: str, stops: Sequence[str]) -> str:
    """The definition: the stop string that is completed first counts, and of those that end together the longest."""
    found = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    return text[: min(found)[1]] if found else text


def cut(data: st.DataObject, whole: Sequence[object]) -> list[Sequence[object]]:
    places = sorted(data.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    return [whole[start:end] for start, end in pairwise(places)]


@given(texts, stop_lists, st.data())
def test_output_is_the_text_up_to_the_first_stop_string_however_it_is_cut(text, stops, data):
    """Bytes split anywhere, even within characters, give the text up to the stop string that is completed first."""
    output = OutputText(stops)
    shown = "".join(output.feed(piece) for piece in cut(data, text.encode())) + output.flush()
    assert up_to_first_stop(text, stops) == shown
    assert output.stopped == any(stop in text for stop in stops)


@given(texts, stop_lists, st.data())
def test_what_was_shown_never_has_to_be_taken_back(text, stops, data):
    """At every moment the shown text is a prefix of the final one, and only the start of a stop string is held back."""
    matcher = StopMatcher(stops)
    shown = seen = ""
    for piece in cut(data, text):
        seen += piece
        shown += matcher.feed(piece)
        assert up_to_first_stop(text, stops).startswith(shown)
        if not matcher.matched:
            held = seen[len(shown) :]
            assert not held or any(stop.startswith(held) for stop in stops)
    assert matcher.matched or seen == shown + matcher.flush()


@given(st.binary(max_size=40), stop_lists, st.data())
def test_bytes_that_are_no_utf8_become_replacement_characters(piece, stops, data):
    """Invalid and incomplete UTF-8 never raises, and gives the same text however it is split."""
    whole = OutputText(stops)
    expected = whole.feed(piece) + whole.flush()
    output = OutputText(stops)
    shown = "".join(output.feed(part) for part in cut(data, piece)) + output.flush()
    assert expected == shown
    assert up_to_first_stop(piece.decode(errors="replace"), stops) == shown


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["abc", "b"], "xabc", "xa"),  # "b" is completed before "abc"
        (["bc", "abc"], "xabc", "x"),  # both end here: the longer one, so that no part of it is shown
        (["aab"], "xaaab", "xa"),  # a false start inside a true one
        (["", "é"], "cafés", "caf"),  # an empty stop string asks for nothing
        ([], "plain", "plain"),
        (["\n\n"], "one\n\ntwo\n\n", "one"),
    ],
)
def test_which_stop_string_is_the_first(stops, text, expected):
    """The first stop string is the one that is completed first; of several that end together, the longest."""
    matcher = StopMatcher(stops)
    assert expected == "".join(matcher.feed(letter) for letter in text) + matcher.flush()


def test_text_that_turns_out_to_be_no_stop_string_is_shown():
    """The start of a stop string is held back, and shown when the text continues differently or ends."""
    matcher = StopMatcher(["<end>"])
    assert [matcher.feed(piece) for piece in ("a<", "en", " <", "e")] == ["a", "", "<en ", ""]
    assert matcher.flush() == "<e"
    assert matcher.flush() == ""


def test_nothing_comes_out_after_a_match():
    """After a stop string, neither more text nor the end shows anything."""
    output = OutputText(["."])
    assert output.feed(b"one. two") == "one"
    assert (output.feed(b"three"), output.flush()) == ("", "")


def test_a_character_is_shown_when_its_last_byte_is_there():
    """If a token ends within a character, only complete ones are shown; an unfinished one ends as U+FFFD."""
    output = OutputText()
    assert [output.feed(bytes([byte])) for byte in "😀".encode()] == ["", "", "", "😀"]
    assert output.feed("é".encode()[:1]) == ""
    assert output.flush() == "\ufffd"


def test_the_cost_of_a_character_does_not_grow_with_the_stop_strings():
    """Four stop strings of 50,000 characters, almost matched again and again, read each character only a few times."""
    looks = 0

    class Letters(str):
        __slots__ = ()

        def __getitem__(self, at):
            nonlocal looks
            looks += 1
            return str.__getitem__(self, at)

    matcher = StopMatcher(["a" * 50_000 + end for end in "wxyz"])
    for needle in matcher._needles:
        needle._text = Letters(needle._text)
    text = ("a" * 999 + "b") * 20 + "a" * 60_000 + "c"
    pieces = [matcher.feed(text[at : at + 1000]) for at in range(0, len(text), 1000)]
    assert text == "".join(pieces) + matcher.flush()
    assert looks < 4 * 4 * len(text)
