"""The table of parameters for the README."""

import json
from collections.abc import Collection, Mapping

from lllms_core.parameters.table import TABLE, Parameter

_PATHS = {"chat": "chat", "text": "completions", "embeddings": "embeddings"}


def markdown(engines: Mapping[str, Collection[str]]) -> str:
    """Return the table in Markdown: the verdict on each parameter for each engine (name -> declared parameters).

    Parameters with equal verdicts share a row. A name is followed by its synonyms, and by the values accepted although
    it is refused.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for parameter in (line for line in TABLE if not line.means):
        fate = [parameter.verdict(honoured) for honoured in engines.values()]
        routes = ", ".join(_PATHS[route] for route in parameter.routes)
        rows.setdefault((routes, *fate), []).append(_shown(parameter, refused="refused" in fate))
    head = ("route", "parameters", *engines)
    lines = [(routes, ", ".join(names), *fate) for (routes, *fate), names in rows.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ("---",) * len(head), *lines))


def _shown(parameter: Parameter, *, refused: bool) -> str:
    notes = [
        _name(line) for line in TABLE
        if line.means == parameter.name and not set(line.routes).isdisjoint(parameter.routes)
    ]
    if notes:
        notes[0] = f"or {notes[0]}"
    if refused and parameter.neutral:
        notes.append(" ".join(f"`{json.dumps(value)}`" for value in parameter.neutral))
    return _name(parameter) + (f" ({', '.join(notes)})" if notes else "")


def _name(parameter: Parameter) -> str:
    # Two bare stars would make what is between them italic.
    return f"`{parameter.name}`" + (r"\*" if parameter.extension else "")
