"""Grammar rules for arguments that are not a JSON object, from a tool's schema; pure."""

import json
from collections.abc import Sequence
from functools import lru_cache

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.keyword_grammar import KeywordRules
from lllms_core.chat.lark import Speller
from lllms_core.chat.schema_words import Inexpressible
from lllms_core.chat.tagged_grammar import TaggedRules
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Tool

_LONGEST_KEPT = 8192
"""The size of the largest schema whose rules are kept for the next request with the same tool, in characters."""


def argument_rules(form: CallFormat, tool: Tool, at: int, spell: Speller) -> Sequence[str]:
    """Return the rule `call_N` of a call with arguments in tags or brackets, and the rules that it needs.

    Raises `UnsupportedParameter` for a schema that has no grammar in this form.
    """
    schema = json.dumps(tool.parameters)
    write = _rules if len(schema) <= _LONGEST_KEPT else _rules.__wrapped__
    try:
        return write(form, tool.name, schema, at, spell)
    except Inexpressible as error:
        raise UnsupportedParameter(
            f"the schema of tool '{tool.name}' cannot be kept in the form in which this model writes calls: {error}; "
            "change the schema, or let the model choose ('tool_choice' 'auto', without 'strict')",
            "tools", "unsupported_parameter",
        ) from None


@lru_cache(maxsize=128)
def _rules(form: CallFormat, name: str, schema: str, at: int, spell: Speller) -> Sequence[str]:
    cls = TaggedRules if form.shape == "tagged" else KeywordRules
    return cls(form, json.loads(schema), f"{at}", spell).rules(name, f"call_{at}")
