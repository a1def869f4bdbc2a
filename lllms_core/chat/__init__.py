"""Turn a conversation into the text that a model reads, with the model's own template; pure."""

from lllms_core.chat.call_grammar import call_constraint
from lllms_core.chat.channel_grammar import answer_constraint
from lllms_core.chat.default import check_templates, choose_template, template_or_path
from lllms_core.chat.gather import gather_message
from lllms_core.chat.lazy_grammar import CallWatch, LazyGrammar
from lllms_core.chat.prefix import prefix_keys, text_prefix_keys
from lllms_core.chat.prompt import Prompt, chat_prompt
from lllms_core.chat.results import settle_results
from lllms_core.chat.template import ChatTemplate, Segment

__all__ = [
    "CallWatch",
    "ChatTemplate",
    "LazyGrammar",
    "Prompt",
    "Segment",
    "answer_constraint",
    "call_constraint",
    "chat_prompt",
    "check_templates",
    "choose_template",
    "gather_message",
    "prefix_keys",
    "settle_results",
    "template_or_path",
    "text_prefix_keys",
]
