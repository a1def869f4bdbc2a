"""The grammar of an answer's calls, from the model's call format and the tools' schemas; pure."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from attrs import evolve

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.argument_grammar import argument_rules
from lllms_core.chat.lark import Speller, lark, literal
from lllms_core.chat.lazy_grammar import Cue, LazyGrammar, call_cue, selectors
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Constraint, Tool

MOST_CALLS = 32
"""At most this many calls in an answer with forced calls: a limit for models that do not stop by themselves."""
_SPACE = r"SPACE: /[ \n]{0,4}/"


def call_constraint(request: ChatRequest, form: CallFormat, names: Mapping[str, int]) -> Constraint | None:
    """Return the constraint on the whole answer to a request: calls, or JSON or calls.

    None if it is free. `names` are the tokens, with their ids, that are not text to grammars, as most call marks are.
    Raises `UnsupportedParameter` for tools together with a constraint that is not JSON, or with a schema that has no
    grammar in this form of calls.
    """
    given = request.constraint
    if not forces_calls(request):
        return given
    spell = Speller(names, (*form.markers, *form.parts))
    start = spell((form.section_start + form.call_start).lstrip())
    calls = [
        _SPACE, f"calls: {start} {_calls(form, spell, several=_several(form, request))}",
        *_any_call(form, request.tools, spell),
    ]
    if request.tool_choice == "required" or given is None:
        return lark("tool_choice", ["start: SPACE calls", *calls])
    return lark(given.param, ["start: answer | SPACE calls", f"answer: %json {json_schema(given)}", *calls])


def lazy_calls(
    request: ChatRequest, form: CallFormat, names: Mapping[str, int], other_marks: Sequence[str] = (),
) -> LazyGrammar:
    """Return the grammar of the calls in an answer that may hold some, from each call's mark on.

    `other_marks` are those of its thoughts and its text. Raises `UnsupportedParameter` for a strict tool with a schema
    that has no grammar in this form of calls.
    """
    cue, rests = call_cue(form, other_marks)
    spell = Speller(names, (*form.markers, *form.parts))
    # Calls with their own marks repeat the cue; others follow one another without it.
    apart = bool(form.call_start.strip()) and not form.section_start.strip() and not form.section_end.strip()
    several = _several(form, request) and not apart and bool(form.mark)
    spaced = [bool(form.mark) and rest[:1] in {"", " ", "\n"} for rest in rests]
    starts = [
        f"{literal(selector)} {'SPACE ' if space else ''}{spell(rest.lstrip())}"
        for selector, rest, space in zip(selectors(len(rests)), rests, spaced, strict=True)
    ]
    over = f" ({spell(form.answer_end)})?" if form.answer_end else ""
    calls = f"({' | '.join(starts)}) {_calls(form, spell, several=several)}{over}"
    rules = [f"start: {calls}", *[_SPACE] * any(spaced)]

    def constraint(tools: Sequence[Tool]) -> Constraint:
        return lark("tools", [*rules, *_any_call(form, tools, spell, named=not form.mark, lenient=True)])

    return lazy_grammar(request.tools, constraint, cue)


def lazy_grammar(
    tools: Sequence[Tool], constraint: Callable[[Sequence[Tool]], Constraint], cue: Cue,
) -> LazyGrammar:
    """Return the lazy grammar of tools, where only tools that are not strict may lose their schema."""
    weak = [tool if tool.strict else loose(tool) for tool in tools]
    needed = any(tool.strict for tool in tools)
    return LazyGrammar(constraint(tools), cue, needed, None if weak == [*tools] else partial(constraint, weak))


def loose(tool: Tool) -> Tool:
    """Return a tool whose arguments may be any object."""
    return evolve(tool, parameters={"type": "object"})


def forces_calls(request: ChatRequest) -> bool:
    """Whether the whole answer to a request with tools is constrained, so that calls need a grammar from its start."""
    return bool(request.tools) and (request.tool_choice == "required" or request.constraint is not None)


def json_schema(given: Constraint) -> str:
    """Return the JSON schema of a constraint. Raises `UnsupportedParameter` if it does not ask for JSON."""
    if given.kind not in {"json_object", "json_schema"}:
        raise UnsupportedParameter(
            f"'{given.param}' and 'tools' do not go together, unless it asks for JSON; leave one of them out, or send "
            "'tool_choice' 'none' or 'required'",
            given.param, "unsupported_parameter",
        )
    return given.text if given.kind == "json_schema" else '{"type": "object"}'


def _several(form: CallFormat, request: ChatRequest) -> bool:
    return request.parallel_tool_calls and form.parallel


def _calls(form: CallFormat, spell: Speller, *, several: bool) -> str:
    """Return the expression for one call or more, after the text that announces the first."""
    # White space at the edges is not required: a rule before this one consumes it, and after it the answer is over.
    end = form.call_end.rstrip()
    space = form.call_end[len(end) :]
    more = f" ({spell(space + form.separator + form.call_start)} call {spell(end)}){{0,{MOST_CALLS - 1}}}"
    return f"call {spell(end)}{more if several else ''} {spell((space + form.section_end).rstrip())}"


def _any_call(
    form: CallFormat, tools: Sequence[Tool], spell: Speller, *, named: bool = False, lenient: bool = False,
) -> Iterator[str]:
    """Yield the rule `call` and the rules it needs: all arguments conform to their schema.

    With `named`, the quote before the name has been written. With `lenient`, a tool that is not strict loses a schema
    that has no grammar.
    """
    yield f"call: {' | '.join(f'call_{at}' for at in range(len(tools)))}"
    for at, tool in enumerate(tools):
        try:
            yield from _tool_rules(form, tool, at, spell, named=named)
        except UnsupportedParameter:
            if tool.strict or not lenient:
                raise
            yield from _tool_rules(form, loose(tool), at, spell, named=named)


def _tool_rules(form: CallFormat, tool: Tool, at: int, spell: Speller, *, named: bool) -> Sequence[str]:
    if form.shape in {"tagged", "keyword"}:
        return argument_rules(form, tool, at, spell)
    arguments = f"arguments_{at}: %json {json.dumps(tool.parameters)}"
    if form.shape == "named":
        return [f"call_{at}: {spell(tool.name + form.name_end)} arguments_{at}", arguments]
    before, between, after = form.parts
    name = json.dumps(tool.name, ensure_ascii=False)
    start = name[1:] if named else before + name
    return [f"call_{at}: {spell(start + between)} arguments_{at} {spell(after)}", arguments]
