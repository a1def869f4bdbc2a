"""The choice of a model's template: the configured one, its own, or a default for models without one."""

from collections.abc import Collection

from lllms_core.errors import ModelLoadFailed
from lllms_core.machine import at_home

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""


def default_template(control_tokens: Collection[str]) -> str | None:
    """Return a template for a vocabulary with these control tokens: ChatML if it has ChatML's tokens, else None.

    There are no further guesses: a model answers badly in a format that it was not trained on, and its author knows
    which one it was.
    """
    return _CHATML if {"<|im_start|>", "<|im_end|>"} <= set(control_tokens) else None


def choose_template(given: str | None, own: str | None, control_tokens: Collection[str]) -> str | None:
    """Return the source of a model's template: `given`, else its `own`, else the default; None if there is none.

    `given` is options.chat_template: a template, or the path of a file with one. Raises `ModelLoadFailed` for an
    unreadable file.
    """
    if given is None:
        return own or default_template(control_tokens)
    if "{" in given or "\n" in given:
        return given
    try:
        return at_home(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadFailed(f"options.chat_template: the file '{given}' cannot be read: {error}") from None
