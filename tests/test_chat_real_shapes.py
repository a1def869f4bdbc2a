"""What is learnt from templates of real shapes, beyond those of the best-known families."""

import json

import more_templates as templates
import pytest
from attrs import evolve
from grammars_for_tests import keeps
from llguidance import LLMatcher, LLTokenizer
from lllms_llamacpp.grammars import translate

from lllms_core.chat import ChatTemplate, answer_constraint, call_constraint, chat_prompt
from lllms_core.chat.answer_format import ANY_ID, ANY_NUMBER, AnswerFormat, ReasoningFormat
from lllms_core.chat.parser import AnswerParser
from lllms_core.engines.answer_text import AnswerText
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import CallPiece, ChatRequest, Constraint, Message, Tool, ToolCall

FIELDS = {
    "city": {"type": "string"}, "days": {"type": "integer"}, "now": {"type": "boolean"}, "more": {"type": "array"},
}
WEATHER = Tool("get_weather", "Look up the weather", {"type": "object", "properties": FIELDS})
NOW = Tool("now", parameters={"type": "object", "properties": {}})
ASK = Message("user", "What is the weather in Paris?")
FULL: dict[str, object] = {"city": 'Paris "\u00e9"\n<b>', "days": 3, "now": True, "more": [1, "a", {"b": [None]}]}
CALLS = (ToolCall("call_1_0", "get_weather", json.dumps(FULL, ensure_ascii=False)), ToolCall("call_1_1", "now", "{}"))
REFUSED = ["NAMED_TAGS", "MANY_TYPES"]
WITH_CALLS = [name for name in dir(templates) if name.isupper() and name not in {"CHANNELS", "QUOTED", *REFUSED}]
TOKENIZER = LLTokenizer("byte")
HEADED_CALL = (
    "{% for c in tool_calls %}<|channel|>commentary to=functions.{{ c.function.name }} <|constrain|>json<|message|>"
    "{{ c.function.arguments | tojson }}{% endfor %}"
)

PYTHON_CALLS = (
    "<|tool_call_start|>[{% for c in tool_calls %}{{ c.function.name }}("
    "{% for key, value in c.function.arguments | items %}"
    """{{ key }}={{ '"' + value + '"' if value is string else value }}{{ ', ' if not loop.last }}"""
    "{% endfor %}){{ ', ' if not loop.last }}{% endfor %}]<|tool_call_end|>"
)


def template(shape: str, **fields: object) -> ChatTemplate:
    return ChatTemplate(getattr(templates, shape), bos_token="<s>", eos_token="</s>", **fields)


def rendered(model: ChatTemplate, *messages: Message, **fields: object) -> str:
    return "".join(segment.text for segment in model.render(messages, **fields))


def answered(form: AnswerFormat, raw: str, *, thinking: bool = False) -> tuple[str, str, list[tuple[str, object]]]:
    """Text, thoughts and calls of an answer that arrives character by character."""
    parser = AnswerParser(form, [WEATHER, NOW], thinking=thinking)
    fed = [parser.feed(char) for char in raw] + [parser.finish()]
    calls: dict[int, CallPiece] = {}
    for piece in (piece for pieces in fed for piece in pieces.calls):
        before = calls.get(piece.index, CallPiece(piece.index))
        calls[piece.index] = CallPiece(
            piece.index, name=before.name + piece.name, arguments=before.arguments + piece.arguments,
        )
    made = [(one.name, json.loads(one.arguments)) for one in calls.values()]
    return "".join(one.text for one in fed), "".join(one.reasoning for one in fed), made


def written(model: ChatTemplate, *calls: ToolCall) -> str:
    """What a template writes after the prompt for an answer with calls."""
    answer = Message("assistant", "", tool_calls=calls)
    shown = rendered(model, ASK, answer, tools=[WEATHER, NOW], add_generation_prompt=False)
    mark = model.answer_format.calls.mark
    return shown[shown.rindex(ASK.content) + len(ASK.content) :].partition(mark)[2].join([mark, ""])


def accepted(constraint: Constraint, text: str) -> int:
    """How many bytes of a text a grammar accepts; -1 if it requires more after it."""
    matcher = LLMatcher(TOKENIZER, translate(constraint))
    assert not matcher.is_error(), matcher.get_error()
    taken = next((at for at, byte in enumerate(text.encode()) if not matcher.consume_token(byte)), len(text.encode()))
    return taken if matcher.is_accepting() or matcher.is_stopped() else -1


@pytest.mark.parametrize("shape", WITH_CALLS)
def test_calls_are_read_as_they_are_written(shape: str) -> None:
    """One call, one without arguments, and two come back as the template wrote them, with values of every type."""
    model = template(shape)
    for calls in (CALLS[:1], CALLS[1:], CALLS):
        text, _, made = answered(model.answer_format, written(model, *calls))
        assert made == [(call.name, json.loads(call.arguments)) for call in calls]
        for end in ("</s>", "<|im_end|>", "<|END_OF_TURN|>", "<|calls|>", "<end>", "<|end|>", "<s:eos>", "<turn|>"):
            text = text.replace(end, "")
        assert not text.strip()


@pytest.mark.parametrize("shape", WITH_CALLS)
def test_what_is_forced_is_what_is_written(shape: str) -> None:
    """The grammar for calls accepts what the template writes, up to but excluding the end of the turn."""
    model = template(shape)
    form = model.answer_format.calls
    assert form is not None
    assert "</s>" not in "".join(form.markers)
    request = ChatRequest("1", "m", (ASK,), tools=(WEATHER, NOW), tool_choice="required")
    constraint = call_constraint(request, form, {})
    assert constraint is not None
    simple = ToolCall("callprob1", "get_weather", '{"city": "Rome", "days": 3, "now": true}')
    for calls in ([simple], [ToolCall("callprob1", "now", "{}"), ToolCall("callprob2", "now", "{}")]):
        text = written(model, *calls)
        end = (form.call_end + form.section_end).rstrip()
        want = text[: text.rindex(end) + len(end)] if end else text.removesuffix("</s>")
        assert accepted(constraint, want) == len(want.encode())
        lazy = answer_constraint(evolve(request, tool_choice="auto"), model.answer_format, {})
        assert keeps(lazy, want.lstrip()), want
        assert not keeps(lazy, want.lstrip().replace(calls[0].name, "nobody")), want


def test_ids_and_numbers_are_not_learnt_as_they_are() -> None:
    """If an id or a number occurs in a call, any other may take its place."""
    forms = {shape: template(shape).tools.calls for shape in WITH_CALLS}
    assert forms["CALL_IDS"].name_end == f"[CALL_ID]{ANY_ID}[ARGS]"
    assert forms["NUMBERED"].name_end == forms["NAMED_IDS"].name_end == f":{ANY_NUMBER}<|argument_begin|>"
    assert forms["NUMBERED"].call_start == forms["NAMED_IDS"].call_start == "<|call_begin|>functions."
    assert forms["ACTIONS"].parts[0] == f'{{"tool_call_id": "{ANY_NUMBER}", "tool_name": '
    assert (forms["PYTHON"].section_start, forms["PYTHON"].separator) == ("<|tool_call_start|>[", ", ")
    assert (forms["BRACES"].call_start, forms["BRACES"].quote) == ("<|tool_call>call:", '<|"|>')
    assert (forms["TYPED_TAGS"].key_end, forms["TYPED_TAGS"].other_key_end) == ('" string="true">', '" string="false">')
    assert forms["OWN_END"].mark == "<|tool_calls|><|call:begin|>"


def test_quotes_around_all_values_are_those_of_strings() -> None:
    """A template that writes numbers as strings does not reveal how a model writes them: both spellings are read."""
    form = template("QUOTED").answer_format
    assert form.calls == template("PYTHON", call_template=PYTHON_CALLS).answer_format.calls
    raw = '<|tool_call_start|>[get_weather(city="Rome", days=3), now()]<|tool_call_end|>'
    assert answered(form, raw) == ("", "", [("get_weather", {"city": "Rome", "days": 3}), ("now", {})])


def test_a_name_ends_where_that_of_a_tool_ends() -> None:
    """Text after a name may look like part of it; a longer name is a different one."""
    form = template("NUMBERED").answer_format
    call = "<|calls_begin|><|call_begin|>functions.{}:7<|argument_begin|>{{}}<|call_end|><|calls_end|>"
    assert answered(form, call.format("now")) == ("", "", [("now", {})])
    assert answered(form, call.format("nowhere")) == ("", "", [("nowhere", {})])


def test_ids_tell_the_function_where_a_template_shows_nothing_else() -> None:
    """Ids of calls are the function and a number that counts through the conversation; results get the same ids."""
    turn = (Message("assistant", "", tool_calls=CALLS), *(Message("tool", "?", tool_call_id=call.id) for call in CALLS))
    shown = rendered(template("NAMED_IDS"), ASK, *turn, Message("user", "Again?"), *turn, tools=[WEATHER, NOW])
    ids = ["get_weather:0", "now:1", "get_weather:2", "now:3"]
    assert [shown.count(f"functions.{one}") for one in ids] == [2, 2, 2, 2]


@pytest.mark.parametrize("shape", ["OWN_END", "LINES"])
def test_the_end_of_a_turn_is_no_part_of_the_calls(shape: str) -> None:
    """This holds even if an answer with calls ends differently from one without."""
    form = template(shape).tools.calls
    assert form.section_end == {"OWN_END": "", "LINES": "</tool_calls>"}[shape]


def test_an_answer_is_over_where_its_template_ends_one_with_calls() -> None:
    """Text after the end of an answer, such as results that the model invents, is not part of the answer."""
    parser = AnswerParser(template("OWN_END").answer_format, [NOW])
    raw = written(template("OWN_END"), CALLS[1])
    parser.feed(raw + "<|begin|>tool sunny")
    assert raw.endswith("<|calls|>")
    assert (parser.calls, parser.done, parser.finish().text) == (1, True, "")


def test_tools_may_have_to_be_left_out() -> None:
    """A template that only tests whether the variable `tools` is defined does not get it as None."""
    assert rendered(template("TOOLS_DEFINED"), ASK) == f"<|user|>{ASK.content}<|end|><|assistant|>"


def test_a_template_may_gather_in_lists_of_its_own() -> None:
    """Changes that a template makes to its messages are undone before it renders them again."""
    model = ChatTemplate("{{ messages | length }}{% set _ = messages.pop(0) %}", control_tokens=["<|x|>"])
    assert [rendered(model, Message("user", "<|x|>")), rendered(model, ASK)] == ["1", "1"]


def test_models_are_told_of_tools_in_the_form_that_their_template_writes() -> None:
    """A template that shows calls, but not the tools, determines how the tools are described."""
    model = template("UNDECLARED")
    shown = rendered(model, ASK, tools=[WEATHER])
    assert '<|calls_begin|><|call_begin|>name_of_the_tool<|call_sep|>{"name_of_an_argument": "its value"}' in shown
    assert '"name": "get_weather"' in shown
    assert model.answer_format.calls.mark == "<|calls_begin|><|call_begin|>", "the end of thoughts is no part of it"


def test_text_beside_calls_is_not_lost() -> None:
    """A template that shows calls only without content gets the content as a separate message."""
    said = Message("assistant", "One moment.", tool_calls=CALLS[:1])
    shown = rendered(template("UNDECLARED"), ASK, said, Message("tool", "18", tool_call_id="call_1_0"), tools=[WEATHER])
    assert "<|Assistant|>One moment.</s>" in shown
    assert "<|call_begin|>get_weather<|call_sep|>" in shown


@pytest.mark.parametrize("shape", REFUSED)
def test_forms_that_cannot_be_read_are_refused(shape: str) -> None:
    """If keys are tags, or tags carry unknown information, tools are refused, with the setting that helps."""
    with pytest.raises(UnsupportedParameter, match=r"does not reveal .* set options\.tool_calls") as caught:
        chat_prompt(template(shape), ChatRequest("1", "m", (ASK,), tools=(WEATHER,)))
    assert caught.value.param == "tools"


def test_a_heading_is_taken_off_without_thoughts_and_tools() -> None:
    """A heading of text is removed even without thoughts and tools, and its control tokens reach the reader."""
    output = AnswerText(ChatRequest("1", "m", (ASK,)), AnswerFormat(text_start="<|channel|>final<|message|>"))
    pieces = [output.mark("<|channel|>"), b"final", output.mark("<|message|>"), b"Yes", output.mark("<|end|>"), b"."]
    assert "".join(output.feed(piece).text for piece in pieces) + output.end("stop")[0].text == "Yes."


def test_a_setting_tells_of_calls_with_headings() -> None:
    """With a template for calls alone, the calls of a model with channels are read and forced."""
    model = template("CHANNELS", call_template=HEADED_CALL)
    form = model.answer_format
    call = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Rome"}'
    raw = f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{call}"
    assert answered(form, raw) == ("", "Hm.", [("get_weather", {"city": "Rome"})])
    shown = rendered(model, ASK, Message("assistant", "", tool_calls=CALLS[:1], reasoning="Hm."), tools=[WEATHER],
                     add_generation_prompt=False)
    assert "<|channel|>analysis<|message|>Hm.<|end|>" in shown, "thoughts come under the key that the template reads"


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ("ACTIONS", ReasoningFormat("<|START_THINKING|>", "<|END_THINKING|>")),
        ("OWN_END", ReasoningFormat("<|think|>", "<|end|><|begin|>assistant")),
        ("BUDGET", ReasoningFormat("<s:think>", "</s:think>")),
        ("LISTED_AS_PYTHON", ReasoningFormat("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]")),
        ("UNDECLARED", ReasoningFormat()),
        ("BRACES", ReasoningFormat("<|channel>thought", "<channel|>")),
        ("LINES", None),
    ],
)
def test_marks_of_thoughts(shape: str, form: ReasoningFormat | None) -> None:
    """The marks come from a message's thoughts, from past answers, or from empty thoughts in the prompt."""
    assert template(shape).reasoning.form == form


def test_a_prompt_may_open_thoughts_in_words() -> None:
    """A text that ends the prompt, and is missing in past answers, opens the thoughts."""
    prompt = chat_prompt(template("LISTED_AS_PYTHON"), ChatRequest("1", "m", (ASK,)))
    assert prompt.thinking
    assert answered(prompt.form, "1. Hm.\n[BEGIN FINAL RESPONSE]\nYes.", thinking=True) == ("Yes.", "1. Hm.", [])


def test_marks_that_are_only_named_are_learnt() -> None:
    """The marks are learnt from a template that takes thoughts in its own way, but writes both marks."""
    source = (
        "{% for m in messages %}[INST]{% if m.content is string %}{{ m.content }}{% else %}"
        "{{ '[THINK]' + m.content[0].thinking + '[/THINK]' }}{% endif %}{% endfor %}"
    )
    assert ChatTemplate(source).reasoning.form == ReasoningFormat("[THINK]", "[/THINK]")


def test_marks_that_the_prompt_tells_of_are_learnt() -> None:
    """If words in the prompt switch thinking on, the marks in these words are those of the thoughts."""
    source = (
        "{% if thinking %}Write your thoughts between <think></think> and the answer between <response></response>."
        "{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
    )
    assert ChatTemplate(source).reasoning.form == ReasoningFormat()


def test_empty_thoughts_of_an_answer_are_learnt() -> None:
    """A template that writes empty thoughts before every answer shows the marks."""
    source = (
        "{% for m in messages %}<|{{ m.role }}|>{{ '<think></think>' if m.role == 'assistant' }}{{ m.content }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    reasoning = ChatTemplate(source).reasoning
    assert (reasoning.form, reasoning.text_start) == (ReasoningFormat(), "")


def test_a_budget_is_no_switch_that_is_true() -> None:
    """A variable that is printed is a number: 0 turns thinking off, and turning it on sets nothing."""
    reasoning = template("BUDGET").reasoning
    assert (reasoning.variables("none", "m"), reasoning.variables("high", "m")) == ({"thinking_budget": 0}, {})


LEVELS = "{{% if reasoning_effort not in {} %}}{{{{ raise_exception('no such effort') }}}}{{% endif %}}"
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"


@pytest.mark.parametrize(
    ("source", "levels", "off"),
    [
        ("Effort: {{ reasoning_effort }}", ("minimal", "low", "medium", "high", "xhigh", "max"), {}),
        (LEVELS.format("['high', 'low', 'no_think', none]") + "{{ reasoning_effort | default('no_think') }}",
         ("low", "high"), {"reasoning_effort": "no_think"}),
        ("{{ 'High' if reasoning_effort == 'high' else 'Max' }}", ("medium", "high", "xhigh", "max"), {}),
        ("{{ 'Briefly.' if reasoning_effort in ['minimal', 'low'] }}",
         ("minimal", "low", "medium", "high", "xhigh", "max"), {}),
    ],
)
def test_levels_of_effort(source: str, levels: tuple[str, ...], off: dict[str, object]) -> None:
    """The levels are those that the template accepts; low effort is one of them only if it makes a difference."""
    source = source.replace("reasoning_effort not in", "reasoning_effort is defined and reasoning_effort not in")
    effort = ChatTemplate(source + CHAT).reasoning.effort
    assert effort is not None
    assert (tuple(effort.levels), effort.off) == (levels, off)


def test_efforts_that_a_template_does_not_know_are_refused_by_name() -> None:
    """An effort that would do nothing, or the opposite, is refused with the list of valid levels."""
    reasoning = ChatTemplate("{{ 'High' if reasoning_effort == 'high' else 'Max' }}" + CHAT).reasoning
    with pytest.raises(UnsupportedParameter, match=r"'low' is not supported .* knows 'medium', 'high'"):
        reasoning.variables("low", "m")
    with pytest.raises(UnsupportedParameter, match="cannot turn thinking off"):
        reasoning.variables("none", "m")


@pytest.mark.parametrize(("on", "off"), [("enabled", "disabled"), ("on", "off")])
def test_switches_may_be_words(on: str, off: str) -> None:
    """A variable that the template compares with a pair of words is switched by these words."""
    source = f"{CHAT}{{{{ '<think>' if thinking_mode == '{on}' else '</think>' if thinking_mode == '{off}' }}}}"
    reasoning = ChatTemplate(source).reasoning
    assert (reasoning.variables("high", "m"), reasoning.variables("none", "m")) == (
        {"thinking_mode": on}, {"thinking_mode": off},
    )
