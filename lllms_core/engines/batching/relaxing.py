"""The schemas of a request, without the restrictions that its model cannot enforce and may leave out."""

import json

from attrs import evolve

from lllms_core.engines.tokens import TokenModel
from lllms_core.types import Request, Tool


def relax_schemas(model: TokenModel, request: Request) -> tuple[Request, tuple[str, ...]]:
    """Return the request with schemas that can be enforced, strict ones unchanged, and what they lack (see `Delta`)."""
    constraint, left_out = request.constraint, []
    if constraint is not None and constraint.kind == "json_schema" and not constraint.strict:
        text, missing = model.relax(constraint.text)
        if missing:
            constraint = evolve(constraint, text=text)
            left_out += [f"{constraint.param}{pointer}" for pointer in missing]
    tools: list[Tool] = []
    for tool in request.tools:
        text, missing = ("", ()) if tool.strict else model.relax(json.dumps(tool.parameters))
        tools.append(evolve(tool, parameters=json.loads(text)) if missing else tool)
        left_out += [f"tools.{tool.name}{pointer}" for pointer in missing]
    return (evolve(request, constraint=constraint, tools=tuple(tools)), tuple(left_out)) if left_out else (request, ())
