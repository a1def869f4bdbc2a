"""Grammar rules for arguments that are not a JSON object, from a tool's schema; pure."""

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.keyword_grammar import KeywordRules
from lllms_core.chat.lark import Speller
from lllms_core.chat.tagged_grammar import TaggedRules
from lllms_core.chat.tool_schema import Inexpressible
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Tool


def argument_rules(form: CallFormat, tool: Tool, at: int, spell: Speller) -> list[str]:
    """Return the rule `call_N` of a call with arguments in tags or brackets, and the rules that it needs.

    Raises `UnsupportedParameter` for a schema that this form has no grammar for.
    """
    cls = TaggedRules if form.shape == "tagged" else KeywordRules
    try:
        return cls(form, tool.parameters, f"{at}", spell).rules(tool.name, f"call_{at}")
    except Inexpressible as error:
        raise UnsupportedParameter(
            f"the schema of tool '{tool.name}' cannot be kept in the form in which this model writes calls: {error}; "
            "change the schema, or let the model choose ('tool_choice' 'auto', without 'strict')",
            "tools", "unsupported_parameter",
        ) from None
