"""No message is lost, and no order of messages is refused, whatever a template supports."""
# ruff: noqa: E501  # lines are the templates'

from functools import cache

import more_templates
import pytest
import templates_for_tests
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat_template import FAMILIES as PLAIN

from lllms_core.chat import ChatTemplate
from lllms_core.chat.roles import RoleSupport, fit_roles
from lllms_core.types import Media, Message, Tool, ToolCall

LONE = r"""{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set rules = messages[0].content + '\n\n' %}{%- set messages = messages[1:] %}{%- endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate') }}{%- endif %}
{{- '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (rules if loop.first and rules else '') + m.content + '<end>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>model\n' }}{%- endif %}"""

ROUNDS = r"""{%- if messages[0].role == 'system' %}{%- set rules = messages[0].content %}{%- set messages = messages[1:] %}{%- endif %}
{{- bos_token }}{%- set ns = namespace(turn=0) %}
{%- for m in messages %}{%- if m.role != 'tool' and not m.tool_calls %}
{%- if (m.role == 'user') != (ns.turn % 2 == 0) %}{{- raise_exception('After the system message, roles must alternate') }}{%- endif %}
{%- set ns.turn = ns.turn + 1 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and loop.last %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST]' + (rules + '\n\n' if loop.last and rules else '') + m.content + '[/INST]' }}
{%- elif m.tool_calls %}{{- '[TOOL_CALLS][' }}
{%- for call in m.tool_calls %}{{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}' }}{{- ', ' if not loop.last }}{%- endfor %}{{- ']' + eos_token }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{- m.content + eos_token }}{%- endif %}
{%- endfor %}"""

FULL = ROUNDS.replace("{%- else %}{{- m.content", "{%- elif m.content == '' %}{{- raise_exception('An answer needs a text') }}{%- else %}{{- m.content")
ASKED = "{%- if not messages | selectattr('role', 'equalto', 'user') | list %}{{- raise_exception('No user query') }}{%- endif %}" + templates_for_tests.HERMES

FAMILIES = {
    **PLAIN, "LONE": LONE, "ROUNDS": ROUNDS, "FULL": FULL, "ASKED": ASKED,
    **{name: getattr(module, name) for module in (templates_for_tests, more_templates)
       for name in dir(module) if name.isupper()},
}
ADD = Tool("add", "Adds.")
CALL = ToolCall("call_x_0", "add", "{}")
RULE, ASK, REPLY = Message("system", "Rule."), Message("user", "Ask?"), Message("assistant", "Reply.")
CALLING, RESULT = Message("assistant", "", tool_calls=(CALL,)), Message("tool", "Result.", tool_call_id=CALL.id)
MORE = Message("user", "More?")


@cache
def template(family: str) -> ChatTemplate:
    return ChatTemplate(FAMILIES[family], bos_token="<s>", eos_token="</s>")


def prompt(family: str, *messages: Message, **fields: object) -> str:
    return "".join(segment.text for segment in template(family).render(messages, **fields))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "conversation",
    [
        [RULE], [RULE, ASK], [RULE, ASK, MORE], [RULE, ASK, REPLY, MORE], [RULE, ASK, REPLY], [ASK, RULE, MORE],
        [RULE, ASK, REPLY, Message("assistant", "Again."), MORE], [RULE, ASK, CALLING, RESULT],
        [RULE, ASK, CALLING, RESULT, REPLY, MORE], [RULE, ASK, CALLING, RESULT, MORE],
        [RULE, ASK, REPLY, MORE, CALLING, RESULT], [ASK, Message("assistant", "", reasoning="Hm."), MORE],
        [ASK, Message("assistant", ""), MORE],
    ],
    ids=lambda conversation: "-".join(message.role for message in conversation),
)
def test_no_text_of_a_conversation_is_dropped_or_refused(family: str, conversation: list[Message]) -> None:
    """Each text reaches the prompt of each template, even if the template drops or refuses messages in this order."""
    shown = prompt(family, *conversation, tools=[ADD])
    assert [message.content for message in conversation if message.content.rstrip(".?") not in shown] == []


def test_a_rule_is_told_where_the_template_tells_it() -> None:
    """During a tool round a system message keeps its earlier place, so that the prompt's prefix is the same."""
    first = prompt("ROUNDS", RULE, ASK, tools=[ADD]).partition("[/AVAILABLE_TOOLS]")[2]
    assert first == "[INST]Rule.\n\nAsk?[/INST]"
    assert first in prompt("ROUNDS", RULE, ASK, CALLING, RESULT, tools=[ADD])
    assert prompt("LONE", RULE) == "<s><turn>user\nRule.<end>\n<turn>model\n"


def test_messages_in_a_row_are_joined_only_where_they_must_be() -> None:
    """If a template accepts two messages of one role, they stay two; otherwise they are merged with all their parts."""
    assert prompt("HERMES", ASK, MORE).count("<|im_start|>user") == 2
    assert prompt("LONE", ASK, MORE) == "<s><turn>user\nAsk?\n\nMore?<end>\n<turn>model\n"
    image = Media("image", "data:,x")
    seen = Message("user", "See", parts=("See", image))
    support = RoleSupport(developer=False, system="nowhere", repeated=frozenset())
    [one] = fit_roles([RULE, ASK, seen], support)
    assert (one.content, one.parts) == ("Rule.\n\nAsk?\n\nSee", ("Rule.\n\nAsk?", "See", image))


ROLES = st.sampled_from([RULE, ASK, REPLY])


@settings(deadline=None)
@given(family=st.sampled_from(["LONE", "ROUNDS", "FULL", "mistral", "gemma"]), order=st.lists(ROLES, min_size=1, max_size=8))
def test_any_order_of_messages_is_rendered(family: str, order: list[Message]) -> None:
    """Templates with strict turns take messages in any order that starts with the user, and lose none of them."""
    conversation = [ASK, *(
        Message(message.role, f"{message.content}{at}|") for at, message in enumerate(order)
    )]
    shown = prompt(family, *conversation)
    assert [message.content for message in conversation if message.content not in shown] == []
