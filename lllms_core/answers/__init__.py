"""The answers to requests: streamed, whole, and several merged into one."""

from lllms_core.answers.answer import Answer, Choice, choices
from lllms_core.answers.merge import merge, slowest, total
from lllms_core.answers.stream import Stream

__all__ = ["Answer", "Choice", "Stream", "choices", "merge", "slowest", "total"]
