"""A request's schemas, without the restrictions that its model cannot enforce and may leave out."""

import json

from attrs import evolve

from lllms_core.engines.tokens import TokenModel
from lllms_core.types import ChatRequest, Request, Tool


def relax_schemas(model: TokenModel, request: Request) -> tuple[Request, tuple[str, ...]]:
    """Return the request with enforceable schemas (strict ones unchanged), and what they leave out (see `Delta`)."""
    left_out: list[str] = []
    constraint = request.constraint
    if constraint is not None and constraint.kind == "json_schema" and not constraint.strict:
        text, missing = model.relax(constraint.text)
        left_out += [f"{constraint.param}{pointer}" for pointer in missing]
        request = evolve(request, constraint=evolve(constraint, text=text)) if missing else request
    if isinstance(request, ChatRequest) and request.tools:
        tools = [_relax_tool(model, tool, left_out) for tool in request.tools]
        request = evolve(request, tools=tuple(tools)) if left_out else request
    return request, tuple(left_out)


def _relax_tool(model: TokenModel, tool: Tool, left_out: list[str]) -> Tool:
    if tool.strict:
        return tool
    text, missing = model.relax(json.dumps(tool.parameters))
    left_out += [f"tools.{tool.name}{pointer}" for pointer in missing]
    return evolve(tool, parameters=json.loads(text)) if missing else tool
