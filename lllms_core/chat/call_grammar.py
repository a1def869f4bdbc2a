"""The grammar of an answer's calls, from the model's call format and the tools' schemas; pure."""

import json
from collections.abc import Mapping

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.argument_grammar import keyword_rules, tagged_rules
from lllms_core.chat.lark import Speller, text_rule
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Constraint, Tool

MOST_CALLS = 32
"""At most this many calls in an answer with forced calls: a limit for models that do not stop by themselves."""
_SPACE = r"SPACE: /[ \n]{0,4}/"


def call_constraint(request: ChatRequest, form: CallFormat, names: Mapping[str, int]) -> Constraint | None:
    """Return the constraint on the answer to a request: calls, JSON or calls, or text with calls that match a schema.

    None if it is free. `names` are the tokens that are not text to grammars, as most call marks are, with their ids.
    Raises `UnsupportedParameter` for tools together with a constraint that is not JSON.
    """
    required, given = request.tool_choice == "required", request.constraint
    if not forces_calls(request):
        return given
    if required or given is None:
        rules = _answer_rules(form, request, names)
        return Constraint("lark", "\n".join(rules), "tool_choice" if required else "tools")
    start = ["start: answer | SPACE calls", f"answer: %json {json_schema(given)}", _SPACE]
    return Constraint("lark", "\n".join([*start, *_call_rules(form, request, names)]), given.param)


def forces_calls(request: ChatRequest) -> bool:
    """Whether the answer to a request with tools is constrained, so that its calls need a grammar."""
    strict = any(tool.strict for tool in request.tools)
    return bool(request.tools) and (request.tool_choice == "required" or request.constraint is not None or strict)


def json_schema(given: Constraint) -> str:
    """Return the JSON schema of a constraint. Raises `UnsupportedParameter` if it does not ask for JSON."""
    if given.kind not in {"json_object", "json_schema"}:
        raise UnsupportedParameter(
            f"'{given.param}' and 'tools' do not go together, unless it asks for JSON; leave one of them out, or send "
            "'tool_choice' 'none' or 'required'",
            given.param, "unsupported_parameter",
        )
    return given.text if given.kind == "json_schema" else '{"type": "object"}'


def _answer_rules(form: CallFormat, request: ChatRequest, names: Mapping[str, int]) -> list[str]:
    if request.tool_choice == "required":
        return ["start: SPACE calls", _SPACE, *_call_rules(form, request, names)]
    return ["start: TEXT calls?", text_rule((form.mark,), names), *_call_rules(form, request, names)]


def _call_rules(form: CallFormat, request: ChatRequest, names: Mapping[str, int]) -> list[str]:
    """Return the rule `calls`, and those that it needs: all arguments conform to their schema."""
    spell = Speller(names)
    tools, several = request.tools, request.parallel_tool_calls and form.parallel
    # White space at the edges is not required: a rule before this one consumes it, and after it the answer is over.
    end = form.call_end.rstrip()
    space = form.call_end[len(end) :]
    more = f" ({spell(space + form.separator + form.call_start)} call {spell(end)}){{0,{MOST_CALLS - 1}}}"
    first = f"{spell((form.section_start + form.call_start).lstrip())} call {spell(end)}"
    return [
        f"calls: {first}{more if several else ''} {spell((space + form.section_end).rstrip())}",
        f"call: {' | '.join(f'call_{at}' for at in range(len(tools)))}",
        *(rule for at, tool in enumerate(tools) for rule in _tool_rules(form, tool, at, spell)),
    ]


def _tool_rules(form: CallFormat, tool: Tool, at: int, spell: Speller) -> list[str]:
    if form.shape == "tagged":
        return tagged_rules(form, tool, at, spell)
    if form.shape == "keyword":
        return keyword_rules(form, tool, at, spell)
    arguments = f"arguments_{at}: %json {json.dumps(tool.parameters)}"
    if form.shape == "named":
        return [f"call_{at}: {spell(tool.name + form.name_end)} arguments_{at}", arguments]
    before, between, after = form.parts
    name = json.dumps(tool.name, ensure_ascii=False)
    return [f"call_{at}: {spell(before + name + between)} arguments_{at} {spell(after)}", arguments]
