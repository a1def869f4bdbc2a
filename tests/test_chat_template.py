"""Templates of the shapes that real model families use, written small for these tests."""
# ruff: noqa: RUF001  # DeepSeek writes its tokens with characters that look like others

import re
from pathlib import Path

import pytest
from attrs import evolve

from lllms_core.chat import ChatTemplate, chat_prompt, choose_template, template_or_path
from lllms_core.errors import InvalidRequest, ModelLoadFailed
from lllms_core.types import ChatRequest, Message, Tool

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

QWEN3 = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role in ['user', 'system'] %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- endif %}
{%- endfor %}"""

PHI3 = """{% for message in messages %}{{ '<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{%- endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{% set ns = namespace(system_prompt='') %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{% endif %}
{%- endfor %}
{{- bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}{% endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {%- set content = message['content'] %}
        {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
        {{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""

GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "You are a helpful assistant." %}{%- set loop_messages = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system_message + '<|end_of_text|>\\n' }}
{%- if documents %}
    {%- for document in documents %}
        {{- '<|start_of_role|>document ' + (document | tojson) + '<|end_of_role|>' }}
        {{- document['text'] + '<|end_of_text|>' }}
    {%- endfor %}
{%- endif %}
{%- for message in loop_messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}
{%- endfor %}"""

COMMAND_R = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}
{%- set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}
{%- set system_message = false %}{% endif %}
{% if system_message != false %}
{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}
{%- for message in loop_messages %}{% set content = message['content'] %}
{% if message['role'] == 'user' %}
{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- elif message['role'] == 'assistant' %}
{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

GPT_OSS = """{%- set developer = '' -%}
{%- if messages[0].role in ['developer', 'system'] %}
    {%- set developer = messages[0].content %}{%- set messages = messages[1:] %}
{%- endif -%}
{{- '<|start|>system<|message|>Reasoning: ' + reasoning_effort|default('medium') + '<|end|>' }}
{%- if developer %}{{- '<|start|>developer<|message|># Instructions\\n\\n' + developer + '<|end|>' }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- if '<|channel|>' in message.content %}{{- raise_exception('control tokens in content') }}{%- endif %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'user' %}
        {{- '<|start|>user<|message|>' + message.content + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

FAMILIES = {
    "chatml": CHATML, "llama3": LLAMA3, "qwen3": QWEN3, "mistral": MISTRAL, "phi3": PHI3, "gemma": GEMMA,
    "deepseek": DEEPSEEK, "granite": GRANITE, "command-r": COMMAND_R, "gpt-oss": GPT_OSS,
}
CONTROL = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "[INST]", "[/INST]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<start_of_turn>",
    "<end_of_turn>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|start_of_role|>", "<|end_of_role|>",
    "<|end_of_text|>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>", "<|start|>", "<|message|>", "<|channel|>",
]
SYSTEM, USER, ANSWER = Message("system", "Be brief."), Message("user", "Hi!"), Message("assistant", "Hello.")


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>", control_tokens=CONTROL)


def prompt(source: str, *messages: Message, **options: object) -> str:
    (segment,) = template(source).render(messages, **options)
    assert segment.parse_special
    return segment.text


RENDERED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 1 May\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen3": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n"
    ),
    "mistral": (
        "<s>[INST] Be brief.\n\nHi![/INST]"
    ),
    "phi3": (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi!<|end|>\n<|assistant|>\n"
    ),
    "gemma": (
        "<s><start_of_turn>user\nBe brief.\n\nHi!<end_of_turn>\n<start_of_turn>model\n"
    ),
    "deepseek": (
        "<s>Be brief.<｜User｜>Hi!<｜Assistant｜><think>\n"
    ),
    "granite": (
        "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n"
        "<|start_of_role|>user<|end_of_role|>Hi!<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    ),
    "command-r": (
        "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi!<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    ),
    "gpt-oss": (
        "<|start|>system<|message|>Reasoning: low<|end|>"
        "<|start|>developer<|message|># Instructions\n\nBe brief.<|end|>"
        "<|start|>user<|message|>Hi!<|end|><|start|>assistant"
    ),
}
"""System message, question and generation prompt, as each family's model reads them."""

@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_comes_out_as_the_family_was_trained(family):
    """Each shape renders in one segment, character for character, with the variables that it supports."""
    variables = {"enable_thinking": False, "reasoning_effort": "low", "date_string": "1 May"}
    assert RENDERED[family] == prompt(FAMILIES[family], SYSTEM, USER, variables=variables)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "conversation",
    [
        [USER],
        [Message("developer", "Rule one."), USER, ANSWER, evolve(USER, content="And you?")],
        [SYSTEM, Message("system", "Rule two."), USER],
        [USER, ANSWER, SYSTEM, evolve(USER, content="And you?")],
        [SYSTEM],
    ],
    ids=["no system", "developer", "two systems", "late system", "system only"],
)
def test_no_instruction_is_lost_wherever_it_stands(family, conversation):
    """System and developer messages reach the prompt of every family, even if its template has no place for them."""
    text = prompt(FAMILIES[family], *conversation)
    assert all(message.content in text for message in conversation)


def test_instructions_move_to_the_front_in_their_order():
    """If only a first system message is supported, the others join it; if none is, all join the first user message."""
    late = [SYSTEM, USER, ANSWER, Message("developer", "Be kind."), Message("user", "Bye.")]
    assert "\n\nBe brief.\n\nBe kind.<|eot" not in prompt(LLAMA3, *late)
    assert prompt(GRANITE.replace("'<|start_of_role|>' + m", "raise_exception('x') if message.role == 'system' else "
                  "'<|start_of_role|>' + m"), *late).startswith(
        "<|start_of_role|>system<|end_of_role|>Be brief.\n\nBe kind.<|end_of_text|>\n<|start_of_role|>user")
    assert prompt(GEMMA, *late).startswith("<s><start_of_turn>user\nBe brief.\n\nBe kind.\n\nHi!<end_of_turn>")
    assert prompt(GEMMA, SYSTEM, Message("assistant", "Yes?"), USER) == (
        "<s><start_of_turn>user\nBe brief.<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nHi!<end_of_turn>\n<start_of_turn>model\n"
    )


def test_developer_is_system_unless_the_template_knows_it():
    """A template that prints any role gets `system`; one that names `developer` gets it."""
    rule = Message("developer", "Rule.")
    assert prompt(CHATML, rule, USER).startswith("<|im_start|>system\nRule.")
    knows = "{# system, developer or user #}" + CHATML
    assert prompt(knows, rule, USER).startswith("<|im_start|>developer\nRule.")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["The answer is ", "Sure:\n", "", "<b>"])
def test_a_last_message_of_the_assistant_is_continued(family, text):
    """The prompt ends right after the text, including its white space, without an end of turn."""
    opened = prompt(FAMILIES[family], USER, Message("assistant", text))
    assert opened.endswith(text)
    finished = prompt(FAMILIES[family], USER, Message("assistant", text + "X"), add_generation_prompt=False)
    assert finished.startswith(opened + "X")
    assert finished != opened + "X" or family == "granite"


def test_a_template_that_drops_the_last_answer_says_so():
    """An answer whose text does not reach the prompt cannot be continued: an error, not a different prompt."""
    only_users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(InvalidRequest, match="cannot continue an answer") as refused:
        prompt(only_users, USER, ANSWER)
    assert refused.value.param == "messages"


def test_a_continued_text_may_stand_in_the_prompt_twice():
    """The prompt ends with the last occurrence of the answer's text in the template's output."""
    twice = "{{ messages[-1].content }} {{ messages[-1].content }}</s>"
    assert prompt(twice, USER, ANSWER) == "Hello. Hello."


def test_a_finished_conversation_can_be_rendered():
    """Without a generation prompt the last answer ends its turn."""
    assert prompt(CHATML, USER, ANSWER, add_generation_prompt=False) == (
        "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    )


def test_the_caller_can_pass_tools_and_documents_but_not_replace_the_conversation():
    """Variables reach the template under their names; those that the server sets are refused by name."""
    document = {"text": "<b>é</b>"}
    text = prompt(GRANITE, USER, variables={"documents": [document]})
    assert '<|start_of_role|>document {"text": "<b>é</b>"}<|end_of_role|><b>é</b>' in text
    with pytest.raises(InvalidRequest, match="'messages' belongs to the server") as refused:
        template(CHATML).render([USER], variables={"messages": []})
    assert refused.value.param == "messages"


def test_a_refusal_carries_the_template_s_own_words():
    """`raise_exception` becomes an `InvalidRequest` that blames the messages."""
    with pytest.raises(InvalidRequest, match=re.escape("roles must alternate user/assistant")) as refused:
        template(MISTRAL).render([ANSWER, USER])
    assert refused.value.param == "messages"


def test_a_vocabulary_with_chatml_tokens_has_a_default_template():
    """Models without a template get ChatML if their vocabulary has its tokens; no other template is guessed."""
    source = choose_template(None, None, ["<s>", "<|im_start|>", "<|im_end|>"])
    assert source is not None
    for conversation in ([SYSTEM, USER], [USER, ANSWER, USER]):
        assert prompt(CHATML, *conversation) == prompt(source, *conversation)
    assert choose_template(None, None, ["<s>", "<|im_start|>"]) is None


def test_a_template_of_its_own_for_tools():
    """If a model has two templates, the second is for conversations with tools."""
    tools = [Tool("look")]
    second = "{% for tool in tools %}[{{ tool.function.name }}]{% endfor %}" + CHATML
    both = ChatTemplate(CHATML, tool_use=second)
    assert both.fitting([]) is both
    assert chat_prompt(both, ChatRequest("1", "m", (USER,))).segments == both.render([USER])
    [segment] = both.fitting(tools).render([USER], tools=tools)
    assert segment.text == "[look]" + prompt(CHATML, USER)
    one = ChatTemplate(CHATML, tool_use="")
    assert one.fitting(tools) is one


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_templates_of_editors_are_read(tmp_path, encoding):
    """Neither a byte order mark nor Windows line ends get into a prompt."""
    file = tmp_path / "chat.jinja"
    file.write_bytes(CHATML.replace("\n", "\r\n").encode(encoding))
    for given in (file, str(file)):
        source = choose_template(given, "own", [])
        assert source == CHATML
    file.write_bytes(b"{{ \xff }}")
    with pytest.raises(ModelLoadFailed, match=r"chat\.jinja' is not UTF-8"):
        choose_template(file, "own", [])


def test_a_text_is_a_path_unless_it_can_only_be_a_template(monkeypatch):
    """A text with braces or a line break is a template; a path may begin with `~`."""
    monkeypatch.setenv("HOME", "/home/me")
    assert template_or_path("~/chat.jinja") == Path("/home/me/chat.jinja")
    assert template_or_path("{{ x }}") == "{{ x }}"
    assert template_or_path("a\nb") == "a\nb"
    assert template_or_path(None) is None
