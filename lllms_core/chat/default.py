"""The choice of a model's template: the configured one, its own, or a default for models without one."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path

from lllms_core.chat.sandbox import SandboxedTemplate
from lllms_core.errors import ModelLoadFailed
from lllms_core.machine import at_home, read_text

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


def choose_template(given: str | Path | None, own: str | None, control_tokens: Collection[str]) -> str | None:
    """Return the source of a model's template: `given`, else its `own`, else the default; None if there is none.

    `given` is options.chat_template: a template, or the path of a file with one. Raises `ModelLoadFailed` for an
    unreadable file.
    """
    return own or default_template(control_tokens) if given is None else _read(given)


def check_templates(given: str | Path | None, own: Iterable[str], tool_calls: str | None = None) -> None:
    """Raise `ModelLoadFailed` for a template that cannot be read, or does not compile.

    `given` is options.chat_template, which replaces the model's `own` ones; `tool_calls` is the option of that name.
    """
    if given is None:
        sources = [(source, "", "; set options.chat_template to one that does") for source in own]
    else:
        file = f" ('{given}')" if isinstance(given, Path) else ""
        sources = [(_read(given), f"options.chat_template{file}: ", "")]
    if tool_calls is not None:
        sources.append((tool_calls, "options.tool_calls: ", ""))
    for source, before, after in sources:
        if fault := _fault(source):
            raise ModelLoadFailed(f"{before}{fault}{after}")


@lru_cache(maxsize=64)  # compiling takes tens of milliseconds, and a file is inspected several times
def _fault(source: str) -> str:
    """Return why a template does not compile; "" if it does."""
    try:
        SandboxedTemplate(source)
    except ModelLoadFailed as error:
        return error.message
    return ""


def template_or_path(given: str | Path | None) -> str | Path | None:
    """Tell a template from the path of a file: for the option `chat_template` of engines, as its converter."""
    if isinstance(given, str) and not {"{", "\n"} & {*given}:
        return at_home(given)
    return given


def _read(given: str | Path) -> str:
    given = template_or_path(given) or given
    if isinstance(given, str):
        return given
    try:
        return read_text(given)
    except OSError as error:
        raise ModelLoadFailed(f"options.chat_template: the file '{given}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ModelLoadFailed(f"options.chat_template: the file '{given}' is not UTF-8: {error}") from None
