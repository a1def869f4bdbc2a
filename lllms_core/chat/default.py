"""The template for models that bring none."""

from collections.abc import Collection

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""


def default_template(control_tokens: Collection[str]) -> str | None:
    """A template that fits a vocabulary with these control tokens: ChatML if it has ChatML's tokens, else None.

    Nothing is guessed beyond that: a model that was not trained on a format answers badly in it, and its author
    knows which one it was.
    """
    return _CHATML if {"<|im_start|>", "<|im_end|>"} <= set(control_tokens) else None
