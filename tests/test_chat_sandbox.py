import re
from datetime import datetime

import pytest

from lllms_core.chat import ChatTemplate, Segment
from lllms_core.errors import InvalidRequest, ModelLoadFailed
from lllms_core.types import Message

pytestmark = pytest.mark.slow

USER, ANSWER = Message("user", "Hi!"), Message("assistant", "Hello.")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'a': 'é<&>\\'', 'b': [1, none, true]} | tojson }}", '{"a": "é<&>\'", "b": [1, null, true]}'),
        ("{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
         '{"a":"\\u00e9","b":1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Hi!"),
        ("{% for m in messages %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}", "123"),
        ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"),
        ("{% for x in [1, 2] %}{{ x }}{% break %}{% endfor %}", "1"),
        ("{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{% endfor %}",
         ">user>assistant>"),
        ("{{ {'b': 1, 'a': 2} | dictsort }}", "[('a', 2), ('b', 1)]"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') }}", "Hi!,Bye."),
        ("{{ messages | rejectattr('role', '==', 'user') | list | length }}", "1"),
        ("{{ tools is none }} {{ documents is none }} {{ nothing is defined }} {{ messages[0].tool_calls or 'no' }}",
         "True True False no"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "3"),
        ("{% macro turn(m) %}[{{ m['content'] }}]{% endmacro %}{{ turn(messages[-1]) }}", "[Bye.]"),
        ("{{ 'name' in messages[0] }} {{ messages[2].get('name') }} {{ messages[0] is mapping }}", "False Ann True"),
        ("{{ strftime_now('%Y') }}", str(datetime.now().astimezone().year)),
        ("{{ '%s-%s' | format('a', 'b') }} {{ '{}'.format('c') }} {{ 'x' * 3 }} {{ 2 ** 10 }}", "a-b c xxx 1024"),
        ("  {% if true %}\n    {{- bos_token }}{{ eos_token }}\n  {% endif %}\n", "<s></s>\n"),
        ("{{ messages[0].content.items is defined }}{{ messages[0].items() | list | length }}", "False2"),
    ],
)
def test_what_templates_use_is_there(source, expected):
    """Filters, tests, tags and variables work as in transformers, for which templates are written."""
    conversation = [USER, ANSWER, Message("user", "Bye.", name="Ann")]
    chat = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    assert chat.render(conversation) == [Segment(expected, parse_special=True)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ messages[0].nothing.more }}", "UndefinedError: 'dict object' has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content.missing() }}", "UndefinedError"),
        ("{{ {'a': nothing} | tojson }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ raise_exception.__globals__.keys() }}", "SecurityError"),
        ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", "SecurityError"),
        ("{{ messages.insert(0, 1) }}", "SecurityError"),
        ("{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}", "SecurityError: a list of more than"),
        ("{{ messages[0].update(role='x') }}", "SecurityError"),
        ("{% for a in range(1000000) %}{% endfor %}", "OverflowError: Range too big"),
        ("{{ messages[0].content * 1000000 }}", "SecurityError: a repetition of more than"),
        ("{{ 9 ** 99 ** 99 }}", "SecurityError: a power above"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{{ bos_token * 9999 }}{% endfor %}{% endfor %}",
         "SecurityError: its output is longer than"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
        ("{% include 'x' %}", "TypeError: no loader"),
    ],
)
def test_whatever_goes_wrong_in_a_template_is_a_clear_error(source, reason):
    """A template can access only its values, and cannot fill the memory; each fault is an error of the request."""
    with pytest.raises(InvalidRequest, match="chat template cannot render this conversation: " + re.escape(reason)):
        ChatTemplate(source, bos_token="<s>").render([USER])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("\n\n{% for m in messages %}{{ m.content }}", r"line 3: Unexpected end of template"),
        ("{% nonsense %}", r"line 1: Encountered unknown tag 'nonsense'"),
        ("{{ messages | nonsense }}", r"line 1: No filter named 'nonsense'"),
        ("{% generation %}", r"line 1: Unexpected end of template"),
        ("{% for a in b %}" * 120 + "{% endfor %}" * 120, r"too many|Error"),
    ],
)
def test_a_template_that_does_not_compile_is_refused_when_the_model_loads(source, reason):
    """The error names the line and the reason."""
    with pytest.raises(ModelLoadFailed, match=f"the chat template does not compile: .*({reason})"):
        ChatTemplate(source)
