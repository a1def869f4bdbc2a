"""The grammar of an answer's calls, from the model's call format and the tools' schemas; pure."""

import json
from collections.abc import Callable, Mapping, Sequence

from attrs import evolve

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.argument_grammar import argument_rules
from lllms_core.chat.lark import Speller, lark
from lllms_core.chat.lazy_calls import Cue, LazyGrammar, call_cue
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Constraint, Request, Tool

MOST_CALLS = 32
"""At most this many calls in an answer with forced calls: a limit for models that do not stop by themselves."""
_SPACE = r"SPACE: /[ \n]{0,4}/"


def call_constraint(request: Request, form: CallFormat, names: Mapping[str, int]) -> Constraint | None:
    """Return the constraint on the whole answer to a request: calls, or JSON or calls.

    None if it is free. `names` are the tokens that are not text to grammars, as most call marks are, with their ids.
    Raises `UnsupportedParameter` for tools together with a constraint that is not JSON, or with a schema that the form
    of calls cannot express.
    """
    given = request.constraint
    if not forces_calls(request):
        return given
    if request.tool_choice == "required" or given is None:
        rules = ["start: SPACE calls", _SPACE, *_call_rules(form, request.tools, names, several=_several(form, request))]
        return lark("tool_choice", rules)
    start = ["start: answer | SPACE calls", f"answer: %json {json_schema(given)}", _SPACE]
    rules = _call_rules(form, request.tools, names, several=_several(form, request))
    return lark(given.param, [*start, *rules])


def lazy_calls(
    request: Request, form: CallFormat, names: Mapping[str, int], other_marks: Sequence[str] = (),
) -> LazyGrammar:
    """Return the grammar of the calls in an answer that may hold some, from the mark of each on.

    Raises `UnsupportedParameter` for a strict tool with a schema that the form of calls cannot express.
    """
    cue, begun = call_cue(form, other_marks)
    # Calls that have marks of their own each bring the cue again; others follow one another without it.
    apart = bool(form.call_start.strip()) and not form.section_start.strip() and not form.section_end.strip()

    def constraint(tools: Sequence[Tool]) -> Constraint:
        several = _several(form, request) and not apart and bool(form.mark)
        return lark("tools", _begun_rules(form, tools, names, begun, several=several))

    return lazy_grammar(request.tools, constraint, cue)


def lazy_grammar(
    tools: Sequence[Tool], constraint: Callable[[Sequence[Tool]], Constraint], cue: Cue,
) -> LazyGrammar:
    """Return the grammar with the schemas of all `tools`, or, if it cannot have them, without those of some.

    Only a tool that is not strict may lose its schema; its arguments are then any object.
    """
    kept = [tool for tool in tools if tool.strict or _expressible(tool, constraint)]
    whole = [tool if tool in kept else loose(tool) for tool in tools]
    weak = [tool if tool.strict else loose(tool) for tool in tools]
    needed = any(tool.strict for tool in tools)
    return LazyGrammar(constraint(whole), cue, needed, None if weak == whole else constraint(weak))


def loose(tool: Tool) -> Tool:
    """Return a tool whose arguments may be any object."""
    return evolve(tool, parameters={"type": "object"})


def _expressible(tool: Tool, constraint: Callable[[Sequence[Tool]], Constraint]) -> bool:
    try:
        constraint([tool])
    except UnsupportedParameter:
        return False
    return True


def forces_calls(request: Request) -> bool:
    """Whether the whole answer to a request with tools is constrained, so that its calls need a grammar from the start."""
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


def _several(form: CallFormat, request: Request) -> bool:
    return request.parallel_tool_calls and form.parallel


def _call_rules(form: CallFormat, tools: Sequence[Tool], names: Mapping[str, int], *, several: bool) -> list[str]:
    """Return the rule `calls`, and those that it needs: all arguments conform to their schema."""
    spell = Speller(names)
    start = spell((form.section_start + form.call_start).lstrip())
    rules = (rule for at, tool in enumerate(tools) for rule in _tool_rules(form, tool, at, spell))
    return [f"calls: {start} {_calls(form, spell, several=several)}", _any_call(tools), *rules]


def _begun_rules(
    form: CallFormat, tools: Sequence[Tool], names: Mapping[str, int], begun: str, *, several: bool,
) -> list[str]:
    """Return all rules of calls whose text `begun` has been written already."""
    spell = Speller(names)
    if form.mark:
        rest = (form.section_start + form.call_start).lstrip().removeprefix(begun)
    else:
        rest = ""
    rules = (
        rule for at, tool in enumerate(tools) for rule in _tool_rules(form, tool, at, spell, named=not form.mark)
    )
    space = f"SPACE {spell(rest.lstrip())}" if rest[:1].isspace() or (form.mark and not rest) else spell(rest)
    return [f"start: {space} {_calls(form, spell, several=several)}", _SPACE, _any_call(tools), *rules]


def _calls(form: CallFormat, spell: Speller, *, several: bool) -> str:
    """Return the expression for one call or more, after the text that announces the first."""
    # White space at the edges is not required: a rule before this one consumes it, and after it the answer is over.
    end = form.call_end.rstrip()
    space = form.call_end[len(end) :]
    more = f" ({spell(space + form.separator + form.call_start)} call {spell(end)}){{0,{MOST_CALLS - 1}}}"
    return f"call {spell(end)}{more if several else ''} {spell((space + form.section_end).rstrip())}"


def _any_call(tools: Sequence[Tool]) -> str:
    return f"call: {' | '.join(f'call_{at}' for at in range(len(tools)))}"


def _tool_rules(form: CallFormat, tool: Tool, at: int, spell: Speller, *, named: bool = False) -> list[str]:
    """Return the rule `call_N` of a call, and the rules that it needs; with `named`, a quote has begun the name."""
    if form.shape in {"tagged", "keyword"}:
        return argument_rules(form, tool, at, spell)
    arguments = f"arguments_{at}: %json {json.dumps(tool.parameters)}"
    if form.shape == "named":
        return [f"call_{at}: {spell(tool.name + form.name_end)} arguments_{at}", arguments]
    before, between, after = form.parts
    name = json.dumps(tool.name, ensure_ascii=False)
    start = name[1:] if named else before + name
    return [f"call_{at}: {spell(start + between)} arguments_{at} {spell(after)}", arguments]
