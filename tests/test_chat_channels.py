"""Answers of several messages, each with a header that names its channel."""

import itertools
import json
from collections.abc import Sequence

import more_templates as templates
import pytest
from grammars_for_tests import NAMES, accepts, keeps
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.chat import ChatTemplate, answer_constraint, chat_prompt
from lllms_core.chat.answer_format import AnswerFormat, ReasoningFormat
from lllms_core.chat.parser import AnswerParser
from lllms_core.engines.answer_text import AnswerText
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Constraint, Message, Request, Tool, ToolCall

CITY: dict[str, object] = {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False,
}
WEATHER, NOW = Tool("get_weather", "Look up the weather", CITY), Tool("now", parameters={"type": "object"})
ASK = Message("user", "What is the weather in Paris?")
CALL = ToolCall("c1", "get_weather", '{"city": "Rome"}')
START = "<|start|>assistant"
Made = tuple[str, str, list[tuple[str, str]]]


def template(**fields: object) -> ChatTemplate:
    return ChatTemplate(templates.CHANNELS, eos_token="<|return|>", **fields)


FORM = template().answer_format


def message(channel: str, text: str) -> str:
    return f"<|channel|>{channel}<|message|>{text}"


def rendered(*messages: Message, **fields: object) -> str:
    return "".join(segment.text for segment in template().render(messages, tools=[WEATHER, NOW], **fields))


def read(
    pieces: Sequence[str], form: AnswerFormat = FORM, *, complete: bool = True, **fields: object,
) -> Made:
    """Text, thoughts, and names and arguments of calls."""
    parser = AnswerParser(form, fields.pop("tools", [WEATHER, NOW]), answer_id="7", **fields)
    fed = [parser.feed(piece) for piece in pieces] + [parser.finish(complete=complete)]
    calls: list[tuple[str, str]] = []
    for piece in (piece for pieces in fed for piece in pieces.calls):
        if piece.index == len(calls):
            assert piece.id == f"call_7_{piece.index}"
            calls.append((piece.name, piece.arguments))
        else:
            calls[piece.index] = (calls[piece.index][0], calls[piece.index][1] + piece.arguments)
    return "".join(one.text for one in fed), "".join(one.reasoning for one in fed), calls


ROME, NONE = ("get_weather", '{"city": "Rome"}'), ("now", "{}")
HM = message("analysis", "Hm.") + "<|end|>" + START
TO = "commentary to=functions.get_weather"
CASES: list[tuple[str, Made]] = [
    (message("final", "Yes <b> & no."), ("Yes <b> & no.", "", [])),
    (HM + message("final", "Yes."), ("Yes.", "Hm.", [])),
    (HM + message("analysis", "\nWell.\n") + "<|end|>" + START + message("final", "Yes."), ("Yes.", "Hm.\nWell.", [])),
    ("Yes.", ("Yes.", "", [])),
    ("<|message|>Yes.", ("Yes.", "", [])),
    (START + message("final", "Yes."), ("Yes.", "", [])),
    (message("final", "Yes.<|return|>"), ("Yes.", "", [])),
    (message("final", "Yes.<|end|>\n"), ("Yes.", "", [])),
    (message("final <|constrain|>json", '{"a": 1}'), ('{"a": 1}', "", [])),
    # A call, in each of the ways that models write one.
    (message(f"{TO} <|constrain|>json", '{"city": "Rome"}<|call|>'), ("", "", [ROME])),
    (message(f"{TO}<|constrain|>json", '{"city": "Rome"}<|call|>'), ("", "", [ROME])),
    (message(f"{TO} json", '{"city": "Rome"}'), ("", "", [ROME])),
    (message(TO, '{"city": "Rome"}'), ("", "", [ROME])),
    (" to=functions.get_weather" + message("commentary json", '{"city": "Rome"}<|call|>'), ("", "", [ROME])),
    (message("analysis to=functions.get_weather code", '{"city": "Rome"}'), ("", "", [ROME])),
    (message("commentary to=get_weather", '{"city": "Rome"}'), ("", "", [ROME])),
    (HM + " to=functions.now" + message("commentary json", "{}<|call|>"), ("", "Hm.", [NONE])),
    (message("commentary to=functions.now", ""), ("", "", [NONE])),
    (message("commentary to=functions.now", "<|call|>"), ("", "", [NONE])),
    (HM + message("commentary", "Let me see.\n<|end|>") + START + message(TO, '{"city": "Rome"}'),
     ("Let me see.", "Hm.", [ROME])),
    (message(TO, '{"city": "Rome"}<|call|>') + START + message("commentary to=functions.now", "{}<|call|>"),
     ("", "", [ROME, NONE])),
    (message("commentary", "One.<|end|>") + START + message("final", "Two."), ("One.\nTwo.", "", [])),
    # Marks that are missing.
    (message("analysis", "Hm.") + message("final", "Yes."), ("Yes.", "Hm.", [])),
    (message("analysis", "Hm.") + START + message("final", "Yes."), ("Yes.", "Hm.", [])),
    (message("analysis", "Hm.<|end|>Yes."), ("Yes.", "Hm.", [])),
    (HM + "Yes.", ("Yes.", "Hm.", [])),
    (message("final", "a <|start| b <|channel c < d"), ("a <|start| b <|channel c < d", "", [])),
    # A header that is cut contributes nothing to the text.
    (HM + "<|channel|>fin", ("", "Hm.", [])),
    (HM, ("", "Hm.", [])),
    ("<|channel|>commentary to=functions.get_w", ("", "", [])),
    (" to=functions.get_weather<|channel|>", ("", "", [])),
    # What is not a call stays text.
    ("to=be or not", ("to=be or not", "", [])),
    (message("commentary to=functions.n!o", "{}"), (message("commentary to=functions.n!o", "{}"), "", [])),
    (HM + message("analysis to=python code", "1+1<|call|>"), (message("analysis to=python code", "1+1"), "Hm.", [])),
    (message(TO, "Rome<|call|>"), (message(TO, "Rome"), "", [])),
    (message(TO, '{"city": Rome}<|call|>'), (message(TO, '{"city": Rome}'), "", [])),
    (message(TO, '{"city": "Ro'), (message(TO, '{"city": "Ro'), "", [])),
    (message(TO, '{"city": "a "}", "x": 1}'), (message(TO, '{"city": "a "}", "x": 1}'), "", [])),
    # A call of a tool that is not offered is still a call: the client can answer it.
    (message("commentary to=functions.no", "{}<|call|>"), ("", "", [("no", "{}")])),
]


@pytest.mark.parametrize(("raw", "made"), CASES)
def test_messages_come_apart(raw: str, made: Made) -> None:
    """Thoughts, text and calls are distinguished by the headers of their messages, whole or character by character."""
    assert read([raw]) == read([*raw]) == made
    assert read([raw], complete=False) == read([*raw], complete=False)


WORDS = st.sampled_from([
    START, "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>", "analysis", "final",
    "commentary", " to=functions.", "get_weather", "now", " json", '{"city": "Rome"}', "{}", "Hm", " ", "\n", "<", "=",
    "to=", "\U0001f600", HM, message(TO, ""), message("final", ""),
])


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, max_size=20), st.booleans(), st.booleans(), st.booleans(), st.data())
def test_any_cut_gives_the_same(
    words: list[str], complete: bool, parallel: bool, thinking: bool, data: st.DataObject,
) -> None:
    """However an answer is split, the result is the same, with valid arguments once it is complete."""
    raw = "".join(words)
    cuts = sorted({0, len(raw), *data.draw(st.lists(st.integers(0, len(raw)), max_size=8))})
    fields: dict[str, object] = {"complete": complete, "parallel": parallel, "thinking": thinking}
    whole = read([raw], **fields)
    assert whole == read([raw[a:b] for a, b in itertools.pairwise(cuts)], **fields)
    assert whole == read([*raw], **fields)
    if complete:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in whole[2])


@given(st.text(alphabet=st.characters(exclude_characters="<")), st.text(alphabet=st.characters(exclude_characters="<")))
def test_text_of_a_message_arrives_as_it_was_written(thoughts: str, text: str) -> None:
    """Every character of the text comes out; thoughts lose only their surrounding white space."""
    raw = message("analysis", thoughts) + "<|end|>" + START + message("final", text + "x")
    assert read([raw]) == (text + "x", thoughts.strip(), [])


def test_an_answer_is_over_with_its_only_call() -> None:
    """Without parallel calls nothing is read after the first."""
    parser = AnswerParser(FORM, [WEATHER], parallel=False)
    parser.kept = True
    parser.feed(message(TO, '{"city": "Rome"'))
    assert not parser.done
    parser.feed("}")
    assert parser.done


def test_thoughts_end_with_their_message() -> None:
    """The sampling code learns at once when thoughts start and end."""
    parser = AnswerParser(FORM, [WEATHER])
    steps = ["<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>", START, "<|channel|>", "final", "<|message|>"]
    states = []
    for step in steps:
        parser.feed(step)
        states.append(parser.reasoning)
    assert states == [False, False, True, True, False, False, False, False, False]


def test_control_tokens_of_headers_reach_the_reader() -> None:
    """An engine that hides control tokens still reports those that form and end headers."""
    output = AnswerText(ChatRequest("1", "m", (ASK,), tools=(WEATHER,)), FORM)
    marks = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|constrain|>", "<|call|>", "<|return|>"]
    assert [output.mark(mark) for mark in marks] == [mark.encode() for mark in marks]
    assert output.mark("<|other|>") == b""


def test_what_a_template_tells_of_channels() -> None:
    """The texts of the format come from the template; its marks are not hard-coded words of any family."""
    assert FORM.reasoning == ReasoningFormat("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
    channels = FORM.channels
    assert channels is not None
    assert (channels.opening, channels.ends) == (START, ("<|end|>", "<|call|>", "<|return|>"))
    other = templates.CHANNELS
    words = {"<|channel|>": "[CHANNEL]", "analysis": "mind", "final": "mouth", "functions.": "tools/", "to=": "for="}
    for word, another in words.items():
        other = other.replace(word, another)
    form = ChatTemplate(other, eos_token="<|return|>").answer_format
    raw = "[CHANNEL]mind<|message|>Hm.<|end|><|start|>assistant for=tools/now[CHANNEL]commentary<|message|>{}"
    assert read([raw], form) == ("", "Hm.", [NONE])
    assert read(["[CHANNEL]mouth<|message|>Yes."], form) == ("Yes.", "", [])


def test_where_parts_are_missing_there_are_no_channels() -> None:
    """If a template's thoughts or calls have other headers, it has no channels, and its tools are refused."""
    for word, another in (("<|channel|>analysis<|message|>", "<think>"), (" to=functions.", " ")):
        model = ChatTemplate(templates.CHANNELS.replace(word, another), eos_token="<|return|>")
        assert model.answer_format.channels is None
        with pytest.raises(UnsupportedParameter, match=r"set options\.tool_calls"):
            chat_prompt(model, ChatRequest("1", "m", (ASK,), tools=(WEATHER,)))


def test_settings_come_first() -> None:
    """With "none", thoughts are ordinary text, without headers; configured marks replace the channels."""
    none = template(reasoning="none").answer_format
    assert read([HM + message("final", "Yes.")], none) == ("Hm.\nYes.", "", [])
    assert template(reasoning="<a>...</a>").answer_format.channels is None


def test_calls_and_results_reach_the_prompt() -> None:
    """Each call comes with its result, thoughts come before the first, and tools may lack a description."""
    called = Message("assistant", "Wait.", tool_calls=(CALL, ToolCall("c2", "now", "{}")), reasoning="Hm.")
    results = [Message("tool", text, tool_call_id=at) for at, text in (("c1", "sunny"), ("c2", "noon"))]
    shown = rendered(ASK, called, *results)
    commentary = "<|channel|>commentary"
    assert shown.endswith(
        f"{START}{message('analysis', 'Hm.')}\nWait.<|end|>"
        f'{START} to=functions.get_weather{commentary} json<|message|>{{"city": "Rome"}}<|call|>'
        f'<|start|>functions.get_weather to=assistant{commentary}<|message|>"sunny"<|end|>'
        f"{START} to=functions.now{commentary} json<|message|>{{}}<|call|>"
        f'<|start|>functions.now to=assistant{commentary}<|message|>"noon"<|end|>{START}',
    )


def test_what_a_template_writes_is_read() -> None:
    """A call that continues the prompt is read back."""
    whole = rendered(ASK, Message("assistant", "", tool_calls=(CALL,), reasoning="Hm."), add_generation_prompt=False)
    prompt = rendered(ASK)
    assert whole.startswith(prompt)
    assert read([whole[len(prompt) :]]) == ("", "Hm.", [ROME])


# -- grammars ----------------------------------------------------------------------------------------------------------


def asked(*tools: Tool, **fields: object) -> Request:
    return ChatRequest("1", "m", (ASK,), tools=tools, **fields)


CALL_NOW = message("commentary to=functions.now", "{}")
THOUGHT = message("analysis", START)
"""Thoughts as a grammar sees them."""


def test_forced_calls() -> None:
    """A call in each of its spellings is accepted, with or without thoughts first; text and other arguments are not."""
    constraint = answer_constraint(asked(NOW, WEATHER, tool_choice="required"), FORM, {})
    good = [
        message(f"{TO} <|constrain|>json", '{"city": "Rome"}'), message(TO, '{"city": "Rome"}'),
        " to=functions.get_weather" + message("commentary json", '{"city": "Rome"}'), CALL_NOW,
    ]
    for call in good:
        assert accepts(constraint, call)
        assert accepts(constraint, THOUGHT * 2 + call)
    for bad in (message("final", "Yes."), "Yes.", message(TO, "{}"), message("commentary to=functions.nobody", "{}")):
        assert not accepts(constraint, bad)


def test_strict_tools_leave_text_free() -> None:
    """If no call is forced, text or calls may come, with or without thoughts first; arguments conform to the schema."""
    for strict in (True, False):
        lazy = answer_constraint(asked(Tool("get_weather", parameters=CITY, strict=strict)), FORM, {})
        call = message(f"{TO} <|constrain|>json", '{"city": "Rome"}')
        before = " to=functions.get_weather" + message("commentary json", '{"city": "Rome"}')
        free = (message("final", "Yes < no."), "Yes.", THOUGHT + message("commentary", "So."), "to=be or not")
        for good in (*free, call, before, HM + call, HM + before, f"{call}<|call|>{START}{before}<|call|>"):
            assert keeps(lazy, good), good
        for bad in (message(TO, '{"town": "Rome"}'), message("commentary to=functions.nobody", "{}"),
                    f"{call}<|call|>{START} to=functions.n", message("analysis to=python", "1")):
            assert not keeps(lazy, bad), bad


def test_a_continued_answer_does_not_start_with_a_recipient() -> None:
    """If the client gave the start of a text, no header is open."""
    asked_on = ChatRequest("1", "m", (ASK, Message("assistant", "So")), tools=(NOW,))
    assert keeps(answer_constraint(asked_on, FORM, {}), " to=functions.nobody")
    assert not keeps(answer_constraint(asked(NOW), FORM, {}), " to=functions.nobody")


def test_json_comes_in_the_channel_of_text() -> None:
    """A JSON answer may have thoughts; with tools it may be a call instead; other grammars are left as they are."""
    given = Constraint("json_schema", json.dumps(CITY))
    answer = message("final <|constrain|>json", '{"city": "Rome"}')
    alone = answer_constraint(asked(constraint=given), FORM, {})
    assert accepts(alone, THOUGHT + answer)
    assert not accepts(alone, message("final", "Rome"))
    both = answer_constraint(asked(NOW, constraint=given), FORM, {})
    assert accepts(both, answer)
    assert accepts(both, CALL_NOW)
    own = Constraint("regex", "a+", "grammar")
    assert answer_constraint(asked(constraint=own), FORM, {}) is own
    with pytest.raises(UnsupportedParameter, match="do not go together"):
        answer_constraint(asked(NOW, constraint=own), FORM, {})


def test_thoughts_that_are_text_are_seen_by_the_grammar() -> None:
    """With reasoning "none" nothing is hidden from the grammar."""
    form = template(reasoning="none").answer_format
    constraint = answer_constraint(asked(NOW, tool_choice="required"), form, {})
    assert accepts(constraint, HM + CALL_NOW)


def test_a_continued_answer_ends_before_a_forced_call() -> None:
    """A message that the model continues is ended before the call."""
    request = ChatRequest("1", "m", (ASK, Message("assistant", "So")), tools=(NOW,), tool_choice="required")
    assert accepts(answer_constraint(request, FORM, {}), f" be it.<|end|>{START}" + CALL_NOW)


def test_marks_that_are_tokens_are_named() -> None:
    """If the vocabulary has tokens for the marks, the grammar asks for those, and text may come before a call."""
    said = message("commentary", "Let me < see.") + "<|end|>" + START
    forced = answer_constraint(asked(NOW, tool_choice="required"), FORM, NAMES)
    free = answer_constraint(asked(Tool("now", parameters={"type": "object"}, strict=True)), FORM, NAMES)
    call = message("commentary to=functions.now <|constrain|>json", "{}")
    assert accepts(forced, THOUGHT + call, NAMES)
    assert not accepts(forced, call), "letters are no token"
    assert not accepts(forced, said + call, NAMES)
    for good in (THOUGHT + call, said + call, message("final", "<|end|")):
        assert keeps(free, good, NAMES)
    assert not keeps(free, said + message("commentary to=functions.now", "[]"), NAMES)
