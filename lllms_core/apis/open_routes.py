"""Routes that a server with API keys answers to everybody."""

from collections.abc import Callable
from typing import TypeVar

View = TypeVar("View", bound=Callable[..., object])

_MARK = "lllms_needs_no_key"


def needs_no_key(view: View) -> View:
    """Mark the view of a route: it is also called without an API key, by a caller who is not `known`.

    To such a caller the view must show nothing of models, requests or files; `CALLER.get().known` tells.
    """
    setattr(view, _MARK, True)
    return view


def is_open(view: object) -> bool:
    """Whether a view is marked."""
    return getattr(view, _MARK, False) is True
