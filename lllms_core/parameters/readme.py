"""The table of parameters for the README."""

import json
from collections.abc import Collection, Mapping

from lllms_core.parameters.table import TABLE, Parameter

_PATHS = {"chat": "chat", "text": "completions", "embeddings": "embeddings"}


def markdown(engines: Mapping[str, Collection[str]]) -> str:
    """Return the table in Markdown: the verdict on each parameter for each engine (name -> declared parameters).

    Parameters with equal verdicts share a row. A name is followed by the values accepted although it is refused.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for parameter in TABLE:
        fate = [parameter.verdict(honoured) for honoured in engines.values()]
        routes = ", ".join(_PATHS[route] for route in parameter.routes)
        rows.setdefault((routes, *fate), []).append(_shown(parameter, refused="refused" in fate))
    head = ("route", "parameters", *engines)
    lines = [(routes, ", ".join(names), *fate) for (routes, *fate), names in rows.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ("---",) * len(head), *lines))


def _shown(parameter: Parameter, *, refused: bool) -> str:
    name = f"`{parameter.name}`" + ("*" if parameter.extension else "")
    if not refused or not parameter.neutral:
        return name
    return f"{name} ({' '.join(f'`{json.dumps(value)}`' for value in parameter.neutral)})"
