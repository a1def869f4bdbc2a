from concurrent.futures import Future
from itertools import count

import pytest
import templates_for_tests as templates

from lllms_core.chat import ChatTemplate, gather_message
from lllms_core.engines import BatchingModel, SerialModel
from lllms_core.errors import RequestError, UnsupportedParameter
from lllms_core.types import ChatRequest, Constraint, Message, Tool, ToolCall

TOOL = Tool("add", parameters={"type": "object", "properties": {"a": {"type": "number"}}})
ASK = (Message("user", "Hi"),)
CONTROL = {1000: "<think>", 1001: "</think>", 1002: "[TOOL_CALLS]", 1003: "<secret>"}
END = 0


class Script:
    """Chooses the tokens of a text one after another; control tokens are written as they are spelt."""

    def __init__(self, text, model):
        ids = {name: token for token, name in CONTROL.items()}
        self.model = model
        self.tokens = []
        while text:
            name = next((name for name in ids if text.startswith(name)), text[0])
            self.tokens.append(ids.get(name, ord(name[0])))
            text = text.removeprefix(name)
        self.at = count()

    def sample(self, row):
        at = next(self.at)
        return self.tokens[at] if at < len(self.tokens) else END

    def close(self):
        pass


class Typist(BatchingModel):
    """Types whatever it is given, for any prompt."""

    def __init__(self, answer, template):
        model = ChatTemplate(template, bos_token="<s>", eos_token="</s>")
        super().__init__(slots=2, context_length=3000, kv_size=6000, template=model)
        self.answer = answer
        self.prompts = []
        self.matched = []

    def tokenize(self, segments):
        self.prompts.append("".join(segment.text for segment in segments))
        return [ord(char) for char in self.prompts[-1]]

    def piece(self, token):
        return b"" if token in CONTROL else chr(token).encode()

    def control_text(self, token):
        return CONTROL.get(token, "")

    def is_end(self, token):
        return token == END

    def sampler(self, sampling, prompt):
        return Script(self.answer, self)

    def decode(self, feeds):
        return list(range(sum(feed.logits for feed in feeds)))

    def trim(self, sequence, length):
        return True

    def copy(self, source, target, length):
        pass

    def matcher(self, constraint):
        done: Future[object] = Future()
        done.set_result(Watcher(self, constraint))
        return done


class Watcher:
    """A matcher that only notes which tokens it is asked about."""

    complete = False

    def __init__(self, model, constraint):
        self.model = model
        model.constraint = constraint

    def sample(self, sampler, row, opening=None):
        token = sampler.sample(row)
        self.model.matched.append(token)
        return token

    def sample_thought(self, sampler, row):
        return sampler.sample(row)

    def begin(self, written):
        return True


def answer(model, **fields):
    """The message of an answer, and how it finished."""
    model.open(ChatRequest("r1", "typist", ASK, **fields))
    deltas = []
    while not model.idle:
        deltas += model.step()
    return gather_message(deltas), deltas[-1].finish


def test_thoughts_that_the_prompt_opens() -> None:
    """If the prompt ends with the mark that opens thoughts, the answer begins inside them; all tokens are counted."""
    model = Typist("Hm.</think>\n\nYes.", templates.DEEPSEEK)
    message, finish = answer(model)
    assert model.prompts[0].endswith("<think>\n")
    assert (message.reasoning, message.content) == ("Hm.", "Yes.")
    assert (finish.usage.completion_tokens, finish.usage.reasoning_tokens) == (10, 4)


def test_effort_reaches_the_prompt() -> None:
    """Effort none closes the thoughts in the prompt; other template variables are passed on, too."""
    model = Typist("Yes.", templates.QWEN3)
    assert answer(model, reasoning_effort="none")[0].content == "Yes."
    assert model.prompts[-1].endswith("<think>\n\n</think>\n\n")
    answer(model, reasoning_effort="high")
    assert model.prompts[-1].endswith("assistant\n")
    answer(model, reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert model.prompts[-1].endswith("</think>\n\n")
    with pytest.raises(UnsupportedParameter):
        answer(Typist("", templates.HERMES), reasoning_effort="low")


def test_marks_that_are_control_tokens_are_seen() -> None:
    """Control tokens that mark calls are parsed; others stay hidden, as do all of them if no calls are expected."""
    model = Typist('Wait.<secret>[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]', templates.MISTRAL)
    message, finish = answer(model, tools=(TOOL,))
    assert (message.content, finish.reason) == ("Wait.", "tool_calls")
    assert message.tool_calls == (ToolCall("call_r1_0", "add", '{"a": 1}'),)
    assert answer(model)[0].content == 'Wait. [{"name": "add", "arguments": {"a": 1}}]'


def test_constraints_begin_behind_thoughts() -> None:
    """A constraint does not apply to the tokens of thoughts that the prompt has opened."""
    model = Typist("Hm.</think>{}", templates.DEEPSEEK)
    answer(model, constraint=Constraint("json_object"))
    assert model.matched == [ord("{"), ord("}"), END]


def test_forced_calls_become_a_constraint() -> None:
    """A grammar keeps the model to its own form of calls; it stops after the call if only one is wanted."""
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    model = Typist(call * 2, templates.HERMES)
    message, finish = answer(model, tools=(TOOL,), tool_choice="required", parallel_tool_calls=False)
    assert model.constraint.kind == "lark"
    assert '"<tool_call>\\n"' in model.constraint.text
    assert (len(message.tool_calls), finish.reason) == (1, "tool_calls")
    assert finish.usage.completion_tokens == len(call) - len("\n</tool_call>")


def test_an_answer_that_is_cut_says_so() -> None:
    """If `max_tokens` or a stop string cuts off a call, the reason says so, and none of its markup becomes text."""
    raw = '<tool_call>\n{"name": "add", "arguments": {"a": 12345}}'
    message, finish = answer(Typist(raw, templates.HERMES), tools=(TOOL,), max_tokens=len(raw) - 4)
    assert (message.content, message.tool_calls[0].arguments, finish.reason) == ("", '{"a": ', "length")
    message, finish = answer(Typist("A" + raw, templates.HERMES), tools=(TOOL,), stop=("34",))
    assert (message.content, message.tool_calls[0].arguments, finish.reason) == ("A", '{"a": ', "length")


def test_tools_without_a_known_form_are_refused() -> None:
    """A template that shows tools but no calls leaves their form unknown: such a request is refused, with advice."""
    source = "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(RequestError, match=r"set options\.tool_calls") as caught:
        answer(Typist("", source), tools=(TOOL,))
    assert caught.value.param == "tools"


def test_calls_count_in_prompts_of_serial_models() -> None:
    """A model without a template counts the calls of a conversation as part of its prompt."""

    class Counter(SerialModel):
        def chat(self, request):
            return iter(())

    calls = Message("assistant", "", tool_calls=(ToolCall("1", "add", '{"a": 1}'),))
    assert Counter().prompt_tokens(ChatRequest("1", "m", (*ASK, calls))) == 4
