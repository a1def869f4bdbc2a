"""The docstrings of a class's attributes, which Python does not keep: read from its source."""

import ast
import inspect
from itertools import pairwise
from textwrap import dedent


def attribute_docs(kind: type) -> dict[str, str]:
    """Return the docstring after each attribute that has one, as one paragraph, inherited ones included.

    A class without a source, as one that was made by a program, has none.
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found.update(_docs(base))
    return found


def _docs(kind: type) -> dict[str, str]:
    try:
        body = ast.parse(dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    return {
        first.target.id: " ".join(inspect.cleandoc(second.value.value).split())
        for first, second in pairwise(statements)
        if isinstance(first, ast.AnnAssign) and isinstance(first.target, ast.Name) and isinstance(second, ast.Expr)
        and isinstance(second.value, ast.Constant) and isinstance(second.value.value, str)
    }
