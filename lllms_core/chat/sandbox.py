"""Jinja2 as chat templates expect it, safe from attribute tricks and runaway results."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Never

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lllms_core.cancellation import check_cancelled
from lllms_core.errors import InvalidRequest, ModelLoadFailed, RequestError

_MOST_REPEATED = 1_000_000
_MOST_OUTPUT = 1 << 26
_MOST_GATHERED = 100_000
_GATHERING = frozenset({"append", "pop"})


class _Generation(Extension):
    """`{% generation %}` marks the text that a training run learns from; for inference only its body matters."""

    tags = {"generation"}  # noqa: RUF012  # Jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Replace the block by its body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which a short expression cannot fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        """Let templates append to lists, as some do; their variables are private copies."""
        return (isinstance(obj, list) and attr in _GATHERING) or super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: object, *args: object, **fields: object) -> object:
        """Stop lists from growing endlessly, for example in a loop over a list that appends to the same list."""
        gathered = getattr(function, "__self__", None)
        if isinstance(gathered, list) and len(gathered) > _MOST_GATHERED:
            raise SecurityError(f"a list of more than {_MOST_GATHERED} items")
        result: object = super().call(context, function, *args, **fields)
        return result

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Refuse powers and repetitions larger than any prompt needs."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Sequence) and isinstance(other, int) and len(one) * other > _MOST_REPEATED:
                raise SecurityError(f"a repetition of more than {_MOST_REPEATED} items")
        if operator == "**" and isinstance(right, int | float) and abs(right) > 64:
            raise SecurityError("a power above 64")
        result: object = super().call_binop(context, operator, left, right)
        return result


def _tojson(
    value: object, *, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:
    # Jinja2's own filter escapes for HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> Never:
    raise InvalidRequest(str(message), "messages")


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _copied(value: object) -> object:
    """Return a copy of the value, whose lists and objects a template may change."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


class SandboxedTemplate:
    """A compiled template; all its failures are errors of lllms."""

    def __init__(self, source: str) -> None:
        environment = _environment()
        try:
            self._template: Template = environment.from_string(source)
            tree = environment.parse(source)
        except TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {error.message}"
            raise ModelLoadFailed(f"the chat template does not compile: {reason}") from error
        except Exception as error:  # Python's compiler refuses some templates with its own errors
            reason = f"{type(error).__name__}: {error}"
            raise ModelLoadFailed(f"the chat template does not compile: {reason}") from error
        self.literals = frozenset(
            const.value for const in tree.find_all(nodes.Const) if isinstance(const.value, str) and const.value
        )
        """The strings that its expressions compare, split and join with, or print."""
        self.variables = frozenset(find_undeclared_variables(tree))
        """The names of the variables that it expects."""

    def render(self, variables: Mapping[str, object], now: datetime) -> str:
        """Return the output. Raises `InvalidRequest`, with the template's own words if it refuses the conversation."""
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(_copied(variables), strftime_now=now.strftime):
                check_cancelled()
                size += len(piece)
                if size > _MOST_OUTPUT:
                    raise SecurityError(f"its output is longer than {_MOST_OUTPUT} characters")  # noqa: TRY301  # all faults take one way out
                pieces.append(piece)
        except RequestError:
            raise
        except Exception as error:  # a template is foreign code and may raise anything
            message = f"the model's chat template cannot render this conversation: {type(error).__name__}: {error}"
            raise InvalidRequest(message, "messages") from error
        return "".join(pieces)
